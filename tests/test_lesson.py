"""What is held out of an annotation, and how learners are chosen by it."""

import numpy as np
import pytest

from micronet.core.errors import InputError
from micronet.training.teach.folds import hold_out
from micronet.training.teach.lesson import Lesson, choose

ONE = (1.0, 1.0, 1.0)


def of_each_fold(labels, folds):
    """Return for each fold the learned and held-out voxels, as masks of the volume."""
    for fold in folds.folds:
        learned, held = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
        learned[labels > 0], held[labels > 0] = fold.learned, fold.held
        yield learned, held


def test_three_slices_are_held_out_in_turn():
    labels = np.zeros((10, 6, 6), np.uint8)
    labels[[2, 5, 8]] = 2
    labels[[2, 5, 8], 2:4, 2:4] = 1
    folds = hold_out(labels, ONE)
    assert folds.what == "slices"
    found = [
        (np.unique(np.nonzero(a)[0]).tolist(), np.unique(np.nonzero(b)[0]).tolist())
        for a, b in of_each_fold(labels, folds)
    ]
    assert found == [([5, 8], [2]), ([2, 8], [5]), ([2, 5], [8])]


def test_slices_across_another_axis_count_as_slices():
    labels = np.zeros((10, 12, 6), np.uint8)
    labels[:, [1, 5, 9]] = 2
    labels[2:4, [1, 5, 9]] = 1
    folds = hold_out(labels, ONE)
    assert folds.what == "slices"
    assert all(len(np.unique(np.nonzero(held)[1])) == 1 for _, held in of_each_fold(labels, folds))


def test_many_slices_make_four_folds_of_neighbours():
    labels = np.full((9, 4, 4), 2, np.uint8)
    labels[:, :2] = 1
    held = [np.unique(np.nonzero(held)[0]).tolist() for _, held in of_each_fold(labels, hold_out(labels, ONE))]
    assert held == [[0, 1, 2], [3, 4], [5, 6], [7, 8]]


def test_one_slice_is_held_out_in_parts_with_a_gap_on_both_sides():
    labels = np.zeros((5, 6, 80), np.uint8)
    labels[2] = 2
    labels[2, 2] = 1
    folds = hold_out(labels, (4.0, 1.0, 1.0))
    assert folds.what == "parts of the slice"
    columns = [(np.unique(np.nonzero(a)[2]), np.unique(np.nonzero(b)[2])) for a, b in of_each_fold(labels, folds)]
    assert [held.tolist() for _, held in columns] == [list(range(n, n + 20)) for n in (0, 20, 40, 60)]
    for learned, held in columns:
        assert np.abs(learned[:, None] - held).min() == 9  # 8 voxels lie between
    assert sum(len(learned) for learned, _ in columns) == 4 * 60 - 6 * 8


def test_one_slice_is_parted_along_the_side_that_shares_out_its_lumen():
    """Before, a vessel along the shorter side lay in one part, and what was learned without it scored 0."""
    labels = np.zeros((3, 64, 60), np.uint8)
    labels[1] = 2
    labels[1, 40:50] = 1
    folds = hold_out(labels, ONE)
    assert folds.what == "parts of the slice"
    lumen = labels[labels > 0] == 1
    assert [(int(lumen[fold.learned].sum()), int(lumen[fold.held].sum())) for fold in folds.folds] == [
        (370, 150), (290, 150), (290, 150), (370, 150),
    ]  # fmt: skip


def test_strokes_are_held_out_whole_and_every_fold_has_both_classes():
    labels = np.zeros((12, 40, 40), np.uint8)
    for number in range(6):
        labels[1, 2 + 6 * number : 4 + 6 * number, 1:9] = 1
        labels[9, 2 + 6 * number : 4 + 6 * number, 20 : 30 - number] = 2
    folds = hold_out(labels, ONE)
    assert (folds.what, len(folds.folds)) == ("strokes", 4)
    for learned, held in of_each_fold(labels, folds):
        assert not (learned & held).any()
        assert set(labels[learned]) == {1, 2} == set(labels[held])
        for row in range(2, 40, 6):
            assert held[1, row, 1:9].all() or not held[1, row].any()
    assert np.sum([held for _, held in of_each_fold(labels, folds)]) == np.count_nonzero(labels)


def test_two_strokes_cannot_be_divided():
    labels = np.zeros((4, 30, 30), np.uint8)
    labels[1, 2, 2:20], labels[2, 25, 2:20] = 1, 2
    assert hold_out(labels, ONE).folds == ()


def test_one_class_alone_is_refused():
    labels = np.zeros((4, 5, 5), np.uint8)
    labels[1] = 2
    with pytest.raises(InputError, match="no voxel is annotated as lumen"):
        hold_out(labels, ONE)


class Fixed:
    """A learner that was born knowing, and counts how often it is asked to learn."""

    def __init__(self, name, probability):
        self.name, self.probability, self.lessons = name, probability, 0

    def learn(self, lesson, learned, seed):
        self.lessons += 1
        self.lesson = lesson
        return self

    def at(self, asked):
        return self.probability[self.lesson.annotated][asked]

    def everywhere(self):
        return self.probability


