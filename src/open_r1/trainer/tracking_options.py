"""What trackers are shown beside metrics: a part of `GRPOConfig`."""

from dataclasses import dataclass, field


@dataclass
class TrackingOptions:
    """Tables of completions in TensorBoard, Weights & Biases or trackio. Details: docs/report.md."""

    log_completions: bool = field(
        default=False,
        metadata={
            "help": "Send a table of completions with rewards, advantages and images to the trackers of --report_to. "
            "All completions are in OUTPUT_DIR/rollouts anyway."
        },
    )
    num_logged_completions: int = field(
        default=16, metadata={"help": "With --log_completions: completions in the table of a log line."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_logged_completions < 1:
            raise ValueError(f"num_logged_completions must be at least 1, not {self.num_logged_completions}.")
        if self.log_completions and not self.report_to:
            raise ValueError("--log_completions needs a tracker: --report_to tensorboard, wandb or trackio.")
