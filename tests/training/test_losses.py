import numpy as np
import pytest
import torch

from tuban.training.losses import change_loss, landcover_loss


def test_change_loss_against_numpy():
    rng = np.random.default_rng(0)
    logit = rng.normal(size=(2, 5, 5)).astype(np.float32)
    target = rng.integers(0, 2, (2, 5, 5)).astype(np.float32)
    p = 1 / (1 + np.exp(-logit.astype(float)))
    cross = -(3 * target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    dice = 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
    got = change_loss(torch.from_numpy(logit), torch.from_numpy(target), positive_weight=3, dice=0.5)
    assert float(got) == pytest.approx(cross + 0.5 * dice, rel=1e-5)


def test_unknown_pixels_have_no_gradient():
    logits = torch.zeros(1, 4, 4, requires_grad=True)
    target = torch.zeros(1, 4, 4)
    target[0, 0] = 255
    change_loss(logits, target, positive_weight=1, dice=1).backward()
    assert (logits.grad[0, 0] == 0).all()
    assert (logits.grad[0, 1:] != 0).all()


def test_a_batch_without_labels_costs_nothing():
    logits = torch.randn(1, 4, 4, requires_grad=True)
    loss = change_loss(logits, torch.full((1, 4, 4), 255.0), positive_weight=1, dice=1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert (logits.grad == 0).all()


def test_landcover_weights_are_confidence():
    logits = torch.randn(1, 3, 2, 2)
    target = torch.tensor([[[0, 1], [2, 255]]])
    weight = torch.tensor([[[1.0, 0.5], [0.0, 1.0]]])
    log_p = logits.log_softmax(1)[0]
    expected = -(log_p[0, 0, 0] + 0.5 * log_p[1, 0, 1]) / 1.5
    assert float(landcover_loss(logits, target, weight)) == pytest.approx(float(expected), rel=1e-5)
