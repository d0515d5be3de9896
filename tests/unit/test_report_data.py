"""The report page as text: what is read of a run, what is left out, and that nothing in it can become markup."""

import base64
import gzip
import json
import re

import pytest
from builders import make_image
from report_runs import EVIL, build_record, write_run

from open_r1.report import compute_version, main
from open_r1.viz.report_charts import build_curve_charts
from open_r1.viz.report_data import MAX_TEXT, load_run, name_runs


def unpack(page: str) -> dict:
    (packed,) = re.findall(r'id="data">([A-Za-z0-9+/=]+)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@pytest.fixture
def build(tmp_path, capsys):
    def build(*folders, options=()):
        main([*map(str, folders), "--output", str(tmp_path / "page.html"), *options])
        return (tmp_path / "page.html").read_text(encoding="utf-8")

    return build


def test_text_of_a_model_is_nowhere_in_the_markup(build, tmp_path):
    run = write_run(tmp_path / "run", [build_record(0, [EVIL, EVIL], problem=EVIL)])
    page = build(run)
    assert "alert(1)" not in page
    assert unpack(page)["groups"][0]["texts"] == [EVIL, EVIL]


def test_the_page_may_load_nothing(build, tmp_path):
    page = build(write_run(tmp_path / "run", [build_record(0, ["a", "b"])]))
    assert "default-src 'none'" in page and "connect-src 'none'" in page
    head = page[: page.index("<script>")]
    assert not re.search(r"(src|href)=\"(?!#)", head)


def test_rewards_are_summed_by_their_weights_without_those_that_abstain(build, tmp_path):
    run = write_run(tmp_path / "run", [build_record(0, ["a", "b"])], weights=[2.0, 0.5])
    (group,) = unpack(build(run))["groups"]
    assert group["totals"] == [0.5, 1.0]  # 2 * 0 + .5 * 1, and 2 * .5
    assert group["spread"] == 0.25


def test_more_groups_than_fit_are_drawn_evenly_over_the_run(tmp_path):
    run = write_run(tmp_path / "run", [build_record(step, ["a", "b"]) for step in range(1000)])
    report = load_run(run, "run", max_groups=100)
    steps = [group["step"] for group in report.groups]
    assert report.num_groups == 1000 and len(steps) == 100
    assert {later - earlier for earlier, later in zip(steps, steps[1:])} == {10}


def test_a_line_that_is_still_being_written_is_left_out(tmp_path):
    run = write_run(tmp_path / "run", [build_record(0, ["a", "b"])])
    with (run / "rollouts" / "rank0.jsonl").open("a") as file:
        file.write('{"step": 1, "row": {"id')
    assert len(load_run(run, "run", max_groups=10).groups) == 1


def test_a_long_completion_loses_its_middle_and_says_so(tmp_path):
    run = write_run(tmp_path / "run", [build_record(0, ["a" * 9000 + "END", "b"])])
    text = load_run(run, "run", max_groups=10).groups[0]["texts"][0]
    assert text.endswith("END") and f"{9003 - MAX_TEXT} characters" in text


def test_pictures_are_embedded_up_to_a_number_and_missing_ones_left_out(build, tmp_path):
    for name in ("a.png", "b.png"):
        make_image(200, 100).save(tmp_path / name)
    records = [build_record(0, ["x", "y"], str(tmp_path / name)) for name in ("a.png", "a.png", "b.png", "gone.png")]
    run = write_run(tmp_path / "run", records)
    assert unpack(build(run))["thumbnails"].keys() == {str(tmp_path / "a.png"), str(tmp_path / "b.png")}
    assert unpack(build(run, options=["--max_thumbnails", "1"]))["thumbnails"].keys() == {str(tmp_path / "a.png")}


def test_two_runs_have_a_colour_each_and_their_settings_side_by_side(build, tmp_path):
    folders = [write_run(tmp_path / name / "grpo", [build_record(0, ["a", "b"])], weights=w) for name, w in
               (("first", None), ("second", [1.0, 2.0]))]  # fmt: skip
    content = unpack(build(*folders))
    assert [run["name"] for run in content["runs"]] == ["first/grpo", "second/grpo"]
    assert ["training.reward_weights", "null", "[1.0, 2.0]"] in content["config"]
    reward = next(chart for chart in content["charts"] if chart["title"] == "Reward")
    assert len({trace["line"]["color"] for trace in reward["data"]}) == 2


def test_the_validation_scores_of_a_run_are_drawn_with_intervals(build, tmp_path):
    run = write_run(tmp_path / "run", [build_record(0, ["a", "b"])])
    records = []
    for step, noise in ((5, 3.0), (10, 0.0)):
        for i in range(20):
            row = {"dataset_name": "KADID-10K", "mos": i / 5, "image_path": []}
            records.append({"step": step, "row": row, "metrics": {"pred_score": i / 5 + noise * (i % 3)}})
    path = run / "rollouts" / "eval_rank0.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    charts = {chart["title"]: chart for chart in unpack(build(run))["charts"]}
    (trace,) = charts["SRCC of the validation rows, 95 % intervals"]["data"]
    assert trace["x"] == [5, 10] and trace["y"][1] == 1.0 and trace["error_y"]["arrayminus"][0] > 0
    assert any(title.startswith("KADID-10K, step 10: SRCC 1.000") for title in charts)


def test_evaluations_with_distortions_have_bars_with_intervals(build, tmp_path):
    rows = [
        {"name": name, "n": 9, "srcc": srcc, "plcc": srcc, "ci95": {"srcc": interval, "plcc": None}}
        for name, srcc, interval in (("blur", 0.5, [0.25, 0.625]), ("noise", None, None), ("JPEG", -0.5, None))
    ]
    metrics = dict.fromkeys(("srcc", "krcc", "plcc", "plcc_fitted", "rmse"), 0.5)
    report = {**metrics, "n": 3, "n_unparsed": 0, "n_missing": 0, "ci95": {}, "breakdown": {"distortion": rows}}
    (tmp_path / "eval.json").write_text(json.dumps(report))
    (tmp_path / "eval.pairs.csv").write_text("image,score,mos,reference\na,1,1,\nb,2,2,\nc,3,3,\n")
    run = write_run(tmp_path / "run", [build_record(0, ["a", "b"])])
    page = unpack(build(run, options=["--evaluations", str(tmp_path / "eval.json")]))
    (chart,) = [chart for chart in page["charts"] if chart["title"] == "eval: SRCC by distortion, 95 % intervals"]
    (bars,) = chart["data"]
    assert bars["x"] == ["blur", "JPEG"] and bars["y"] == [0.5, -0.5]
    assert bars["error_y"]["array"] == [0.125, 0.0] and bars["error_y"]["arrayminus"] == [0.25, 0.0]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no folder of a run"):
        load_run(tmp_path, "run", max_groups=1)


def test_runs_are_called_by_as_much_of_their_path_as_tells_them_apart(tmp_path):
    assert name_runs([tmp_path / "a" / "grpo", tmp_path / "b" / "grpo"]) == ["a/grpo", "b/grpo"]
    assert name_runs([tmp_path / "grpo"]) == ["grpo"]


def test_a_run_that_writes_has_another_version(tmp_path):
    run = write_run(tmp_path / "run", [build_record(0, ["a", "b"])])
    before = compute_version([run])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "reward": 1}\n')
    assert compute_version([run]) != before


def test_a_long_curve_is_thinned_and_keeps_its_running_mean(tmp_path):
    metrics = [{"step": step, "reward": step % 2} for step in range(1, 5001)]
    run = load_run(write_run(tmp_path / "run", [], metrics), "run", max_groups=1)
    raw, mean = build_curve_charts([run])[0]["data"]
    assert len(raw["x"]) == len(mean["x"]) <= 2000
