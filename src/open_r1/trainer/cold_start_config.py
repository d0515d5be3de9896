"""Settings of the cold start: TRL's, with processes and DeepSpeed arranged as in GRPO."""

from dataclasses import dataclass, field

from trl import SFTConfig

from open_r1.trainer.distributed import prepare_processes


@dataclass
class ColdStartConfig(SFTConfig):
    """TRL's `SFTConfig`; `--deepspeed` finds its file by name, and `--ddp_timeout` holds on CPUs too."""

    trust_remote_code: bool = field(default=False, init=False)  # an option of the model, in `GRPOModelConfig`

    def __post_init__(self):
        prepare_processes(self)
        super().__post_init__()
