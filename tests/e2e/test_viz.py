"""Pictures and tables: what is in them, that no display is needed, and that nothing global changes."""

import json

import matplotlib
import numpy as np
import pytest
from PIL import Image

from open_r1.utils.comparison import Change
from open_r1.utils.math import LogisticFit, fit_logistic4, fit_logistic5
from open_r1.viz.bars import save_breakdown_plot, save_cross_dataset_plot, save_histogram
from open_r1.viz.curves import compute_running_mean, load_metrics, save_training_curves, select_panels
from open_r1.viz.report_tables import build_cross_dataset_table
from open_r1.viz.scatter import save_scatter_plot, spread_stripes
from open_r1.viz.tables import (
    build_before_after_table,
    build_evaluation_table,
    build_markdown_table,
    build_side_by_side_table,
    format_value,
)
from open_r1.viz.theme import list_plot_paths


METRICS = ("srcc", "krcc", "plcc", "plcc_fitted", "rmse")


def build_report(value: float | None, n: int = 100) -> dict:
    interval = None if value is None else [value - 0.05, value + 0.04]
    return {
        **dict.fromkeys(METRICS, value),
        "n": n,
        "n_unparsed": 2,
        "n_missing": 1,
        "ci95": dict.fromkeys(METRICS, interval),
    }


def read_cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.strip().splitlines()]


def test_markdown_columns_are_as_wide_as_their_widest_cell():
    table = build_markdown_table(["run", "SRCC"], [["a", "0.5"], ["longer name", "-0.25"]])
    assert table == (
        "| run         |  SRCC |\n"
        "| :---------- | ----: |\n"
        "| a           |   0.5 |\n"
        "| longer name | -0.25 |\n"
    )  # fmt: skip


def test_a_bar_in_a_name_does_not_start_a_column():
    assert "a\\|b" in build_markdown_table(["run", "n"], [["a|b", "1"]])


def test_values_show_their_interval_and_missing_ones_a_dash():
    assert format_value(0.7126, [0.6651, 0.7511]) == "0.713 [0.665, 0.751]"
    assert format_value(0.13, [-0.02, 0.28], sign="+") == "+0.130 [-0.020, +0.280]"
    assert format_value(None) == "—"


def test_an_evaluation_table_has_every_metric_the_counts_and_the_reasons():
    table = build_evaluation_table(build_report(0.5))
    assert [row[0] for row in read_cells(table)[2:7]] == ["SRCC", "KRCC", "PLCC", "PLCC (fitted)", "RMSE (fitted)"]
    assert "0.500 | [0.450, 0.540]" in table
    assert "n = 100, unparsed = 2, missing = 1" in table
    undefined = build_evaluation_table(build_report(None), {"srcc": "every prediction is 3"})
    assert "SRCC has no value: every prediction is 3" in undefined


def test_comparisons_have_a_row_for_every_evaluation():
    side_by_side = read_cells(build_side_by_side_table({"a": build_report(0.5), "b": build_report(None)}))
    assert side_by_side[2][:2] == ["a", "0.500 [0.450, 0.540]"]
    assert side_by_side[3][:2] == ["b", "—"]
    change = Change(difference=0.2, ci95=[0.1, 0.3], n=98, p_paired=0.01)
    before_after = read_cells(build_before_after_table({"greedy": (build_report(0.5), build_report(0.7), change)}))
    assert before_after[2] == [
        "greedy", "0.500 [0.450, 0.540]", "0.700 [0.650, 0.740]", "+0.200 [+0.100, +0.300]",
        "0.010", "—", "98", "2 → 2",
    ]  # fmt: skip


@pytest.mark.parametrize("num_rows", [0, 1, 300])
def test_a_scatter_plot_is_written_whatever_there_is_to_plot(tmp_path, num_rows):
    settings = dict(matplotlib.rcParams)
    mos = np.linspace(1, 5, num_rows)
    pred_score = mos + np.sin(50 * mos)
    fit = fit_logistic4(pred_score, mos) if num_rows > 5 else LogisticFit(reason="too few rows")
    report = build_report(0.5 if num_rows > 5 else None, n=num_rows)
    save_scatter_plot(tmp_path / "plots" / "scatter.png", pred_score, mos, report, fit)
    with Image.open(tmp_path / "plots" / "scatter.png") as image:
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(1 << 20)) > 2
    assert dict(matplotlib.rcParams) == settings


def build_full_report(model: str, dataset: str, value: float | None, n: int) -> dict:
    return build_report(value, n) | {"model": model, "dataset": dataset}


