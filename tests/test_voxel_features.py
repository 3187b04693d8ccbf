"""Features of annotated voxels are computed once for all learners, and what they take is known before."""

import gc
import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch
from running import call
from taught_networks import CUBES, THICK

import teach as script
from micronet import Volume, write_volume
from micronet.core.volume import upright
from micronet.networks import engine
from micronet.networks.normalize import normalize_image
from micronet.training.teach import course, voxel_features
from micronet.training.teach.learners import MicroNetLearner, TreesLearner
from micronet.training.teach.lesson import Lesson
from micronet.training.teach.voxel_features import feature_bytes

SHAPE = (12, 60, 64)


def annotated(rng, planes, shape=SHAPE):
    z, y, x = np.indices(shape)
    mask = (y - 20 - z / 2) ** 2 + (x - 30) ** 2 < 150
    image = (mask * 60 + rng.normal(100, 15, shape)).astype(np.uint8)
    labels = np.zeros(shape, np.uint8)
    labels[planes] = np.where(mask[planes], 1, 2)
    return image, labels


def lesson_of(image, labels, spacing, others=()):
    return Lesson(normalize_image(image), labels, spacing, others)


def default(lesson):
    """Return all that learn from features; of few trees, for time."""
    learners = [*course.default_learners(lesson), *(one for one, _ in course.default_companions(lesson))]
    for learner in learners:
        if isinstance(learner, TreesLearner):
            learner.trees = 20
    return [one for one in learners if not isinstance(one, MicroNetLearner)]


@pytest.fixture
def computed(monkeypatch):
    """How many features a voxel has, each time they are computed."""
    found = []

    def features_at(image, where, scales, *others):
        found.append(1 + 5 * len(scales))
        return whole(image, where, scales, *others)

    whole = voxel_features.features_at
    monkeypatch.setattr(voxel_features, "features_at", features_at)
    return found


@pytest.mark.parametrize("spacing", [CUBES, THICK])
def test_learners_share_features_and_learn_the_same_bits_as_alone(rng, computed, spacing):
    image, labels = annotated(rng, [3, 8])
    lesson = lesson_of(image, labels, spacing)
    every = np.ones(len(lesson.lumen), bool)
    learners = default(lesson)
    together = [one.learn(lesson, every, 0) for one in learners]
    assert computed == [31, 31]  # of the image, and of the evened image
    for learner, shared in zip(default(lesson), together, strict=True):
        alone = learner.learn(lesson_of(image, labels, spacing), every, 0)
        one, other = shared.trees.state_dict(), alone.trees.state_dict()
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        np.testing.assert_array_equal(shared.at(every), alone.at(every))
    del learners, learner, together, shared
    gc.collect()
    assert not lesson.features  # they go with the last learner


def test_what_features_take_is_counted_by_hand():
    labels = np.zeros((40, 50, 60), np.uint8)
    labels[5:7] = 1
    labels[7, 0] = 2  # 6060 voxels of 31 features, or 37 with tubes, of two images
    assert feature_bytes(labels, THICK) == (2 * 4 * 31 * 6060, 4 * 31 * 6060 + 1200 * 6060)
    assert feature_bytes(labels, CUBES) == (2 * 4 * 37 * 6060, 4 * 37 * 6060 + 400 * 6060)
    # Of another volume as many, all of which are put behind a copy of the first.
    assert feature_bytes(labels, THICK, [labels]) == (4 * 4 * 31 * 6060, 3 * 4 * 31 * 6060 + 1200 * 12_120)


@pytest.mark.parametrize("spacing", [CUBES, THICK])
@pytest.mark.parametrize("others", [0, 1])
def test_learning_takes_no_more_than_is_told(rng, monkeypatch, spacing, others):
    monkeypatch.setattr(course, "TreesLearner", partial(TreesLearner, trees=3))
    monkeypatch.setattr(course, "_STEPS", 1)
    monkeypatch.setattr(course, "_MOST_VOXELS", 30_000)
    image, labels = annotated(rng, slice(0, 12, 2))
    further = [lesson_of(image[::-1], labels[::-1].copy(), spacing)] * others
    course.teach(lesson_of(image, labels, spacing, tuple(further)))  # what is compiled first takes memory too
    lesson = lesson_of(image, labels, spacing, tuple(further))
    tracemalloc.start()
    course.teach(lesson)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    told = course.learning_bytes(labels, spacing, [one.labels for one in further])
    assert 0.5 * told < taken < told


@pytest.mark.parametrize("more", [(), ("--classes", "a,b")])
def test_what_learning_from_all_that_is_annotated_takes_is_refused_before_it_begins(
    rng, tmp_path, monkeypatch, capsys, more
):
    engine.make_ready("trees")  # else a line says that it is compiled
    monkeypatch.setattr("micronet.core.ram.PROGRAM", 1_000_000)
    monkeypatch.chdir(tmp_path)
    image, labels = annotated(rng, slice(0, 12, 2))
    if more:
        labels[labels == 2] = 3
        labels[labels == 1] = np.resize([1, 1, 2], np.count_nonzero(labels == 1))
    volume = Volume(image, upright(CUBES), units="um")
    write_volume("a.nrrd", volume)
    write_volume("labels.nrrd", volume.with_array(labels))
    arguments = ("a.nrrd", "--labels", "labels.nrrd", "--max-ram", "8MB", *more)
    code, _, err = call(script, *arguments, capsys=capsys)
    assert code == 2
    assert err.count("\n") == 1
    assert "'a.nrrd': to learn from 23,040 annotated voxels does not fit: about " in err
    assert "8 MB allowed (--max-ram); annotate fewer, free memory or allow more (--max-ram)" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nrrd", "labels.nrrd"]
