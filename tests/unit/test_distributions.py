"""Values are counted in bins: exact where it can be, close elsewhere, and the same however they are cut."""

import json
import math

import pytest
import torch

from open_r1.trainer.distributions import NUM_BINS, Distribution
from open_r1.trainer.metrics import MetricStore


def draw_ratios(count: int, scale: float = 0.05, seed: int = 0) -> torch.Tensor:
    return (scale * torch.randn(count, generator=torch.Generator().manual_seed(seed))).exp()


def test_mean_minimum_and_maximum_are_exact():
    summary = Distribution.count(torch.tensor([[1.0, 2.5], [0.25, 4.25]]), is_ratio=True).summarise()
    assert (summary["min"], summary["mean"], summary["max"]) == (0.25, 2.0, 4.25)


@pytest.mark.parametrize("scale", [1e-4, 0.05, 2.0])
def test_quantiles_are_good_to_six_percent(scale):
    values = draw_ratios(20_001, scale)
    ratios, logs = Distribution.count(values, is_ratio=True), Distribution.count(values.double().log())
    for name, share in (("p01", 0.01), ("p99", 0.99)):
        expected = values.double().log().quantile(share).item()
        assert math.log(ratios.summarise()[name]) == pytest.approx(expected, rel=0.07)
        assert logs.summarise()[name] == pytest.approx(expected, rel=0.07)
    assert ratios.summarise()["p50"] == pytest.approx(1, abs=0.03 * scale)


def test_ratios_of_one_are_told_as_such():
    summary = Distribution.count(torch.ones(5), is_ratio=True).summarise()
    assert set(summary.values()) == {1.0}


def test_ratios_of_zero_and_huge_ones_are_counted():
    summary = Distribution.count(torch.tensor([0.0, 0.0, 1.0, 1e300], dtype=torch.float64), is_ratio=True).summarise()
    assert (summary["p01"], summary["p50"]) == (0.0, 0.0)
    assert math.log(summary["p99"]) == pytest.approx(math.log(1e300), rel=0.07)


def test_no_quantile_lies_outside_of_the_values():
    for values in ([0.93], [-3.0, 5.0], [1e9, -1e9], [0.0, 1e-12]):
        summary = Distribution.count(torch.tensor(values)).summarise()
        assert summary["min"] <= summary["p01"] <= summary["p50"] <= summary["p99"] <= summary["max"]


def test_parts_merge_into_the_whole():
    values = draw_ratios(300)
    whole = Distribution.count(values, is_ratio=True)
    parts = [Distribution.count(part, is_ratio=True) for part in values.split([0, 1, 199, 100])]
    merged = Distribution.merge(parts)
    assert torch.equal(merged.numbers[:NUM_BINS], whole.numbers[:NUM_BINS])
    assert merged.summarise() == pytest.approx(whole.summarise(), rel=1e-12)


def test_without_values_there_is_nothing_to_tell():
    empty = Distribution.count(torch.zeros(0))
    assert empty.summarise() == {}
    assert Distribution.merge([empty, Distribution.count(torch.tensor([2.0]))]).summarise()["min"] == 2.0


def test_values_that_are_not_finite_are_left_out():
    summary = Distribution.count(torch.tensor([math.nan, 2.0, math.inf, -math.inf])).summarise()
    assert (summary["min"], summary["mean"], summary["max"]) == (2.0, 2.0, 2.0)


def test_a_metric_store_tells_of_all_values_since_the_last_line_and_survives_a_checkpoint():
    store, first, second = MetricStore(), draw_ratios(10), draw_ratios(1000, seed=1)
    store.add_distribution("ratio", Distribution.count(first, is_ratio=True))
    store.add_sum("kl", 3.0, 2)
    resumed = MetricStore()
    resumed.restore(json.loads(json.dumps(store.state())))
    for each in (store, resumed):
        each.add_distribution("ratio", Distribution.count(second, is_ratio=True))
        each.add_sum("kl", 1.0, 6)
        each.add_sum("masked", 0.0, 0)
    line = store.pop()
    assert line["ratio/mean"] == pytest.approx(
        torch.cat([first, second]).double().mean().item()
    )  # of values, not means
    assert line["kl"] == 0.5 and "masked" not in line
    assert line["ratio/max"] == torch.cat([first, second]).max().item()
    assert resumed.pop() == line
    assert store.pop() == {}
    with_nothing = MetricStore()
    with_nothing.restore({"values": {}, "totals": {}})  # of a checkpoint that knew no distributions
    assert with_nothing.pop() == {}
