import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, PolynomialLR

from tuban.training.schedule import factor

STEPS = 40


def rates(make) -> list[float]:
    """The learning rate at each step of torch's own schedule, relative to 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    seen = []
    for _ in range(STEPS):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("cosine", lambda o: CosineAnnealingLR(o, T_max=STEPS - 1)),
        ("poly", lambda o: PolynomialLR(o, total_iters=STEPS - 1, power=0.9)),
    ],
)
def test_against_torch(name, make):
    """Without a warm-up ours still has one step of it, so both are compared from the second step on."""
    expected = rates(make)
    got = [factor(name, step, STEPS, 0.0) for step in range(STEPS)]
    assert got[0] == 1.0
    assert got[1:] == pytest.approx(expected[:-1], abs=1e-6)


def test_one_cycle_against_torch():
    expected = rates(lambda o: OneCycleLR(o, max_lr=1.0, total_steps=STEPS, pct_start=0.3, cycle_momentum=False))
    got = [factor("onecycle", step, STEPS, 0.3) for step in range(STEPS)]
    assert got == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["cosine", "poly", "constant"])
def test_warm_up_is_linear(name):
    assert [factor(name, step, 100, 0.1) for step in range(10)] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert factor(name, 100, 100, 0.1) == (1.0 if name == "constant" else 0.0)
