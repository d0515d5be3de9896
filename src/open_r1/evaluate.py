"""Evaluates predicted scores against MOS labels, or answers of a task against its labels, or compares evaluations.

    python -m open_r1.evaluate --predictions pred.csv --labels test.jsonl --output eval.json
    python -m open_r1.evaluate --task rec --predictions pred.jsonl --labels val.jsonl --output eval.json
    python -m open_r1.evaluate --compare eval_a.json eval_b.json
    python -m open_r1.evaluate --before greedy_0.json mean8_0.json --after greedy_1.json mean8_1.json \
        --names greedy "mean of 8" --output comparison.md

Beside `eval.json` it writes `eval.md` (tables), `eval.png` (scatter plot), `eval.histogram.png`, `eval.breakdown.png`
(where labels name distortions or levels) and `eval.pairs.csv` (the matched rows, which paired intervals of a
comparison need); with `--task`, `eval.md` and `eval.rows.jsonl`. See docs/evaluation.md.
"""

import argparse
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_r1.utils.math import METRICS


if TYPE_CHECKING:
    from open_r1.utils.evaluation import Matches
    from open_r1.utils.math import LogisticFit
    from open_r1.utils.task_evaluation import TaskOptions


logger = logging.getLogger(__name__)

TASKS = ("vqa", "nle", "reasoning", "rec", "detection", "gui", "emotion")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predictions", type=Path, help="CSV or JSONL of open_r1.score; needs `path` and `score`.")
    parser.add_argument("--labels", type=Path, help="JSONL, MOS text, CSV, spreadsheet or .mat file (docs/data.md).")
    parser.add_argument("--dataset", help="Card of the labels (configs/data, or a YAML file): columns, references.")
    parser.add_argument("--columns", help='Columns of a label file without a card, such as "ref dis mos std".')
    parser.add_argument("--direction", choices=("mos", "dmos"), default="mos", help="With --columns: dmos is flipped.")
    parser.add_argument("--output", type=Path, help="JSON to write; for a comparison, Markdown.")
    parser.add_argument("--model_name", help="What to call the predictions' model. Default: that of their settings.")
    parser.add_argument("--fit", choices=("4", "5", "both"), default="4", help="Parameters of the logistic fit.")
    parser.add_argument("--num_worst", type=int, default=20, help="Worst cases that are kept, with their texts.")
    parser.add_argument("--format", choices=("png", "pdf", "both"), default="png", help="Of the plots.")
    parser.add_argument("--num_resamples", type=int, default=1000, help="Bootstrap resamples behind each interval.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the resamples.")
    parser.add_argument("--compare", type=Path, nargs="+", metavar="JSON", help="Evaluations to put side by side.")
    parser.add_argument("--before", type=Path, nargs="+", metavar="JSON", help="Evaluations before a change …")
    parser.add_argument("--after", type=Path, nargs="+", metavar="JSON", help="… and after it, in the same order.")
    parser.add_argument("--names", nargs="+", help="What to call the rows of a comparison. Default: file names.")
    parser.add_argument("--metric", choices=METRICS, default="srcc", help="Metric of --before and --after.")
    _add_task_arguments(parser.add_argument_group("answers of a task (--task)"))
    return parser


def _add_task_arguments(group: argparse._ArgumentGroup) -> None:
    formats = ("pixel", "input_pixel", "relative_1000", "relative_1")
    group.add_argument("--task", choices=TASKS, help="What the predictions answer.")
    group.add_argument("--question_template", help="Contract of the completions. Default: the task's.")
    group.add_argument("--image_folder", help="Of the labels' pictures, where boxes are in other coordinates.")
    group.add_argument("--box_format", choices=formats, default="pixel", help="Coordinates of predicted boxes.")
    group.add_argument("--label_box_format", choices=formats, default="pixel", help="Coordinates of labelled boxes.")
    group.add_argument("--language", choices=("en", "vi"), help="Of the answers. Default: vi for nle, else en.")
    group.add_argument("--tokenizer", default="syllable", help="Of explanations: syllable, or ptb (English, Java).")
    group.add_argument("--nle_metrics", nargs="+", help="bleu rouge_l cider meteor spice bertscore. Default: all.")
    group.add_argument("--bertscore_model", help="Folder or hub name of the model behind BERTScore.")
    group.add_argument("--bertscore_layer", type=int, help="Its layer. Default: the one that is customary.")
    group.add_argument("--encoder", default="all-MiniLM-L6-v2", help="Sentence encoder of Match F1.")
    group.add_argument("--threshold", type=float, help="Cosine above which steps match. Default: the encoder's.")
    group.add_argument("--matching", choices=("greedy", "maximum"), default="greedy", help="How steps are matched.")
    group.add_argument("--device", default="auto", help="Of encoders: cpu, cuda, auto.")


def evaluate_answers(args: argparse.Namespace) -> None:
    """Joins, measures, and writes the report, the table and the rows."""
    from open_r1.utils.task_evaluation import evaluate_task
    from open_r1.viz.tables import build_task_table

    report = asdict(evaluate_task(args.task, args.predictions, args.labels, build_task_options(args)))
    details = report.pop("details")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    rows_path = args.output.with_suffix(".rows.jsonl")
    lines = (json.dumps(detail, ensure_ascii=False) + "\n" for detail in details)
    rows_path.write_text("".join(lines), encoding="utf-8")
    table = build_task_table(report)
    args.output.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)
    print(f"wrote {args.output}, {args.output.with_suffix('.md')} and {rows_path}")


