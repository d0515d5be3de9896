"""Stops a run between two optimizer steps when a scheduler asks for it: SIGTERM, or SIGUSR1 as a warning before it."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class InterruptionCallback(TrainerCallback):
    """Saves a checkpoint at the end of the current step and ends the training loop, on all ranks together.

    A signal that reaches one rank reaches all, since they compare notes after each step. A second SIGTERM ends the
    process at once.

    Attributes:
        received: Number of the signal that training ended for, the same on every rank; 0 without one.
    """

    def __init__(self):
        self.received = 0
        self._pending = 0  # what reached this rank
        self._num_sigterms = 0
        self._previous: dict[int, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.received = self._pending = self._num_sigterms = 0
        if threading.current_thread() is threading.main_thread():  # elsewhere Python refuses to set handlers
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.received = self._pending
        if args.world_size > 1:
            flag = torch.tensor(self._pending, device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            self.received = int(flag)
        if self.received:
            control.should_save = True
            control.should_training_stop = True

    def release(self) -> None:
        """Gives the signals back to whom they belonged before training."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._num_sigterms += number == signal.SIGTERM
        if self._num_sigterms > 1:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        self._pending = max(self._pending, number)
        # A signal to the whole process group ends the data loader's workers too, and torch would raise an error here,
        # wherever this process happens to be. The batches of the current step have been read already.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
