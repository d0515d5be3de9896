"""Loads the processor of a checkpoint or of a folder of adapters, with other bounds of images where given."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from open_r1.vlm_modules.internvl_chat_module import InternVLChatModule
from open_r1.vlm_modules.vlm_module import VLMBaseModule


if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from open_r1.utils.adapters import ModelSource


@dataclass(frozen=True, kw_only=True)
class ImageBounds:
    """How much a model sees of an image; None: what the checkpoint says."""

    min_pixels: int | None = None  # height times width after resizing
    max_pixels: int | None = None
    max_tiles: int | None = None  # where images are cut into tiles, a thumbnail not counted

    def __post_init__(self):
        if self.max_tiles is not None and self.max_tiles < 1:
            raise ValueError(f"--max_anyres_num must be at least 1, not {self.max_tiles}.")


def load_processor(
    vlm_module: VLMBaseModule, source: "ModelSource", bounds: ImageBounds | None = None
) -> "ProcessorMixin":
    """The processor of a model.

    Args:
        vlm_module: Its family.
        source: Where it lies, and whether its code may run (some tokenizers bring code).
        bounds: Bounds to use in place of the checkpoint's.

    Raises:
        ValueError: the family has no such bounds.
    """
    bounds = bounds or ImageBounds()
    options = {}
    if isinstance(vlm_module, InternVLChatModule):
        options["trust_remote_code"] = source.trust_remote_code
    processor = vlm_module.load_processor(
        source.processor_path, bounds.min_pixels, bounds.max_pixels, revision=source.revision, **options
    )
    if bounds.max_tiles is not None:
        vlm_module.bound_tiles(processor, bounds.max_tiles)
    return processor
