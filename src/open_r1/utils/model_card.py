"""The model card of a run: the `README.md` beside its weights, out of what the run wrote down.

run.json, metrics.jsonl -> build_model_card -> README.md: base model, data with hashes, rewards, settings, metrics
"""

import json
import logging
from pathlib import Path
from typing import Any


logger = logging.getLogger(__name__)

_GRPO = "[Group Relative Policy Optimization](https://arxiv.org/abs/2402.03300)"
_RANKING = "[reinforcement learning to rank](https://arxiv.org/abs/2505.14460)"
# Settings that a reader asks for first; run.json has all of them.
_SETTINGS = (
    *("num_generations", "max_completion_length", "temperature", "beta", "epsilon", "epsilon_high", "loss_type"),
    *("scale_rewards", "num_iterations", "learning_rate", "lr_scheduler_type", "warmup_steps", "max_steps"),
    *("num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "seed", "deepspeed"),
)


def write_model_card(output_dir: str | Path) -> None:
    """Writes `README.md` into a run's folder; what the user put there by hand before, under that name, stays.

    Nothing is written where there is no `run.json` of our commands, as in a training loop of one's own.
    """
    folder = Path(output_dir)
    path = folder / "README.md"
    is_of_user = path.is_file() and _MARK not in path.read_text(encoding="utf-8")
    if is_of_user or not (folder / "run.json").is_file():
        return
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if not {"script", "training", "model"} <= set(run["config"]):
        return
    path.write_text(build_model_card(run, _read_last_metrics(folder / "metrics.jsonl"), folder.name), encoding="utf-8")


_MARK = "<!-- written by open_r1; remove this line to keep your own text -->"


def build_model_card(run: dict[str, Any], metrics: dict[str, float], name: str) -> str:
    """The card as Markdown with the front matter that model hubs read.

    Args:
        run: The content of `run.json`.
        metrics: The last value of each metric.
        name: Of the model.
    """
    config = run["config"]
    script, training, model = config["script"], config["training"], config["model"]
    is_grpo = "num_generations" in training
    rewards = (
        ["## Rewards\n\n" + _build_table(("reward", "weight"), _list_rewards(script, training))] if is_grpo else []
    )
    sections = [
        f"---\n{_build_front_matter(model, script, 'grpo' if is_grpo else 'sft')}\n---\n{_MARK}\n\n# {name}",
        _describe_method(script, training, model),
        "## Data\n\n" + _build_table(("file", "SHA-256"), sorted(run["data"].items())),
        *rewards,
        "## Settings\n\n" + _build_table(("setting", "value"), _list_settings(training)),
        "## Metrics\n\nLast logged values; the whole course is in `metrics.jsonl`.\n\n"
        + _build_table(("metric", "value"), [(key, f"{value:.4g}") for key, value in sorted(metrics.items())]),
        _describe_origin(run),
    ]
    return "\n\n".join(sections) + "\n"


def _build_front_matter(model: dict[str, Any], script: dict[str, Any], method: str) -> str:
    from huggingface_hub import ModelCardData

    base = model["model_name_or_path"]
    is_of_hub = base.count("/") == 1 and not Path(base).exists()
    return ModelCardData(
        base_model=base if is_of_hub else None,
        library_name="peft" if model.get("use_peft") else "transformers",
        pipeline_tag="image-text-to-text",
        tags=[method, "open_r1", *filter(None, [script.get("task_type")])],
    ).to_yaml()


def _describe_method(script: dict[str, Any], training: dict[str, Any], model: dict[str, Any]) -> str:
    how = "adapters (LoRA) of" if model.get("use_peft") else "a version of"
    method = f"with {_GRPO}" if "num_generations" in training else "by supervised fine-tuning"
    ranking = f", with {_RANKING} as a reward" if "fidelity" in _resolve_rewards(script) else ""
    licence = "Its licence is that of the base model and of the data, which this card does not know."
    return (
        f"This is {how} `{model['model_name_or_path']}`, trained {method}{ranking}, for the task "
        f"`{script.get('task_type') or 'default'}`. {licence}"
    )


def _resolve_rewards(script: dict[str, Any]) -> list[str]:
    from open_r1.tasks import get_task

    short_names = get_task(script.get("task_type") or "default").rewards
    return [short_names.get(name, name) for name in script.get("reward_funcs", [])]


def _list_rewards(script: dict[str, Any], training: dict[str, Any]) -> list[tuple[str, str]]:
    names = _resolve_rewards(script)
    weights = training.get("reward_weights") or [1.0] * len(names)
    return [(name, f"{weight:g}") for name, weight in zip(names, weights, strict=True)]


def _list_settings(training: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(training[name])) for name in _SETTINGS if training.get(name) is not None]


def _describe_origin(run: dict[str, Any]) -> str:
    code = run["code"]
    commit = code.get("commit") or "unknown"
    changes = ", with uncommitted changes" if code.get("is_dirty") else ""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items() if version)
    return f"## Origin\n\nCode: commit {commit}{changes}. Versions: {versions}. Started {run['time']}."


def _build_table(header: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (header, ("---", "---"), *rows)]
    return "\n".join(lines)


def _read_last_metrics(path: Path) -> dict[str, float]:
    """The last value of every number that was logged; none where nothing was."""
    from open_r1.viz.curves import load_metrics

    if not path.is_file():
        return {}
    try:
        return {name: values[-1] for name, (_, values) in load_metrics(path).items()}
    except ValueError as error:
        logger.warning("the model card has no metrics: %s", error)
        return {}
