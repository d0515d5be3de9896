"""What the report page shows of a run, read from its output folder.

    metrics.jsonl                -> series
    run.json                     -> facts, config
    rollouts/rank*.jsonl         -> groups, all of them or as many as a page can hold, evenly spread over the run
    rollouts/eval_rank*.jsonl    -> evaluations, SRCC of each with its interval

Files of a run that is still going on, or was killed, are read as far as they are whole.
"""

import base64
import io
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import pstdev
from typing import Any

from open_r1.viz.curves import Series, load_metrics


logger = logging.getLogger(__name__)

MAX_TEXT = 6000  # characters of a completion, a question or a solution
THUMBNAIL_SIZE = 112  # pixels of the longer side
_NUM_RESAMPLES = 200  # behind the interval of each evaluation: enough for a chart


@dataclass(frozen=True, kw_only=True)
class StepEvaluation:
    """The scores of one data set's validation rows at one step, and how they agree with the MOS."""

    step: int
    dataset: str
    pred_score: list[float]
    mos: list[float]
    srcc: float | None
    interval: list[float] | None  # 95 %


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """One run. Example: `RunReport(name="grpo", series={"reward": ([1, 2], [.4, .5])}, …)`."""

    name: str
    series: Series = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)  # dotted name -> value
    groups: list[dict[str, Any]] = field(default_factory=list)
    num_groups: int = 0  # that the run wrote; `groups` may be fewer
    evaluations: list[StepEvaluation] = field(default_factory=list)


def load_run(folder: Path, name: str, max_groups: int) -> RunReport:
    """Reads a run's folder.

    Raises:
        ValueError: there is nothing of a run in it.
    """
    metrics_path, run_path = folder / "metrics.jsonl", folder / "run.json"
    rollout_paths = sorted(folder.glob("rollouts/rank*.jsonl"))
    if not (metrics_path.is_file() or rollout_paths):
        raise ValueError(f"{folder} is no folder of a run: neither metrics.jsonl nor rollouts/rank0.jsonl is there")
    record = json.loads(run_path.read_text(encoding="utf-8")) if run_path.is_file() else {}
    config = flatten(record.get("config", {}))
    weights = record.get("config", {}).get("training", {}).get("reward_weights")
    num_lines = [_count_lines(path) for path in rollout_paths]
    groups = [
        _build_group(line, weights)
        for path, count in zip(rollout_paths, num_lines, strict=True)
        for line in _read_evenly(path, count, _share(count, sum(num_lines), max_groups))
    ]
    groups.sort(key=lambda group: group["step"])
    return RunReport(
        name=name,
        series=load_metrics(metrics_path) if metrics_path.is_file() else {},
        facts=_collect_facts(record),
        config=config,
        groups=groups,
        num_groups=sum(num_lines),
        evaluations=_load_evaluations(sorted(folder.glob("rollouts/eval_rank*.jsonl"))),
    )


