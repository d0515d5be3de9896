"""Restores the weights of a checkpoint, all of them or none; for any trainer of ours."""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch


class RestoreMixin:
    """Put before a transformers `Trainer`.

    transformers' own methods match names of the file with names of the model and go on where they differ. For families
    whose checkpoints keep older names (Qwen2-VL, Qwen2.5-VL) none match, and training would silently start anew.
    Adapters have no such names.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: "torch.nn.Module | None" = None) -> None:
        if hasattr(self.model, "disable_adapter"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        restored = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(restored.state_dict())

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)
