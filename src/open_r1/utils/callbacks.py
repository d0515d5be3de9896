"""Trainer callbacks: metrics to a file, and a live line on the terminal."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


# What the live line shows, in this order, where a log line has it: (metric, label).
_LIVE_METRICS = (
    ("loss", "loss"),
    ("reward", "reward"),
    ("rewards/fidelity_reward/mean", "fidelity"),
    ("rewards/format_reward/mean", "format"),
    ("mean_token_accuracy", "accuracy"),
    ("kl", "kl"),
    ("entropy", "entropy"),
    ("completions/mean_length", "length"),
)


class MetricsFileCallback(TrainerCallback):
    """Appends every log line to `OUTPUT_DIR/metrics.jsonl`, one JSON object with its `step`."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        path = Path(args.output_dir) / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class LiveProgressCallback(TrainerCallback):
    """A progress bar over optimizer steps that carries the latest metrics."""

    def __init__(self):
        self.bar = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and not args.disable_tqdm:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", dynamic_ncols=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.bar is not None and logs:
            shown = [f"{label} {logs[name]:.3g}" for name, label in _LIVE_METRICS if name in logs]
            if shown:
                self.bar.set_postfix_str(", ".join(shown))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
