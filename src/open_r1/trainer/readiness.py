"""The checks of `open_r1.preflight`: each writes what it finds into a report, and what stands against the run.

rows          how many of which data set, steps, partners of the ranking reward       check_batches
prompts       tokens of a sample, with the real processor                            check_prompts
rewards       a good and a malformed answer                                          check_rewards
memory        weights, gradients, optimizer, activations, KV cache of one GPU        check_memory
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import torch

from open_r1.completions import AnswerContract, extract_answer
from open_r1.configs import GRPOModelConfig
from open_r1.data.columns import read_column
from open_r1.data.video import VideoSettings
from open_r1.trainer.batch import PromptGroup
from open_r1.trainer.collator import GroupCollator
from open_r1.trainer.dry_pass import build_dry_batch, build_shape_model, measure_loss_pass, measure_model_size
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.plan import compute_schedule
from open_r1.trainer.pools import build_pools
from open_r1.trainer.reward_calls import RewardFunc, call_reward_funcs, repeat_columns
from open_r1.trainer.samplers import RepeatRandomSampler
from open_r1.utils.estimates import (
    GIB,
    EngineShare,
    MemoryEstimate,
    Sharding,
    count_kv_bytes,
    count_sampling_bytes,
    estimate_memory,
    gib,
)
from open_r1.vlm_modules.vlm_module import VLMBaseModule


FEW_PARTNERS = 4.0
_GOOD_THINKING = "The picture is looked at with care."
_MALFORMED = "I cannot say."


@dataclass(kw_only=True)
class Report:
    """What is known of a run before it starts."""

    rows: list[tuple[str, str]] = field(default_factory=list)  # what, and its value
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # any of them means no-go

    def add(self, name: str, value: Any) -> None:
        self.rows.append((name, f"{value:,}" if isinstance(value, int) else str(value)))


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the run would have. Example: `Machine(num_gpus=8, gpu_memory=80 * 2**30)`."""

    num_gpus: int  # on all nodes together
    gpu_memory: int  # bytes, of one


# ---- rows -------------------------------------------------------------------------------------------------------


def check_batches(report: Report, args: GRPOConfig, dataset: Any, machine: Machine, reward_names: list[str]) -> None:
    """Batch arithmetic: what meets in a round, how many steps there are, what is repeated."""
    schedule = compute_schedule(args, dataset, machine.num_gpus)
    samplers = _build_samplers(args, dataset, machine.num_gpus)
    num_repeats, num_prompts = samplers[0].num_repeats, samplers[0].num_rows + samplers[0].num_repeats
    names = Counter(read_column(dataset, "dataset_name"))
    report.add("rows", ", ".join(f"{count:,} of {name}" for name, count in sorted(names.items())))
    report.add("groups per GPU and micro-batch", args.groups_per_step)
    report.add("prompts per round, all GPUs", samplers[0].prompts_per_round * machine.num_gpus)
    report.add("completions per optimizer step", schedule.completions_per_step)
    report.add("rounds per epoch", samplers[0].num_rounds)
    report.add("prompts per epoch", f"{num_prompts:,}, {num_repeats:,} of them a second time")
    report.add("optimizer steps per epoch", schedule.steps_per_epoch)
    report.add("optimizer steps", schedule.num_steps)
    if num_repeats > len(dataset):
        report.warnings.append(f"{num_repeats:,} of {num_prompts:,} prompts of an epoch are repeated")
    if "fidelity_reward" in reward_names:
        partners = _count_partners(samplers, list(read_column(dataset, "dataset_name")))
        report.add("partners of an image in the ranking", f"{partners:.1f} on average")
        if partners < FEW_PARTNERS:
            report.warnings.append(
                f"an image is compared with {partners:.1f} others on average: raise per_device_train_batch_size, or "
                "take --sampling dataset_homogeneous"
            )


def _build_samplers(args: GRPOConfig, dataset: Any, num_gpus: int) -> list[RepeatRandomSampler]:
    pools = build_pools(dataset, args)
    return [
        RepeatRandomSampler(
            len(dataset),
            prompts_per_round=args.groups_per_step * args.steps_per_generation,
            rank=rank,
            world_size=num_gpus,
            pools=pools,
        )
        for rank in range(num_gpus)
    ]


def _count_partners(samplers: list[RepeatRandomSampler], names: list[str], num_rounds: int = 20) -> float:
    """Prompts of the same data set beside each one, over the GPUs of a round, in the first rounds."""
    counts = []
    for blocks in islice(zip(*samplers), num_rounds):
        of_names = Counter(names[row] for block in blocks for row in block)
        counts += [count - 1 for count in of_names.values() for _ in range(count)]
    return sum(counts) / len(counts)


# ---- prompts ----------------------------------------------------------------------------------------------------


