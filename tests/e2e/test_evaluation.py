"""From predictions and labels to a report: matching by file name, counting, and comparing two runs."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from open_r1.data.mos import MosRecord
from open_r1.evaluate import build_parser, check_arguments, main
from open_r1.utils.comparison import compare_matches, compare_reports
from open_r1.utils.evaluation import (
    REPORT_KEYS,
    Matches,
    evaluate_matches,
    get_pairs_path,
    load_evaluation,
    load_test_labels,
    match_predictions,
    save_pairs,
)
from open_r1.utils.matching import match_names
from open_r1.utils.predictions import Prediction
from open_r1.utils.significance import compute_meng_p
from open_r1.viz.tables import build_evaluation_table


SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


def build_label(image: str, mos: float, reference: str | None = None) -> MosRecord:
    return MosRecord(image=image, mos=mos, reference=reference, mos_std=None)


def build_matches(num_rows: int = 60, noise: float = 0.5, seed: int = 0, num_references: int = 12) -> Matches:
    mos = np.random.default_rng(0).uniform(1, 5, num_rows)
    pred_score = mos + noise * np.random.default_rng(seed + 1).normal(size=num_rows)
    return Matches(
        image=[f"{row:03d}.png" for row in range(num_rows)],
        pred_score=pred_score.tolist(),
        mos=mos.tolist(),
        reference=[f"r{row % num_references}.png" for row in range(num_rows)] if num_references else None,
        num_unparsed=2,
        num_missing=1,
    )


def test_the_longest_common_ending_decides():
    names = ["a/1.png", "b/1.png", "c/2.png"]
    paths = ["data/b/1.png", "elsewhere/2.png", "data/a/1.png"]
    assert match_names(names, paths) == {0: 2, 1: 0, 2: 1}


def test_a_bare_file_name_matches_wherever_the_image_lies():
    assert match_names(["1.png", "./2.png"], ["/data/x/2.png", "images\\1.png"]) == {0: 1, 1: 0}


def test_a_prediction_serves_the_label_it_fits_best_and_no_other():
    assert match_names(["a/1.png", "b/1.png"], ["data/b/1.png"]) == {1: 0}


def test_case_matters_only_where_nothing_else_fits():
    assert match_names(["i01.bmp", "I02.bmp"], ["x/I01.BMP", "x/i02.bmp", "x/I02.bmp"]) == {0: 0, 1: 2}


@pytest.mark.parametrize(
    ("names", "paths"),
    [
        (["1.png"], ["a/1.png", "b/1.png"]),
        (["a/1.png", "b/1.png"], ["c/1.png"]),
        (["1.png", "1.png"], ["1.png"]),
    ],
)
def test_ambiguous_file_names_are_refused(names, paths):
    with pytest.raises(ValueError, match="ambiguous file name 1.png"):
        match_names(names, paths)


def test_of_every_label_it_is_known_what_became_of_it():
    labels = [build_label(f"{row}.png", row) for row in range(6)]
    predictions = [
        Prediction(path="0.png", score=1.0),
        Prediction(path="1.png", score=2.0),
        Prediction(path="2.png", text="four", error="unparsed"),
        Prediction(path="3.png", error="no such file"),
        Prediction(path="extra.png", score=5.0),
    ]
    matches = match_predictions(predictions, labels)
    assert (matches.image, matches.pred_score, matches.mos) == (["0.png", "1.png"], [1.0, 2.0], [0, 1])
    assert (matches.num_unparsed, matches.num_missing, matches.num_extra) == (1, 3, 1)  # missing: 3, 4 and 5


def test_references_count_only_where_every_label_has_one():
    predictions = [Prediction(path=name, score=3.0) for name in ("a.png", "b.png")]
    both = [build_label("a.png", 1, "I01.BMP"), build_label("b.png", 2, "i01.bmp")]
    assert match_predictions(predictions, both).reference == ["i01.bmp", "i01.bmp"]
    assert match_predictions(predictions, [both[0], build_label("b.png", 2)]).reference is None


def test_labels_and_predictions_of_different_data_are_refused():
    with pytest.raises(ValueError, match="no label matches any prediction"):
        match_predictions([Prediction(path="a.png", score=3.0)], [build_label("b.png", 2)])


def test_the_report_has_exactly_the_documented_keys():
    report = evaluate_matches(build_matches(), num_resamples=50).report
    assert list(report) == [
        "srcc", "krcc", "plcc", "plcc_fitted", "rmse", "n", "n_unparsed", "n_missing", "ci95"
    ]  # fmt: skip
    assert set(report) == set(REPORT_KEYS)
    assert list(report["ci95"]) == ["srcc", "krcc", "plcc", "plcc_fitted", "rmse"]
    assert (report["n"], report["n_unparsed"], report["n_missing"]) == (60, 2, 1)
    for metric, (low, high) in report["ci95"].items():
        assert low < report[metric] < high


def test_a_measure_without_a_value_is_null_and_the_reason_is_logged(caplog):
    matches = build_matches(noise=0)
    constant = Matches(**{**vars(matches), "pred_score": [3.0] * 60})
    evaluation = evaluate_matches(constant, num_resamples=50)
    assert json.loads(json.dumps(evaluation.report, allow_nan=False))["srcc"] is None
    assert evaluation.report["ci95"]["srcc"] is None
    assert "srcc has no value: every prediction is 3" in caplog.text


def test_few_references_are_pointed_out(caplog):
    few = evaluate_matches(build_matches(num_references=3), num_resamples=50)
    assert few.caveats == ["the intervals rest on 3 reference images only, and are likely too narrow"]
    assert few.caveats[0] in caplog.text
    assert few.caveats[0] in build_evaluation_table(few.report, few.reasons, few.caveats)
    for num_references in (0, 12):
        assert evaluate_matches(build_matches(num_references=num_references), num_resamples=50).caveats == []


def test_paired_differences_are_surer_than_the_two_intervals_suggest():
    before, after = build_matches(noise=0.9), build_matches(noise=0.6)  # the same errors, made smaller
    change = compare_matches(before, after, num_resamples=200)
    reports = [evaluate_matches(matches, num_resamples=200).report for matches in (before, after)]
    assert change.difference == pytest.approx(reports[1]["srcc"] - reports[0]["srcc"], abs=1e-6)
    assert 0 < change.ci95[0] < change.difference < change.ci95[1]
    widths = [report["ci95"]["srcc"][1] - report["ci95"]["srcc"][0] for report in reports]
    assert change.ci95[1] - change.ci95[0] < max(widths)
    assert change.n == 60


def test_no_change_is_no_difference():
    matches = build_matches()
    change = compare_matches(matches, matches, num_resamples=50)
    assert (change.difference, change.ci95) == (0.0, [0.0, 0.0])


def test_only_images_that_both_runs_scored_are_compared():
    before, after = build_matches(), build_matches(noise=0.2)
    shorter = Matches(
        **{**vars(after), **{k: getattr(after, k)[5:] for k in ("image", "pred_score", "mos", "reference")}}
    )
    assert compare_matches(before, shorter, num_resamples=20).n == 55


def test_different_labels_for_one_image_are_not_compared():
    before = build_matches()
    with pytest.raises(ValueError, match="different labels"):
        compare_matches(before, Matches(**{**vars(before), "mos": [0.0] * 60}))


def test_a_card_adds_references_to_labels_that_name_none(tmp_path):
    rows = [
        {
            "image": [f"I0{reference}_01_0{level}.png"],
            "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": 3}],
        }
        for reference in (1, 2)
        for level in (1, 2)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [label.reference for label in load_test_labels(tmp_path / "rows.jsonl")] == [None] * 4
    labels = load_test_labels(tmp_path / "rows.jsonl", dataset="KADID-10K")
    assert [label.reference for label in labels] == ["I01", "I01", "I02", "I02"]


def test_images_that_a_card_excludes_are_not_evaluated(tmp_path):
    (tmp_path / "LIVEC_test_all.txt").write_text("t1.bmp 68.0 18.4\n3.bmp 24.6 13.7\n")
    labels = load_test_labels(tmp_path / "LIVEC_test_all.txt", dataset="LIVEC")
    assert [label.image for label in labels] == ["3.bmp"]


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the label files of KADID-10k are not here")
def test_knowing_distortion_and_level_of_kadid_images_gives_the_known_srcc_and_plcc():
    labels = load_test_labels(SHARED_DATA / "KADID-10K" / "KADID-10K_mos.txt")
    kinds = [label.image.partition("_")[2] for label in labels]
    of_kind = defaultdict(list)
    for label, kind in zip(labels, kinds, strict=True):
        of_kind[kind].append(label.mos)
    predictions = [
        Prediction(path=label.image, score=float(np.mean(of_kind[kind])))
        for label, kind in zip(labels, kinds, strict=True)
    ]
    report = evaluate_matches(match_predictions(predictions, labels), num_resamples=20).report
    assert report["n"] == 10125
    assert report["srcc"] == pytest.approx(0.942, abs=5e-4)
    assert report["plcc"] == pytest.approx(0.944, abs=5e-4)


def save_evaluation(path: Path, matches: Matches) -> None:
    path.write_text(json.dumps(evaluate_matches(matches, num_resamples=50).report))
    save_pairs(get_pairs_path(path), matches)


def test_an_evaluation_comes_back_as_it_was_saved(tmp_path):
    for matches in (build_matches(), build_matches(num_references=0)):
        save_evaluation(tmp_path / "eval.json", matches)
        assert load_evaluation(tmp_path / "eval.json")[1] == matches
    (tmp_path / "eval.json").write_text('{"srcc": 1.0}')
    with pytest.raises(ValueError, match="not an evaluation"):
        load_evaluation(tmp_path / "eval.json")


def test_without_the_rows_behind_them_reports_are_compared_without_an_interval(tmp_path):
    for name, noise in (("before", 0.9), ("after", 0.3)):
        save_evaluation(tmp_path / f"{name}.json", build_matches(noise=noise))
    _, _, paired = compare_reports(tmp_path / "before.json", tmp_path / "after.json", num_resamples=50)
    get_pairs_path(tmp_path / "after.json").unlink()
    _, _, plain = compare_reports(tmp_path / "before.json", tmp_path / "after.json")
    assert paired.ci95 is not None and plain.ci95 is None
    assert plain.difference == pytest.approx(paired.difference, abs=1e-5)


def test_the_command_writes_report_table_plot_and_rows_and_compares(tmp_path, capsys):
    labels = tmp_path / "labels.txt"
    matches = build_matches()
    rows = zip(matches.reference, matches.image, matches.mos, strict=True)
    labels.write_text("".join(f"{reference} {image} {mos}\n" for reference, image, mos in rows))
    for name, noise in (("before", 0.9), ("after", 0.3)):
        scored = build_matches(noise=noise)
        lines = [f"images/{image},{score},," for image, score in zip(scored.image, scored.pred_score, strict=True)]
        lines[7] = "images/007.png,,no idea,unparsed"
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,score,text,error", *lines]) + "\n")
        files = ["--predictions", str(tmp_path / f"{name}.csv"), "--labels", str(labels)]
        main([*files, "--output", str(tmp_path / f"{name}.json"), "--num_resamples", "50"])
    assert {path.name for path in tmp_path.glob("after.*")} == {
        "after.csv", "after.json", "after.md", "after.png", "after.histogram.png", "after.pairs.csv"
    }  # fmt: skip
    report = json.loads((tmp_path / "after.json").read_text())
    assert (report["n"], report["n_unparsed"], report["n_missing"]) == (59, 1, 0)
    assert report["srcc"] > 0.9
    assert (report["dataset"], report["model"]) == ("labels", "after")
    assert report["protocol"]["resampled"] == "references" and report["protocol"]["seed"] == 0
    assert len(report["files"][str(labels)]) == 64 and set(report["code"]) == {"commit", "is_dirty"}
    assert report["versions"]["numpy"] == np.__version__
    capsys.readouterr()
    paths = [str(tmp_path / name) for name in ("before.json", "after.json")]
    main(["--before", paths[0], "--after", paths[1], "--names", "greedy", "--output", str(tmp_path / "table.md")])
    printed = capsys.readouterr().out
    assert "| greedy" in printed and "1 → 1" in printed
    assert (tmp_path / "table.md").read_text().strip() == printed.strip()
    main(["--compare", *paths])
    assert "| before" in capsys.readouterr().out


def write_levels(folder: Path, name: str, shift: float) -> list[str]:
    """Labels in our JSONL with distortions and levels, and predictions that are worthless for one distortion."""
    rows, lines = [], ["path,score,text,error"]
    rng = np.random.default_rng(0)
    for index in range(80):
        distortion, level = ("blur", "noise")[index % 2], 1 + index // 2 % 4
        mos = 5 - level + rng.uniform(0, 0.9)
        row = {"image": [f"{index}.png"], "distortion": distortion, "level": level}
        row["conversations"] = [{"from": "human", "value": "?"}, {"from": "gpt", "value": mos}]
        rows.append(json.dumps(row))
        score = rng.uniform(1, 5) if distortion == "noise" else mos + shift
        lines.append(f"{index}.png,{score},it is {distortion},")
    (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return ["--predictions", f"{folder}/{name}.csv", "--labels", f"{folder}/{name}.jsonl", "--num_resamples", "50"]


def test_distortions_levels_and_worst_cases_are_told_apart(tmp_path):
    main(
        [*write_levels(tmp_path, "set", 0.0), "--output", f"{tmp_path}/eval.json", "--fit", "both", "--format", "both"]
    )
    report = json.loads((tmp_path / "eval.json").read_text())
    by_distortion = {row["name"]: row for row in report["breakdown"]["distortion"]}
    assert by_distortion["blur"]["srcc"] == 1.0 and abs(by_distortion["noise"]["srcc"]) < 0.5
    assert [(row["name"], row["n"]) for row in report["breakdown"]["level"]] == [(str(n), 20) for n in range(1, 5)]
    assert report["worst"][0]["text"] == "it is noise" and abs(report["worst"][0]["rank_difference"]) > 0.5
    assert len(report["fits"]["4"]["params"]) == 4 and len(report["fits"]["5"]["params"]) == 5
    assert report["rmse5"] <= report["rmse"] + 1e-6
    table = (tmp_path / "eval.md").read_text()
    assert "| blur" in table and "PLCC (5-parameter fit)" in table and "it is noise" in table
    assert {path.name for path in tmp_path.glob("eval.*")} == {"eval.json", "eval.md", "eval.pairs.csv"} | {
        f"eval{kind}.{suffix}" for kind in ("", ".histogram", ".breakdown") for suffix in ("png", "pdf")
    }
    assert load_evaluation(tmp_path / "eval.json")[1].distortion[:2] == ["blur", "noise"]


def test_evaluations_of_several_data_sets_are_averaged_and_drawn(tmp_path, capsys):
    for name in ("first", "second"):
        options = ["--output", f"{tmp_path}/{name}.json", "--model_name", "mine"]
        main([*write_levels(tmp_path, name, 0.1), *options])
    capsys.readouterr()
    paths = [str(tmp_path / f"{name}.json") for name in ("first", "second")]
    main(["--compare", *paths, "--output", str(tmp_path / "all.md"), "--format", "pdf"])
    assert "average by size" in capsys.readouterr().out
    assert (tmp_path / "all.pdf").read_bytes().startswith(b"%PDF")


def test_kadid_names_speak_of_distortion_and_level_through_the_card(tmp_path):
    (tmp_path / "KADID-10K_mos.txt").write_text("I01.png I01_03_05.png 1.2 0.5\nI01.png I01_25_01.png 3.9 0.5\n")
    labels = load_test_labels(tmp_path / "KADID-10K_mos.txt", dataset="KADID-10K")
    assert [(label.distortion, label.level) for label in labels] == [("motion blur", "05"), ("contrast change", "01")]


def test_a_real_change_has_a_small_p_value_and_none_has_a_large_one():
    before, after = build_matches(noise=0.9, num_references=0), build_matches(noise=0.3, num_references=0)
    real = compare_matches(before, after, num_resamples=400)
    assert real.p_paired < 0.01 and real.p_meng < 0.01
    other = Matches(**{**vars(before), "pred_score": build_matches(noise=0.9, seed=5).pred_score})
    chance = compare_matches(before, other, num_resamples=400)
    assert chance.p_paired > 0.05 and chance.p_meng > 0.05
    assert compare_matches(build_matches(), build_matches(noise=0.1), num_resamples=50).p_meng is None  # references


def test_mengs_test_gives_the_worked_value():
    # z1 = .5493, z2 = .3095, q = .17, f = .6/1.66 = .3614, h = (1 - .0614)/.83 = 1.1308,
    # z = .2398 * sqrt(100 / (2 * .6 * 1.1308)) = 2.0584
    assert compute_meng_p(0.5, 0.3, 0.4, 103) == pytest.approx(0.0395, abs=2e-4)
    assert compute_meng_p(0.3, 0.5, 0.4, 103) == compute_meng_p(0.5, 0.3, 0.4, 103)
    assert compute_meng_p(0.5, 0.5, 1.0, 103) == 1.0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--predictions", "p.csv"], "--predictions, --labels and --output are needed"),
        (["--predictions", "p.csv", "--labels", "l", "--output", "o.txt"], "must end in .json"),
        (["--before", "a.json"], "same number"),
        (["--before", "a.json", "--after", "b.json", "--compare", "c.json"], "choose one"),
        (["--compare", "a.json", "b.json", "--names", "a"], "1 names for 2 rows"),
        (["--compare", "x/eval.json", "y/eval.json"], "give --names"),
    ],
)
def test_arguments_that_do_not_go_together_are_named(arguments, problem):
    assert problem in check_arguments(build_parser().parse_args(arguments))


def test_a_bad_file_ends_the_command_with_one_line_and_no_report(tmp_path):
    (tmp_path / "p.csv").write_text("path,score\na.png,good\n")
    (tmp_path / "l.txt").write_text("a.png 3.0\n")
    files = ["--predictions", "p.csv", "--labels", "l.txt", "--output", "e.json"]
    run = subprocess.run(
        [sys.executable, "-m", "open_r1.evaluate", *files], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "p.csv:2: the score 'good' is not a number" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "e.json").exists()


def test_an_official_spreadsheet_is_evaluated_by_its_card_distortions_and_references_included(tmp_path, capsys):
    book = pytest.importorskip("openpyxl", reason="needs the extra `labels`").Workbook()
    sheet = book.active
    sheet.title = "all_by_image"
    sheet["A1"] = "CSIQ"
    header = ["image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"]
    for column, name in enumerate(header, start=1):
        sheet.cell(4, column, name)
    lines, row = ["path,score"], 5
    for image in (1600, "family", "lake"):
        for kind, folder, stem in (("noise", "awgn", "AWGN"), ("jpeg 2000", "jpeg2000", "jpeg2000")):
            for level in range(1, 6):
                for column, value in enumerate([image, 1, kind, level, 0.01, 0.2 * level - 0.1], start=1):
                    sheet.cell(row, column, value)
                row += 1
                lines.append(f"/data/{folder}/{image}.{stem}.{level}.png,{900 - 100 * level}")
    book.save(tmp_path / "csiq.DMOS.xlsx")
    (tmp_path / "p.csv").write_text("\n".join(lines) + "\n")
    files = ["--predictions", str(tmp_path / "p.csv"), "--labels", str(tmp_path / "csiq.DMOS.xlsx")]
    main([*files, "--dataset", "csiq", "--output", str(tmp_path / "eval.json"), "--num_resamples", "20"])
    report = json.loads((tmp_path / "eval.json").read_text())
    assert (report["dataset"], report["n"], report["srcc"]) == ("CSIQ", 30, pytest.approx(1.0))  # DMOS is turned round
    assert report["protocol"]["resampled"] == "references"
    assert [row["name"] for row in report["breakdown"]["distortion"]] == ["jpeg 2000", "noise"]
    assert [row["name"] for row in report["breakdown"]["level"]] == ["1", "2", "3", "4", "5"]
    assert "different scales" in report["caveats"][1]
    assert "SRCC has no value" not in capsys.readouterr().out
