"""Scores of classes of images: by hand, and as scikit-learn has them."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from micronet.measure.presence import average_precision, class_scores


def test_average_precision_is_the_number_worked_by_hand():
    # Ranked: hit, miss, hit, hit, miss. Precision at the hits 1, 2/3, 3/4; the recall rises by a third each time.
    labels = np.array([True, False, True, True, False])
    assert average_precision(labels, np.array([0.9, 0.8, 0.7, 0.6, 0.1])) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    # All equal: one rank, at which the precision is the share of hits.
    assert average_precision(labels, np.full(5, 0.5)) == pytest.approx(3 / 5)


def test_average_precision_of_a_class_that_is_nowhere_is_no_number():
    assert math.isnan(average_precision(np.zeros(3, bool), np.array([0.1, 0.2, 0.3])))


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(5, 60))
    labels = (rng.random((count, 3)) < 0.4).astype(np.int8)
    labels[0], labels[1] = 1, 0
    probability = np.round(np.clip(rng.normal(0.4 + 0.2 * labels, 0.3), 0, 1), 1)  # many are equal
    for number, one in enumerate(class_scores(["a", "b", "c"], labels, probability, 0.5)):
        truth, told = labels[:, number], probability[:, number]
        assert one.average_precision == pytest.approx(average_precision_score(truth, told))
        said = told > 0.5
        assert one.f1 == pytest.approx(f1_score(truth, said, zero_division=0))
        assert one.overlap.precision == pytest.approx(precision_score(truth, said, zero_division=0))
        assert one.overlap.recall == pytest.approx(recall_score(truth, said, zero_division=0))
        assert (one.positives, one.negatives) == ((truth == 1).sum(), (truth == 0).sum())


def test_what_nobody_labelled_does_not_count():
    labels = np.array([[1], [0], [-1]], np.int8)
    (one,) = class_scores(["a"], labels, np.array([[0.9], [0.1], [0.9]]))
    assert (one.overlap.true_positives, one.overlap.false_positives, one.positives, one.negatives) == (1, 0, 1, 1)
