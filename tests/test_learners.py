"""Learners on real lessons, small ones."""

from dataclasses import replace

import numpy as np
import pytest

from micronet.core.regrid import resampled
from micronet.networks.evening import evened
from micronet.networks.kernels.scale_space import default_scales, features
from micronet.networks.normalize import normalize_image
from micronet.networks.taught import Taught
from micronet.training.teach.learners import LinearLearner, MicroNetLearner, PixelLearner, TreesLearner, places_of
from micronet.training.teach.lesson import Lesson, choose


@pytest.fixture
def lesson(rng) -> Lesson:
    """A bright tube along Z in 8 thick planes, of which three are annotated."""
    z, y, x = np.indices((8, 40, 40))
    mask = (y - 20 - z) ** 2 + (x - 20) ** 2 < 50
    labels = np.zeros(mask.shape, np.uint8)
    labels[[1, 4, 6]] = np.where(mask[[1, 4, 6]], 1, 2)
    return Lesson((mask + rng.normal(0, 0.4, mask.shape)).astype(np.float32), labels, (4.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "learner",
    [
        PixelLearner(members=2, steps=20),
        TreesLearner(trees=20),
        TreesLearner(trees=20, around=10.0),
        LinearLearner(10.0),
    ],
)
def test_a_learner_says_the_same_at_voxels_and_everywhere(lesson, learner):
    taught = learner.learn(lesson, np.ones(len(lesson.lumen), bool), seed=1)
    asked = np.zeros(len(lesson.lumen), bool)
    asked[::7] = True
    np.testing.assert_allclose(taught.at(asked), taught.everywhere()[lesson.annotated][asked], atol=1e-5)
    scales = [np.float32(scale) for scale in default_scales(lesson.spacing_um)]
    around_um = getattr(learner, "around", 0.0)
    image = evened(lesson.image, lesson.spacing_um, around_um) if around_um else lesson.image
    found = features(image, scales, lesson.spacing_um)
    np.testing.assert_array_equal(taught.features, found[:, lesson.annotated].T)


def test_voxels_that_are_held_out_teach_nothing(lesson):
    learned = np.arange(len(lesson.lumen)) % 3 > 0
    other = Lesson(lesson.image, lesson.labels.copy(), lesson.spacing_um)
    flipped = other.labels[lesson.annotated]
    flipped[~learned] = 3 - flipped[~learned]
    other.labels[lesson.annotated] = flipped
    for learner in (PixelLearner(members=1, steps=5), TreesLearner(trees=5), LinearLearner(), MicroNetLearner(steps=1)):
        one, two = (learner.learn(each, learned, seed=3).everywhere() for each in (lesson, other))
        np.testing.assert_array_equal(one, two)


def test_of_a_large_annotation_a_part_is_learned_from_which_the_seed_names(lesson, monkeypatch):
    monkeypatch.setattr("micronet.training.teach.learners.MOST_FITTED", 300)
    everything = np.ones(len(lesson.lumen), bool)
    one, two, other = (TreesLearner(trees=5).learn(lesson, everything, seed).trees.trees for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.value, two.value)
    assert (one.value != other.value).any()


def test_a_micro_net_learns_on_an_isotropic_grid_and_answers_on_the_volumes_own(lesson):
    told = []
    taught = MicroNetLearner(steps=15, on_step=told.append).learn(lesson, np.ones(len(lesson.lumen), bool), seed=0)
    assert taught.everywhere().shape == lesson.image.shape
    assert len(told) == 15
    assert told[-1].loss < told[0].loss
    np.testing.assert_array_equal(taught.at(lesson.lumen), taught.everywhere()[lesson.labels == 1])


def test_a_micro_net_sees_the_image_evened_and_normalised(lesson):
    taught = MicroNetLearner(steps=1, around=10.0).learn(lesson, np.ones(len(lesson.lumen), bool), seed=0)
    member = taught.members()[0]
    assert member.around_um == 10.0
    seen = normalize_image(evened(lesson.image, lesson.spacing_um, 10.0))
    plain = Taught([replace(member, around_um=0.0)], lesson.spacing_um)
    np.testing.assert_array_equal(taught.everywhere(), plain.predict(seen, lesson.spacing_um))
    brighter = Taught([member], lesson.spacing_um).predict(3 * lesson.image + 7, lesson.spacing_um)
    np.testing.assert_allclose(brighter, taught.everywhere(), atol=1e-4)


def test_a_micro_net_learns_from_whole_slices_not_from_corrections(lesson):
    corrected = Lesson(lesson.image, lesson.labels.copy(), lesson.spacing_um)
    corrected.labels[6][corrected.labels[6] == 2] = 0
    slices = Lesson(lesson.image, lesson.labels.copy(), lesson.spacing_um)
    slices.labels[6] = 0
    one, two = (MicroNetLearner(steps=1).learn(each, np.ones(len(each.lumen), bool), 0) for each in (corrected, slices))
    np.testing.assert_array_equal(one.everywhere(), two.everywhere())
    assert len(corrected.lumen) > len(slices.lumen)


def test_learners_are_chosen_in_a_real_lesson(lesson):
    choice = choose(lesson, [TreesLearner(trees=30), PixelLearner(members=1, steps=30)])
    assert choice.held_out == "slices"
    assert set(choice.scores) == {"pixel trees", "pixel network", "pixel trees + pixel network"}
    assert choice.scores["pixel trees"] > 0.85


def test_a_ramp_stays_a_ramp_on_another_grid():
    ramp = np.broadcast_to(np.arange(20, dtype=np.float32), (4, 3, 20))
    finer = resampled(ramp, (4, 6, 40))
    np.testing.assert_allclose(finer[2, 3, 1:-1], np.arange(40)[1:-1] / 2 - 0.25, atol=1e-6)
    coarser = resampled(ramp, (4, 3, 10))
    np.testing.assert_allclose(coarser[1, 1, 2:-2], np.arange(10)[2:-2] * 2 + 0.5, atol=1e-5)


def test_a_place_is_a_cube_of_sixteen_of_the_finest_spacing(lesson):
    labels = np.zeros((4, 40, 40), np.uint8)
    labels[0, 0, [0, 15, 16, 33]] = 1
    labels[3, 39, 39] = 2
    image = np.zeros(labels.shape, np.float32)
    thick = Lesson(image, labels, (8.0, 1.0, 1.0))  # two planes a cube
    assert places_of(thick).tolist() == [0, 0, 1, 2, 3]
    assert places_of(thick, np.array([True, False, False, True, True])).tolist() == [0, 1, 2]
    two = replace(thick, others=(thick,))
    assert places_of(two).tolist() == [0, 0, 1, 2, 3, 4, 4, 5, 6, 7]
    whole = np.zeros_like(labels)
    whole[1], whole[1, :5] = 2, 1
    assert places_of(replace(thick, labels=whole)) is None  # a whole slice shows all that there is
