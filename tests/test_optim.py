"""Parameter groups, BertAdam, schedules and weight averages."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.optim import BertAdam, WeightAverage, parameter_groups, schedules


class StackedNorm(nn.Module):
    """Norms of three layers in one tensor, as side networks hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))
        self.bias = nn.Parameter(torch.zeros(3, 4))


def small_module() -> nn.ModuleDict:
    """Weights, biases, plain and stacked norms, and one frozen layer."""
    module = nn.ModuleDict(
        {
            "side": nn.ModuleDict({"down": nn.Linear(4, 4), "norm": StackedNorm()}),
            "head": nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)),
            "frozen": nn.Linear(4, 4),
        }
    )
    module["frozen"].requires_grad_(requires_grad=False)
    return module


def names_of(module: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    """Each grouped parameter's name with its learning rate and weight decay."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize(
    ("rule", "decayed"),
    [
        ("weights", {"side.down.weight", "head.1.weight"}),
        (
            "all-but-biases",
            {"side.down.weight", "side.norm.weight", "head.0.weight", "head.1.weight"},
        ),
        ("all", None),
    ],
)
def test_weight_decay_follows_the_rule(rule: str, decayed: set[str] | None) -> None:
    """A stacked norm has two axes and must not be taken for a weight matrix."""
    module = small_module()

    found = names_of(module, parameter_groups(module, lr=1.0, weight_decay=0.1, decay=rule))

    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    assert found.keys() == trainable
    expected = trainable if decayed is None else decayed
    assert {name for name, (_, decay) in found.items() if decay == 0.1} == expected
    assert {decay for _, decay in found.values()} <= {0.0, 0.1}


def test_learning_rates_follow_the_longest_start_of_a_name() -> None:
    module = small_module()
    factors = {"side": 2.0, "side.norm": 4.0, "head": 0.1}

    groups = parameter_groups(module, lr=0.5, weight_decay=0.0, lr_factors=factors)

    found = names_of(module, groups)
    assert found["side.down.weight"][0] == 1.0
    assert found["side.norm.bias"][0] == 2.0
    assert found["head.1.weight"][0] == 0.05


def test_a_factor_that_fits_nothing_is_refused() -> None:
    """A misspelt name would otherwise train at the full rate without a word."""
    with pytest.raises(ValueError, match=r"\['frozen', 'haed'\] fit no trained parameter"):
        parameter_groups(
            small_module(), lr=1.0, weight_decay=0.0, lr_factors={"haed": 0.1, "frozen": 1.0}
        )


def trained(steps: int, **options: float) -> tuple[nn.Parameter, BertAdam]:
    """One parameter after some steps with the gradient (3, -4), of norm 5."""
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = BertAdam([parameter], **{"lr": 0.1, **options})
    for _ in range(steps):
        parameter.grad = torch.tensor([3.0, -4.0])
        optimizer.step()
    return parameter, optimizer


def test_the_first_bert_adam_step_is_not_corrected_for_its_start() -> None:
    """(1 - 0.9) g / sqrt((1 - 0.98) g^2) = 0.707 of the rate; Adam would take all of it."""
    parameter, _ = trained(1, max_grad_norm=0)

    step = 0.1 * 0.1 / 0.02**0.5
    torch.testing.assert_close(parameter.detach(), torch.tensor([1 - step, 2 + step]))


def test_bert_adam_clips_each_tensor_and_leaves_its_gradient_alone() -> None:
    """With a large eps the update is the moment itself, so the clip shows: norm 5 becomes 1."""
    parameter, _ = trained(1, eps=1e6, max_grad_norm=1.0)

    expected = torch.tensor([1.0, 2.0]) - 0.1 * 0.1 * torch.tensor([0.6, -0.8]) / 1e6
    torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=0)
    assert parameter.grad.tolist() == [3.0, -4.0]


def test_bert_adam_adds_weight_decay_to_the_update() -> None:
    plain, _ = trained(1)
    decayed, _ = trained(1, weight_decay=0.2)

    moved = plain.detach() - 0.1 * 0.2 * torch.tensor([1.0, 2.0])
    torch.testing.assert_close(decayed.detach(), moved)


def test_bert_adam_continues_from_its_state() -> None:
    """Resuming must equal never having stopped, bit for bit."""
    expected, _ = trained(5, weight_decay=0.2)
    parameter, optimizer = trained(3, weight_decay=0.2)

    resumed = nn.Parameter(parameter.detach().clone())
    other = BertAdam([resumed], lr=0.1, weight_decay=0.2)
    other.load_state_dict(optimizer.state_dict())
    for _ in range(2):
        resumed.grad = torch.tensor([3.0, -4.0])
        other.step()

    torch.testing.assert_close(resumed, expected, rtol=0, atol=0)


def test_bert_adam_evaluates_a_closure_with_gradients() -> None:
    parameter = nn.Parameter(torch.tensor([2.0]))
    optimizer = BertAdam([parameter, nn.Parameter(torch.zeros(1))], lr=0.1)

    def closure() -> Tensor:
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 4.0
    assert float(parameter.detach()) < 2.0


def test_multi_step_falls_at_each_milestone() -> None:
    factors = [schedules.multi_step(k, milestones=[2, 4]) for k in range(6)]

    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_step_decay_falls_after_every_so_many_steps() -> None:
    factors = [schedules.step_decay(k, every=2, gamma=0.5) for k in range(6)]

    assert factors == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25])


@pytest.mark.parametrize(("schedule", "middle"), [(schedules.linear, 0.5), (schedules.cosine, 0.5)])
def test_warm_up_rises_to_one_and_the_rest_falls_to_zero(schedule, middle: float) -> None:
    """20 steps of 100 to warm up, so the middle of the rest is step 60."""
    factor = partial(schedule, num_steps=100, num_warmup=20)

    assert [factor(k) for k in (0, 5, 20, 60, 100, 120)] == pytest.approx(
        [0, 0.25, 1, middle, 0, 0]
    )
    assert schedule(0, num_steps=10) == 1
    assert schedule(3, num_steps=3, num_warmup=3) in (0, 1)


def test_cosine_and_linear_differ_away_from_the_middle() -> None:
    assert schedules.linear(25, num_steps=100) == pytest.approx(0.75)
    assert schedules.cosine(25, num_steps=100) == pytest.approx(0.8535534)


def test_the_released_cosine_jumps_at_the_end_of_its_warm_up() -> None:
    """Its cosine counts from step 0; a cosine that starts after the warm-up would not fall."""
    factor = partial(schedules.bert_cosine, num_steps=100)

    assert [factor(0), factor(5)] == [0, 0.5]
    assert factor(9) == pytest.approx(0.9)
    assert factor(10) == pytest.approx(0.9755283)
    assert [factor(100), factor(150)] == pytest.approx([0, 0.5])


@given(st.integers(1, 50), st.integers(0, 60), st.integers(0, 50))
def test_schedules_stay_between_zero_and_one(num_steps: int, step: int, warmup: int) -> None:
    """Also past the end, and with a warm-up as long as the training."""
    num_warmup = min(warmup, num_steps)

    for schedule in (schedules.linear, schedules.cosine):
        assert 0 <= schedule(step, num_steps=num_steps, num_warmup=num_warmup) <= 1
    assert 0 <= schedules.bert_cosine(step, num_steps=num_steps) <= 1


def test_an_average_follows_its_module_slowly_and_counts_exactly() -> None:
    """Weights move by 1 - decay; a BatchNorm's counter of batches is copied, not averaged."""
    module = nn.BatchNorm1d(2)
    average = WeightAverage(module, decay=0.75)
    with torch.no_grad():
        module.weight.fill_(5.0)
        module.running_mean.fill_(8.0)
        module.num_batches_tracked.fill_(7)

    average.update(module)

    state = average.state_dict()
    assert state["weight"].tolist() == [2.0, 2.0]
    assert state["running_mean"].tolist() == [2.0, 2.0]
    assert int(state["num_batches_tracked"]) == 7
    assert module.weight.tolist() == [5.0, 5.0]


def test_a_module_borrows_the_average_and_gets_its_weights_back() -> None:
    """Even when the evaluation inside fails."""
    module = nn.Linear(1, 1)
    average = WeightAverage(module)
    start = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1.0)

    def fail_inside() -> None:
        with average.applied_to(module):
            torch.testing.assert_close(module.weight.detach(), start)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_inside()

    torch.testing.assert_close(module.weight.detach(), start + 1.0)


def test_an_average_is_saved_and_restored() -> None:
    """A checkpoint written before further steps must not change with them."""
    module = nn.Linear(2, 2)
    average = WeightAverage(module, decay=0.5)
    saved = {name: value.clone() for name, value in average.state_dict().items()}
    with torch.no_grad():
        module.weight.add_(1.0)
    average.update(module)

    restored = WeightAverage(module, decay=0.5)
    restored.load_state_dict(saved)

    torch.testing.assert_close(restored.state_dict()["weight"], saved["weight"])
    with pytest.raises(KeyError, match="bias"):
        restored.load_state_dict({"weight": saved["weight"]})
