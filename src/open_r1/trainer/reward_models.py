"""Reward models: `--reward_funcs some/model` is a sequence classifier with one output, which is the reward.

The configuration is read when rewards are built, so that a wrong name stops the run at once; the weights are loaded,
whole and for good, at the first call. The model sees text: the prompt without its pictures, and the completion.
"""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from open_r1.utils.encoders import resolve_device, whole_models


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_BATCH_SIZE = 16


def build_reward_model(
    name: str, device: str = "cpu", trust_remote_code: bool = False
) -> Callable[..., list[float | None]]:
    """A reward function out of a model; its metrics are called after the model's name without folders.

    Args:
        name: Folder or hub name of a sequence classifier with one label.
        device: See `open_r1.utils.encoders.resolve_device`.
        trust_remote_code: Whether Python code that comes with the model may run.

    Raises:
        ValueError: it is no sequence classifier, or has several labels.
        OSError: there is no such model, or no connection to fetch it.
    """
    from transformers import AutoConfig

    resolve_device(device)
    config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    kinds = config.architectures or []
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds) and not trust_remote_code:
        raise ValueError(
            f"reward model {name} is {', '.join(kinds) or 'of an unknown kind'}: name a sequence classifier, or with "
            "--trust_remote_code a model whose own code makes it one."
        )
    if config.num_labels != 1:
        raise ValueError(f"reward model {name} has {config.num_labels} labels: a reward model has one.")
    score = _RewardModel(name, device, trust_remote_code)

    def model_reward(
        prompts: list[Any],
        completions: list[list[dict[str, str]]],
        completion_ids: list[list[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        return score(prompts, completions, columns.get("log_metric"))

    model_reward.__name__ = Path(name).name
    return model_reward


class _RewardModel:
    def __init__(self, name: str, device: str, trust_remote_code: bool):
        self.name, self.device, self.trust_remote_code = name, device, trust_remote_code

    @functools.cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Its own, which cuts long texts at their beginning."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.name, trust_remote_code=self.trust_remote_code)
        tokenizer.truncation_side, tokenizer.padding_side = "left", "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @functools.cached_property
    def model(self) -> "PreTrainedModel":
        """Whole on its device, whatever happens to the policy; random streams go on as if it had not been loaded."""
        from transformers import AutoModelForSequenceClassification

        device = resolve_device(self.device)
        with whole_models(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model = AutoModelForSequenceClassification.from_pretrained(
                self.name, dtype="auto", trust_remote_code=self.trust_remote_code
            )
        model.config.pad_token_id = self.tokenizer.pad_token_id  # or the last token of a row is not found
        logger.info("reward model %s on %s", self.name, device)
        return model.to(device).eval().requires_grad_(False)

    @property
    def max_tokens(self) -> int | None:
        known = [self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", None)]
        return min((limit for limit in known if limit is not None and limit < 10**9), default=None)

    def __call__(
        self,
        prompts: list[Any],
        completions: list[list[dict[str, str]]],
        log_metric: Callable[[str, float], None] | None,
    ) -> list[float]:
        texts = [self._render(_flatten(prompt), completion) for prompt, completion in zip(prompts, completions)]
        rewards = []
        for start in range(0, len(texts), _BATCH_SIZE):
            rewards += self._score(texts[start : start + _BATCH_SIZE])
        if log_metric is not None and self.max_tokens is not None:
            lengths = [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
            is_cut = [length > self.max_tokens for length in lengths]
            log_metric(f"rewards/{Path(self.name).name}/truncated", sum(is_cut) / len(is_cut))
        return rewards

    def _render(self, prompt: list[dict[str, str]], completion: list[dict[str, str]]) -> str:
        """Prompt and completion by the model's chat template; without one, one behind the other."""
        if self.tokenizer.chat_template is not None:
            return self.tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
        return "\n".join(message["content"] for message in [*prompt, *completion])

    @torch.inference_mode()
    def _score(self, texts: list[str]) -> list[float]:
        inputs = self.tokenizer(
            texts,
            padding=True,
            truncation=self.max_tokens is not None,
            max_length=self.max_tokens,
            add_special_tokens=self.tokenizer.chat_template is None,  # a template writes its own
            return_tensors="pt",
        )
        return self.model(**inputs.to(self.model.device)).logits[:, 0].float().tolist()


def _flatten(prompt: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A conversation of texts: pictures and videos are left out.

    >>> _flatten([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}])
    [{'role': 'user', 'content': 'What?'}]
    """
    flat = []
    for message in prompt:
        content = message["content"]
        if not isinstance(content, str):
            content = "\n".join(part["text"] for part in content if part.get("text"))
        flat.append({"role": message["role"], "content": content})
    return flat
