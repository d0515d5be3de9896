"""What a model is shown in the cold start: the target text of each row, as pure functions. Used by `sft.py`.

A row of the JSONL says what to write in one of three ways, the first that it has wins:

* `completion`: the whole text, taken as it stands;
* `think`: the thinking, which is put before the row's score in the form of the answer contract;
* `distortion` (the demo data): the thinking is the name of the distortion. It says what is wrong with the picture and
  deliberately not how much, so it conveys no ranking within a distortion.

The score shown may be blurred: a cold start is to teach the form of an answer and its spread, and to leave the value
of it to reinforcement learning.
"""

import numpy as np

from open_r1.completions import AnswerContract


LOWEST_SCORE, HIGHEST_SCORE = 1.0, 5.0


def blur_score(score: float, noise_std: float, rng: np.random.Generator) -> float:
    """`score` plus Gaussian noise, drawn again until it falls on the scale of 1 to 5.

    Clipping instead would pile answers up at both ends.
    """
    if not LOWEST_SCORE <= score <= HIGHEST_SCORE:
        raise ValueError(f"score {score} lies outside {LOWEST_SCORE} to {HIGHEST_SCORE}.")
    if noise_std == 0:
        return score
    while True:
        blurred = score + rng.normal(0.0, noise_std)
        if LOWEST_SCORE <= blurred <= HIGHEST_SCORE:
            return blurred


def compose_completion(
    record: dict, score: float | None, contract: AnswerContract, *, noise_std: float, decimals: int, seed: int
) -> str:
    """The text that the model is to write for a JSONL `record` with a gold `score`.

    The noise depends on `seed` and the record's id alone (its image, where it has none), so the same row gets the same
    text on every device.

    Raises:
        ValueError: the record has neither `completion`, `think` nor `distortion`, or no score where one is needed.
    """
    if record.get("completion"):
        return record["completion"]
    think = record.get("think") or record.get("distortion")
    if think is None and "think" in contract.sections:
        raise ValueError(f"row {record.get('id')}: needs a `completion`, a `think` or a `distortion` to learn from.")
    if score is None:
        raise ValueError(f"row {record.get('id')}: has no score.")
    name = record["id"] if record.get("id") is not None else record.get("image")
    row_key = int.from_bytes(str(name).encode(), "little")
    blurred = blur_score(score, noise_std, np.random.default_rng([seed, row_key]))
    return contract.compose(think=think or "", answer=f"{blurred:.{decimals}f}")
