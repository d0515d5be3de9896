"""From predictions and labels to one evaluation: match by file name, measure, keep.

    predictions (utils/predictions.py) + labels (data/mos.py) -> match_predictions -> evaluate_matches -> Evaluation
    Evaluation.report has the keys of REPORT_KEYS; `evaluation_report.py` adds breakdown, protocol and provenance, and
    `save_pairs` keeps the rows behind it, for comparison.py.

Nothing is filled in, and no label gets lost: n + n_unparsed + n_missing is the number of labels.
"""

import csv
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_r1.utils.bootstrap import NUM_RESAMPLES, compute_ci95
from open_r1.utils.matching import match_names
from open_r1.utils.math import METRICS, METRICS_5, LogisticFit, compute_agreement
from open_r1.utils.predictions import Prediction


if TYPE_CHECKING:
    from open_r1.data.mos import MosRecord


logger = logging.getLogger(__name__)

REPORT_KEYS = (*METRICS, "n", "n_unparsed", "n_missing", "ci95")
_PAIR_COLUMNS = ("image", "score", "mos", "reference", "distortion", "level")
_LARGE_RATIO = 10  # of the ranges of predictions and labels, beyond which they are different scales
_FEW_REFERENCES = 10  # below this a bootstrap over references says little


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Labels with their predictions. Example: 3 labels of which one was scored has `image=["a.png"]`."""

    image: list[str]  # n names as the label file has them
    pred_score: list[float]  # (n,)
    mos: list[float]  # (n,), higher is better
    reference: list[str] | None  # (n,) reference images; None unless every label names one
    num_unparsed: int  # labels whose answer has no score
    num_missing: int  # labels without any answer: no row, or an image that could not be read
    num_extra: int = 0  # predictions without a label
    distortion: list[str] | None = None  # (n,), empty where unknown; None where no label names one
    level: list[str] | None = None  # (n,), the same
    text: list[str] | None = None  # (n,) what the model wrote, where it is at hand


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate_matches` found."""

    report: dict[str, Any]  # REPORT_KEYS, and METRICS_5 if asked for; None for what has no value
    reasons: dict[str, str]  # metric -> why it has no value
    caveats: list[str]  # what a reader of the numbers should know
    fit: LogisticFit
    fit5: LogisticFit | None = None


def load_test_labels(
    path: str | Path, dataset: str | None = None, columns: str | None = None, direction: str = "mos"
) -> "list[MosRecord]":
    """Reads labels through `data/mos.py`; a card adds the references that image names speak of, and leaves out images.

    Args:
        dataset: name or file of a dataset card.
        columns: roles of the columns, where there is no card.
        direction: "mos", or "dmos" where lower is better; with `columns`.
    """
    from open_r1.data.cards import load_card
    from open_r1.data.mos import load_labels

    card = load_card(dataset) if dataset else None
    labels = load_labels(path, columns, card, direction)
    if card is None:
        return labels
    kept = [label for label in labels if Path(label.image).name not in card.exclude]
    if len(kept) < len(labels):
        logger.info("%d images that the card of %s excludes were left out", len(labels) - len(kept), card.name)
    names = [Path(label.image).name for label in kept]
    completed = []
    for label, name in zip(kept, names, strict=True):
        distortion, level = card.get_kind(name)
        known = {
            "reference": label.reference or card.get_reference(name),
            "distortion": label.distortion or distortion,
            "level": label.level or level,
        }
        completed.append(replace(label, **known))
    return completed


def match_predictions(predictions: Sequence[Prediction], labels: "Sequence[MosRecord]") -> Matches:
    """Finds each label's prediction by file name (see `match_names`) and counts the labels that have no score.

    Raises:
        ValueError: ambiguous file names, a MOS that is no finite number, or not one name in common.
    """
    unusable = [label.image for label in labels if not math.isfinite(label.mos)]
    if unusable:
        raise ValueError(f"{len(unusable)} labels are not finite numbers, the first of {unusable[0]}")
    paths = [prediction.path for prediction in predictions]
    pairs = match_names([label.image for label in labels], paths)
    if not pairs and labels and predictions:
        raise ValueError(f"no label matches any prediction by file name: {labels[0].image} against {paths[0]}, …")
    answered = [(labels[i], predictions[j]) for i, j in sorted(pairs.items())]
    scored = [(label, prediction) for label, prediction in answered if prediction.score is not None]
    num_unparsed = sum(prediction.is_unparsed for _, prediction in answered)
    references = [(label.reference or "").casefold() for label, _ in scored]  # TID2013 mixes I01.BMP and i01.bmp
    return Matches(
        image=[label.image for label, _ in scored],
        pred_score=[prediction.score for _, prediction in scored],
        mos=[label.mos for label, _ in scored],
        reference=references if references and all(references) else None,
        num_unparsed=num_unparsed,
        num_missing=len(labels) - len(scored) - num_unparsed,
        num_extra=len(predictions) - len(pairs),
        distortion=_collect([label.distortion for label, _ in scored]),
        level=_collect([label.level for label, _ in scored]),
        text=_collect([_join_texts(prediction.text) for _, prediction in scored]),
    )


