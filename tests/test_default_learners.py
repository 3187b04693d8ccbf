"""The learners that a volume is taught with, and what they are put into."""

import numpy as np
import pytest
import torch

from micronet.networks.taught import taught_for_state
from micronet.training.teach import course
from micronet.training.teach.course import default_learners, teach
from micronet.training.teach.learners import TreesLearner
from micronet.training.teach.lesson import Lesson


def fading(rng, side=48) -> Lesson:
    """A bright tube in 9 thick planes, each darker than the one before, of which the middle one is annotated."""
    z, y, x = np.indices((9, side, side))
    mask = (y - side // 2) ** 2 + (x - side // 2 - 3 * (z - 4)) ** 2 < 40
    labels = np.zeros(mask.shape, np.uint8)
    labels[4] = np.where(mask[4], 1, 2)
    image = (1 + mask + rng.normal(0, 0.15, mask.shape)) * 0.75**z
    return Lesson(image.astype(np.float32), labels, (5.0, 1.0, 1.0))


def test_thick_planes_are_evened_and_looked_at_finely_too(rng):
    lesson = fading(rng)
    assert [learner.name for learner in default_learners(lesson)] == [
        "pixel trees",
        "pixel trees, evened",
        "pixel trees, evened, 4 scales",
    ]
    isotropic = Lesson(lesson.image, lesson.labels, (1.0, 1.0, 1.0))
    assert [learner.name for learner in default_learners(isotropic)] == ["pixel trees", "pixel trees, evened"]


def test_what_a_plane_teaches_evened_holds_in_darker_planes(rng):
    lesson = fading(rng)
    truth = np.indices(lesson.image.shape)
    mask = (truth[1] - 24) ** 2 + (truth[2] - 12 - 3 * truth[0]) ** 2 < 40
    everything = np.ones(len(lesson.lumen), bool)

    def dice(learner) -> float:
        predicted = learner.learn(lesson, everything, 0).everywhere() > 0.5
        return 2 * np.count_nonzero(predicted & mask) / (np.count_nonzero(predicted) + np.count_nonzero(mask))

    assert dice(TreesLearner(trees=40, around=20.0)) > 0.8
    assert dice(TreesLearner(trees=40)) < 0.7


@pytest.mark.parametrize("seed", [3])
def test_the_same_seed_gives_the_same_weights_and_a_file_gives_the_same_mask(rng, seed, monkeypatch):
    monkeypatch.setattr(course, "_STEPS", 4)  # of the µ-Net, whose steps are all alike
    monkeypatch.setattr(course, "_MOST_VOXELS", 100_000)
    lesson = fading(rng, side=32)
    first, second = (teach(lesson, seed).network for _ in range(2))
    state = first.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in second.state_dict().items())
    assert state["trees.1.around_um"].tolist() == [40.0]
    again = taught_for_state(state).predict(lesson.image, lesson.spacing_um)
    np.testing.assert_array_equal(again, first.predict(lesson.image, lesson.spacing_um))
