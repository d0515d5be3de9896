"""The trainer of the cold start: TRL's, resumable."""

from pathlib import Path
from typing import Any

from trl import SFTTrainer

from open_r1.trainer.resumable import ResumableMixin


class ColdStartTrainer(ResumableMixin, SFTTrainer):
    """TRL's `SFTTrainer`, with the metrics that wait for a log line in its checkpoints."""

    def _save_progress(self, folder: Path) -> dict[str, Any]:
        return {"metrics": dict(self._metrics["train"]), "num_tokens": self._total_train_tokens}

    def _load_progress(self, folder: Path, values: dict[str, Any]) -> None:
        self._metrics["train"].update(values["metrics"])
        self._total_train_tokens = values["num_tokens"]
