"""Explanation reward: an explanation reads like the references and fits the picture.

Scope: one completion. Unlike in the original, nothing depends on the rest of the batch: document frequencies are those
of the training data, and no score is stretched to the range of its batch.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from open_r1.completions import get_answer_contract


if TYPE_CHECKING:
    import numpy as np

    from open_r1.utils.cider import DocumentFrequencies
    from open_r1.utils.encoders import ImageTextEncoder

logger = logging.getLogger(__name__)

CLIP_RANGE = (15.0, 35.0)  # cosines in hundredths, from unrelated to fitting, of OpenAI's CLIP and its kin


def explanation_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    document_frequencies: "DocumentFrequencies | None" = None,
    explanation_alpha: float = 0.5,
    explanation_clip_model: str | Sequence[str] = "sentence-transformers/clip-ViT-B-32-multilingual-v1",
    explanation_clip_range: Sequence[float] | None = None,
    reward_device: str = "cpu",
    **columns: Any,
) -> list[float | None]:
    """alpha · CIDEr-D / 10 + (1 - alpha) · clip((100 cos - 15) / 20, 0, 1) of the explanation.

    CIDEr-D compares with all references of the row, on lower-case syllables without an opening "vì" or "because". The
    cosine is that of explanation and picture, the best where there are several pictures. No explanation, or no picture
    that can be read where alpha is below 1, earns 0; a row without references abstains. With alpha 1 no encoder is
    loaded.

    Range: 0 to 1.
    Scope: completion.
    Needs: columns `explanations` (or an explanation in `solution`) and `image_path`; extra `nle` for the default
        encoder.
    Source: explanation reward of vqa-nle, there with in-batch document frequencies and min-max over the batch; CIDEr:
        arXiv 1411.5726.

    >>> from open_r1.utils.cider import DocumentFrequencies
    >>> contract = get_answer_contract("vivqa")
    >>> texts = [contract.compose(answer="biển", explain=text) for text in ("vì có sóng và cát", "đây là câu khác")]
    >>> explanation_reward(
    ...     prompts=[None] * 2, completions=[[{"role": "assistant", "content": text}] for text in texts],
    ...     explanations=[["Có sóng và cát."]] * 2, explanation_alpha=1.0,
    ...     document_frequencies=DocumentFrequencies(counts={("có",): 5}, num_documents=100),
    ... )
    [1.0, 0.0]

    Args:
        prompts: Not read.
        completions: Answers as the contract `vivqa` has them.
        completion_ids: Not read.
        document_frequencies: Of the training references (`count_explanations`).
        explanation_alpha: Weight of CIDEr, from 0 to 1.
        explanation_clip_model: Folder or hub name of the image-text encoder; or two, of a text tower and of the model
            whose pictures it was taught to agree with. The default stands for its pair with OpenAI's CLIP ViT-B/32.
        explanation_clip_range: 100 · cosine that scores 0, and that which scores 1. None: 15 and 35, as for CLIP.
        reward_device: Where the encoder runs.
        columns: `explanations`, `image_path`; `solution` where a row has no `explanations`.

    Raises:
        ValueError: alpha outside 0 to 1, no document frequencies where CIDEr counts, or no range for SigLIP.
    """
    if not 0 <= explanation_alpha <= 1:
        raise ValueError(f"explanation_alpha is {explanation_alpha}; take a value from 0 to 1")
    if explanation_alpha > 0 and document_frequencies is None:
        raise ValueError(
            "explanation_reward needs document_frequencies for CIDEr: those of `count_explanations` for the training "
            "data; or take explanation_alpha 0"
        )
    from open_r1.utils.encoders import load_image_text_encoder
    from open_r1.utils.text_tokens import tokenize_explanation

    contract = get_answer_contract("vivqa")
    texts = [contract.read_explanation(completion[-1]["content"]) or "" for completion in completions]
    references = _find_references(columns)
    scored = [i for i, text in enumerate(texts) if references[i] and tokenize_explanation(text)]
    cider = dict.fromkeys(scored, 0.0)
    if explanation_alpha > 0:
        cider = {i: _score_cider(texts[i], references[i], document_frequencies) for i in scored}
    clip = dict.fromkeys(scored, 0.0)
    if explanation_alpha < 1 and scored:
        names = [explanation_clip_model] if isinstance(explanation_clip_model, str) else explanation_clip_model
        encoder = load_image_text_encoder(*names, device=reward_device)
        clip = _score_clip(
            {i: texts[i] for i in scored}, columns, encoder, _choose_range(explanation_clip_range, encoder)
        )
    log_metric = columns.get("log_metric", _ignore)
    log_metric("explanation/cider", sum(cider.values()) / max(1, len(texts)))
    log_metric("explanation/clip", sum(clip.values()) / max(1, len(texts)))
    rewards = [0.0 if reference else None for reference in references]
    for i, clip_score in clip.items():
        rewards[i] = explanation_alpha * cider[i] + (1 - explanation_alpha) * clip_score
    return rewards


def count_explanations(
    explanations: Sequence[list[str] | None], solutions: Sequence[str | None]
) -> "DocumentFrequencies":
    """Document frequencies of the references of a data set, for `explanation_reward`.

    Args:
        explanations: References of each row.
        solutions: Of each row; the explanation in it is the reference where there are no `explanations`.

    Raises:
        ValueError: fewer than two rows have a reference.
    """
    from open_r1.utils.cider import count_documents
    from open_r1.utils.text_tokens import tokenize_explanation

    references = filter(None, _find_references({"explanations": explanations, "solution": solutions}))
    return count_documents([tokenize_explanation(text) for text in texts] for texts in references)


def _find_references(columns: Mapping[str, Sequence[Any]]) -> list[list[str]]:
    """The references of each row: its `explanations`, else the explanation in its `solution`."""
    from open_r1.utils.text_tokens import tokenize_explanation

    contract = get_answer_contract("vivqa")
    explanations = columns.get("explanations") or [None] * len(columns["solution"])
    solutions = columns.get("solution") or [None] * len(explanations)
    texts = [given or [contract.read_explanation(solution or "")] for given, solution in zip(explanations, solutions)]
    return [[text for text in row if text and tokenize_explanation(text)] for row in texts]


def _score_cider(text: str, references: list[str], frequencies: "DocumentFrequencies") -> float:
    from open_r1.utils.cider import MAX_CIDER, compute_cider
    from open_r1.utils.text_tokens import tokenize_explanation

    tokens = [tokenize_explanation(reference) for reference in references]
    return min(1.0, compute_cider(tokenize_explanation(text), tokens, frequencies) / MAX_CIDER)


def _score_clip(
    texts: Mapping[int, str],
    columns: Mapping[str, Sequence[Any]],
    encoder: "ImageTextEncoder",
    bounds: Sequence[float],
) -> dict[int, float]:
    """Fit of text and picture from 0 to 1, by the index of a completion; those without a picture are left out."""
    pictures = _encode_pictures(texts, columns, encoder)
    fitting = [i for i in texts if i in pictures]
    if not fitting:
        return {}
    vectors = encoder.encode_texts([texts[i] for i in fitting])
    cosines = [float((pictures[i] @ vector).max()) for i, vector in zip(fitting, vectors, strict=True)]
    low, high = bounds
    return {i: min(1.0, max(0.0, (100 * cosine - low) / (high - low))) for i, cosine in zip(fitting, cosines)}


def _encode_pictures(
    indices: Iterable[int], columns: Mapping[str, Sequence[Any]], encoder: "ImageTextEncoder"
) -> dict[int, "np.ndarray"]:
    """Vectors (pictures, D) of each completion's pictures; each row's are opened and encoded once."""
    from open_r1.data.media import BadImageError, load_row_images

    paths = {i: tuple(columns["image_path"][i] or ()) for i in indices}
    first_with = {path: i for i, path in reversed(paths.items()) if path}
    vectors: dict[tuple[str, ...], np.ndarray] = {}
    for path, i in first_with.items():
        try:
            images = load_row_images({name: columns[name][i] for name in ("image_path", "image") if name in columns})
        except BadImageError as error:
            logger.warning("no explanation reward without a picture: %s", error)
            continue
        if images:
            vectors[path] = encoder.encode_images(images)
    return {i: vectors[path] for i, path in paths.items() if path in vectors}


def _choose_range(bounds: Sequence[float] | None, encoder: "ImageTextEncoder") -> Sequence[float]:
    if bounds is None and encoder.is_siglip:
        raise ValueError(
            "cosines of SigLIP are lower than those of CLIP, for which 15 to 35 is the range of the explanation "
            "reward: measure those of fitting and unrelated texts, and give --explanation_clip_range LOW HIGH"
        )
    low, high = CLIP_RANGE if bounds is None else bounds
    if not low < high:
        raise ValueError(f"explanation_clip_range is {low} to {high}; the first must be below the second")
    return low, high


def _ignore(name: str, value: float) -> None:
    pass
