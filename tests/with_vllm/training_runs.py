"""Training runs with vLLM for tests, each in a process of its own (or several), and what they have seen.

A reward is called when the engine has generated and the policy has not moved yet: there the weights of both are
compared, every number of them.
"""

import dataclasses
import hashlib
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from open_r1.completions import get_answer_contract
from open_r1.configs import GRPOModelConfig
from open_r1.data.jsonl import load_jsonl_dataset
from open_r1.inference.generator import SamplingSettings
from open_r1.inference.hf_generator import HFGenerator, eval_mode
from open_r1.inference.vllm_engine import EngineError
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.loading import find_source, load_policy, load_processor, load_reference, load_vlm_module
from open_r1.trainer.sharding import whole_weights
from open_r1.trainer.vllm_grpo_trainer import VLLMGRPOTrainer


SETTINGS = {
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "max_prompt_length": 300,
    "max_completion_length": 10,
    "learning_rate": 1e-3,
    "max_steps": 6,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "use_vllm": True,
    "vllm_enforce_eager": True,
}
_PARTS = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj", "gate_proj": "gate_up_proj"}
_PARTS |= {"up_proj": "gate_up_proj"}


@dataclasses.dataclass(kw_only=True)
class Seen:
    """What a run has seen, by round where it is a list."""

    greedy_of_trainer: list[list[int]] = dataclasses.field(default_factory=list)
    greedy_of_engine: list[list[int]] = dataclasses.field(default_factory=list)
    largest_difference: list[float] = dataclasses.field(default_factory=list)  # of a weight in engine and policy
    movement: list[float] = dataclasses.field(default_factory=list)  # of the weights since the last round
    num_groups: list[int] = dataclasses.field(default_factory=list)
    num_requests: list[int] = dataclasses.field(default_factory=list)
    num_generations: list[list[int]] = dataclasses.field(default_factory=list)  # of each request
    num_images: list[int] = dataclasses.field(default_factory=list)  # that the engine's tower has encoded
    num_different_images: list[int] = dataclasses.field(default_factory=list)
    metrics: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def build_trainer(
    checkpoint: str, rows: tuple[str, str], output_dir: str, settings: dict, model_options: dict, rewards: list
) -> VLLMGRPOTrainer:
    """A trainer on the tiny model and ten pictures."""
    args = GRPOConfig(**(SETTINGS | {"output_dir": output_dir} | settings))
    model_args = GRPOModelConfig(model_name_or_path=checkpoint, **model_options)
    contract = get_answer_contract("scoring")
    dataset = load_jsonl_dataset([rows[0]], [rows[1]], contract=contract, require_mos=True)
    torch.manual_seed(0)
    vlm_module = load_vlm_module(model_args)
    return VLLMGRPOTrainer(
        load_policy(model_args, vlm_module),
        load_reference(model_args, vlm_module, args.beta),
        rewards,
        args,
        vlm_module=vlm_module,
        processing_class=load_processor(model_args, vlm_module),
        train_dataset=dataset,
        eval_dataset=dataset,
        source=find_source(model_args),
    )


def letters_reward(completions: list, **columns: Any) -> list[float]:
    """Something that an untrained model earns now and then, so that advantages are not zero."""
    return [sum(character.isalpha() for character in completion[0]["content"]) / 40 for completion in completions]


def train(
    checkpoint: str, rows: tuple[str, str], output_dir: str, settings: dict, model_options: dict, looks: bool = True
) -> Seen:
    """Trains, and looks at the engine's weights in each round."""
    seen = Seen()
    trainers: list[VLLMGRPOTrainer] = []

    def watching_reward(completions: list, **columns: Any) -> list[float]:
        if looks and trainers[0].is_in_train:
            _look(trainers[0], seen)
        return letters_reward(completions)

    trainer = build_trainer(checkpoint, rows, output_dir, settings, model_options, [watching_reward])
    trainers.append(trainer)
    if trainer.args.vllm_mode == "colocate":
        _count_requests(trainer, seen)
    if trainer.args.world_size == 1:
        _draw_greedily(trainer, seen)
    trainer.train()
    log = Path(output_dir) / "metrics.jsonl"
    seen.metrics = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    return seen


def fail_in_one_process(checkpoint: str, rows: tuple[str, str], output_dir: str, settings: dict) -> str:
    """Trains until the engine of the second process fails, after two steps; returns what the run ends with."""
    trainer = build_trainer(checkpoint, rows, output_dir, settings, {}, [letters_reward])
    engine = trainer.generator.engine
    generate = engine.generate

    def generate_or_fail(inputs: list, params: list) -> list:
        if trainer.state.global_step == 2 and trainer.args.process_index == 1:
            raise EngineError("out of memory")
        return generate(inputs, params)

    engine.generate = generate_or_fail
    try:
        trainer.train()
    except EngineError as error:
        return str(error)
    return "nothing failed"


def _draw_greedily(trainer: VLLMGRPOTrainer, seen: Seen) -> None:
    sampling = SamplingSettings(max_new_tokens=24, temperature=0.0)
    prompts = [group.prompt for group in trainer._encode_rows(list(range(len(trainer.train_dataset))))]
    hf = HFGenerator(trainer.model, trainer.processing_class, trainer.vlm_module)
    seen.greedy_of_trainer = hf.generate(prompts, 1, sampling).token_ids
    seen.greedy_of_engine = trainer.generator.generate(prompts, 1, sampling).token_ids


