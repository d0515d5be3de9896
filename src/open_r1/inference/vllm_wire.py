"""Requests and answers as vLLM's server has them (`/inference/v1/generate`).

vLLM's input                          request
prompt_token_ids                      token_ids
mm_kwargs       pixels and grids      features.kwargs_data        base64 of vLLM's own encoding
mm_hashes       keys of images        features.mm_hashes          an image is encoded once, whoever shows it
mm_placeholders                       features.mm_placeholders    offset and length, without a mask
"""

from typing import TYPE_CHECKING, Any

import torch

from open_r1.inference.vllm_engine import EngineCompletion


if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.inputs import EngineInput
    from vllm.multimodal.inputs import PlaceholderRange


def build_body(given: "EngineInput", params: "SamplingParams") -> dict[str, Any]:
    """A request as the server takes it.

    Raises:
        ValueError: other tokens stand between the placeholders of one of its media.
    """
    import msgspec

    settings = msgspec.to_builtins(params, str_keys=True)
    body = {
        "token_ids": given["prompt_token_ids"],
        "sampling_params": {name: value for name, value in settings.items() if not name.startswith("_")},
    }
    if given["type"] == "multimodal":
        body["features"] = _build_features(given)
    return body


def _build_features(given: "EngineInput") -> dict[str, Any]:
    from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import encode_mm_kwargs_item

    return {
        "mm_hashes": given["mm_hashes"],
        "mm_placeholders": {
            kind: [_build_place(place) for place in places] for kind, places in given["mm_placeholders"].items()
        },
        "kwargs_data": {
            kind: [encode_mm_kwargs_item(item) for item in items] for kind, items in given["mm_kwargs"].items()
        },
    }


def _build_place(place: "PlaceholderRange") -> dict[str, int]:
    if place.is_embed is None:
        return {"offset": place.offset, "length": place.length}
    own = torch.nonzero(place.is_embed).flatten()
    first, length = int(own[0]), int(own[-1] - own[0]) + 1
    if length != len(own):
        raise ValueError(
            "--vllm_mode server: vLLM's server takes no media whose placeholders have other tokens between them, as "
            "videos with time stamps and images in tiles have. Take --vllm_mode colocate."
        )
    return {"offset": place.offset + first, "length": length}


def read_completions(answer: dict[str, Any]) -> list[EngineCompletion]:
    """The G completions of one request, in order."""
    return [
        EngineCompletion(
            token_ids=choice["token_ids"],
            per_token_logps=[entry["logprob"] for entry in choice["logprobs"]["content"]],
            finish_reason=choice["finish_reason"],
        )
        for choice in sorted(answer["choices"], key=lambda choice: choice["index"])
    ]


def list_versions(answer: dict[str, Any]) -> set[str]:
    """Names of the weights with which the completions were drawn."""
    return {span["version"] for choice in answer["choices"] for span in choice["weight_versions"] or ()}