def name_runs(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with as much of the path before them as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({names[-depth:] for names in parts}) < len(set(parts)):
        depth += 1
    return ["/".join(names[-depth:]) for names in parts]


def flatten(content: Any, prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted names with values as JSON."""
    if not isinstance(content, dict):
        return {prefix: json.dumps(content, ensure_ascii=False)}
    flat: dict[str, str] = {}
    for name, value in content.items():
        flat |= flatten(value, f"{prefix}.{name}" if prefix else name)
    return flat


def build_thumbnails(groups: Sequence[dict[str, Any]], max_thumbnails: int) -> dict[str, str]:
    """Small JPEGs as data URIs of the pictures that are shown most often; those that cannot be read are left out."""
    counts = Counter(path for group in groups for path in group["images"])
    thumbnails = {}
    for path, _ in counts.most_common(max_thumbnails):
        uri = _build_thumbnail(path)
        if uri is not None:
            thumbnails[path] = uri
    missing = min(len(counts), max_thumbnails) - len(thumbnails)
    if missing:
        logger.warning("%d pictures could not be read and have no thumbnail", missing)
    return thumbnails


def _build_thumbnail(path: str) -> str | None:
    from open_r1.data.media import BadImageError, load_image

    try:
        image = load_image(path)
    except BadImageError as error:
        logger.debug("no thumbnail: %s", error)
        return None
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _collect_facts(record: dict[str, Any]) -> dict[str, str]:
    """What stands above the charts of a run."""
    code, config = record.get("code") or {}, record.get("config") or {}
    facts = {
        "started": record.get("time"),
        "model": config.get("model", {}).get("model_name_or_path"),
        "commit": code.get("commit") and code["commit"][:12] + (" with changes" if code.get("is_dirty") else ""),
        "devices": ", ".join(filter(None, map(str, record.get("devices") or []))),
        "command": " ".join(record.get("command") or []),
    }
    return {name: str(value) for name, value in facts.items() if value}


# ---- rollouts ---------------------------------------------------------------------------------------------------


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _share(count: int, total: int, limit: int) -> int:
    return count if total <= limit else max(1, count * limit // total)


def _read_evenly(path: Path, count: int, wanted: int) -> Iterator[dict[str, Any]]:
    """`wanted` of a file's `count` whole lines, at even distances."""
    with path.open("rb") as file:
        for index, line in enumerate(file):
            if index >= count:  # a line that is still being written
                break
            if index * wanted // count != (index - 1) * wanted // count:
                yield json.loads(line)


def _build_group(record: dict[str, Any], weights: Sequence[float] | None) -> dict[str, Any]:
    """A group as the page takes it."""
    row, rewards = record["row"], record["rewards"]
    weights = weights or [1.0] * len(rewards)
    totals = [
        sum(weight * value for weight, value in zip(weights, values, strict=True) if value is not None)
        for values in zip(*rewards.values(), strict=True)
    ]
    return {
        "step": record["step"],
        "id": row.get("id"),
        "dataset": row.get("dataset_name"),
        "images": row.get("image_path") or [],
        "problem": _shorten(row.get("problem")),
        "solution": _shorten(row.get("solution")),
        "mos": row.get("mos"),
        "texts": [_shorten(text) for text in record["completions"]],
        "rewards": {name: [_round(value) for value in values] for name, values in rewards.items()},
        "totals": [_round(value) for value in totals],
        "spread": _round(pstdev(totals)),
        "advantages": [_round(value) for value in record["advantages"]],
        "ends": record["finish_reasons"],
    }


def _shorten(text: Any) -> str | None:
    if text is None:
        return None
    text = str(text)
    half = MAX_TEXT // 2
    return text if len(text) <= MAX_TEXT else f"{text[:half]}\n[… {len(text) - 2 * half} characters …]\n{text[-half:]}"


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


# ---- evaluations ------------------------------------------------------------------------------------------------


def _load_evaluations(paths: Sequence[Path]) -> list[StepEvaluation]:
    pairs: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    for path in paths:
        for record in _read_evenly(path, count := _count_lines(path), count):
            score, row = record["metrics"].get("pred_score"), record["row"]
            if score is not None and row.get("mos") is not None:
                pairs[record["step"], row["dataset_name"]].append((score, row["mos"]))
    return [_evaluate(step, dataset, values) for (step, dataset), values in sorted(pairs.items())]


def _evaluate(step: int, dataset: str, pairs: Sequence[tuple[float, float]]) -> StepEvaluation:
    from open_r1.utils.bootstrap import compute_interval, draw_resample_counts, resample_measures
    from open_r1.utils.math import compute_srcc

    scores, mos = [score for score, _ in pairs], [value for _, value in pairs]
    counts = draw_resample_counts(len(pairs), None, _NUM_RESAMPLES)
    resampled = resample_measures(scores, mos, counts, metrics=("srcc",))["srcc"]
    return StepEvaluation(
        step=step,
        dataset=dataset,
        pred_score=scores,
        mos=mos,
        srcc=compute_srcc(scores, mos),
        interval=compute_interval(resampled, len(pairs)),
    )
