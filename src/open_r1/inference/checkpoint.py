"""A checkpoint, or a folder of adapters, as generators take it: everything but the weights first, then these."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from open_r1.utils.adapters import ModelSource, find_model_source, load_base_config, merge_adapters
from open_r1.vlm_modules import select_vlm_module
from open_r1.vlm_modules.processors import ImageBounds, load_processor
from open_r1.vlm_modules.vlm_module import VLMBaseModule


if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, ProcessorMixin


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is known before weights are loaded."""

    source: ModelSource
    config: "PretrainedConfig"
    vlm_module: VLMBaseModule
    processor: "ProcessorMixin"

    @classmethod
    def open(
        cls,
        model_path: str,
        bounds: ImageBounds | None = None,
        vlm_module_name: str | None = None,
        trust_remote_code: bool = False,
    ) -> "Checkpoint":
        """Reads configuration and processor.

        Args:
            model_path: A folder, of adapters or of a model, or a model of the hub.
            bounds: How large images may be; None: as the checkpoint says.
            vlm_module_name: That of `select_vlm_module`.
            trust_remote_code: Whether code that comes with the model may run.

        Raises:
            ValueError: an unknown family, bounds that it does not have, adapters without their base.
        """
        source = find_model_source(model_path, trust_remote_code=trust_remote_code)
        config = load_base_config(source)
        vlm_module = select_vlm_module(config, vlm_module_name)
        processor = load_processor(vlm_module, source, bounds)
        return cls(source=source, config=config, vlm_module=vlm_module, processor=processor)

    def load_model(self, dtype: str) -> "PreTrainedModel":
        """The model on the CPU; adapters are merged into the one that they name."""
        model_class = self.vlm_module.get_model_class(self.config)
        source = self.source
        model = model_class.from_pretrained(
            source.base_path, config=self.config, revision=source.revision, dtype=dtype
        )
        return model if source.adapters_path is None else merge_adapters(model, source.adapters_path)

    def load_generation_config(self) -> "GenerationConfig":
        """The one that a model loaded from here would have."""
        from transformers import GenerationConfig

        try:
            return GenerationConfig.from_pretrained(self.source.base_path, revision=self.source.revision)
        except OSError:  # the checkpoint has none
            return GenerationConfig.from_model_config(self.config)

    def choose_dtype(self, dtype: str) -> str:
        """`auto` as transformers understands it: the precision that the configuration names, whatever it is."""
        own = getattr(self.config, "dtype", None)
        return dtype if dtype != "auto" or own is None else str(own).removeprefix("torch.")
