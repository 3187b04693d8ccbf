"""F-beta loss and overlap scores, on numbers worked by hand."""

import numpy as np
import pytest
import torch

from micronet.core.errors import InputError
from micronet.measure.overlap import Overlap, overlap
from micronet.training.losses import fbeta_loss

# tp 3, fp 1, fn 2
PREDICTED = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
TARGET = torch.tensor([1, 1, 1, 0, 1, 1, 0], dtype=torch.bool)


@pytest.mark.parametrize(("beta_squared", "score"), [(1.0, 2 / 3), (4.0, 0.625), (0.25, 15 / 21)])
def test_loss_of_a_binary_prediction_is_one_minus_f_beta(beta_squared, score):
    assert float(fbeta_loss(PREDICTED, TARGET, beta_squared)) == pytest.approx(1 - score, abs=1e-6)


def test_soft_prediction_counts_by_its_probability():
    probability, target = torch.tensor([0.5, 0.25]), torch.tensor([True, False])
    # tp 0.5, fp 0.25, fn 0.5: F = 2*0.5 / (2*0.5 + 0.5 + 0.25)
    assert float(fbeta_loss(probability, target)) == pytest.approx(1 - 1 / 1.75, abs=1e-6)


def test_beta_squared_below_one_favours_precision():
    precise, complete = torch.tensor([1.0, 0, 0, 0]), torch.tensor([1.0, 1, 1, 1])
    target = torch.tensor([True, True, False, False])  # precise: P 1 R 1/2; complete: P 1/2 R 1

    assert fbeta_loss(precise, target, 0.5) < fbeta_loss(complete, target, 0.5)
    assert fbeta_loss(precise, target, 2.0) > fbeta_loss(complete, target, 2.0)


@pytest.mark.parametrize(
    ("probability", "target", "expected"),
    [([0.0, 0.0], [False, False], 0.0), ([0.0, 0.5], [False, False], 1.0), ([0.0, 0.0], [True, False], 1.0)],
)
def test_empty_cases_are_defined_and_differentiable(probability, target, expected):
    p = torch.tensor(probability, requires_grad=True)
    loss = fbeta_loss(p, torch.tensor(target))
    loss.backward()

    assert loss.item() == expected
    assert torch.isfinite(p.grad).all()


def test_voxels_of_weight_zero_do_not_count():
    weight = torch.tensor([1.0, 1, 1, 0, 0, 1, 1])  # drops the false positive and one false negative
    expected = fbeta_loss(PREDICTED[weight > 0], TARGET[weight > 0], 0.5)

    assert float(fbeta_loss(PREDICTED, TARGET, 0.5, weight)) == pytest.approx(float(expected), abs=1e-7)


def test_gradient_is_that_of_float64_finite_differences(rng):
    p = torch.tensor(rng.random(20), requires_grad=True)
    t, w = torch.tensor(rng.random(20) > 0.5), torch.tensor(rng.random(20))

    assert torch.autograd.gradcheck(lambda q: fbeta_loss(q, t, 0.5, w), (p,))


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("beta_squared", [0.5, 1.0, 2.0])
def test_float32_gives_the_loss_and_the_gradient_of_float64(rng, kind, weighted, beta_squared):
    shape = (2, 1, 33, 47, 61)  # more than one piece, and not a whole number of them
    exact = torch.tensor(rng.random(shape), requires_grad=True)
    chances = exact.detach().float().transpose(2, 4).contiguous().transpose(2, 4).requires_grad_()  # strides differ
    target = torch.tensor(rng.random(shape) > 0.9).to(kind)
    weight = torch.tensor(rng.random(shape)) if weighted else None
    expected = fbeta_loss(exact, target, beta_squared, weight)
    loss = fbeta_loss(chances, target, beta_squared, None if weight is None else weight.float())
    (3 * expected).backward()
    (3 * loss).backward()

    assert loss.item() == pytest.approx(expected.item(), abs=1e-7)
    assert torch.allclose(chances.grad.double(), exact.grad, rtol=1e-6, atol=0)


def test_loss_refuses_shapes_that_differ_and_a_beta_that_is_not_positive():
    with pytest.raises(InputError, match=r"differ in shape: \[\(7,\), \(6,\)\]"):
        fbeta_loss(PREDICTED, TARGET[:6])
    with pytest.raises(InputError, match="beta squared must be positive, found 0"):
        fbeta_loss(PREDICTED, TARGET, 0)


def test_overlap_counts_and_scores():
    scores = overlap(PREDICTED.numpy() > 0.5, TARGET.numpy())

    assert scores == Overlap(3, 1, 2)
    assert (scores.precision, scores.recall) == (0.75, 0.6)
    assert scores.f_score() == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert scores.f_score(0.25) == pytest.approx(15 / 21)


@pytest.mark.parametrize(
    ("counts", "precision", "recall", "f"),
    [((0, 0, 0), 1, 1, 1), ((0, 4, 0), 0, 0, 0), ((0, 0, 4), 0, 0, 0)],
)
def test_empty_masks_have_defined_scores(counts, precision, recall, f):
    scores = Overlap(*counts)

    assert (scores.precision, scores.recall, scores.f_score()) == (precision, recall, f)


def test_overlap_counts_annotated_voxels_only():
    counted = np.array([1, 1, 1, 0, 0, 1, 1], dtype=bool)

    assert overlap(PREDICTED.numpy() > 0.5, TARGET.numpy(), counted) == Overlap(3, 0, 1)


def test_overlap_refuses_probabilities():
    with pytest.raises(InputError, match=r"takes bool masks of one shape, found float32 \(7,\), bool \(7,\)"):
        overlap(PREDICTED.numpy(), TARGET.numpy())
