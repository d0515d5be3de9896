"""A round is consumed whole, and comes out of a checkpoint as it went in."""

from dataclasses import fields

import pytest
import torch

from open_r1.trainer.batch import RolloutBatch
from open_r1.trainer.rounds import Round, load_round, save_round, split_into_micro_batches
from open_r1.vlm_modules.vlm_module import EncodedPrompt


CPU = torch.device("cpu")


def make_round(num_groups: int = 3, num_generations: int = 2, width: int = 5, **values: torch.Tensor) -> Round:
    """Group n has a prompt of n + 1 tokens; completion b is filled with b."""
    rows = num_groups * num_generations
    ids = torch.arange(rows)[:, None].repeat(1, width)
    batch = RolloutBatch(
        prompts=make_prompts(num_groups), completion_ids=ids, completion_mask=torch.ones_like(ids).bool(), **values
    )
    return Round(batch=batch, rows=[7, 2, 9][:num_groups], pending=[[2, 0], [1]])


def make_prompts(num_groups: int) -> list[EncodedPrompt]:
    return [EncodedPrompt(input_ids=torch.arange(n + 1)) for n in range(num_groups)]


def test_each_iteration_goes_over_every_group_once():
    torch.manual_seed(0)
    batches = split_into_micro_batches(num_groups=6, groups_per_step=2, num_iterations=3)
    assert [len(batch) for batch in batches] == [2] * 9
    for start in (0, 3, 6):
        assert sorted(group for batch in batches[start : start + 3] for group in batch) == list(range(6))


def test_iterations_go_in_different_orders():
    torch.manual_seed(0)
    batches = split_into_micro_batches(num_groups=20, groups_per_step=20, num_iterations=2)
    assert batches[0] != batches[1]


def test_the_order_follows_the_random_numbers():
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(split_into_micro_batches(num_groups=20, groups_per_step=4, num_iterations=1))
    assert orders[0] == orders[1] != orders[2]


def test_a_micro_batch_holds_whole_groups_in_their_order_and_is_taken_once():
    current = make_round()
    first, second = current.take(), current.take()
    assert first.completion_ids[:, 0].tolist() == [4, 5, 0, 1]  # groups 2 and 0 of two completions each
    assert [prompt.num_tokens for prompt in first.prompts] == [3, 1]
    assert second.completion_ids[:, 0].tolist() == [2, 3]
    assert current.pending == []


def test_rows_must_belong_to_the_groups():
    with pytest.raises(ValueError, match="2 rows do not belong to 3 groups"):
        Round(batch=make_round().batch, rows=[1, 2], pending=[])


def test_every_tensor_of_the_batch_survives_a_checkpoint_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    optional = [field.name for field in fields(RolloutBatch) if field.default is None]
    values = {name: torch.randn(6, 5) for name in optional}
    values["advantages"] = torch.randn(6, dtype=torch.float64)
    current = make_round(**values)
    save_round(current, tmp_path, rank=0)
    loaded = load_round(tmp_path, rank=0).build(make_prompts(3), CPU)
    assert loaded.rows == [7, 2, 9] and loaded.pending == [[2, 0], [1]]
    assert set(loaded.batch.tensors) == {"completion_ids", "completion_mask", *optional}
    for name, tensor in current.batch.tensors.items():
        assert loaded.batch.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.batch.tensors[name], tensor)


def test_what_a_batch_does_not_have_it_does_not_get(tmp_path):
    save_round(make_round(advantages=torch.zeros(6)), tmp_path, rank=0)
    loaded = load_round(tmp_path, rank=0).build(make_prompts(3), CPU)
    assert loaded.batch.old_per_token_logps is None and loaded.batch.ref_per_token_logps is None


def test_tensors_that_share_memory_can_be_saved(tmp_path):
    logps = torch.randn(6, 5)
    save_round(make_round(old_per_token_logps=logps, ref_per_token_logps=logps), tmp_path, rank=0)
    assert torch.equal(load_round(tmp_path, rank=0).values["ref_per_token_logps"], logps)


def test_images_are_not_saved(tmp_path):
    current = make_round()
    save_round(current, tmp_path, rank=0)
    # 30 completion ids and 6 prompt ids of 8 bytes, 30 bytes of mask, and a header.
    assert (tmp_path / "round_rank0.safetensors").stat().st_size < 36 * 8 + 30 + 1000


def test_ranks_have_files_of_their_own(tmp_path):
    save_round(make_round(), tmp_path, rank=1)
    assert load_round(tmp_path, rank=0) is None
    assert load_round(tmp_path, rank=1) is not None


def test_data_that_changed_is_noticed(tmp_path):
    save_round(make_round(), tmp_path, rank=0)
    prompts = make_prompts(3)
    prompts[1] = EncodedPrompt(input_ids=torch.tensor([5, 5]))
    with pytest.raises(ValueError, match="Row 2 of the training data has another prompt"):
        load_round(tmp_path, rank=0).build(prompts, CPU)
