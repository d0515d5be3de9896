"""Completions from vLLM in training: the options of `vllm_grpo_trainer`, a part of `GRPOConfig`. Names are TRL's."""

from dataclasses import dataclass, field, fields

from open_r1.trainer.importance import IMPORTANCE_MODES, ImportanceSettings


def _doc(text: str, default=None, **kwargs):
    return field(default=default, metadata={"help": text, **kwargs})


# Options that only one of the two modes reads.
_READ_BY = {
    "server": (
        "vllm_server_base_url",
        "vllm_server_host",
        "vllm_server_port",
        "vllm_server_timeout",
        "vllm_group_port",
    ),
    "colocate": (
        *("vllm_gpu_memory_utilization", "vllm_tensor_parallel_size", "vllm_enable_sleep_mode"),
        *("vllm_max_model_length", "vllm_enforce_eager"),
    ),
}


@dataclass
class VLLMOptions:
    """Where vLLM runs, and what is done about its log-probabilities. When to take which mode: docs/vllm.md."""

    use_vllm: bool = _doc("Draw completions with vLLM, which has its own copy of the policy.", False)
    vllm_mode: str = _doc(
        "colocate: in the training processes, on their devices; server: on devices of its own (open_r1.vllm_serve).",
        "colocate",
        choices=["colocate", "server"],
    )
    vllm_server_base_url: str | None = _doc("Address of the server; in place of host and port.")
    vllm_server_host: str = _doc("Host of the server.", "127.0.0.1")
    vllm_server_port: int = _doc("Port of the server.", 8000)
    vllm_server_timeout: float = _doc(
        "Seconds to wait for a server that does not answer, at the start and later; then the run saves and ends.",
        240.0,
    )
    vllm_group_port: int = _doc("Port of this machine by which the server's workers fetch new weights.", 51216)
    vllm_gpu_memory_utilization: float = _doc("Share of each device's memory for vLLM, its weights included.", 0.3)
    vllm_tensor_parallel_size: int = _doc("Processes that share one copy of the policy; neighbours by rank.", 1)
    vllm_enable_sleep_mode: bool = _doc("Give vLLM's memory back between rounds; the weights are sent anew.", False)
    vllm_max_model_length: int | None = _doc(
        "Tokens of a prompt and its completion at most. None: max_prompt_length + max_completion_length, else as many "
        "as the memory allows."
    )
    vllm_enforce_eager: bool = _doc("No CUDA graphs in vLLM: starts sooner, decodes slower.", False)
    vllm_importance_sampling_correction: bool = _doc(
        "Weigh the loss by the ratio of the trainer's probabilities to the engine's, where they differ.", True
    )
    vllm_importance_sampling_mode: str = _doc(
        "The ratio of a token or of a whole completion; out of bounds it is truncated, or its loss masked.",
        "sequence_mask",
        choices=list(IMPORTANCE_MODES),
    )
    vllm_importance_sampling_clip_min: float | None = _doc("Lower bound of the ratio. None: none.")
    vllm_importance_sampling_clip_max: float | None = _doc("Upper bound of the ratio. None: none.", 3.0)

    def check_vllm_options(self) -> None:
        """ValueError where the options do not go together."""
        if not self.use_vllm:
            names = tuple(option.name for option in fields(VLLMOptions))
            self._refuse_changes("--{} does nothing without --use_vllm: add it, or leave the option out.", names)
            return
        if self.vllm_mode not in _READ_BY:
            raise ValueError(f"--vllm_mode {self.vllm_mode}: take colocate or server.")
        other = "server" if self.vllm_mode == "colocate" else "colocate"
        where = "start the server with it (open_r1.vllm_serve)" if other == "colocate" else "leave it out"
        self._refuse_changes(f"--{{}} does nothing with --vllm_mode {self.vllm_mode}: {where}.", _READ_BY[other])
        if not self.ds3_gather_for_generation:
            raise ValueError(
                "--ds3_gather_for_generation false does nothing with --use_vllm, which gathers layer by layer: leave "
                "it out."
            )
        if not 0 < self.vllm_gpu_memory_utilization <= 1:
            raise ValueError(
                f"--vllm_gpu_memory_utilization {self.vllm_gpu_memory_utilization}: take 0.3, for instance."
            )
        for name in ("vllm_tensor_parallel_size", "vllm_server_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} must be positive, not {getattr(self, name)}.")
        if self.vllm_importance_sampling_mode not in IMPORTANCE_MODES:
            raise ValueError(
                f"--vllm_importance_sampling_mode {self.vllm_importance_sampling_mode}: take one of "
                f"{', '.join(IMPORTANCE_MODES)}."
            )
        low, high = self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"--vllm_importance_sampling_clip_min {low} must be below --vllm_importance_sampling_clip_max {high}."
            )

    @property
    def longest_sequence(self) -> int | None:
        """Tokens of a prompt and its completion that the engine must have room for; None: not known."""
        if self.vllm_max_model_length is not None or self.max_prompt_length is None:
            return self.vllm_max_model_length
        return self.max_prompt_length + self.max_completion_length

    def build_importance_settings(self) -> ImportanceSettings:
        """What is done about the mismatch between the engine's log-probabilities and the trainer's."""
        return ImportanceSettings(
            is_enabled=self.vllm_importance_sampling_correction,
            mode=self.vllm_importance_sampling_mode,
            clip_min=self.vllm_importance_sampling_clip_min,
            clip_max=self.vllm_importance_sampling_clip_max,
        )

    @property
    def vllm_server_address(self) -> str:
        """URL of the server, without a slash at its end."""
        return (self.vllm_server_base_url or f"http://{self.vllm_server_host}:{self.vllm_server_port}").rstrip("/")

    def _refuse_changes(self, message: str, names: tuple[str, ...]) -> None:
        for option in fields(VLLMOptions):
            if option.name in names and getattr(self, option.name) != option.default:
                raise ValueError(message.format(option.name))
