"""Logistic regression on features of annotated voxels: against scikit-learn, applied, kept and read again."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from micronet.core.errors import InputError
from micronet.networks.kernels.boosting import logits
from micronet.networks.kernels.scale_space import features_at
from micronet.networks.pixel_trees import pixel_trees_for_state
from micronet.training.teach.linear import train_linear

ONE = (1.0, 1.0, 1.0)
SCALES = (0.7, 2.0)


@pytest.fixture
def painted(rng):
    """A volume with a bright rod, and the features of a third of its voxels."""
    lumen = np.zeros((9, 20, 24), bool)
    lumen[:, 6:12, 8:15] = True
    image = (lumen + rng.normal(0, 0.5, lumen.shape)).astype(np.float32)
    where = rng.random(lumen.shape) < 0.3
    return image, features_at(image, where, SCALES, ONE), lumen[where]


def test_it_is_the_regression_of_scikit_learn(painted):
    _, found, lumen = painted
    mean, spread = found.mean(0, dtype=np.float64), found.std(0, dtype=np.float64)
    theirs = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000).fit((found - mean) / spread, lumen)
    ours = train_linear(found, lumen, SCALES, penalty=10.0)
    expected = theirs.decision_function((found - mean) / spread)
    np.testing.assert_allclose(logits(found, ours.trees), expected, rtol=1e-3, atol=1e-4)
    assert np.mean((expected > 0) == lumen) > 0.9


def test_what_it_says_of_a_volume_is_what_it_says_of_the_features_and_a_file_keeps_it(painted):
    image, found, lumen = painted
    ours = train_linear(found, lumen, SCALES)
    everywhere = features_at(image, np.ones(image.shape, bool), SCALES, ONE)
    expected = 1 / (1 + np.exp(-logits(everywhere, ours.trees).astype(float)))
    np.testing.assert_allclose(ours.predict(image, ONE).ravel(), expected, atol=1e-6)
    state = ours.state_dict()
    assert "trees.slope" in state
    again = pixel_trees_for_state(state)
    np.testing.assert_array_equal(again.predict(image, ONE), ours.predict(image, ONE))


def test_a_feature_that_never_varies_has_no_say_and_classes_that_are_apart_have_an_end(painted):
    _, found, lumen = painted
    found[:, 3] = 7.0
    found[:, 0] = np.where(lumen, 1.0, -1.0)  # without a penalty the slope would have no bound
    slope = train_linear(found, lumen, SCALES).trees.slope
    assert slope[3] == 0
    assert 0 < slope[0] < 10


def test_one_class_is_refused(painted):
    _, found, _ = painted
    with pytest.raises(InputError, match="no voxel is annotated as lumen; lumen and background are needed"):
        train_linear(found, np.zeros(len(found), bool), SCALES)


@pytest.mark.parametrize("change", [torch.zeros(3), torch.full((11,), torch.nan)], ids=["short", "not finite"])
def test_spoilt_slopes_are_refused(painted, change):
    _, found, lumen = painted
    state = train_linear(found, lumen, SCALES).state_dict() | {"trees.slope": change}
    with pytest.raises(InputError, match=r"trees\.slope"):
        pixel_trees_for_state(state)


def test_without_slopes_there_have_to_be_trees(painted):
    _, found, lumen = painted
    state = train_linear(found, lumen, SCALES).state_dict()
    del state["trees.slope"]
    with pytest.raises(InputError, match="0 of depth 1"):
        pixel_trees_for_state(state)
