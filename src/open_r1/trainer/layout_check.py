"""Which kernel packed rows go through, and the check that they give the numbers of replicated ones.

For PROVEN_MODEL_TYPES the tests of this repo show that both layouts agree. For others, and for a kernel that those
tests cannot run, `--logps_mode auto` compares layouts on the first group of a run and takes the fastest that agrees.
"""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from open_r1.trainer.logps import LogpsScorer, TokenScores


if TYPE_CHECKING:
    from transformers import PreTrainedModel


logger = logging.getLogger(__name__)

PROVEN_MODEL_TYPES = (
    *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "glm4v"),
    *("idefics3", "smolvlm", "aria", "llava_onevision"),
)
# Mean difference of log-probabilities between layouts that rounding explains. Wrong positions, or a completion that
# sees its siblings, give a tenth and more.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}
MAX_VARLEN_HEAD_DIM = 256


def choose_varlen(
    model: "PreTrainedModel", packed_attention: str, compute_dtype: torch.dtype, device: torch.device
) -> bool:
    """Whether packed rows go through the kernel for ragged segments, by `--packed_attention`.

    Args:
        model: The policy.
        packed_attention: `varlen`, `concat`, or `auto` for the first where it can run.
        compute_dtype: In which attention runs: of the weights, or of autocast.
        device: Where it will run.

    Raises:
        ValueError: `varlen` is demanded where it cannot run.
    """
    config = model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    obstacle = None
    if device.type != "cuda":
        obstacle = f"it needs a CUDA device, not {device.type}"
    elif compute_dtype not in (torch.bfloat16, torch.float16):
        obstacle = f"it needs --bf16 or --fp16, not {compute_dtype}"
    elif head_dim > MAX_VARLEN_HEAD_DIM:
        obstacle = f"its heads may have up to {MAX_VARLEN_HEAD_DIM} dimensions, not {head_dim}"
    if packed_attention == "varlen" and obstacle is not None:
        raise ValueError(f"--packed_attention varlen: {obstacle}. Use --packed_attention concat.")
    return packed_attention != "concat" and obstacle is None


def needs_check(model: "PreTrainedModel", scorer: LogpsScorer, logps_mode: str) -> bool:
    """Whether `auto` has to compare layouts on the first group."""
    is_proven = model.config.model_type in PROVEN_MODEL_TYPES and not scorer.is_varlen
    return logps_mode == "auto" and scorer.is_packed and not is_proven


@torch.no_grad()
def check_layout(
    scorer: LogpsScorer,
    score: Callable[[LogpsScorer], TokenScores],
    tolerance: float,
    all_gather: Callable[[list], list],
) -> LogpsScorer:
    """The fastest layout that agrees with the replicated one, on every rank; says so in the log.

    Args:
        scorer: The packed layout to check.
        score: Scores the same batch with any layout; one group is enough.
        tolerance: Mean difference of log-probabilities that counts as rounding, see TOLERANCE.
        all_gather: Concatenates lists over ranks.
    """
    replicated = replace(scorer, is_packed=False, is_varlen=False)
    expected = score(replicated).per_token_logps
    for name, candidate in _list_candidates(scorer):
        difference = (score(candidate).per_token_logps - expected).abs().mean().item()
        gaps = all_gather([difference if math.isfinite(difference) else math.inf])
        if max(gaps) <= tolerance:
            logger.info("Log-probabilities: %s, %.1e from replicated ones on the first group.", name, max(gaps))
            return candidate
        logger.warning("Log-probabilities: %s is %.1e from replicated ones, above %.0e.", name, max(gaps), tolerance)
    logger.warning("Log-probabilities are computed with replicated prompts.")
    return replicated


def _list_candidates(scorer: LogpsScorer) -> Iterator[tuple[str, LogpsScorer]]:
    if scorer.is_varlen:
        yield "packed rows with a kernel for ragged segments", scorer
    yield "packed rows", replace(scorer, is_varlen=False)
