"""Aria: a picture of 490 or 980 pixels a side, padded, as 128 or 256 tokens; a language model with experts.

The experts of a layer are parameters of three dimensions, not linear layers: LoRA's default targets are the attention
and the shared experts, and `--lora_target_parameters experts.gate_up_proj experts.down_proj` adapts the routed ones.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from open_r1.vlm_modules.generic_module import GenericModule


if TYPE_CHECKING:
    from transformers import ProcessorMixin


SIZES = (490, 980)  # pixels a side; the processor knows no others


class AriaModule(GenericModule):
    pixel_remedy: ClassVar[str] = "sizes of 490 and 980 pixels a side"

    def get_vlm_key(self) -> str:
        return "aria"

    def get_image_options(self, processor: "ProcessorMixin") -> dict[str, Any]:
        """The checkpoint's, where the family's processor would take its own."""
        image_processor = processor.image_processor
        return {"max_image_size": image_processor.max_image_size, "split_image": image_processor.split_image}

    def bound_pixels(self, processor: "ProcessorMixin", min_pixels: int | None, max_pixels: int | None) -> None:
        """`max_pixels` chooses the larger size that it allows."""
        allowed = [size for size in SIZES if max_pixels is not None and size**2 <= max_pixels]
        if min_pixels is not None or not allowed:
            raise ValueError(
                f"min_pixels ({min_pixels}) does not apply to Aria, and max_pixels ({max_pixels}) must be at least "
                f"{SIZES[0] ** 2}: pictures are padded to {SIZES[0]} or {SIZES[1]} pixels a side."
            )
        processor.image_processor.max_image_size = allowed[-1]
