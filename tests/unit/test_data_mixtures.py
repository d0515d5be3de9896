"""Files, folders, mixtures and methods are put together before anything is read."""

import json
import subprocess
import sys

import pytest

from open_r1.completions import get_answer_contract
from open_r1.data.jsonl import load_sources
from open_r1.data.reading import LoadOptions
from open_r1.data.sources import FileOptions, list_data_files, resolve_sources
from open_r1.data.subsets import parse_sampling


OPTIONS = LoadOptions(contract=get_answer_contract("default"))


def write_rows(path, count, start=1):
    rows = [{"id": i, "question": f"{i}?", "answer": str(i)} for i in range(start, start + count)]
    lines = [json.dumps(row) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[{', '.join(lines)}]" if path.suffix == ".json" else "\n".join(lines) + "\n")
    return str(path)


def write_mixture(path, *entries):
    path.write_text(json.dumps({"datasets": list(entries)}))  # JSON is YAML
    return str(path)


def load_ids(*arguments, **options):
    return load_sources(resolve_sources(*arguments, FileOptions(**options)), OPTIONS)["id"][:]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("all", list(range(10))),
        ("first:3", [0, 1, 2]),
        ("end:3", [7, 8, 9]),
        ("first: 25%", [0, 1, 2]),
        ("end:10%", [9]),
        ("first:99", list(range(10))),
        ("100%", list(range(10))),
    ],
)
def test_a_strategy_takes_rows_from_either_end(strategy, expected):
    assert sorted(parse_sampling(strategy, "0").choose(10)) == expected


def test_a_random_choice_depends_on_the_seed_alone():
    chosen = parse_sampling("random:5", "7").choose(1000)
    assert len(chosen) == 5
    assert parse_sampling("0.5%", "7").choose(1000) == chosen
    assert parse_sampling("random:5", "8").choose(1000) != chosen
    code = "from open_r1.data.subsets import parse_sampling as p; print(sorted(p('random:5', '7').choose(1000)))"
    for hash_seed in ("1", "2"):
        shown = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
        )
        assert shown.stdout == f"{sorted(chosen)}\n"


@pytest.mark.parametrize("strategy", ["", "some", "first", "first:0", "first:-1", "first:1.5", "200%", "5", "last:3"])
def test_other_strategies_are_refused(strategy):
    with pytest.raises(ValueError, match="take all, first:N, end:N, random:N or N%"):
        parse_sampling(strategy, "0")


def test_a_mixture_names_files_of_both_kinds_beside_itself(tmp_path):
    write_rows(tmp_path / "a.jsonl", 5)
    write_rows(tmp_path / "b.json", 5, start=6)
    path = write_mixture(
        tmp_path / "mix.yaml",
        {"json_path": "a.jsonl", "sampling_strategy": "end:2", "image_root": str(tmp_path), "dataset_name": "A"},
        {"json_path": "b.json", "sampling_strategy": "first:1", "image_root": str(tmp_path)},
    )
    dataset = load_sources(resolve_sources([path], []), OPTIONS)
    assert dataset["id"][:] == ["4", "5", "6"]
    assert dataset["dataset_name"][:] == ["A", "A", "b"]
    assert [source.rpartition("/")[2] for source in dataset["source"]] == ["a.jsonl:4", "a.jsonl:5", "b.json:1"]
    assert [file.rpartition("/")[2] for file in list_data_files([path])] == ["mix.yaml", "a.jsonl", "b.json"]


def test_the_seed_of_a_run_draws_the_rows_of_a_mixture(tmp_path):
    write_rows(tmp_path / "a.jsonl", 50)
    path = write_mixture(tmp_path / "mix.yaml", {"json_path": "a.jsonl", "sampling_strategy": "random:5"})
    first, again, other = (load_ids([path], [], image_root=str(tmp_path), seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first == sorted(first, key=int)


def test_an_image_root_serves_all_files_and_an_entry_may_have_its_own(tmp_path):
    (tmp_path / "own").mkdir()
    files = [write_rows(tmp_path / name, 1) for name in ("a.jsonl", "b.jsonl")]
    roots = [source.image_root for source in resolve_sources(files, [], FileOptions(image_root=str(tmp_path)))]
    assert roots == [str(tmp_path)] * 2
    path = write_mixture(tmp_path / "mix.yaml", {"json_path": "a.jsonl", "image_root": str(tmp_path / "own")})
    (source,) = resolve_sources([path], [], FileOptions(image_root=str(tmp_path)))
    assert source.image_root == str(tmp_path / "own")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"sampling_strategy": "all"}, "entry 1 of datasets: it needs a json_path"),
        ({"json_path": "a.jsonl", "weight": 2}, "unknown keys weight"),
        ({"json_path": ["a.jsonl"]}, "json_path must be a text"),
        ({"json_path": "a.jsonl", "sampling_strategy": "some"}, "sampling_strategy 'some'"),
        ({"json_path": "gone.jsonl", "image_root": "."}, "gone.jsonl does not exist"),
        ({"json_path": "a.jsonl"}, "no folder of images is named"),
        ({"json_path": "a.jsonl", "image_root": "nowhere"}, "the image folder nowhere does not exist"),
    ],
)
def test_a_mixture_with_a_wrong_entry_is_refused_with_its_reason(tmp_path, entry, reason):
    write_rows(tmp_path / "a.jsonl", 1)
    path = write_mixture(tmp_path / "mix.yaml", entry)
    with pytest.raises(ValueError, match=reason):
        resolve_sources([path], [])


@pytest.mark.parametrize("content", ["[]", "datasets: []", "a: [", "datasets: 3"])
def test_a_yaml_file_of_another_form_is_refused_by_name(tmp_path, content):
    (tmp_path / "mix.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"mix.yaml"):
        resolve_sources([str(tmp_path / "mix.yaml")], [])


def test_methods_belong_to_files_and_a_row_has_the_last_word(tmp_path):
    files = [write_rows(tmp_path / name, 1) for name in ("a.jsonl", "b.jsonl")]
    with open(files[0], "a") as file:
        file.write(json.dumps({"question": "2?", "answer": "2", "accu_reward_method": "math"}) + "\n")
    options = {"image_root": str(tmp_path)}
    dataset = load_sources(
        resolve_sources(files, [], FileOptions(reward_methods=("mcq", "default"), **options)), OPTIONS
    )
    assert dataset["accu_reward_method"][:] == ["mcq", "math", "default"]
    with pytest.raises(ValueError, match="2 data files and 1 reward methods"):
        resolve_sources(files, [], FileOptions(reward_methods=("mcq",), **options))


def test_files_of_another_kind_are_refused_with_what_to_do(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"rows.parquet is of no known kind.*--use_huggingface_dataset"):
        resolve_sources([str(tmp_path / "rows.parquet")], [str(tmp_path)])


@pytest.mark.parametrize(
    ("content", "reason"), [(b'{"id": 1}', "must be called .jsonl"), (b"[]", "a list of rows"), (b"[1,", "not JSON")]
)
def test_a_json_file_must_hold_a_list(tmp_path, content, reason):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a.json: .*{reason}"):
        load_ids([str(tmp_path / "a.json")], [str(tmp_path)])
