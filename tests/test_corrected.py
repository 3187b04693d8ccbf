"""Corrections that are taught: teach.py learns on from edited masks, with every label that there ever was."""

import contextlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from running import call, call_for_last_line, exit_code, read_json

import infer
import teach
from micronet import Volume, read_volume, write_volume
from micronet.core.names import recording_of
from micronet.core.volume import upright
from micronet.data.dataset import load_split, read_dataset
from micronet.io import Segment, read_segmentation, write_segmentation
from micronet.networks.taught import Taught
from micronet.training.teach import course
from micronet.training.teach.collection import collection_of
from micronet.training.teach.course import Earlier
from micronet.training.teach.learners import MicroNetLearner, PixelLearner, TreesLearner
from micronet.training.teach.lesson import Lesson
from micronet.training.teach.material import edits, find_start

SHAPE = (12, 24, 26)
ONE = (1.0, 1.0, 1.0)
LABELS = Path("trained_models/taught_mine_labels")


def tube():
    z, y, x = np.indices(SHAPE)
    return (y - 6 - z / 4) ** 2 + (x - 7) ** 2 < 12


def glare():
    """Bright and no lumen; not in the slice that is painted first."""
    z, y, x = np.indices(SHAPE)
    return (np.abs(y - 16) < 6) & (np.abs(x - 19) < 5) & (np.abs(z - 4) > 1)


def write_image(path, seed=1):
    rng = np.random.default_rng(seed)
    image = np.clip((tube() | glare()) * 60 + rng.normal(100, 15, SHAPE), 0, 255).astype(np.uint8)
    volume = Volume(image, upright((2, 2, 2)), units="um", space="left-posterior-superior")
    write_volume(path, volume)
    return volume


def write_edited(path, mask, checked):
    grid = Volume(np.zeros(SHAPE, np.uint8), upright((2, 2, 2)), units="um", space="left-posterior-superior")
    write_segmentation(path, [(Segment(name="lumen"), mask), (Segment(name="checked"), checked)], grid)


def mask_of(path):
    return read_segmentation(path).labels[..., 0] > 0


def slices(*planes):
    found = np.zeros(SHAPE, bool)
    found[list(planes)] = True
    return found


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder in which one slice was taught, and three others were corrected."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        volume = write_image("embryo.nrrd")
        painted = [
            (Segment(name=name), slices(4) & where) for name, where in (("lumen", tube()), ("background", ~tube()))
        ]
        write_segmentation("strokes.seg.nrrd", painted, volume)
        assert exit_code(teach, "embryo.nrrd", "--labels", "strokes.seg.nrrd", "--name", "mine", "--threads", 1) == 0
        mask, checked = mask_of("taught/embryo.seg.nrrd"), slices(1, 7, 10)
        mask[checked] = tube()[checked]
        write_edited("edited.seg.nrrd", mask, checked)
    return folder


