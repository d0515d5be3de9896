"""The trainer of the cold start: TRL's, with checkpoints restored in full."""

from trl import SFTTrainer

from open_r1.trainer.restore import RestoreMixin


class ColdStartTrainer(RestoreMixin, SFTTrainer):
    """TRL's `SFTTrainer`; see `RestoreMixin`."""
