"""How common lumen is, told from probabilities."""

import numpy as np
import pytest

from micronet.networks.kernels.scale_space import default_scales, features_at
from micronet.networks.kernels.tubes import TUBES
from micronet.training.teach.learners import TreesLearner
from micronet.training.teach.lesson import Lesson
from micronet.training.teach.prevalence import annotates_slices, logit_shift, prevalence


@pytest.mark.parametrize("true", [0.02, 0.1, 0.5, 0.8])
@pytest.mark.parametrize("taught", [0.2, 0.5])
def test_the_share_of_two_normal_classes_is_found(rng, true, taught):
    lumen = rng.random(200_000) < true
    value = rng.normal(0, 1, lumen.shape) + 3 * lumen
    odds = np.exp(3 * value - 4.5) * taught / (1 - taught)  # Bayes' rule at the taught share
    found = prevalence((odds / (1 + odds)).astype(np.float32), taught)
    assert found == pytest.approx(true, abs=0.006)


def test_the_shift_is_none_where_nothing_changes_and_bayes_rule_elsewhere():
    assert logit_shift(0.3, 0.3) == 0
    odds = 0.25 / 0.75  # of a voxel, taught at equal shares; at a tenth Bayes' rule divides them by nine
    assert np.exp(np.log(odds) + logit_shift(0.1, 0.5)) == pytest.approx(odds / 9)


def test_a_volume_without_lumen_has_hardly_any():
    assert prevalence(np.full(1000, 0.01, np.float32), 0.5) == 1e-4


def test_slices_and_strokes_are_told_apart():
    labels = np.zeros((10, 30, 40), np.uint8)
    assert not annotates_slices(labels)
    labels[[2, 5], 4:8, 4:20] = 1
    assert not annotates_slices(labels)
    labels[:, 7] = 2
    assert annotates_slices(np.where(np.arange(30)[:, None] == 7, labels, 0))
    labels[2] = 2
    assert annotates_slices(labels)  # most of it is the slice along Z, with a few strokes beside it
    labels[3:] = 0
    labels[:2] = 0
    assert annotates_slices(labels)


def test_strokes_of_equal_number_do_not_make_lumen_common(rng):
    _, y, x = np.indices((20, 48, 48))
    mask = (y - 24) ** 2 + (x - 24) ** 2 < 25  # 3 % of the volume
    image = (mask + rng.normal(0, 0.45, mask.shape)).astype(np.float32)
    labels = np.zeros(mask.shape, np.uint8)
    labels[[4, 10, 16], 21:28, 22:26] = 1
    labels[[4, 10, 16], 5:12, 4:10] = 2
    lesson = Lesson(image, labels, (1.0, 1.0, 1.0))
    learned = np.ones(len(lesson.lumen), bool)
    scales = default_scales(lesson.spacing_um)
    taught = TreesLearner().learn(lesson, learned, 0)
    found = features_at(image, lesson.annotated, scales, lesson.spacing_um)
    assert taught.features.shape == (len(found), found.shape[1] + TUBES)
    before = np.abs(np.mean(taught.everywhere() > 0.5) - mask.mean())
    after = taught.for_the_volume()
    assert np.abs(np.mean(after.everywhere() > 0.5) - mask.mean()) < before
    assert after.trees.trees.start < taught.trees.trees.start
