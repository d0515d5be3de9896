"""Options that scripts written for earlier versions of transformers, TRL and VLM-R1 still have.

argv -> replace_old_options -> argv as the parser knows it; what has no meaning is left out, or refused, in words
"""

import logging
import os
from collections.abc import Iterator, MutableMapping, Sequence


logger = logging.getLogger(__name__)

_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "warmup_ratio": "warmup_steps",  # below 1 a share of the steps
    "vllm_max_model_len": "vllm_max_model_length",
    "vllm_importance_sampling_cap": "vllm_importance_sampling_clip_max",
}
_LEFT_OUT = {  # what is said where the option does nothing
    "overwrite_output_dir": "no run empties its folder; --resume_from_checkpoint says whether it goes on from one",
    "save_safetensors": "weights are always saved as safetensors",
    "dataset_streaming": "rows are mapped into memory, whatever their number",
    "half_precision_backend": "there is one",
    "fp16_backend": "there is one",
    "vllm_enable_prefix_caching": "prompts are cached until the next weights come, as vLLM does by default",
}
_OFF = ("false", "0", "no")
_REFUSED_UNLESS = {  # values that change nothing, and what is said about any other
    "group_by_length": (_OFF, "rows are dealt as --sampling says: leave it out"),
    "jit_mode_eval": (_OFF, "leave it out"),
    "vllm_device": (
        ("auto",),
        "vLLM is on the devices that are trained on. One of its own takes --vllm_mode server (docs/vllm.md)",
    ),
    "vllm_dtype": (("auto",), "vLLM computes in the type that is trained in: leave it out (--dtype, --bf16)"),
    "vllm_model_impl": (("auto", "vllm"), "vLLM's own models alone are tested here: leave it out"),
    "vllm_guided_decoding_regex": ((), "a policy is trained on what it draws freely: reward the form (format)"),
    "vllm_structured_outputs_regex": ((), "a policy is trained on what it draws freely: reward the form (format)"),
}


def replace_old_options(argv: Sequence[str], environment: MutableMapping[str, str] | None = None) -> list[str]:
    """The command line with old options renamed or left out, each with a warning.

    Args:
        argv: Words of the command line.
        environment: Where `--logging_dir` is put, as transformers wants it. Default: that of the process.

    Raises:
        ValueError: an option asks for something that does not exist here.
    """
    environment = os.environ if environment is None else environment
    words: list[str] = []
    for option in _split_options(argv):
        name = option[0].partition("=")[0].removeprefix("--").replace("-", "_")
        is_option = option[0].startswith("--")
        values = [option[0].partition("=")[2], *option[1:]] if "=" in option[0] else option[1:]
        if is_option and name in _RENAMED:
            logger.warning("--%s is called --%s", name, _RENAMED[name])
            words += [f"--{_RENAMED[name]}", *values]
        elif is_option and name == "logging_dir" and values:
            logger.warning("--logging_dir: TensorBoard writes to %s (TENSORBOARD_LOGGING_DIR)", values[0])
            environment["TENSORBOARD_LOGGING_DIR"] = values[0]
        elif is_option and name in _LEFT_OUT:
            logger.warning("--%s does nothing: %s", name, _LEFT_OUT[name])
        elif is_option and name in _REFUSED_UNLESS:
            harmless, remedy = _REFUSED_UNLESS[name]
            value = " ".join(values)
            if value.lower() not in harmless:
                raise ValueError(f"--{name} {value}".rstrip() + f": {remedy}.")
            logger.warning("--%s %s does nothing: it is so in any case", name, value)
        else:
            words += option
    return words


def _split_options(argv: Sequence[str]) -> Iterator[list[str]]:
    """Each option with its values; what stands before the first option comes alone."""
    option: list[str] = []
    for word in argv:
        if word.startswith("--") and option:
            yield option
            option = []
        option.append(word)
    if option:
        yield option
