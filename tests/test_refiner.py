"""A µr-Net that starts from what pixel learners say."""

import numpy as np
import pytest
import torch

from micronet.core.errors import InputError
from micronet.networks.taught import Taught, taught_for_state
from micronet.training.teach.learners import TreesLearner
from micronet.training.teach.lesson import Lesson
from micronet.training.teach.refiner import MicroRNetLearner


@pytest.fixture(autouse=True)
def one_thread():
    """Others of a busy machine are waited for in vain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Watched(TreesLearner):
    """Pixel trees that remember which voxels they were taught."""

    def __init__(self):
        super().__init__(trees=10)
        self.seen = []

    def learn(self, lesson, learned, seed):
        self.seen.append(learned)
        return super().learn(lesson, learned, seed)


@pytest.fixture
def lesson(rng) -> Lesson:
    """A bright tube along Z in 8 thick planes, of which two are annotated."""
    z, y, x = np.indices((8, 44, 44))
    mask = (y - 22 - z) ** 2 + (x - 22) ** 2 < 60
    labels = np.zeros(mask.shape, np.uint8)
    labels[[2, 5]] = np.where(mask[[2, 5]], 1, 2)
    return Lesson((mask + rng.normal(0, 0.4, mask.shape)).astype(np.float32), labels, (4.0, 1.0, 1.0))


def test_it_refines_what_was_said_by_who_was_not_taught_it_and_starts_from_who_was_taught_all(lesson):
    pixels, told, everything = Watched(), [], np.ones(len(lesson.lumen), bool)
    taught = MicroRNetLearner([pixels], steps=8, around=10.0, on_step=told.append).learn(lesson, everything, 1)
    white, black, whole = pixels.seen
    assert (white ^ black).all()
    assert whole.all()
    plane = np.zeros(lesson.labels.shape, bool)
    plane[lesson.annotated] = white
    assert not plane[2, :20, :20].any()  # z 8 to 11 µm, y and x 0 to 19 µm: a white block, held out for it
    assert plane[2, :20, 20:40].all()
    assert [member.kind for member in taught.members()] == ["trees", "urnet"]
    assert [member.weight for member in taught.members()] == [0.0, 1.0]
    assert (len(told), taught.member.around_um) == (8, 10.0)
    np.testing.assert_array_equal(taught.at(lesson.lumen), taught.everywhere()[lesson.labels == 1])


def test_a_file_and_the_same_seed_give_the_same_mask(lesson):
    everything = np.ones(len(lesson.lumen), bool)
    learner = MicroRNetLearner([TreesLearner(trees=10)], steps=4)
    one, two, other = (learner.learn(lesson, everything, seed).everywhere() for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    state = Taught(learner.learn(lesson, everything, 1).members(), lesson.spacing_um).state_dict()
    np.testing.assert_array_equal(taught_for_state(state).predict(lesson.image, lesson.spacing_um), one)


def test_it_finds_the_lumen(lesson):
    told, learner = [], MicroRNetLearner([TreesLearner(trees=10)], steps=40)
    learner.on_step = told.append
    found = learner.learn(lesson, np.ones(len(lesson.lumen), bool), 1).everywhere() > 0.5
    z, y, x = np.indices(lesson.image.shape)
    mask = (y - 22 - z) ** 2 + (x - 22) ** 2 < 60
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.9
    assert told[-1].loss < 0.1 < told[0].loss


def test_too_little_for_both_halves_is_told_in_one_line(lesson):
    few = np.zeros_like(lesson.labels)
    few[2, 2, 2:12], few[2, 6, 2:12] = 1, 2
    one = Lesson(lesson.image, few, lesson.spacing_um)
    with pytest.raises(InputError, match="too little is annotated to train a network on what others say of the rest"):
        MicroRNetLearner([TreesLearner(trees=2)]).learn(one, np.ones(20, bool), 0)
