"""How every benchmark process starts: one thread, and nothing on the terminal but results."""

import os

import torch


def start_session(device: str = "cpu") -> None:
    """One thread on a CPU, so that the CPU time of the process is that of the computation; progress bars off."""
    from transformers.utils import logging

    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # `rollout_func` is experimental, and used on purpose
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
