from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuban.training import losses

SIZE = 6


def binary(seed: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """Logits, target with unknown pixels, and as float64: probability, truth and what is known."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=(2, SIZE, SIZE))
    target = rng.choice([0.0, 1.0, 255.0], (2, SIZE, SIZE), p=[0.6, 0.3, 0.1])
    probability = 1 / (1 + np.exp(-logit))
    return torch.tensor(logit).float(), torch.tensor(target).float(), probability, target == 1, target != 255


def many(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=(2, 3, SIZE, SIZE))
    target = rng.choice([0, 1, 2, 255], (2, SIZE, SIZE))
    weight = rng.random((2, SIZE, SIZE))
    probability = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    return torch.tensor(logit).float(), torch.tensor(target), torch.tensor(weight).float(), probability


def test_cross_entropy_and_focal_against_their_formulas():
    logits, target, p, truth, known = binary(0)
    right = np.where(truth, p, 1 - p)
    expected = (np.where(truth, 3.0, 1.0) * -np.log(right))[known].mean()
    assert float(losses.bce(logits, target, positive_weight=3.0)) == pytest.approx(expected, rel=1e-5)
    expected = ((1 - right) ** 2 * -np.log(right))[known].mean()
    assert float(losses.binary_focal(logits, target, gamma=2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(losses.binary_focal(logits, target, gamma=0.0)) == pytest.approx(float(losses.bce(logits, target)))


def test_dice_against_its_formula():
    logits, target, p, truth, known = binary(1)
    overlap = 2 * (p * truth)[known].sum() + 1
    expected = 1 - overlap / (p[known].sum() + truth[known].sum() + 1)
    assert float(losses.binary_dice(logits, target)) == pytest.approx(expected, rel=1e-5)


def lovasz_extension(errors: np.ndarray, truth: np.ndarray) -> float:
    """The definition: the Jaccard loss of the set of errors above a level, integrated over all levels."""
    levels = sorted({0.0, *np.maximum(errors, 0)})
    total = 0.0
    for low, high in pairwise(levels):
        wrong = errors >= high
        union = (truth | wrong).sum()  # missed and falsely called pixels are those in `wrong`
        total += (high - low) * (wrong.sum() / union if union else 0.0)
    return total


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_lovasz_is_the_integral_of_the_jaccard_loss(seed):
    logits, target, _, truth, known = binary(seed)
    expected = [
        lovasz_extension((1 - image * np.where(t, 1, -1))[k], t[k])
        for image, t, k in zip(logits.double().numpy(), truth, known, strict=True)
    ]
    assert float(losses.lovasz_hinge(logits, target)) == pytest.approx(np.mean(expected), rel=1e-4, abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_lovasz_softmax_over_the_classes_present(seed):
    logits, target, _, probability = many(seed)
    labels = target.numpy()
    parts = []
    for image, label in zip(probability, labels, strict=True):
        known = label != 255
        parts += [
            lovasz_extension(np.abs((label == c) - image[c])[known], (label == c)[known])
            for c in range(3)
            if (label == c).any()
        ]
    got = losses.lovasz_softmax(logits, target, torch.ones_like(target).float())
    assert float(got) == pytest.approx(np.mean(parts), rel=1e-4, abs=1e-5)


def brute_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the nearest pixel of the other kind; inside, the outline itself is at 0."""
    result = np.zeros(mask.shape)
    places = np.argwhere(np.ones_like(mask))
    for row, column in places:
        other = np.argwhere(mask != mask[row, column])
        nearest = np.sqrt(((other - (row, column)) ** 2).sum(1)).min()
        result[row, column] = -(nearest - 1) if mask[row, column] else nearest
    return result


def test_boundary_against_brute_force():
    logits, target, p, truth, known = binary(2)
    distance = np.stack([brute_distance(mask) for mask in truth])
    np.testing.assert_allclose(losses.signed_distance(torch.tensor(truth)).numpy(), distance, atol=1e-6)
    expected = (p * distance / SIZE)[known].mean()
    assert float(losses.boundary(logits, target)) == pytest.approx(expected, rel=1e-5)


def test_boundary_leaves_out_crops_without_an_outline():
    logits, target, *_ = binary(3)
    alone = losses.boundary(logits[:1], target[:1])
    target[1] = 0
    assert float(losses.boundary(logits, target)) == pytest.approx(float(alone), rel=1e-6)


def test_classes_weigh_by_confidence_and_class():
    logits, target, weight, probability = many(4)
    labels, known = target.numpy(), target.numpy() != 255
    class_weight = torch.tensor([1.0, 2.0, 0.5])
    index = np.where(known, labels, 0)
    right = np.take_along_axis(probability, index[:, None], 1)[:, 0]
    w = weight.numpy() * known * class_weight.numpy()[index]
    assert float(losses.cross_entropy(logits, target, weight, class_weight=class_weight)) == pytest.approx(
        (w * -np.log(right)).sum() / w.sum(), rel=1e-5
    )
    focal = losses.focal(logits, target, weight, gamma=2.0, class_weight=class_weight)
    assert float(focal) == pytest.approx((w * (1 - right) ** 2 * -np.log(right)).sum() / w.sum(), rel=1e-5)
    plain = weight.numpy() * known
    terms = []
    for c in range(3):
        truth = (labels == c) * plain
        overlap = 2 * (truth * probability[:, c]).sum() + 1
        terms.append(1 - overlap / ((plain * probability[:, c]).sum() + truth.sum() + 1))
    assert float(losses.dice(logits, target, weight)) == pytest.approx(np.mean(terms), rel=1e-5)


BINARY = {
    "bce": lambda x, t: losses.bce(x, t, positive_weight=2.0),
    "focal": lambda x, t: losses.binary_focal(x, t, gamma=2.0),
    "dice": losses.binary_dice,
    "lovasz": losses.lovasz_hinge,
    "boundary": losses.boundary,
}
CLASSES = {
    "ce": losses.cross_entropy,
    "focal": lambda x, t, w: losses.focal(x, t, w, gamma=2.0),
    "dice": losses.dice,
    "lovasz": losses.lovasz_softmax,
    "boundary": losses.landcover_boundary,
}


@pytest.mark.parametrize("name", BINARY)
def test_unknown_pixels_have_no_gradient_and_nothing_known_costs_nothing(name):
    logits, target, *_ = binary(5)
    logits.requires_grad_(True)
    BINARY[name](logits, target).backward()
    assert (logits.grad[target == 255] == 0).all()
    assert (logits.grad[target != 255] != 0).any()
    nothing = BINARY[name](logits, torch.full_like(target, 255))
    logits.grad = None
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", CLASSES)
def test_unknown_classes_have_no_gradient(name):
    logits, target, weight, _ = many(6)
    weight[:, 0] = 0
    logits.requires_grad_(True)
    CLASSES[name](logits, target, weight).backward()
    unseen = ((target == 255) | (weight == 0))[:, None].expand_as(logits)
    assert (logits.grad[unseen] == 0).all()
    assert (logits.grad[~unseen] != 0).any()


@pytest.mark.parametrize("name", [*BINARY, *CLASSES])
def test_a_better_answer_costs_less(name):
    if name in BINARY:
        _, target, *_ = binary(7)
        sign = torch.where(target == 1, 1.0, -1.0)
        good, bad = (BINARY[name](scale * sign, target) for scale in (4.0, -4.0))
        assert good < bad
    if name in CLASSES:
        _, target, weight, _ = many(7)
        truth = torch.nn.functional.one_hot(torch.where(target == 255, 0, target), 3).movedim(-1, 1).float()
        good, bad = (CLASSES[name](scale * truth, target, weight) for scale in (4.0, -4.0))
        assert good < bad


def test_agreement_counts_sure_pixels_only():
    teacher = torch.tensor([[[[0.95, 0.6]], [[0.05, 0.4]]]])
    student = torch.tensor([[[[0.75, 0.1]], [[0.25, 0.9]]]])
    got = losses.agreement(student, teacher, torch.ones(1, 1, 2), confidence=0.9)
    assert float(got) == pytest.approx(2 * 0.2**2, rel=1e-5)
    assert float(losses.agreement(student, teacher, torch.zeros(1, 1, 2), confidence=0.9)) == 0
