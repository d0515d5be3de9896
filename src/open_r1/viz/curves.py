"""Training curves of a run: reward and its parts, KL, completion length, stage times, out of its `metrics.jsonl`.

python -m open_r1.viz.curves --run output/demo/grpo --output output/demo/curves.png
"""

import argparse
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from open_r1.viz.theme import (
    MUTED,
    SERIES,
    add_legend,
    build_figure,
    label_axes,
    list_plot_paths,
    save_figure,
)


logger = logging.getLogger(__name__)

Series = dict[str, tuple[list[float], list[float]]]  # metric -> steps and values

# Panel title, unit, and which metrics belong to it: exact names, or a prefix and a suffix around the legend's label.
_PANELS = (
    ("Reward", "", ("reward",)),
    ("Reward parts", "mean", (("rewards/", "/mean"),)),
    ("Spread of rewards in a group", "standard deviation", ("reward_std",)),
    ("Groups without a signal", "share with equal rewards", ("frac_reward_zero_std",)),
    ("Loss", "", ("loss",)),
    ("KL to the reference", "nats per token", ("kl",)),
    ("Entropy", "nats per token", ("entropy",)),
    ("Clipped ratios", "share of tokens", (("clip_ratio/", "_mean"),)),
    ("Completion length", "tokens", ("completions/mean_length",)),
    ("Completions cut off", "share", ("completions/clipped_ratio",)),
    ("Time of each stage", "seconds", (("time/", "_s"),)),
    ("Held-out measures", "", (("eval_", ""),)),
)
_MAX_COLUMNS = 3


def load_metrics(path: str | Path) -> Series:
    """Reads a `metrics.jsonl`: one JSON object per line with `step` and any metrics.

    A line that a running or killed process has not finished is left out, with a warning. Where a resumed run has done
    steps again, its later lines replace the earlier ones.

    Raises:
        ValueError: no line has a step.
    """
    rows: dict[float, dict[str, Any]] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                step = row["step"]
            except (json.JSONDecodeError, KeyError, TypeError):
                logger.warning("%s:%d is not a line of metrics, left out", path, number)
                continue
            rows = {known: values for known, values in rows.items() if known <= step}
            rows.setdefault(step, {}).update(row)
    if not rows:
        raise ValueError(f"{path}: no line of metrics with a step")
    series: Series = defaultdict(lambda: ([], []))
    for step, row in rows.items():
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                series[name][0].append(step)
                series[name][1].append(value)
    return dict(series)


def select_panels(series: Mapping[str, Any]) -> list[tuple[str, str, dict[str, str]]]:
    """The panels that have something to show: title, unit and metric -> legend label."""
    panels = []
    for title, unit, members in _PANELS:
        labels = {}
        for member in members:
            prefix, suffix = (member, None) if isinstance(member, str) else member
            for name in series:
                if suffix is None and name == prefix:
                    labels[name] = name
                elif suffix is not None and name.startswith(prefix) and name.endswith(suffix):
                    labels[name] = name[len(prefix) : len(name) - len(suffix)]
        if labels:
            panels.append((title, unit, labels))
    return panels


def save_training_curves(metrics_path: str | Path, output_path: str | Path) -> None:
    """Draws every known metric of a run over its optimizer steps into one PNG or PDF.

    Noisy curves are drawn pale, with their running mean over about an eighth of the run on top.
    """
    series = load_metrics(metrics_path)
    panels = select_panels(series)
    if not panels:
        raise ValueError(f"{metrics_path}: none of its metrics is known: {', '.join(sorted(series))}")
    num_columns = min(_MAX_COLUMNS, len(panels))
    num_rows = -(-len(panels) // num_columns)
    figure, axes = build_figure(num_rows, num_columns, panel_size=(4.4, 3.1))
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    for panel, (title, unit, labels) in zip(axes, panels, strict=False):
        label_axes(panel, title, "optimizer step", unit)
        for color, (name, label) in zip(SERIES, labels.items(), strict=False):
            _draw_curve(panel, *series[name], color=color, label=label)
        if len(labels) > len(SERIES):
            panel.annotate(f"{len(labels) - len(SERIES)} more not shown", (0.02, 0.02), color=MUTED, fontsize=8)
        if len(labels) > 1:
            add_legend(panel)
    save_figure(figure, output_path)


def _draw_curve(panel: Any, steps: Sequence[float], values: Sequence[float], color: str, label: str) -> None:
    if len(values) < 20:
        panel.plot(steps, values, color=color, linewidth=1.8, marker="o", markersize=3.5, label=label)
        return
    panel.plot(steps, values, color=color, linewidth=1.0, alpha=0.3)
    panel.plot(steps, compute_running_mean(values, len(values) // 8), color=color, linewidth=2.0, label=label)


def compute_running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value with its neighbours, `window` // 2 on either side or as many as there are."""
    reach = window // 2
    means = []
    for index in range(len(values)):
        near = values[max(0, index - reach) : index + reach + 1]
        means.append(sum(near) / len(near))
    return means


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="curves", description=__doc__.partition("\n")[0])
    parser.add_argument("--run", required=True, type=Path, help="Output folder of a run, or its metrics.jsonl.")
    parser.add_argument("--output", required=True, type=Path, help="PNG or PDF to write, by its suffix.")
    parser.add_argument("--format", choices=("png", "pdf", "both"), help="Instead of the suffix's.")
    args = parser.parse_args(argv)
    metrics_path = args.run / "metrics.jsonl" if args.run.is_dir() else args.run
    for path in list_plot_paths(args.output, args.format) if args.format else [args.output]:
        save_training_curves(metrics_path, path)
        print(f"wrote {path}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
