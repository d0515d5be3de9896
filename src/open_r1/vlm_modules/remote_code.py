"""Configurations of checkpoints, some of which bring Python code that only `--trust_remote_code` lets run.

`read_model_type` reads a configuration as data, and runs nothing. The code of a checkpoint whose model transformers
has itself never runs.
"""

from typing import TYPE_CHECKING

from open_r1.vlm_modules.internvl_chat_model import MODEL_TYPE, load_config_class
from open_r1.vlm_modules.internvl_chat_processor import InternVLChatProcessor
from open_r1.vlm_modules.omni_module import FULL_MODEL_TYPE
from open_r1.vlm_modules.unsupported import describe_unsupported


if TYPE_CHECKING:
    from transformers import PretrainedConfig


def read_model_type(path: str, revision: str = "main") -> str:
    """The `model_type` of a checkpoint folder, or of a model of the hub; empty where it says none."""
    from transformers import PretrainedConfig

    config, _ = PretrainedConfig.get_config_dict(path, revision=revision)
    return config.get("model_type", "")


def load_config(path: str, revision: str = "main", trust_remote_code: bool = False) -> "PretrainedConfig":
    """The configuration of a checkpoint; of a full Qwen2.5-Omni that of its thinker.

    Args:
        path: A folder, or a model of the hub.
        revision: Of the model.
        trust_remote_code: Whether code that comes with it may run.

    Raises:
        ValueError: it takes such code, which may not run.
    """
    from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer

    model_type = read_model_type(path, revision)
    if model_type != MODEL_TYPE and model_type not in CONFIG_MAPPING:
        raise ValueError(
            describe_unsupported(model_type)
            or f"{path} has the model type {model_type!r}, which neither transformers nor open_r1/vlm_modules knows; "
            "code that comes with it would not help."
        )
    if model_type != MODEL_TYPE:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        return config.thinker_config if model_type == FULL_MODEL_TYPE else config
    if not trust_remote_code:
        raise ValueError(
            f"{path} is an InternVLChatModel, whose Python code comes with the checkpoint: to load it is to run that "
            "code with all your rights. Read it, and add --trust_remote_code if you trust it; or take the same model "
            "in the layout of transformers, which brings no code: a name that ends in -hf, as "
            "OpenGVLab/InternVL3-8B-hf."
        )
    config = load_config_class(path, revision).from_pretrained(path, revision=revision, name_or_path=path)
    config._commit_hash = _find_commit(path, revision)
    if getattr(config, "img_context_token_id", None) is not None:  # saved by a run of ours
        return config
    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=True)
    vocabulary = tokenizer.get_vocab()
    token = InternVLChatProcessor.image_token
    if token not in vocabulary:
        raise ValueError(f"The tokenizer of {path} has no {token}, so it is none of an InternVLChatModel.")
    config.img_context_token_id = vocabulary[token]
    return config


def _find_commit(path: str, revision: str) -> str | None:
    """The version of a model of the hub that is in use, so that all of its code comes from one; None for a folder."""
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    return extract_commit_hash(cached_file(path, "config.json", revision=revision), None)