def test_averages_over_data_sets_are_plain_and_by_size_and_need_all_of_them():
    reports = [
        build_full_report("a", "KADID", 0.9, n=300),
        build_full_report("a", "BID", 0.5, n=100),
        build_full_report("b", "BID", 0.6, n=100),
        build_full_report("c", "KADID", 0.7, n=300),
        build_full_report("c", "BID", None, n=100),
    ]
    header, _, *rows = read_cells(build_cross_dataset_table(reports))
    assert header == ["SRCC / PLCC", "KADID", "BID", "average", "average by size"]
    assert rows[0] == ["a", "0.900 / 0.900", "0.500 / 0.500", "0.700 / 0.700", "0.800 / 0.800"]
    assert rows[1] == ["b", "—", "0.600 / 0.600", "—", "—"]
    assert rows[2] == ["c", "0.700 / 0.700", "— / —", "—", "—"]
    with pytest.raises(ValueError, match="two evaluations of a on BID"):
        build_cross_dataset_table([*reports, reports[1]])


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_every_plot_is_written_in_the_format_of_its_name_the_same_twice(tmp_path, suffix):
    rng = np.random.default_rng(0)
    mos = rng.uniform(1, 5, 60)
    pred_score = mos + rng.normal(size=60)
    rows = [{"name": name, **build_report(value)} for name, value in (("blur", 0.5), ("noise", None), ("JPEG", -0.2))]
    reports = [build_full_report(model, "KADID", value, 60) for model, value in (("a", 0.5), ("b", None))]
    fit = fit_logistic5(pred_score, mos)
    write_metrics(tmp_path / "metrics.jsonl", [{"step": step, "reward": step / 10} for step in range(5)])
    plots = {
        "scatter": lambda path: save_scatter_plot(path, pred_score, mos, build_report(0.5), fit),
        "histogram": lambda path: save_histogram(path, pred_score, mos),
        "breakdown": lambda path: save_breakdown_plot(path, {"distortion": rows, "level": rows[:2]}),
        "cross": lambda path: save_cross_dataset_plot(path, reports),
        "curves": lambda path: save_training_curves(tmp_path / "metrics.jsonl", path),
    }
    magic = {".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix]
    for name, save in plots.items():
        paths = [tmp_path / f"{name}{turn}{suffix}" for turn in (1, 2)]
        for path in paths:
            save(path)
        first, second = (path.read_bytes() for path in paths)
        assert first.startswith(magic) and first == second, name


def test_a_plot_in_a_format_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must end in .png or .pdf"):
        save_histogram(tmp_path / "plot.jpg", [1, 2], [1, 2])
    assert list_plot_paths(tmp_path / "eval.json", "both") == [tmp_path / "eval.png", tmp_path / "eval.pdf"]


def test_few_distinct_predictions_are_spread_without_touching_their_neighbours():
    pred_score = np.repeat([1.0, 2.0, 4.0], 50)
    spread = spread_stripes(pred_score)
    assert len(np.unique(spread)) == 150
    assert np.abs(spread - pred_score).max() < 0.301  # 0.6 of the smallest gap, half to either side
    many = np.linspace(1, 5, 60)
    assert np.array_equal(spread_stripes(many), many)


def write_metrics(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_training_curves_show_what_the_run_logged(tmp_path):
    rows = [
        {
            "step": step,
            "reward": step / 10,
            "rewards/fidelity_reward/mean": 0.5,
            "rewards/fidelity_reward/std": 0.1,
            "rewards/format_reward/mean": 0.9,
            "completions/mean_length": 8.0,
            "time/generate_s": 1.5,
            "learning_rate": 1e-5,
        }
        for step in range(1, 41)
    ]
    write_metrics(tmp_path / "metrics.jsonl", rows)
    panels = {title: labels for title, _, labels in select_panels(load_metrics(tmp_path / "metrics.jsonl"))}
    assert panels == {
        "Reward": {"reward": "reward"},
        "Reward parts": {
            "rewards/fidelity_reward/mean": "fidelity_reward",
            "rewards/format_reward/mean": "format_reward",
        },
        "Completion length": {"completions/mean_length": "completions/mean_length"},
        "Time of each stage": {"time/generate_s": "generate"},
    }
    save_training_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size[0] > image.size[1]


def test_an_unfinished_last_line_of_metrics_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "rew', encoding="utf-8")
    assert load_metrics(path) == {"reward": ([1], [0.5])}
    path.write_text('{"step": 1, "rew', encoding="utf-8")
    with pytest.raises(ValueError, match="no line of metrics"):
        load_metrics(path)


def test_steps_that_a_resumed_run_repeats_replace_the_earlier_ones(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_metrics(path, [{"step": step, "kl": 1.0} for step in (1, 2, 3)] + [{"step": 2, "kl": 2.0}])
    assert load_metrics(path) == {"kl": ([1, 2], [1.0, 2.0])}


def test_several_log_lines_of_one_step_are_put_together(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_metrics(path, [{"step": 5, "reward": 1.0}, {"step": 5, "eval_reward": 0.4}])
    assert load_metrics(path) == {"reward": ([5], [1.0]), "eval_reward": ([5], [0.4])}


def test_a_run_without_known_metrics_is_refused(tmp_path):
    write_metrics(tmp_path / "metrics.jsonl", [{"step": 1, "learning_rate": 0.1}])
    with pytest.raises(ValueError, match="learning_rate"):
        save_training_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")


def test_running_means_use_neighbours_on_both_sides():
    assert compute_running_mean([0, 3, 6, 9], window=3) == [1.5, 3, 6, 7.5]
    assert compute_running_mean([1, 5], window=1) == [1, 5]