def _collect(values: Sequence[str | None]) -> list[str] | None:
    """The values, empty where there is none; None where there are none at all."""
    return [value or "" for value in values] if any(values) else None


def _join_texts(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "\n".join(text)


def evaluate_matches(
    matches: Matches, num_resamples: int = NUM_RESAMPLES, seed: int = 0, *, with_fit5: bool = False
) -> Evaluation:
    """Measures how the matched predictions agree with the MOS, with bootstrap intervals.

    Args:
        with_fit5: whether PLCC and RMSE are taken after the 5-parameter fit too.
    """
    agreement = compute_agreement(matches.pred_score, matches.mos, with_fit5=with_fit5)
    caveats = [*find_caveats(matches.reference), *find_oddities(matches, agreement.values["srcc"])]
    metrics = METRICS + (METRICS_5 if with_fit5 else ())
    intervals = compute_ci95(matches.pred_score, matches.mos, matches.reference, num_resamples, seed, metrics)
    report = {
        **{name: _round(value) for name, value in agreement.values.items()},
        "n": len(matches.mos),
        "n_unparsed": matches.num_unparsed,
        "n_missing": matches.num_missing,
        "ci95": {name: interval and [_round(bound) for bound in interval] for name, interval in intervals.items()},
    }
    for name, reason in agreement.reasons.items():
        logger.warning("%s has no value: %s", name, reason)
    return Evaluation(
        report=report, reasons=agreement.reasons, caveats=caveats, fit=agreement.fit, fit5=agreement.fit5
    )


def find_oddities(matches: Matches, srcc: float | None) -> list[str]:
    """What looks wrong about predictions that can be correlated all the same; also logged."""
    oddities = []
    if srcc is not None and srcc < 0:
        oddities.append("SRCC is negative: the predictions rank the wrong way round, which a fit hides")
    if srcc is not None:
        (low, high), (lowest, highest) = ((min(values), max(values)) for values in (matches.pred_score, matches.mos))
        if not 1 / _LARGE_RATIO < (high - low) / (highest - lowest) < _LARGE_RATIO:
            oddities.append(
                f"predictions run from {low:g} to {high:g}, labels from {lowest:g} to {highest:g}: these are "
                "different scales, which only the fits bring together"
            )
    for oddity in oddities:
        logger.warning(oddity)
    return oddities


def find_caveats(reference: Sequence[str] | None) -> list[str]:
    """What to know about intervals that are resampled by these references (n,); also logged."""
    num_references = len(set(reference or ()))
    if not 0 < num_references < _FEW_REFERENCES:
        return []
    caveat = f"the intervals rest on {num_references} reference images only, and are likely too narrow"
    logger.warning(caveat)
    return [caveat]


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def get_pairs_path(report_path: str | Path) -> Path:
    """Where the rows behind an evaluation are kept: `eval.json` -> `eval.pairs.csv`."""
    return Path(report_path).with_suffix(".pairs.csv")


def save_pairs(path: str | Path, matches: Matches) -> None:
    """Writes the matched rows as CSV: image, score, mos, reference, distortion, level (empty where there is none)."""
    none = [""] * len(matches.image)
    texts = (matches.reference or none, matches.distortion or none, matches.level or none)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_PAIR_COLUMNS)
        writer.writerows(zip(matches.image, matches.pred_score, matches.mos, *texts, strict=True))


def load_evaluation(report_path: str | Path) -> tuple[dict[str, Any], Matches | None]:
    """Reads an evaluation's report, and the rows behind it where they were kept.

    Raises:
        ValueError: the file is no evaluation.
    """
    report = json.loads(Path(report_path).read_text(encoding="utf-8"))
    if not isinstance(report, dict) or not set(REPORT_KEYS) <= set(report):
        raise ValueError(f"{report_path}: not an evaluation of scores; its keys must be {', '.join(REPORT_KEYS)}")
    pairs_path = get_pairs_path(report_path)
    if not pairs_path.exists():
        return report, None
    with open(pairs_path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    references = [row["reference"] for row in rows]
    return report, Matches(
        image=[row["image"] for row in rows],
        pred_score=[float(row["score"]) for row in rows],
        mos=[float(row["mos"]) for row in rows],
        reference=references if references and all(references) else None,
        num_unparsed=report["n_unparsed"],
        num_missing=report["n_missing"],
        distortion=_collect([row.get("distortion") for row in rows]),
        level=_collect([row.get("level") for row in rows]),
    )