# ---- what the engine is asked, and what it encodes ----------------------------------------------------------------


def _count_requests(trainer: VLLMGRPOTrainer, seen: Seen) -> None:
    """Notes every request that reaches the engine, and every image that its tower encodes."""
    core, keys = trainer.generator.engine.llm.llm_engine, set()
    add_request = core.add_request
    generate = trainer.generator.engine.generate

    def note_round(inputs: list, params: list) -> list:
        for values in (seen.num_requests, seen.num_images, seen.num_different_images):
            values.append(0)
        seen.num_generations.append([])
        seen.num_groups.append(len(inputs))
        keys.clear()
        return generate(inputs, params)

    def note_request(name: str, given: dict, params: Any) -> str:
        seen.num_requests[-1] += 1
        seen.num_generations[-1].append(params.n)
        keys.update(given.get("mm_hashes", {}).get("image", []))
        seen.num_different_images[-1] = len(keys)
        return add_request(name, given, params)

    def watch_tower(model: torch.nn.Module) -> None:
        embed = model.embed_multimodal

        def note_images(**inputs: Any) -> Any:
            if seen.num_images:
                seen.num_images[-1] += len(inputs["image_grid_thw"])
            return embed(**inputs)

        model.embed_multimodal = note_images

    core.add_request = note_request
    trainer.generator.engine.generate = note_round
    trainer.generator.engine.llm.apply_model(watch_tower)


# ---- weights of engine and policy ---------------------------------------------------------------------------------


def _look(trainer: VLLMGRPOTrainer, seen: Seen) -> None:
    policy = read_policy_weights(trainer)
    engine = trainer.generator.engine
    if trainer.args.vllm_mode == "colocate":
        found = engine.llm.apply_model(read_engine_weights)[0]
        assert found.keys() >= policy.keys(), sorted(policy.keys() - found.keys())
        rows = {name: found[name][: len(value)] for name, value in policy.items()}  # vLLM pads the vocabulary
        difference = max((rows[name] - value).abs().max().item() for name, value in policy.items())
    else:
        sizes = {name: len(value) for name, value in policy.items()}
        call = {"method": "digest_weights", "kwargs": {"sizes": sizes}}
        digests = engine.client.post("/collective_rpc", call)["results"][0]
        difference = 0.0 if digests == digest(policy) else float("inf")
    seen.largest_difference.append(difference)
    before = getattr(trainer, "_seen_weights", policy)
    seen.movement.append(max((before[name] - value).abs().max().item() for name, value in policy.items()))
    trainer._seen_weights = policy


def digest(weights: dict[str, torch.Tensor]) -> dict[str, str]:
    """A checksum of each weight."""
    return {
        name: hashlib.sha256((value + 0.0).contiguous().numpy().tobytes()).hexdigest()  # with one zero, not two
        for name, value in weights.items()
    }


class WeightReader:
    """What a server's worker can do beside its own (`--worker-extension-cls`)."""

    def digest_weights(self, sizes: dict[str, int]) -> dict[str, str]:
        """Checksums of these weights, of as many rows."""
        weights = read_engine_weights(self.model_runner.model)
        return digest({name: weights[name][:size] for name, size in sizes.items()})


@torch.no_grad()
def read_engine_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every weight of vLLM's model; those that are packed by what they make of the unit vectors."""
    weights = {}
    for name, parameter in model.named_parameters():
        layer = model.get_submodule(name.rpartition(".")[0])
        if parameter.numel() == 0:
            weights[name] = layer.quant_method.apply(layer, torch.eye(layer.input_size)).T.clone()
            if getattr(layer, "bias", None) is not None:  # which vLLM adds elsewhere or here, by the kind of layer
                plain = layer.quant_method.apply(layer, torch.zeros(1, layer.input_size))
                weights[name] -= plain.T
        else:
            weights[name] = parameter.detach().clone()
    return weights


@torch.no_grad()
def read_policy_weights(trainer: VLLMGRPOTrainer) -> dict[str, torch.Tensor]:
    """Every weight of the policy with its adapters, under vLLM's names and in its shapes."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    parts = defaultdict(list)
    with eval_mode(model), whole_weights(model, trainer.model_wrapped):
        changes = {
            f"{name}.base_layer.weight": module.get_delta_weight("default")
            for name, module in model.named_modules()
            if hasattr(module, "get_delta_weight")
        }
        for name, parameter in model.named_parameters():
            if "lora_" not in name:
                value = parameter.detach() + changes.get(name, 0)
                parts[find_engine_name(name)].append(value.clone())
    return {name: torch.cat(values) if len(values) > 1 else values[0] for name, values in parts.items()}


def find_engine_name(name: str) -> str:
    """vLLM's name of a weight of Qwen2.5-VL."""
    name = name.removeprefix("base_model.model.").replace(".base_layer", "")
    name = re.sub(r"\.(q|k|v|gate|up)_proj\.", lambda found: f".{_PARTS[found.group()[1:-1]]}.", name)
    name = name.removeprefix("model.")
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    return f"language_model.{name}" if name.startswith("lm_head") else name
