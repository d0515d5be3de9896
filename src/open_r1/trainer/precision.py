"""Whether updates survive the precision of the weights that they are added to."""

import logging
from collections.abc import Iterable

import torch


logger = logging.getLogger(__name__)

# A bfloat16 weight has 8 significant bits, so that an update of less than 1/256 of it is lost, and those of AdamW are
# about as large as the learning rate. Typical weights of a language model are 1e-2.
SMALLEST_LEARNING_RATE = 1e-5


def warn_of_lost_updates(
    parameters: Iterable[torch.nn.Parameter], learning_rate: float, has_float32_copy: bool
) -> None:
    """Warns where weights of 16 bits are trained in place with a learning rate that mostly rounds to nothing.

    Args:
        parameters: Of the policy.
        learning_rate: The initial one.
        has_float32_copy: Whether updates go to a copy of the weights in float32, as DeepSpeed and FSDP keep one.
    """
    dtypes = {parameter.dtype for parameter in parameters if parameter.requires_grad}
    lossy = dtypes & {torch.bfloat16, torch.float16}
    if lossy and not has_float32_copy and learning_rate < SMALLEST_LEARNING_RATE:
        logger.warning(
            "Weights in %s are trained in place with --learning_rate %g: most updates are smaller than the weights' "
            "last bit and are lost. Load them with --dtype float32 beside --bf16, add --deepspeed zero2.json, or "
            "train adapters (--use_peft).", lossy.pop(), learning_rate,
        )  # fmt: skip
