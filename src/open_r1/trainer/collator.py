"""From dataset rows to encoded prompts, in the data loader's workers: each image is opened once per group."""

from dataclasses import dataclass
from typing import Any

from open_r1.data.media import load_image
from open_r1.trainer.batch import PromptGroup
from open_r1.vlm_modules.vlm_module import VLMBaseModule


@dataclass(frozen=True)
class GroupCollator:
    """Opens the images of each row and encodes its prompt.

    An empty list of rows (a micro-step that goes on with the round at hand) stays an empty list.

    Raises:
        ValueError: a prompt is longer than `max_prompt_length`; the message names the row and the remedy.
    """

    vlm_module: VLMBaseModule
    processor: Any
    max_prompt_length: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> list[PromptGroup]:
        return [self._encode(row) for row in rows]

    def _encode(self, row: dict[str, Any]) -> PromptGroup:
        images = [load_image(path) for path in row["image_path"]]
        try:
            prompt = self.vlm_module.encode_prompt(self.processor, row["prompt"], images)
        except ValueError as error:
            raise ValueError(f"{row.get('source', 'row')}: {row['image_path']} cannot be encoded: {error}") from error
        if self.max_prompt_length is not None and prompt.num_tokens > self.max_prompt_length:
            raise ValueError(
                f"{row.get('source', 'row')}: the prompt has {prompt.num_tokens} tokens, more than max_prompt_length "
                f"({self.max_prompt_length}). Lower --max_pixels or raise --max_prompt_length."
            )
        return PromptGroup(prompt=prompt, row=row)
