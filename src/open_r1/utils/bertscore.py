"""BERTScore: each token of a text meets its most similar token of the reference, in context.

"BERTScore: Evaluating Text Generation with BERT", arXiv 1904.09675, without idf weights and without rescaling. Special
tokens are treated as in the package bert-score: they may be met, but do not count themselves.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from open_r1.utils.encoders import resolve_device


if TYPE_CHECKING:
    import torch

LAYERS = {  # hidden state that is compared; from the package bert-score, PhoBERT's from vqa-nle
    "bert-base-multilingual-cased": 9,
    "bert-base-uncased": 9,
    "xlm-roberta-base": 9,
    "xlm-roberta-large": 17,
    "roberta-large": 17,
    "phobert-base": 12,
}
_BATCH_SIZE = 64
_LONGEST_INPUT = 512


class BertScorer:
    """BERTScore by a model with a folder or hub name.

    Args:
        name: An encoder such as bert-base-multilingual-cased.
        layer: Hidden state that is compared, 0 being the embeddings. None: see `choose_layer`.
        device: See `encoders.resolve_device`.
    """

    def __init__(self, name: str, layer: int | None = None, device: str = "auto"):
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = AutoModel.from_pretrained(name, dtype="float32").to(resolve_device(device)).eval()
        self.layer = choose_layer(name, self.model.config.num_hidden_layers, layer)

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """F1 of each prediction, the best over its references; 0 for an empty one."""
        texts = list(dict.fromkeys([*predictions, *(text for own in references for text in own)]))
        tokens = dict(zip(texts, self._encode(texts), strict=True))
        return [
            max(_compute_f1(*tokens[prediction], *tokens[reference]) for reference in own)
            for prediction, own in zip(predictions, references, strict=True)
        ]

    def _encode(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Unit vectors (tokens, D) of each text, and which of them count."""
        import torch

        encoded = []
        for start in range(0, len(texts), _BATCH_SIZE):
            batch = self._tokenize(texts[start : start + _BATCH_SIZE])
            is_special = batch.pop("special_tokens_mask").bool()
            with torch.inference_mode():
                states = self.model(**batch, output_hidden_states=True).hidden_states[self.layer]
            vectors = torch.nn.functional.normalize(states, dim=-1).cpu()  # (n, tokens, D)
            for row, mask, special in zip(vectors, batch["attention_mask"].bool().cpu(), is_special.cpu()):
                encoded.append((row[mask].numpy(), ~special[mask].numpy()))
        return encoded

    def _tokenize(self, texts: list[str]) -> "dict[str, torch.Tensor]":
        limit = min(self.tokenizer.model_max_length, _LONGEST_INPUT)
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": limit}
        batch = self.tokenizer(texts, return_special_tokens_mask=True, return_tensors="pt", **options)
        names = ("input_ids", "attention_mask", "special_tokens_mask")
        return {name: batch[name].to(self.model.device) for name in names}


def choose_layer(name: str, num_layers: int, layer: int | None = None) -> int:
    """The layer as given, else the one that the field takes for this model, else the last.

    >>> choose_layer("google-bert/bert-base-multilingual-cased", 12), choose_layer("my/encoder", 6)
    (9, 6)

    Raises:
        ValueError: the model has no such layer.
    """
    chosen = LAYERS.get(Path(name).name, num_layers) if layer is None else layer
    if not 0 <= chosen <= num_layers:
        raise ValueError(f"--bertscore_layer {chosen}: {name} has layers 0 to {num_layers}")
    return chosen


def _compute_f1(predicted: np.ndarray, counts: np.ndarray, reference: np.ndarray, ref_counts: np.ndarray) -> float:
    if not (counts.any() and ref_counts.any()):
        return 0.0
    similarity = predicted @ reference.T  # (predicted tokens, reference tokens)
    precision = similarity.max(axis=1)[counts].mean()
    recall = similarity.max(axis=0)[ref_counts].mean()
    return float(2 * precision * recall / (precision + recall))
