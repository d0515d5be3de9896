"""Metrics of natural-language explanations: BLEU, ROUGE-L, METEOR, CIDEr, SPICE and BERTScore.

What cannot be computed here (METEOR and SPICE run in Java, SPICE and BERTScore need models) is named with its reason,
never left out in silence, and never replaced by 0.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from open_r1.utils.bertscore import BertScorer
from open_r1.utils.cider import compute_cider, count_documents
from open_r1.utils.extras import require
from open_r1.utils.text_tokens import TOKENIZERS, drop_opening


METRICS = ("bleu", "rouge_l", "cider", "meteor", "spice", "bertscore")
_SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_UTF8_JAVA = "-Dfile.encoding=UTF-8 -Dstdout.encoding=UTF-8"

Texts = list[list[str]]


@dataclass(frozen=True, kw_only=True)
class NleSettings:
    """How explanations are compared."""

    tokenizer: str = "syllable"
    """One of `text_tokens.TOKENIZERS`; figures of two tokenizers are not comparable."""
    metrics: tuple[str, ...] = METRICS
    strip_opening: bool = True
    """Whether a leading "vì" or "because" counts neither in predictions nor in references."""
    bertscore_model: str | None = None
    """Folder or hub name; None: no BERTScore."""
    bertscore_layer: int | None = None
    device: str = "auto"

    def __post_init__(self):
        if self.tokenizer not in TOKENIZERS:
            raise ValueError(f"unknown tokenizer {self.tokenizer!r}; known: {', '.join(TOKENIZERS)}")
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown:
            raise ValueError(f"unknown metrics {', '.join(unknown)}; known: {', '.join(METRICS)}")


class UnavailableError(RuntimeError):
    """A metric that cannot be computed here; the message is the reason."""


class NleScorer:
    """Scores sets of explanations; what is costly (tokens, models) is done once for all of them.

    Args:
        predictions: One per item.
        references: At least one per item, with a word in each.
        settings: How they are compared.
    """

    def __init__(self, predictions: Sequence[str], references: Sequence[Sequence[str]], settings: NleSettings):
        self.settings = settings
        self.references = [list(own) for own in references]
        self.predictions = list(predictions)
        self.predicted_tokens, self.reference_tokens = self._tokenize()
        self._per_item: dict[str, list[float]] = {}

    def score(self, chosen: Sequence[int]) -> tuple[dict[str, float], dict[str, str]]:
        """Metrics over the chosen items, and reasons why others have no value.

        Args:
            chosen: Indices. CIDEr takes its document frequencies from the references of these items, as is the custom.
        """
        values: dict[str, float] = {}
        reasons: dict[str, str] = {}
        for name in self.settings.metrics:
            try:
                values |= _COMPUTE[name](self, chosen)
            except (UnavailableError, ImportError, OSError, ValueError, subprocess.SubprocessError) as error:
                reasons[name] = str(error) or type(error).__name__
        return values, reasons

    def join_tokens(self, chosen: Sequence[int]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
        """References and predictions as pycocoevalcap takes them: index -> texts of tokens with blanks between."""
        references = {i: [" ".join(tokens) for tokens in self.reference_tokens[i]] for i in chosen}
        return references, {i: [" ".join(self.predicted_tokens[i])] for i in chosen}

    def score_items(self, name: str, compute: Callable[["NleScorer"], list[float]]) -> list[float]:
        """A metric of each item that does not depend on the others, computed at the first call."""
        if name not in self._per_item:
            self._per_item[name] = compute(self)
        return self._per_item[name]

    def _tokenize(self) -> tuple[Texts, list[Texts]]:
        counts = [len(own) for own in self.references]
        texts = [*self.predictions, *(text for own in self.references for text in own)]
        tokens = TOKENIZERS[self.settings.tokenizer](texts)
        if self.settings.strip_opening:
            tokens = [drop_opening(words) for words in tokens]
        rest = iter(tokens[len(self.predictions) :])
        return tokens[: len(self.predictions)], [[next(rest) for _ in range(count)] for count in counts]


def _compute_bleu(scorer: NleScorer, chosen: Sequence[int]) -> dict[str, float]:
    """BLEU-1 to BLEU-4 over all items together; the reference nearest in length counts for brevity."""
    bleu = require("pycocoevalcap.bleu.bleu", "nle").Bleu(4)
    scores, _ = bleu.compute_score(*scorer.join_tokens(chosen), verbose=0)
    return {f"bleu_{n}": float(score) for n, score in enumerate(scores, start=1)}


def _compute_rouge(scorer: NleScorer, chosen: Sequence[int]) -> dict[str, float]:
    """ROUGE-L of the COCO caption evaluation: beta 1.2, best precision and best recall over references."""
    rouge = require("pycocoevalcap.rouge.rouge", "nle").Rouge()
    return {"rouge_l": float(rouge.compute_score(*scorer.join_tokens(chosen))[0])}


def _compute_cider(scorer: NleScorer, chosen: Sequence[int]) -> dict[str, float]:
    frequencies = count_documents(scorer.reference_tokens[i] for i in chosen)
    scores = [compute_cider(scorer.predicted_tokens[i], scorer.reference_tokens[i], frequencies) for i in chosen]
    return {"cider": sum(scores) / len(scores)}


def _compute_meteor(scorer: NleScorer, chosen: Sequence[int]) -> dict[str, float]:
    """METEOR 1.5, whose words and stems are English."""
    _check_java("METEOR")
    with _utf8_java():
        meteor = require("pycocoevalcap.meteor.meteor", "nle").Meteor()
        try:
            return {"meteor": float(meteor.compute_score(*scorer.join_tokens(chosen))[0])}
        finally:
            if meteor.lock.locked():  # it takes the lock again when it is collected
                meteor.lock.release()


def _compute_spice(scorer: NleScorer, chosen: Sequence[int]) -> dict[str, float]:
    """SPICE, whose scene graphs are English."""
    _check_java("SPICE")
    package = require("pycocoevalcap.spice", "nle")
    folder = Path(package.__file__).parent / "lib"
    missing = [name for name in _SPICE_MODELS if not (folder / name).is_file()]
    if missing:
        raise UnavailableError(
            f"SPICE needs {' and '.join(missing)} in the folder pycocoevalcap/spice/lib: run get_stanford_models() of "
            "pycocoevalcap.spice.get_stanford_models where there is a network"
        )
    with _utf8_java():
        spice = require("pycocoevalcap.spice.spice", "nle").Spice()
        return {"spice": float(spice.compute_score(*scorer.join_tokens(chosen))[0])}


def _compute_bertscore(scorer: NleScorer, chosen: Sequence[int]) -> dict[str, float]:
    if scorer.settings.bertscore_model is None:
        raise UnavailableError("BERTScore needs a model: name a folder with --bertscore_model")
    scores = scorer.score_items("bertscore", _score_bertscore)
    return {"bertscore": sum(scores[i] for i in chosen) / len(chosen)}


def _score_bertscore(scorer: NleScorer) -> list[float]:
    settings = scorer.settings
    model = BertScorer(settings.bertscore_model, settings.bertscore_layer, settings.device)
    return model.score(scorer.predictions, scorer.references)


_COMPUTE: dict[str, Callable[[NleScorer, Sequence[int]], dict[str, float]]] = {
    "bleu": _compute_bleu,
    "rouge_l": _compute_rouge,
    "cider": _compute_cider,
    "meteor": _compute_meteor,
    "spice": _compute_spice,
    "bertscore": _compute_bertscore,
}


def _check_java(metric: str) -> None:
    if shutil.which("java") is None:
        raise UnavailableError(f"{metric} runs in Java, and there is no `java` here")


@contextlib.contextmanager
def _utf8_java() -> Iterator[None]:
    """Java that reads texts as UTF-8, whatever the locale."""
    name = "JAVA_TOOL_OPTIONS"
    before = os.environ.get(name)
    os.environ[name] = _UTF8_JAVA if before is None else f"{before} {_UTF8_JAVA}"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