def build_task_options(args: argparse.Namespace) -> "TaskOptions":
    from open_r1.utils.box_pairs import BoxFormats
    from open_r1.utils.nle_metrics import METRICS as NLE_METRICS
    from open_r1.utils.nle_metrics import NleSettings
    from open_r1.utils.task_evaluation import TaskOptions

    return TaskOptions(
        question_template=args.question_template,
        image_folder=args.image_folder,
        formats=BoxFormats(answer=args.box_format, label=args.label_box_format),
        language=args.language,
        nle=NleSettings(
            tokenizer=args.tokenizer,
            metrics=tuple(args.nle_metrics or NLE_METRICS),
            bertscore_model=args.bertscore_model,
            bertscore_layer=args.bertscore_layer,
            device=args.device,
        ),
        encoder=args.encoder,
        threshold=args.threshold,
        matching=args.matching,
        device=args.device,
    )


def evaluate(args: argparse.Namespace) -> None:
    """Matches, measures, and writes the report, the tables, the plots and the matched rows."""
    from open_r1.utils.evaluation import (
        evaluate_matches,
        get_pairs_path,
        load_test_labels,
        match_predictions,
        save_pairs,
    )
    from open_r1.utils.evaluation_report import EvaluationSources, build_report
    from open_r1.utils.predictions import load_predictions
    from open_r1.viz.report_tables import build_report_tables

    names = ("predictions", "labels", "dataset", "model_name", "fit", "num_resamples", "seed", "num_worst")
    sources = EvaluationSources(**{name: getattr(args, name) for name in names})
    labels = load_test_labels(args.labels, args.dataset, args.columns, args.direction)
    matches = match_predictions(load_predictions(args.predictions), labels)
    if matches.num_extra:
        logger.warning("%d predictions have no label and were left out", matches.num_extra)
    evaluation = evaluate_matches(matches, args.num_resamples, args.seed, with_fit5=args.fit != "4")
    report = build_report(evaluation, matches, sources)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    args.output.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    save_pairs(get_pairs_path(args.output), matches)
    tables = build_report_tables(report)
    args.output.with_suffix(".md").write_text(tables, encoding="utf-8", errors="backslashreplace")
    plots = save_plots(
        args.output, report, matches, evaluation.fit5 if args.fit == "5" else evaluation.fit, args.format
    )
    print(tables)
    print(f"wrote {args.output}, {', '.join(str(path) for path in (args.output.with_suffix('.md'), *plots))}")


def save_plots(
    output: Path, report: dict[str, Any], matches: "Matches", fit: "LogisticFit", formats: str
) -> list[Path]:
    """Draws scatter plot, histogram and, where there is a breakdown, bars; returns what was written."""
    from open_r1.viz.bars import save_breakdown_plot, save_histogram
    from open_r1.viz.scatter import save_scatter_plot
    from open_r1.viz.theme import list_plot_paths

    written = []
    for path in list_plot_paths(output, formats):
        save_scatter_plot(path, matches.pred_score, matches.mos, report, fit)
        written.append(path)
        histogram_path = path.with_suffix(f".histogram{path.suffix}")
        save_histogram(histogram_path, matches.pred_score, matches.mos)
        written.append(histogram_path)
        if report["breakdown"]:
            breakdown_path = path.with_suffix(f".breakdown{path.suffix}")
            save_breakdown_plot(breakdown_path, report["breakdown"])
            written.append(breakdown_path)
    return written


def compare(args: argparse.Namespace) -> None:
    """Prints evaluations as Markdown tables, and writes them where --output says; of several data sets a plot too."""
    from open_r1.utils.comparison import compare_reports
    from open_r1.utils.evaluation import load_evaluation
    from open_r1.viz.bars import save_cross_dataset_plot
    from open_r1.viz.report_tables import build_cross_dataset_table
    from open_r1.viz.tables import build_before_after_table, build_side_by_side_table
    from open_r1.viz.theme import list_plot_paths

    names = args.names or [path.stem for path in args.compare or args.after]
    if args.compare:
        reports = [load_evaluation(path)[0] for path in args.compare]
        table = build_side_by_side_table(dict(zip(names, reports, strict=True)))
        if len({report.get("dataset") for report in reports}) > 1:
            table += f"\n{build_cross_dataset_table(reports)}"
            if args.output:
                for path in list_plot_paths(args.output, args.format):
                    save_cross_dataset_plot(path, reports)
    else:
        changes = [
            compare_reports(before, after, args.metric, args.num_resamples, args.seed)
            for before, after in zip(args.before, args.after, strict=True)
        ]
        table = build_before_after_table(dict(zip(names, changes, strict=True)), args.metric)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(table, encoding="utf-8")
    print(table)


def check_arguments(args: argparse.Namespace) -> str | None:
    """What is wrong with the combination of arguments, if anything is."""
    if args.task and (args.compare or args.before or args.after):
        return "--task evaluates answers, --compare and --before/--after compare evaluations of scores: choose one"
    if args.compare or args.before or args.after:
        if args.compare and (args.before or args.after):
            return "--compare and --before/--after are two kinds of comparison: choose one"
        if len(args.before or ()) != len(args.after or ()):
            return "--before and --after need the same number of evaluations"
        if args.names and len(args.names) != len(args.compare or args.after):
            return f"--names has {len(args.names)} names for {len(args.compare or args.after)} rows"
        names = args.names or [path.stem for path in args.compare or args.after]
        return f"rows of one name ({', '.join(names)}): give --names" if len(set(names)) < len(names) else None
    has_labels = args.labels or args.task == "nle"  # whose predictions may have their references with them
    if not (args.predictions and has_labels and args.output):
        return "--predictions, --labels and --output are needed (or --compare, or --before and --after)"
    return None if args.output.suffix == ".json" else "--output must end in .json"


def main(argv: list[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    problem = check_arguments(args)
    if problem:
        parser.error(problem)
    if args.compare or args.before:
        compare(args)
    elif args.task:
        evaluate_answers(args)
    else:
        evaluate(args)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
