"""Tube responses: their definition, and what a few strokes of thin vessels teach with them."""

import numpy as np

from micronet.networks.kernels.scale_space import feature_count, features
from micronet.networks.kernels.tubes import TUBES, with_tubes
from micronet.training.teach.learners import TreesLearner
from micronet.training.teach.lesson import Lesson

ONE = (1.0, 1.0, 1.0)


def test_responses_are_those_of_the_scale_that_says_most():
    rows = np.zeros((feature_count(2), 3), np.float32)
    # Eigenvalues, ascending, of three voxels: a bright tube, a dark sheet, and one that is a tube at both scales.
    rows[3:6] = np.array([[-4, -1, 0], [0, 0, 2], [-9, -4, 0]]).T
    rows[8:11] = np.array([[-1, -1, 5], [0, 0, 3], [-2, -2, 0]]).T
    found = with_tubes(rows)
    np.testing.assert_array_equal(found[: len(rows)], rows)
    bright_tube, dark_sheet, both = found[len(rows) :].T
    np.testing.assert_allclose(bright_tube, [1, 2, 4, 0, 0, 5])
    np.testing.assert_allclose(dark_sheet, [0, 0, 0, 0, 0, 3])
    np.testing.assert_allclose(both, [4, 6, 9, 0, 0, 0])


def test_bright_and_dark_change_places_in_the_negative_image(rng):
    image = rng.normal(size=(6, 9, 11)).astype(np.float32)
    bright, dark = (with_tubes(features(i, (1.0, 2.0), ONE).reshape(11, -1))[-TUBES:] for i in (image, -image))
    np.testing.assert_allclose(bright[:3], dark[3:], atol=1e-6)
    np.testing.assert_allclose(bright[3:], dark[:3], atol=1e-6)


def test_a_tube_responds_on_its_axis_more_than_a_plane_and_less_at_its_side():
    _, y, x = np.indices((24, 31, 31))
    tube = (((y - 15) ** 2 + (x - 15) ** 2) < 9).astype(np.float32)
    found = with_tubes(features(tube, (1.0, 2.0, 4.0), ONE).reshape(16, -1))[-TUBES:].reshape(TUBES, *tube.shape)
    sheet = (np.abs(x - 15) < 3).astype(np.float32)
    flat = with_tubes(features(sheet, (1.0, 2.0, 4.0), ONE).reshape(16, -1))[-TUBES:].reshape(TUBES, *tube.shape)
    on_axis = found[0, 12, 15, 15]
    assert on_axis > 0.3
    assert flat[0, 12, 15, 15] < 0.01 < flat[2, 12, 15, 15]
    assert found[0, 12, 15, 25] < 0.1 * on_axis


def test_thick_planes_are_learned_from_without_them(rng):
    labels = np.zeros((6, 20, 20), np.uint8)
    labels[3] = 2
    labels[3, 5:9] = 1
    image = np.asarray((np.indices(labels.shape)[1] // 4 == 1) + rng.normal(0, 0.3, labels.shape), np.float32)
    for spacing_um, count in (((1.0, 1.0, 1.0), feature_count(6) + TUBES), ((5.0, 1.0, 1.0), feature_count(6))):
        lesson = Lesson(image, labels, spacing_um)
        taught = TreesLearner(trees=3).learn(lesson, np.ones(400, bool), seed=0)
        assert taught.features.shape == (400, count)
        everywhere = taught.everywhere()[lesson.annotated]
        np.testing.assert_allclose(taught.at(np.ones(400, bool)), everywhere, atol=1e-5)