@pytest.fixture
def lesson(rng) -> Lesson:
    labels = np.where(rng.random((8, 20, 20)) < 0.3, 1, 2).astype(np.uint8)
    labels[:, :, 10:] = 0
    return Lesson(np.zeros(labels.shape, np.float32), labels, ONE)


def knowing(lesson, wrong):
    """Return a probability that is right but for some voxels of the lesson."""
    probability = np.where(lesson.labels == 1, 0.9, 0.1).astype(np.float32)
    places = np.flatnonzero(lesson.annotated)[wrong]
    probability.flat[places] = 0.9 - 0.8 * (lesson.labels.flat[places] == 1)
    return probability


def test_the_learner_that_is_right_on_held_out_voxels_is_chosen(lesson):
    learners = [Fixed("bad", knowing(lesson, slice(0, 900))), Fixed("good", knowing(lesson, slice(0, 1)))]
    told = []
    choice = choose(lesson, learners, on_fold=lambda *fold: told.append(fold))
    assert choice.names == ("good",)
    assert list(choice.scores) == sorted(choice.scores, key=choice.scores.get, reverse=True)
    assert set(choice.scores) == {"bad", "good", "bad + good"}
    assert [learner.lessons for learner in learners] == [4, 4]
    assert told[:2] == [("bad", 1, 4), ("bad", 2, 4)]
    assert choice.told().startswith("good: Dice on held-out slices: good 0.99")


def test_a_mean_is_chosen_where_it_mends_what_each_gets_wrong(lesson):
    # Each is unsure where it is wrong: the mean is right everywhere.
    learners = []
    for number in range(2):
        probability = knowing(lesson, slice(300 * number, 300 * number + 300))
        wrong = (probability > 0.5) != (lesson.labels == 1)
        probability[wrong] = np.where(lesson.labels == 1, 0.45, 0.55)[wrong]
        learners.append(Fixed(str(number), probability))
    choice = choose(lesson, learners)
    assert choice.names == ("0", "1")
    assert choice.scores["0 + 1"] == 1.0


def test_of_equals_the_first_is_chosen(lesson):
    learners = [Fixed("simple", knowing(lesson, slice(0, 5))), Fixed("large", knowing(lesson, slice(0, 4)))]
    assert choose(lesson, learners).names == ("simple",)


@pytest.mark.parametrize(("wrong", "names"), [(5, ("fair", "too")), (200, ("good",))])
def test_the_mean_that_is_expected_to_be_best_is_left_only_for_something_clearly_better(lesson, wrong, names):
    bad = knowing(lesson, slice(0, wrong))
    learners = [Fixed("good", knowing(lesson, slice(0, 0))), Fixed("fair", bad), Fixed("too", bad)]
    choice = choose(lesson, learners, expected=("fair", "too"))
    assert choice.names == names
    assert choice.scores["good"] == 1.0


def test_parts_of_one_slice_are_scored_but_do_not_decide():
    labels = np.full((3, 20, 100), 0, np.uint8)
    labels[1] = 2
    labels[1, 5:15] = 1
    alone = Lesson(np.zeros(labels.shape, np.float32), labels, ONE)
    learners = [Fixed("fair", knowing(alone, slice(500, 600))), Fixed("good", knowing(alone, slice(0, 0)))]
    choice = choose(alone, learners)
    assert choice.names == ("fair",)
    assert choice.scores["good"] == 1.0 > choice.scores["fair"]
    assert choice.held_out == "parts of the slice"


def test_a_slice_with_strokes_of_correction_cannot_be_divided():
    labels = np.zeros((9, 40, 40), np.uint8)
    labels[4] = 2
    labels[4, 10:20] = 1
    for z in (1, 2, 6, 7):
        labels[z, 3 * z : 3 * z + 2, 4:20] = 1 + z % 2
    assert hold_out(labels, ONE).folds == ()


def test_without_anything_to_hold_out_the_first_is_taken_and_told():
    labels = np.zeros((4, 30, 30), np.uint8)
    labels[1, 2, 2:20], labels[2, 25, 2:20] = 1, 2
    learner = Fixed("simple", np.zeros(labels.shape, np.float32))
    choice = choose(Lesson(np.zeros(labels.shape, np.float32), labels, ONE), [learner, learner])
    assert (choice.names, choice.scores, learner.lessons) == (("simple",), {}, 0)
    assert choice.told() == "simple: the annotation is too small, or too unequal, to hold anything out"


def test_labels_of_another_shape_and_no_learner_are_refused(lesson):
    with pytest.raises(InputError, match=r"labels have shape \(8, 20, 20\), the volume \(2, 2, 2\)"):
        Lesson(np.zeros((2, 2, 2), np.float32), lesson.labels, ONE)
    with pytest.raises(InputError, match="no learner"):
        choose(lesson, [])
