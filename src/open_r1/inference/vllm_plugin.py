"""What vLLM loads of this project in each of its processes (entry point `vllm.general_plugins`): names, no code."""

import contextlib


GLOO = "gloo"
_MODULE = "open_r1.inference.vllm_transfer"


def register() -> None:
    """Makes the weight transfer over gloo known to vLLM, on both of its sides; as often as it is called."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory

    with contextlib.suppress(ValueError):  # it is known already
        WeightTransferEngineFactory.register_engine(GLOO, _MODULE, "GlooReceiver")
        WeightTransferTrainerFactory.register_engine(GLOO, _MODULE, "GlooSender")