@pytest.fixture
def taught(once, tmp_path, monkeypatch):
    """A copy of it, to work in."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


CHECKED = ("--checked", "checked", "--threads", 1)
CORRECT = ("embryo.nrrd", "--labels", "edited.seg.nrrd", *CHECKED, "-o", "corrected", "--name", "mine")


@pytest.fixture(scope="module")
def corrected_once(once, tmp_path_factory):
    """A folder in which the corrections were taught, what was said, and what there was before."""
    folder = tmp_path_factory.mktemp("corrected")
    shutil.copytree(once, folder, dirs_exist_ok=True)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.chdir(folder)
        assert exit_code(teach, *CORRECT) == 0
    return folder, said.getvalue(), once


@pytest.fixture
def corrected(corrected_once, tmp_path, monkeypatch):
    """A copy of it, to work in."""
    folder, said, before = corrected_once
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return said, before


def test_corrections_are_learned_with_the_earlier_labels(corrected):
    out, once = corrected
    before, weights = mask_of("taught/embryo.seg.nrrd"), (once / "trained_models" / "taught_mine.pt").read_bytes()
    first = (once / LABELS / "embryo.seg.nrrd").read_bytes()
    checked = slices(1, 7, 10)
    added, removed = (tube() & ~before & checked).sum(), (before & ~tube() & checked).sum()
    assert removed > 100  # the glare
    assert f"corrected   {added:,} voxels added, {removed:,} removed, against what" in out
    assert (
        "learns on   from 'trained_models/taught_mine.pt', as they have that name, and from its 1 label files too"
        in out
    )
    assert "compared    Dice on 1,872 new voxels, held out: earlier 0." in out

    # The mask holds what was painted and what was checked, and elsewhere the glare is gone.
    mask, labelled = mask_of("corrected/embryo.seg.nrrd"), slices(1, 4, 7, 10)
    np.testing.assert_array_equal(mask[labelled], tube()[labelled])
    assert (mask & glare() & ~labelled).sum() < 0.2 * (before & glare() & ~labelled).sum()

    record, card = read_json("corrected/embryo.json"), read_json("trained_models/taught_mine.json")
    assert record["weights"]["sha256"] == card["sha256"]
    assert Path("trained_models/taught_mine.pt").read_bytes() != weights
    assert card["volumes"] == ["embryo", "embryo_2"]
    assert record["labelled"] == {"lumen": tube()[labelled].sum(), "background": (~tube())[labelled].sum()}
    assert (record["corrected"]["added"], record["corrected"]["removed"]) == (added, removed)
    assert record["learned"]["compared"]["new"] > record["learned"]["compared"]["earlier"]

    # Labels are copies of ours, and none has changed; they are a data set.
    assert (LABELS / "embryo.seg.nrrd").read_bytes() == first
    Path("strokes.seg.nrrd").unlink()
    Path("edited.seg.nrrd").unlink()
    dataset = read_dataset(LABELS / "labels.toml", also_in=["."])
    assert [(entry.name, entry.split, entry.labels) for entry in dataset.entries] == [
        ("embryo", "train", "sparse"),
        ("embryo_2", "train", "sparse"),
    ]
    one, two = load_split(dataset, ["train"])["train"]
    np.testing.assert_array_equal(one.weight, slices(4))
    np.testing.assert_array_equal(two.weight, checked)
    np.testing.assert_array_equal(two.mask, tube() & checked)


def test_the_same_command_again_does_nothing(corrected, capsys):
    files = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    code, out, _ = call(teach, *CORRECT, capsys=capsys)
    assert code == 0
    assert "done before (corrected/embryo.json)" in out
    # Nor do the same corrections for another folder.
    code, out, _ = call(teach, *CORRECT, "-o", "again", capsys=capsys)
    assert code == 0
    assert "'trained_models/taught_mine.pt' has learned all of this; nothing was written" in out
    assert files == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_the_earlier_network_stays_if_the_new_one_is_not_better(taught, capsys):
    before = mask_of("taught/embryo.seg.nrrd")
    right = slices(2, 8, 9) & (before == tube())
    write_edited("edited.seg.nrrd", before, right)  # nothing was edited: nothing can be better
    weights = {path: path.read_bytes() for path in Path("trained_models").glob("taught_mine.*")}
    code, out, err = call(teach, *CORRECT, capsys=capsys)
    assert code == 0, err
    assert "corrected   0 voxels added, 0 removed" in out
    assert "held out: earlier 1.000, new 0." in out
    assert "'trained_models/taught_mine.pt' stays, as the new network is not better" in out
    assert weights == {path: path.read_bytes() for path in weights}
    # The result is the earlier network's.
    for name in ("embryo.seg.nrrd", "embryo_probability.nrrd"):
        assert Path("corrected", name).read_bytes() == Path("taught", name).read_bytes()
    assert read_json("corrected/embryo.json")["weights"] == read_json("taught/embryo.json")["weights"]
    # The labels are not lost: the next corrections are learned with them, and they are not kept twice.
    assert [one.entry.name for one in collection_of(Path("trained_models/taught_mine.pt")).known] == [
        "embryo",
        "embryo_2",
    ]
    before[slices(1, 7, 10)] = tube()[slices(1, 7, 10)]
    write_edited("edited.seg.nrrd", before, slices(1, 7, 10))
    # A result gives way to that of its corrections, in the same folder.
    code, out, err = call(teach, *CORRECT, capsys=capsys)
    assert code == 0, err
    assert "from its 2 label files too" in out
    assert f"on {right.sum() + 1872:,} new voxels" in out
    assert read_json("trained_models/taught_mine.json")["volumes"] == ["embryo", "embryo_2", "embryo_3"]


def test_a_result_that_was_edited_in_place_is_an_input_and_its_record_names_the_weights(taught, capsys):
    mask = mask_of("taught/embryo.seg.nrrd")
    mask[slices(1, 7, 10)] = tube()[slices(1, 7, 10)]
    write_edited("taught/embryo.seg.nrrd", mask, slices(1, 7, 10))
    arguments = ("embryo.nrrd", "--labels", "taught/embryo.seg.nrrd", *CHECKED)
    code, _, err = call_for_last_line(teach, *arguments, capsys=capsys)
    assert code == 2
    assert err.endswith("--checked checked --threads 1 -o taught_2")
    # Corrections from elsewhere do not take the place of what was edited either.
    code, _, err = call_for_last_line(
        teach, "embryo.nrrd", "--labels", "edited.seg.nrrd", *CHECKED, "--name", "mine", capsys=capsys
    )
    assert code == 2
    assert "'taught/embryo.seg.nrrd'" in err
    np.testing.assert_array_equal(mask_of("taught/embryo.seg.nrrd"), mask)
    code, out, err = call(teach, *arguments, "-o", "taught_2", "--name", "other", capsys=capsys)
    assert code == 0, err
    assert "learns on   from 'trained_models/taught_mine.pt', as 'taught/embryo.json' says" in out
    # Weights of another name have all labels beside them too; those that were there stay.
    assert read_json("trained_models/taught_other.json")["volumes"] == ["embryo", "embryo_2"]
    assert [one.entry.name for one in collection_of(Path("trained_models/taught_mine.pt")).known] == ["embryo"]
    painted = read_volume("trained_models/taught_other_labels/embryo.seg.nrrd").array
    np.testing.assert_array_equal(painted, read_volume(LABELS / "embryo.seg.nrrd").array)


def test_labels_of_other_volumes_are_learned_from_and_an_embryo_is_in_one_split(taught, capsys):
    write_image("embryo_t2.nrrd", seed=2)
    write_edited("edited.seg.nrrd", tube(), slices(3, 6, 11))
    arguments = ("embryo_t2.nrrd", *CORRECT[1:])
    code, out, err = call(teach, *arguments, capsys=capsys)
    assert code == 0, err
    entries = [one.entry for one in collection_of(Path("trained_models/taught_mine.pt")).known]
    assert [(entry.name, entry.split, entry.image.name) for entry in entries] == [
        ("embryo", "train", "embryo.nrrd"),
        ("embryo_t2", "train", "embryo_t2.nrrd"),
    ]
    # A volume is known by what it holds, wherever it lies; one that is gone is told.
    Path("moved").mkdir()
    shutil.move("embryo.nrrd", "moved/embryo.nrrd")
    write_edited("edited.seg.nrrd", tube(), slices(2, 5, 10))
    code, _, err = call_for_last_line(teach, *arguments, "-o", "x", capsys=capsys)
    assert code == 2
    assert (
        "embryo.nrrd' is not there, and labels of it ('embryo.seg.nrrd') are to be learned from too; put it back" in err
    )
    moved = ("moved/embryo.nrrd", *CORRECT[1:])
    code, out, err = call(teach, *moved, "-o", "x", capsys=capsys)
    assert code == 0, err
    assert "from its 2 label files too" in out


def test_a_split_is_that_of_the_other_time_points(tmp_path):
    (tmp_path / "w_labels").mkdir()
    known = collection_of(tmp_path / "w.pt")
    assert known.split_of("beat_t003") == "train"
    (tmp_path / "labels.toml").write_text(
        '[[volume]]\nname = "a"\nsplit = "validation"\nimage = "beat_t001.nrrd"\nannotation = "a.seg.nrrd"\n'
        '[[volume]]\nname = "b"\nsplit = "train"\nimage = "other.nrrd"\nannotation = "b.seg.nrrd"\n',
        encoding="utf-8",
    )
    for entry in read_dataset(tmp_path / "labels.toml").entries:
        known = known.with_labels(entry, "0")
    assert known.split_of("beat_t003") == "validation"
    assert known.split_of("third") == "train"
    assert [recording_of(name) for name in ("beat_t003", "beat 12", "12")] == ["beat", "beat", "12"]


def test_corrections_under_a_new_name_learn_on_from_weights_that_know_the_volume(taught):
    image, edited, usual = Path("embryo.nrrd"), Path("edited.seg.nrrd"), Path("trained_models/taught_mine.pt")
    (known,) = collection_of(usual).known
    new = usual.with_name("taught_new.pt")
    assert find_start(image, edited, new, usual, known.image_sha256) == (usual, "as they know labels of this volume")
    assert find_start(image, edited, new, usual, "of another volume") is None


def test_corrections_of_what_was_never_taught_begin_anew(taught, capsys):
    shutil.rmtree("trained_models")
    shutil.rmtree("taught")
    assert exit_code(infer, "embryo.nrrd", "--iterations", 1, "--threads", 1) == 0
    before = read_volume("predictions/embryo_probability.nrrd").array > 127
    write_edited("predictions/edited.seg.nrrd", tube(), slices(1, 4, 7))
    code, out, err = call(teach, "embryo.nrrd", "--labels", "predictions/edited.seg.nrrd", *CHECKED, capsys=capsys)
    assert code == 0, err
    assert "learns      anew: no weights were taught before" in out
    added, removed = (tube() & ~before & slices(1, 4, 7)).sum(), (before & ~tube() & slices(1, 4, 7)).sum()
    told = f"{added:,} voxels added, {removed:,} removed, against 'predictions/embryo_probability.nrrd'"
    assert told in out


def test_labels_that_are_taught_anew_are_kept_once(taught, capsys):
    again = ("embryo.nrrd", "--labels", "strokes.seg.nrrd", "--name", "mine", "--threads", 1, "--force")
    assert call(teach, *again, capsys=capsys)[0] == 0
    assert sorted(path.name for path in LABELS.iterdir()) == ["embryo.seg.nrrd", "labels.json", "labels.toml"]


def changed_list():
    (LABELS / "labels.toml").write_text("", encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (None, ("--background", "lumen"), "leave the segment of it out (--background, --checked)"),
        (None, ("--intensity", "log"), "was taught on intensities as stored: drop (--intensity log)"),
        (None, ("--from", "u-net_phantom", "--name", "x"), "was not taught"),
        (changed_list, (), "give the weights another name (--name)"),
        (lambda: write_edited("edited.seg.nrrd", tube(), ~slices()[:, :, :]), ("--spacing", "40,2,2"), "another grid"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_one_line(taught, capsys, change, options, said):
    if change:
        change()
    code, _, err = call_for_last_line(teach, *CORRECT, *options, capsys=capsys)
    assert code == 2
    assert said in err
    assert not Path("corrected").exists()


def test_a_class_that_was_checked_nowhere_is_told(taught, capsys):
    write_edited("edited.seg.nrrd", tube() & False, slices(2))
    code, _, err = call_for_last_line(
        teach, "embryo.nrrd", "--labels", "edited.seg.nrrd", *CHECKED, "-o", "x", "--name", "x", capsys=capsys
    )
    assert code == 2
    assert "0 voxels were checked that are lumen, at least 10 are needed" in err


def test_added_and_removed_voxels_are_counted_where_they_were_checked():
    labels = np.array([[[1, 1, 2, 2, 0, 0]]], np.uint8)
    mask = np.array([[[True, False, True, False, True, False]]])
    assert edits(labels, mask, "it").told() == "1 voxels added, 1 removed, against it"


@pytest.fixture
def lessons(rng):
    """A lesson of which only background is annotated, beside one with both classes and other voxels."""
    image = (tube() + rng.normal(0, 0.3, SHAPE)).astype(np.float32)
    both = np.where(slices(4), np.where(tube(), 1, 2), 0).astype(np.uint8)
    other = Lesson(image, both, (2.0, 1.0, 1.0))
    alone = np.where(slices(9), np.where(tube(), 0, 2), 0).astype(np.uint8)
    return Lesson(image, alone, ONE, (other,)), other


@pytest.mark.parametrize(
    "learner",
    [TreesLearner(trees=5), PixelLearner(members=1, steps=20), MicroNetLearner(steps=3, most_voxels=20_000)],
)
def test_every_learner_learns_from_the_other_volumes_too(lessons, learner):
    lesson, _ = lessons
    taught = learner.learn(lesson, np.ones(len(lesson.lumen), bool), 0)
    found = taught.everywhere()
    assert found.shape == SHAPE
    assert np.isfinite(found).all()
    if not isinstance(learner, MicroNetLearner):
        assert found[tube()].mean() > 2 * found[~tube()].mean()


def test_features_of_another_volume_are_at_the_same_lengths(lessons):
    lesson, other = lessons
    learner = TreesLearner(trees=1)
    seen = learner._features(lesson)
    found, lumen = seen.learned(lesson, np.zeros(len(lesson.lumen), bool))
    np.testing.assert_array_equal(lumen, other.lumen)
    assert found.shape == (len(other.lumen), seen.found.shape[1])
    assert lesson.lumen_share == other.lumen.sum() / (len(other.lumen) + len(lesson.lumen))


def test_without_both_classes_in_the_volume_nothing_is_held_out(lessons):
    lesson, _ = lessons
    found = course.teach(lesson, learners=[TreesLearner(trees=5)])
    assert isinstance(found.network, Taught)
    assert found.choice.held_out == ""
    assert found.comparison is None


def test_networks_are_compared_on_held_out_voxels_that_are_new(rng):
    image = (tube() + rng.normal(0, 0.3, SHAPE)).astype(np.float32)
    labels = np.where(slices(1, 4, 7, 10), np.where(tube(), 1, 2), 0).astype(np.uint8)
    lesson = Lesson(image, labels, ONE)
    fresh = slices(4, 7, 10)[lesson.annotated]
    learner = TreesLearner(trees=20)
    right = lesson.lumen.astype(np.float32)
    network = course.teach(lesson, learners=[learner]).network
    kept = course.teach(lesson, learners=[learner], earlier=Earlier(network, right, fresh))
    assert kept.kept
    assert kept.network is network
    assert (kept.comparison.voxels, kept.comparison.earlier) == (fresh.sum(), 1.0)
    assert kept.choice.held_out == "slices"
    # What it says of voxels that it was taught does not count.
    blind = np.where(fresh, 0, right).astype(np.float32)
    new = course.teach(lesson, learners=[learner], earlier=Earlier(network, blind, fresh))
    assert not new.kept
    assert new.comparison.earlier == 0
    assert new.comparison.new > 0.5
    assert new.comparison.told().startswith(f"Dice on {fresh.sum():,} new voxels, held out: earlier 0.000, new 0.")


def test_errors_alone_say_nothing_of_which_network_is_better(rng):
    image = (tube() + rng.normal(0, 0.3, SHAPE)).astype(np.float32)
    labels = np.where(slices(1, 4, 7, 10), np.where(tube(), 1, 2), 0).astype(np.uint8)
    lesson = Lesson(image, labels, ONE)
    fresh = slices(4, 7, 10)[lesson.annotated]
    learner = TreesLearner(trees=5)
    network = course.teach(lesson, learners=[learner]).network
    wrong = Earlier(network, np.where(lesson.lumen, 0, 1).astype(np.float32), fresh)
    assert course.teach(lesson, learners=[learner], earlier=wrong).comparison is None


def test_a_single_new_slice_is_held_out_in_parts(rng):
    image = (tube() + rng.normal(0, 0.3, SHAPE)).astype(np.float32)
    labels = np.where(slices(4, 8), np.where(tube(), 1, 2), 0).astype(np.uint8)
    lesson = Lesson(image, labels, ONE)
    fresh = slices(8)[lesson.annotated]
    learner = TreesLearner(trees=5)
    earlier = Earlier(course.teach(lesson, learners=[learner]).network, np.zeros(len(fresh), np.float32), fresh)
    found = course.teach(lesson, learners=[learner], earlier=earlier).comparison
    assert 0 < found.voxels < fresh.sum()  # the parts without which both classes are left