def check_prompts(
    report: Report,
    args: GRPOConfig,
    dataset: Any,
    vlm_module: VLMBaseModule,
    processor: Any,
    video_settings: VideoSettings,
    num_samples: int,
) -> list[PromptGroup]:
    """Encodes rows spread over the data; returns them, the longest first."""
    step = max(1, len(dataset) // num_samples)
    collator = GroupCollator(vlm_module, processor, video_settings=video_settings)
    groups = [collator([dataset[index]])[0] for index in range(0, len(dataset), step)][:num_samples]
    groups.sort(key=lambda group: -group.prompt.num_tokens)
    tokens = [group.prompt.num_tokens for group in groups]
    template = vlm_module.prepare_prompt(processor, groups[0].row["prompt"])
    report.add("tokens per prompt", f"{min(tokens):,} to {max(tokens):,}, {sum(tokens) / len(tokens):,.0f} on average")
    report.add("tokens per completion", f"up to {args.max_completion_length:,}")
    report.add("longest row of a replicated pass", max(tokens) + args.max_completion_length)
    report.add("prompt ends in", repr(template[-100:]))
    if args.max_prompt_length is not None and max(tokens) > args.max_prompt_length:
        report.problems.append(
            f"{groups[0].row.get('source', 'a row')}: the prompt has {max(tokens)} tokens, more than "
            f"--max_prompt_length {args.max_prompt_length}: lower --max_pixels or raise it"
        )
    return groups


# ---- rewards ----------------------------------------------------------------------------------------------------


def check_rewards(
    report: Report,
    reward_funcs: list[RewardFunc],
    args: GRPOConfig,
    contract: AnswerContract,
    groups: list[PromptGroup],
    tokenizer: Any,
) -> None:
    """Calls the reward functions on two answers to each row: its own solution in good form, and no answer at all."""
    rows = [group.row for group in groups]
    texts = []
    for row in rows:
        answer = (extract_answer(row["solution"]) or row["solution"]).strip()
        texts += [contract.compose(answer=answer, think=_GOOD_THINKING), _MALFORMED]
    columns = repeat_columns(rows, 2)
    prompts = columns.pop("prompt")
    columns |= {"num_generations": 2, "trainer_state": None, "process_index": 0}
    columns |= {"log_metric": lambda name, value: None, "all_gather": lambda values: values}
    ids = tokenizer(texts)["input_ids"]
    rewards = call_reward_funcs(reward_funcs, prompts=prompts, texts=texts, completion_ids=ids, columns=columns)
    weights = args.reward_weights or [1.0] * len(reward_funcs)
    if len(weights) != len(reward_funcs):
        report.problems.append(f"--reward_weights has {len(weights)} values for {len(reward_funcs)} reward functions")
        return
    good, malformed = rewards[0::2].nanmean(dim=0), rewards[1::2].nanmean(dim=0)  # (F,)
    for func, of_good, of_malformed in zip(reward_funcs, good.tolist(), malformed.tolist()):
        values = f"{of_good:.3f} for the solution, {of_malformed:.3f} for no answer"
        report.add(f"reward {func.__name__}", "abstains" if math.isnan(of_good) else values)
        if math.isnan(of_good):
            report.warnings.append(f"{func.__name__} abstains on all rows that were tried")
    gain = ((good - malformed).nan_to_num() * torch.tensor(weights)).sum().item()
    if not gain > 0:
        report.warnings.append(f"the rewards do not prefer the solution to no answer (difference {gain:.3f})")


# ---- memory -----------------------------------------------------------------------------------------------------


def check_memory(
    report: Report,
    args: GRPOConfig,
    model_args: GRPOModelConfig,
    vlm_module: VLMBaseModule,
    groups: list[PromptGroup],
    sharding: Sharding,
    machine: Machine,
) -> MemoryEstimate:
    """One GPU's memory if every completion is as long as it may be and every prompt as long as the longest sampled."""
    half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    model = build_shape_model(model_args, vlm_module, half if sharding.is_deepspeed else None)
    size = measure_model_size(model, model_args, vlm_module, args.beta)
    prompts = [vlm_module.with_positions(model, group.prompt) for group in islice(cycle(groups), args.groups_per_step)]
    batch = build_dry_batch(prompts, args.num_generations, args.max_completion_length)
    is_packed = args.logps_mode != "replicated" and model_args.attn_implementation in (None, "sdpa")
    peaks = {
        checkpointing: measure_loss_pass(model, vlm_module, batch, _with_checkpointing(args, checkpointing), is_packed)
        for checkpointing in (False, True)
    }
    text = model.config.get_text_config()
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    value_bytes = (half or torch.float32).itemsize
    num_rows = args.groups_per_step * args.steps_per_generation * args.num_generations
    num_tokens = max(prompt.num_tokens for prompt in prompts) + args.max_completion_length
    estimate = estimate_memory(
        size,
        sharding,
        optimizer=str(getattr(args.optim, "value", args.optim)),
        activations=peaks[args.gradient_checkpointing],
        kv_cache=count_kv_bytes(
            num_rows, num_tokens, text.num_hidden_layers, text.num_key_value_heads * head_size, value_bytes
        ),
        logits=count_sampling_bytes(num_rows, text.vocab_size, value_bytes),
        engine=_measure_engine(args, machine),
    )
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    if args.use_vllm and args.vllm_mode == "colocate":
        token_bytes = count_kv_bytes(1, 1, text.num_hidden_layers, text.num_key_value_heads * head_size, value_bytes)
        _check_engine(report, args, machine, num_weights * value_bytes, num_tokens * token_bytes)
    report.add("weights", f"{num_weights:,}, {size.trained_weights:,} of them trained")
    for name, bytes_ in [*estimate.held.items(), *estimate.loss.items()]:
        report.add(f"{name} of one GPU", gib(bytes_))
    other = "without" if args.gradient_checkpointing else "with"
    report.add(f"activations {other} --gradient_checkpointing", gib(peaks[not args.gradient_checkpointing]))
    for name, bytes_ in estimate.generation.items():
        report.add(f"{name} in generation", gib(bytes_))
    for phase in ("loss", "generation"):
        report.add(f"peak in {phase}", f"{gib(estimate.peak(phase))} of {gib(machine.gpu_memory)}")
    if estimate.highest > machine.gpu_memory:
        report.problems.append(_advise(estimate, args, machine))
    elif estimate.highest > 0.9 * machine.gpu_memory:
        report.warnings.append("the estimate leaves less than a tenth of the GPU's memory free")
    if half is not None and not sharding.is_deepspeed and model.dtype == torch.float32:
        report.warnings.append("weights are float32: --dtype bfloat16 halves them and their optimizer state")
    return estimate


def _measure_engine(args: GRPOConfig, machine: Machine) -> EngineShare | None:
    if not args.use_vllm:
        return None
    share = args.vllm_gpu_memory_utilization if args.vllm_mode == "colocate" else 0.0
    return EngineShare(bytes_taken=int(share * machine.gpu_memory), sleeps=args.vllm_enable_sleep_mode)


def _check_engine(report: Report, args: GRPOConfig, machine: Machine, weights: int, sequence: int) -> None:
    """What vLLM can do with its share of a GPU: bytes of the whole weights, and of the longest completion's cache."""
    taken, size = int(args.vllm_gpu_memory_utilization * machine.gpu_memory), args.vllm_tensor_parallel_size
    room = (taken - weights // size) // (sequence // size)
    report.add("vLLM's share of one GPU", f"{gib(taken)}, {gib(weights / size)} of it weights")
    if room < 1:
        report.problems.append(
            f"vLLM gets {gib(taken)} of a GPU, its weights take {gib(weights / size)} and the cache of one completion "
            f"{gib(sequence / size)}: raise --vllm_gpu_memory_utilization or --vllm_tensor_parallel_size"
        )
    else:
        report.add("completions at a time in vLLM's cache", f"{room:,} of the longest, at most")


def _with_checkpointing(args: GRPOConfig, value: bool) -> GRPOConfig:
    import copy

    changed = copy.copy(args)
    changed.gradient_checkpointing = value
    return changed


def _advise(estimate: MemoryEstimate, args: GRPOConfig, machine: Machine) -> str:
    """The problem, and what would help most."""
    phase = max(("loss", "generation"), key=estimate.peak)
    parts = {**estimate.held, **getattr(estimate, phase)}
    largest = max(parts, key=parts.get)
    remedies = {
        "activations": "--gradient_checkpointing" if not args.gradient_checkpointing else "--max_packed_tokens",
        "KV cache": "a smaller --steps_per_generation or --per_device_train_batch_size",
        "optimizer": "--use_peft, or DeepSpeed ZeRO (local_scripts/zero3.json)",
        "weights": "DeepSpeed ZeRO-3 (local_scripts/zero3.json), or --load_in_4bit with --use_peft",
        "reference": "--beta 0, --use_peft, or DeepSpeed ZeRO-3",
        "vLLM": "--vllm_enable_sleep_mode, a smaller --vllm_gpu_memory_utilization, or --vllm_mode server",
        "gradients": "--use_peft, or DeepSpeed ZeRO-2 or 3",
    }
    return (
        f"{gib(estimate.highest)} are needed in {phase}, a GPU has {machine.gpu_memory / GIB:.0f} GiB; most of it is "
        f"for {largest} ({gib(parts[largest])}): take {remedies.get(largest, 'a smaller per_device_train_batch_size')}"
    )
