"""Models that people ask for, and that cannot be trained here, each with its reason."""

UNSUPPORTED = {
    "chatglm": (
        "GLM-4V 9B (`glm-4v-9b`) and the ChatGLM family come as Python code beside their weights, for a version 4 of "
        "transformers, which has no such model itself. Its successors have: take GLM-4.1V (`glm4v`), as "
        "zai-org/GLM-4.1V-9B-Thinking."
    ),
    "HumanOmni_qwen2": (
        "HumanOmni and R1-Omni have no model in transformers, and their checkpoints bring no code: it is the package "
        "`humanomni` of their repositories, for transformers 4.49. Besides, a checkpoint names two more by local "
        "paths (a SigLIP and a Whisper), and the weights of its branches hang on the question as BERT encodes it. "
        "Video with its sound trains with Qwen2.5-Omni (--video_audio true), without it with any family that takes "
        "videos (docs/models.md)."
    ),
}


def describe_unsupported(model_type: str) -> str | None:
    """Why models of this type are refused, where that is known."""
    reason = UNSUPPORTED.get(model_type)
    return None if reason is None else f"Unsupported model type {model_type!r}. {reason}"
