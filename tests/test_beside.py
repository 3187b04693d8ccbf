"""Strokes of correction beside whole slices: what they count, and that they make no learner worse."""

import numpy as np
import pytest

from micronet.networks.evening import evened
from micronet.training.teach.beside import AGREED, corrections
from micronet.training.teach.learners import TreesLearner
from micronet.training.teach.lesson import Lesson

ONE = (1.0, 1.0, 1.0)


def slice_of_both(shape, plane):
    labels = np.zeros(shape, np.uint8)
    labels[plane] = 2
    labels[plane, 3:9, 3:9] = 1
    return labels


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_rest_of_a_corrected_slice_is_agreed(axis):
    labels = slice_of_both((24, 30, 40), 4)
    labels[8, 2:22, 2:22] = 2
    labels[8, 25, 25:35] = 1
    found = corrections(np.moveaxis(labels, 0, axis))
    whole, agreed = np.zeros(labels.shape, bool), np.moveaxis(found.agreed, axis, 0)
    np.moveaxis(whole, 0, axis)[np.moveaxis(labels, 0, axis) > 0] = found.whole
    assert whole[4].all()
    assert not whole[8].any()
    left = np.zeros(labels.shape, bool)
    left[8] = labels[8] == 0
    assert not (agreed & ~left).any()
    assert found.agreed_weight * agreed.sum() == pytest.approx(AGREED * left.sum())


def test_of_many_large_corrected_slices_a_sample_is_asked():
    labels = slice_of_both((30, 200, 200), 0)
    labels[5:30, 100, 50:60] = 2
    found = corrections(labels)
    planes = np.flatnonzero(found.agreed.any(axis=(1, 2)))
    assert (len(planes), planes[0], planes[-1]) == (12, 5, 29)
    assert np.count_nonzero(found.agreed) == 40_000
    assert found.agreed_weight == pytest.approx(AGREED * 25 * (40_000 - 10) / 40_000)


def test_slices_alone_strokes_alone_and_a_slice_of_one_class_have_no_corrections():
    labels = slice_of_both((12, 20, 20), 4)
    assert corrections(labels) is None
    strokes = np.zeros_like(labels)
    strokes[2, 3, 3:9], strokes[7, 3, 3:9] = 1, 2
    assert corrections(strokes) is None
    labels[4] = 2
    labels[8, 3, 3:9] = 1
    assert corrections(labels) is None


def test_corrections_of_errors_alone_do_not_make_the_rest_worse(rng):
    z, y, x = np.indices((16, 64, 64))
    mask = (y - 30 - z) ** 2 + (x - 32) ** 2 < 150
    image = (mask + rng.normal(0, 1.0, mask.shape)).astype(np.float32)
    labels = np.zeros(mask.shape, np.uint8)
    labels[8] = np.where(mask[8], 1, 2)
    learner, everything = TreesLearner(trees=40), np.ones(64 * 64, bool)

    def dice(lesson, plain=False):
        if plain:
            lesson.__dict__["corrections"] = None  # as if strokes were a sample like any other
        taught = learner.learn(lesson, np.ones(len(lesson.lumen), bool), 0).everywhere() > 0.5
        free = lesson.labels == 0
        return 2 * (taught & mask & free).sum() / ((taught & free).sum() + (mask & free).sum())

    first = learner.learn(Lesson(image, labels, ONE), everything, 0).everywhere() > 0.5
    before = dice(Lesson(image, labels, ONE))
    edited = labels.copy()
    for plane in (3, 12):  # all that was wrongly called lumen there, and nothing else
        edited[plane][first[plane] & ~mask[plane]] = 2
    after, plain = dice(Lesson(image, edited, ONE)), dice(Lesson(image, edited, ONE), plain=True)
    assert plain < after
    assert after > before - 0.003


def test_what_was_corrected_is_learned(rng):
    """Lumen that no whole slice has shown: dark, with a rim."""
    z, y, x = np.indices((16, 64, 64))
    bright, dark = (y - 15) ** 2 + (x - 20) ** 2 < 60, (y - 45) ** 2 + (x - 40) ** 2 < 60
    dark &= z > 9
    image = (rng.normal(0, 0.2, dark.shape) + 2 * bright - 2 * dark).astype(np.float32)
    labels = np.zeros(dark.shape, np.uint8)
    labels[5] = np.where(bright[5], 1, 2)
    learner = TreesLearner(trees=60)
    edited = labels.copy()
    edited[12][dark[12]] = 1
    lesson = Lesson(image, edited, ONE)
    found = learner.learn(lesson, np.ones(len(lesson.lumen), bool), 0).everywhere()
    assert (found[14][dark[14]] > 0.5).mean() > 0.9
    assert (found[14][bright[14]] > 0.5).mean() > 0.9
    assert (found[14][~bright[14] & ~dark[14]] > 0.5).mean() < 0.05


def test_of_many_corrected_voxels_a_part_is_learned_from_which_counts_for_all(rng, monkeypatch):
    monkeypatch.setattr("micronet.training.teach.learners.MOST_FITTED", 400)
    image = rng.normal(size=(12, 40, 40)).astype(np.float32)
    image[:, 3:9, 3:9] += 4
    labels = slice_of_both(image.shape, 4)
    labels[8, :20] = 2
    labels[8, 3:9, 3:9] = 1
    lesson = Lesson(image, labels, ONE)
    found = TreesLearner(trees=20).learn(lesson, np.ones(len(lesson.lumen), bool), 0).everywhere()
    assert ((found[10] > 0.5) == (labels[4] == 1)).mean() > 0.97


def test_the_same_seed_gives_the_same_trees(rng):
    image = rng.normal(size=(12, 40, 40)).astype(np.float32)
    labels = slice_of_both(image.shape, 4)
    labels[8, 3, 3:9] = 1
    lesson = Lesson(evened(image, ONE, 10.0), labels, ONE)
    everything = np.ones(len(lesson.lumen), bool)
    first, second = (TreesLearner(trees=5).learn(lesson, everything, 3).everywhere() for _ in range(2))
    np.testing.assert_array_equal(first, second)
