"""Configuration of a model that brings its own code: fields and habits of published InternVL checkpoints."""

from transformers import PretrainedConfig, Qwen2Config


class InternVisionConfig(PretrainedConfig):
    model_type = "intern_vit_tiny"

    def __init__(
        self,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        drop_path_rate=0.0,
        initializer_range=0.02,
        initializer_factor=1.0,
        qkv_bias=True,
        qk_normalization=False,
        norm_type="layer_norm",
        layer_norm_eps=1e-6,
        hidden_act="gelu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.initializer_factor = initializer_factor
        self.qkv_bias = qkv_bias
        self.qk_normalization = qk_normalization
        self.norm_type = norm_type
        self.layer_norm_eps = layer_norm_eps
        self.hidden_act = hidden_act
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.image_size = image_size
        self.patch_size = patch_size
        self.drop_path_rate = drop_path_rate
        self.initializer_range = initializer_range


class PlainConfig(PretrainedConfig):
    model_type = "plain_lm"

    def __init__(
        self,
        vocab_size=1000,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=4096,
        initializer_range=0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range


LANGUAGE_CONFIGS = {"Qwen2ForCausalLM": Qwen2Config, "PlainForCausalLM": PlainConfig}


class InternVLChatConfig(PretrainedConfig):
    model_type = "internvl_chat"
    is_composition = True

    def __init__(
        self,
        vision_config=None,
        llm_config=None,
        select_layer=-1,
        force_image_size=None,
        downsample_ratio=0.5,
        template=None,
        use_thumbnail=False,
        min_dynamic_patch=1,
        max_dynamic_patch=6,
        dynamic_image_size=True,
        ps_version="v2",
        **kwargs,
    ):
        super().__init__(**kwargs)
        llm_config = llm_config or {}  # which then has no architecture, and raises
        self.vision_config = InternVisionConfig(**(vision_config or {}))
        self.llm_config = LANGUAGE_CONFIGS[llm_config["architectures"][0]](**llm_config)
        self.select_layer = select_layer
        self.force_image_size = force_image_size
        self.downsample_ratio = downsample_ratio
        self.template = template
        self.use_thumbnail = use_thumbnail
        self.min_dynamic_patch = min_dynamic_patch
        self.max_dynamic_patch = max_dynamic_patch
        self.dynamic_image_size = dynamic_image_size
        self.ps_version = ps_version

    def to_dict(self):
        output = super().to_dict()
        output["vision_config"] = self.vision_config.to_dict()
        output["llm_config"] = self.llm_config.to_dict()
        return output
