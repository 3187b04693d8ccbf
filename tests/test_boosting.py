"""Boosted trees on features: by hand, and against themselves on stored features."""

import numpy as np
import pytest

from micronet.core.errors import InputError
from micronet.networks.kernels.boosting import Trees, boost, logits
from micronet.networks.kernels.scale_space import features, tree_sum
from micronet.networks.kernels.tubes import with_tubes

ONE = (1.0, 1.0, 1.0)


def test_two_questions_make_four_leaves_by_hand():
    feature = np.array([[0, 1], [1, 1]], np.int32)
    threshold = np.array([[0.5, 2.0], [0.0, 1.0]], np.float32)
    value = np.array([[1, 2, 4, 8], [10, 20, 40, 80]], np.float32)
    rows = np.array([[0.5, 2.0], [0.6, 2.0], [0.0, 2.1], [1.0, 3.0]], np.float32)  # above a threshold, not at it
    expected = [0.5 + 1 + 80, 0.5 + 2 + 80, 0.5 + 4 + 80, 0.5 + 8 + 80]
    np.testing.assert_array_equal(logits(rows, Trees(feature, threshold, value, 0.5)), np.float32(expected))


def test_one_tree_by_hand():
    found = np.arange(100, dtype=np.float32)[:, None]
    lumen = np.arange(100) >= 60
    trees = boost(found, lumen, trees=1, depth=1, rate=1.0, penalty=0.0)
    # Start at log(0.4 / 0.6); p = 0.4: below, g = 0.4 and h = 0.24 a voxel, above g = -0.6.
    assert trees.start == pytest.approx(np.log(0.4 / 0.6), rel=1e-6)
    assert 58 < trees.threshold[0, 0] < 60.5
    pure = logits(found, trees)[[0, 99]] - trees.start
    np.testing.assert_allclose(pure, [-0.4 / 0.24, 0.6 / 0.24], rtol=0.05)


def test_weights_and_likely_lumen_by_hand():
    found = np.arange(100, dtype=np.float32)[:, None]
    likely = np.where(np.arange(100) >= 50, 0.9, 0.1).astype(np.float32)
    trees = boost(found, likely, trees=1, depth=1, rate=1.0, penalty=0.0)
    # Start at 0; p = 0.5: g = 0.4 below, -0.4 above, h = 0.25 a voxel.
    assert trees.start == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(logits(found, trees)[[0, 99]], [-1.6, 1.6], rtol=0.1)
    weight = np.where(np.arange(100) >= 50, 3, 1).astype(np.float32)
    assert boost(found, likely, weight=weight, trees=1).start == pytest.approx(np.log(0.7 / 0.3), rel=1e-5)


def test_to_count_twice_is_to_halve_the_penalty(rng):
    found, lumen = rng.normal(size=(500, 4)).astype(np.float32), rng.random(500) < 0.3
    twice = boost(found, lumen, weight=np.full(500, 2, np.float32), trees=4, penalty=6.0)
    once = boost(found, lumen, trees=4, penalty=3.0)
    np.testing.assert_array_equal(twice.feature, once.feature)
    np.testing.assert_allclose(twice.value, once.value, rtol=1e-4, atol=1e-6)


def test_what_no_single_threshold_tells_apart_is_learned(rng):
    found = rng.uniform(-1, 1, (3000, 5)).astype(np.float32)
    lumen = (found[:, 1] > 0) != (found[:, 3] > 0.2)
    unseen = rng.uniform(-1, 1, (1000, 5)).astype(np.float32)
    told = logits(unseen, boost(found, lumen, trees=60)) > 0
    assert np.mean(told == ((unseen[:, 1] > 0) != (unseen[:, 3] > 0.2))) > 0.96


def test_the_same_seed_gives_the_same_bits_and_another_does_not(rng):
    found, lumen = rng.normal(size=(4000, 9)).astype(np.float32), rng.random(4000) < 0.3
    first = boost(found, lumen, trees=5, batch=1000, seed=1)
    for one, other in zip(first[:3], boost(found, lumen, trees=5, batch=1000, seed=1)[:3], strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first.value, boost(found, lumen, trees=5, batch=1000, seed=2).value)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("tubes", [False, True])
def test_the_sum_over_a_volume_is_that_on_stored_features(rng, threads, tubes):
    volume = rng.normal(size=(9, 70, 21)).astype(np.float32)
    found = features(volume, (1.0, 2.0), ONE).reshape(11, -1).T
    if tubes:
        found = with_tubes(found.T).T
    trees = boost(found, found[:, 1] > 0.2 + found[:, -1 if tubes else 7], trees=20)
    assert (trees.feature.max() > 10) == tubes
    expected = 1 / (1 + np.exp(-logits(found, trees).astype(np.float64)))
    out = np.empty_like(volume)
    assert tree_sum(volume, (1.0, 2.0), ONE, trees, out, threads) is out
    np.testing.assert_allclose(out.ravel(), expected, atol=1e-6)


def test_few_voxels_and_features_without_spread_are_learned_from():
    found = np.zeros((2, 3), np.float32)
    found[1, 2] = 1
    trees = boost(found, np.array([False, True]), trees=40, penalty=0.1)
    assert np.isfinite(trees.value).all()
    low, high = logits(found, trees)
    assert low < 0 < high


def test_one_class_alone_and_features_that_are_not_there_are_refused(rng):
    found = rng.normal(size=(20, 6)).astype(np.float32)
    with pytest.raises(InputError, match="no voxel is annotated as background"):
        boost(found, np.ones(20, bool))
    trees = boost(found, found[:, 0] > 0, trees=2)
    trees.feature[0, 0] = 12
    with pytest.raises(InputError, match=r"trees ask for features \d to 12, there are 12"):
        tree_sum(np.zeros((4, 5, 6), np.float32), (1.0,), ONE, trees)


def test_trees_are_grown_on_the_voxels_of_few_places_at_a_time(rng):
    """Feature 0 tells lumen sharply at one place of ten and nowhere else, feature 1 a little of it everywhere."""
    places = np.repeat(np.arange(10), 60)
    lumen = rng.random(600) < 0.5
    found = rng.standard_normal((600, 2)).astype(np.float32)
    found[:, 1] += 0.3 * lumen
    found[places == 0, 0] += 20.0 * lumen[places == 0]
    asked = [boost(found, lumen, trees=10, depth=1, places=each, seed=3).feature for each in (None, places)]
    assert (asked[0] == 0).mean() > (asked[1] == 0).mean() + 0.15
    one = boost(found, lumen, trees=5, places=np.zeros(600, np.intp), seed=3)  # of no place, of all: every voxel
    for first, other in zip(one[:3], boost(found, lumen, trees=5, seed=3)[:3], strict=True):
        np.testing.assert_array_equal(first, other)
