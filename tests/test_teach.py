"""teach.py as a person runs it, and what lies below it."""

import csv
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from running import call, call_for_last_line, exit_code, read_json

import evaluate
import infer
import teach
from micronet import Volume, read_annotation, read_volume, write_volume
from micronet.core.volume import upright
from micronet.io import Segment, read_segmentation, write_segmentation
from micronet.networks.card import planned_weights
from micronet.networks.kernels import jit
from micronet.networks.taught import Taught, taught_for_state
from micronet.training.teach import course
from micronet.training.teach.job import TeachJob, teach_file
from micronet.training.teach.learners import MicroNetLearner, TreesLearner
from micronet.training.teach.lesson import Lesson
from micronet.training.teach.look import uncertain_places

SHAPE = (24, 40, 44)


def tubes(shape=SHAPE):
    z, y, x = np.indices(shape)
    return ((y - 10 - z / 3) ** 2 + (x - 12) ** 2 < 30) | ((y - 30 + z / 4) ** 2 + (x - 32) ** 2 < 20)


TEACH = ("vol.nrrd", "--labels", "labels.nrrd", "--threads", 1)


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder in which the slice was taught from."""
    folder = tmp_path_factory.mktemp("once")
    painted(folder, np.random.default_rng(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert exit_code(teach, *TEACH) == 0
    return folder


@pytest.fixture
def taught(once, tmp_path, monkeypatch):
    """A copy of it, to work in."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return read_volume("vol.nrrd")


@pytest.fixture
def here(tmp_path, monkeypatch, rng):
    """An empty folder with a volume, vol.nrrd, and a painted slice, labels.nrrd."""
    monkeypatch.chdir(tmp_path)
    return painted(tmp_path, rng)


def painted(folder, rng):
    mask = tubes()
    image = np.clip(mask * 60 + rng.normal(100, 20, SHAPE), 0, 255).astype(np.uint8)
    volume = Volume(image, upright((2, 2, 2)), units="um", space="left-posterior-superior")
    write_volume(folder / "vol.nrrd", volume)
    labels = np.zeros(SHAPE, np.uint8)
    labels[12] = np.where(mask[12], 1, 2)
    write_volume(folder / "labels.nrrd", volume.with_array(labels))
    return volume


def test_a_painted_slice_becomes_mask_weights_and_places_to_look_at(here, capsys):
    code, out, err = call(teach, "vol.nrrd", "--labels", "labels.nrrd", "--threads", 1, capsys=capsys)
    assert code == 0, err
    assert sorted(path.name for path in Path("taught").iterdir()) == [
        "vol.json", "vol.seg.nrrd", "vol_look.csv", "vol_look.seg.nrrd", "vol_preview.png", "vol_probability.nrrd",
    ]  # fmt: skip
    assert sorted(path.name for path in Path("trained_models").iterdir()) == [
        "taught_vol.json", "taught_vol.pt", "taught_vol_labels",
    ]  # fmt: skip
    assert "learned     pixel trees" in out
    assert "Dice on held-out parts of the slice, which do not decide: " in out
    mask = read_annotation("taught/vol.seg.nrrd").mask
    assert mask.spacing_um == pytest.approx((2, 2, 2))
    elsewhere = np.arange(SHAPE[0]) != 12
    truth = tubes()
    both = 2 * (mask.array & truth)[elsewhere].sum() / (mask.array[elsewhere].sum() + truth[elsewhere].sum())
    assert both > 0.85
    record, card = read_json("taught/vol.json"), read_json("trained_models/taught_vol.json")
    assert record["weights"]["sha256"] == card["sha256"]
    assert record["labelled"] == {"lumen": int(truth[12].sum()), "background": int((~truth[12]).sum())}
    assert (card["network"], card["log"], card["expects"]["spacing_um"]) == ("taught", False, [2, 2, 2])


def test_a_first_lesson_and_a_first_use_say_that_they_compile_and_no_other(taught, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cold"))
    jit.cache_folder.cache_clear()
    try:
        for command in ((teach, *TEACH, "-o", "again", "--name", "b"), (infer, "vol.nrrd", "--model", "taught_vol")):
            for said in (True, False):
                assert exit_code(*command, "--force") == 0
                assert ("compiling the engine for this machine, once" in capsys.readouterr().err) is said
            for stamp in jit.cache_folder().glob("*.compiled"):
                stamp.unlink()
    finally:
        jit.cache_folder.cache_clear()


def test_what_was_taught_takes_no_cubes_of_another_network(taught, capsys):
    for options in (("--resample",), ("--resample", 4.5)):
        code, _, err = call(infer, "vol.nrrd", "--model", "taught_vol", *options, capsys=capsys)
        assert code == 2
        assert "'taught_vol.pt' was taught and takes other voxel sizes as they are: leave out --resample" in err


def test_what_was_taught_says_the_same_to_whoever_uses_it(taught, capsys):
    code, out, err = call(infer, "vol.nrrd", "--model", "taught_vol", "--threads", 1, capsys=capsys)
    assert code == 0, err
    assert "(taught); numba engine" in out
    assert "WARNING" not in out
    assert Path("taught/vol_probability.nrrd").read_bytes() == Path("predictions/vol_probability.nrrd").read_bytes()


def test_no_script_takes_the_places_to_look_at_for_a_mask(taught, capsys):
    look = Path("taught/vol_look.seg.nrrd")
    for arguments in (
        (evaluate, look, "--annotation", "taught/vol.seg.nrrd"),
        (infer, "vol.nrrd", "--model", "taught_vol", "--annotation", look, "-o", "x"),
        (teach, "vol.nrrd", "--labels", look, "-o", "x", "--name", "x"),
    ):
        code, _, err = call_for_last_line(*arguments, capsys=capsys)
        assert code == 2
        assert "is no mask: its segments mark places" in err
    code, out, _ = call(evaluate, "taught", "--annotation", "taught/vol.seg.nrrd", capsys=capsys)
    assert code == 0
    assert "vol_look" not in out


def test_the_same_command_again_is_skipped_other_settings_are_refused_without_force(taught, capsys):
    again = TEACH
    weights = Path("trained_models/taught_vol.pt").read_bytes()
    code, out, _ = call(teach, *again, capsys=capsys)
    assert code == 0
    assert "skipped  vol.nrrd" in out
    code, _, err = call_for_last_line(teach, *again, "--seed", 2, capsys=capsys)
    assert code == 2
    assert "holds a result of other labels, settings or input" in err
    code, _, err = call_for_last_line(teach, *again, "-o", "other", capsys=capsys)
    assert code == 2
    assert "'trained_models/taught_vol.pt' exists: replace it (--force), or give another name (--name)" in err
    assert call(teach, *again, "--force", capsys=capsys)[0] == 0
    assert Path("trained_models/taught_vol.pt").read_bytes() == weights  # the same seed


def test_annotated_voxels_keep_their_label_unless_they_are_free(here, capsys):
    labels = read_volume("labels.nrrd")
    odd = labels.array.copy()
    odd[12, ::5, ::5] = 3 - odd[12, ::5, ::5]  # what no learner would say of single voxels
    write_volume("odd.nrrd", labels.with_array(odd))
    for name, options in (("kept", ()), ("free", ("--free-labels",))):
        arguments = ("vol.nrrd", "--labels", "odd.nrrd", "-o", name, "--name", name, "--threads", 1, *options)
        assert call(teach, *arguments, capsys=capsys)[0] == 0
    kept, free = (read_annotation(f"{name}/vol.seg.nrrd").mask.array for name in ("kept", "free"))
    np.testing.assert_array_equal(kept[odd > 0], (odd == 1)[odd > 0])
    assert (free != (odd == 1))[odd > 0].mean() > 0.01
    assert Path("kept/vol_probability.nrrd").read_bytes() == Path("free/vol_probability.nrrd").read_bytes()


def test_our_own_result_painted_on_in_place_is_refused_with_the_whole_command(here, capsys):
    Path("taught").mkdir()
    labels = read_volume("labels.nrrd").array
    write_segmentation("taught/vol.seg.nrrd", [(Segment("lumen"), labels == 1), (Segment("rest"), labels == 2)], here)
    arguments = ("vol.nrrd", "--labels", "taught/vol.seg.nrrd", "--background", "rest", "--spacing", "2,2,2")
    code, _, err = call_for_last_line(teach, *arguments, capsys=capsys)
    assert code == 2
    command = "python teach.py vol.nrrd --labels taught/vol.seg.nrrd --background rest --spacing 2,2,2 -o taught_2"
    assert err.endswith(f"which this call reads; write elsewhere (-o DIR), such as: {command}")
    assert not Path("trained_models").exists()
    code, _, err = call(teach, *command.split()[2:], "--threads", 1, capsys=capsys)
    assert code == 0, err


def test_logarithms_are_taken_again_by_whoever_uses_the_weights(here, capsys):
    arguments = ("vol.nrrd", "--labels", "labels.nrrd", "--intensity", "log", "--threads", 1)
    assert call(teach, *arguments, capsys=capsys)[0] == 0
    code, out, err = call(infer, "vol.nrrd", "--model", "taught_vol", "--threads", 1, capsys=capsys)
    assert code == 0, err
    assert "the logarithm of what is stored, as the network was taught" in out
    assert "WARNING" not in out
    assert Path("taught/vol_probability.nrrd").read_bytes() == Path("predictions/vol_probability.nrrd").read_bytes()


def test_voxels_of_another_size_are_told_and_absurd_ones_refused(taught, capsys):
    write_volume("coarse.nrrd", Volume(taught.array, upright((4, 4, 4)), units="um"))
    code, out, err = call(infer, "coarse.nrrd", "--model", "taught_vol", "--threads", 1, capsys=capsys)
    assert code == 0, err
    assert "voxels of 4 x 4 x 4 µm, taught on 2 x 2 x 2: scales are kept in µm" in out
    np.save("bare.npy", taught.array)
    code, out, err = call(infer, "bare.npy", "--axes", "ZYX", "--model", "taught_vol", "--threads", 1, capsys=capsys)
    assert code == 0, err
    assert "voxel size not stated: taken as on the volume taught on, 2 x 2 x 2 µm" in out
    arguments = ("coarse.nrrd", "--spacing", "20,2,2", "--model", "taught_vol", "-o", "x")
    code, _, err = call_for_last_line(infer, *arguments, capsys=capsys)
    assert code == 2
    assert err.startswith("error: 'coarse.nrrd': voxels of 20 x 2 x 2 µm, and the weights were taught on 2 x 2 x 2")
    assert err.endswith("(--spacing Z,Y,X)")


def test_what_was_taught_before_is_learned_on_from_with_its_labels(taught, capsys):
    start = ("-o", "second", "--name", "second", "--from", "taught_vol")
    code, out, err = call(teach, *TEACH, *start, capsys=capsys)
    assert code == 0, err
    assert "'trained_models/taught_vol.pt' has learned all of this; nothing was written" in out
    labels = np.zeros(SHAPE, np.uint8)
    labels[[3, 8, 19]] = np.where(tubes()[[3, 8, 19]], 1, 2)
    write_volume("labels.nrrd", taught.with_array(labels))
    code, out, err = call(teach, *TEACH, *start, capsys=capsys)
    assert code == 0, err
    assert "learns on   from 'trained_models/taught_vol.pt', as asked, and from its 1 label files too" in out
    assert "compared    Dice on 5,280 new voxels, held out: earlier 0." in out
    assert read_json("second/vol.json")["start"]["path"] == "trained_models/taught_vol.pt"
    assert read_json("second/vol.json")["labelled"]["lumen"] == tubes()[[3, 8, 12, 19]].sum()
    start = ("-o", "x", "--name", "x", "--from", "u-net_phantom")
    code, _, err = call_for_last_line(teach, *TEACH, *start, capsys=capsys)
    assert code == 2
    assert "was not taught; teaching starts from what teach.py wrote (--from)" in err


def test_weights_are_not_replaced_by_what_started_from_them(taught, capsys):
    write = ("-o", "second", "--from", "taught_vol")
    code, _, err = call_for_last_line(teach, *TEACH, *write, "--force", capsys=capsys)
    assert code == 2
    assert "'trained_models/taught_vol.pt' would replace 'trained_models/taught_vol.pt', which this call reads" in err
    assert err.endswith(
        "give the new ones another name (--name), such as: python teach.py vol.nrrd --labels labels.nrrd -o second "
        "--from taught_vol --threads 1 --force --name vol_2"
    ), err


BAD = [
    (lambda a: np.full_like(a, 7), None, r"'vol.nrrd': the image is constant: every voxel is 7"),
    (None, lambda a: a[:-1], "'labels.nrrd': shape (Z, Y, X) (23, 40, 44) differs from 'vol.nrrd': (24, 40, 44)"),
    (None, lambda a: np.where(a == 1, 0, a), "no voxel is annotated as lumen; paint strokes inside some lumens"),
    (None, lambda a: a * 2, "holds the value 4 (1,6"),
    (None, lambda a: np.where(np.indices(a.shape)[0] < 12, 1, 2), "every voxel is annotated"),
]


@pytest.mark.parametrize(("image", "labels", "why"), BAD)
def test_bad_input_is_one_line_and_leaves_nothing_behind(here, image, labels, why, capsys):
    for name, change in (("vol", image), ("labels", labels)):
        if change is not None:
            array = change(read_volume(f"{name}.nrrd").array).astype(np.uint8)
            write_volume(f"{name}.nrrd", Volume(array, here.directions, units="um", space=here.space))
    code, _, err = call_for_last_line(teach, "vol.nrrd", "--labels", "labels.nrrd", capsys=capsys)
    assert code == 2
    assert err.startswith("error: ")
    assert why in err
    assert sorted(path.name for path in Path().iterdir()) == ["labels.nrrd", "vol.nrrd"]


@pytest.mark.usefixtures("here")
def test_weights_to_start_from_that_are_not_there_are_told_by_the_option_that_asked(capsys):
    code, _, err = call_for_last_line(teach, *TEACH, "--from", "nothing", capsys=capsys)
    assert code == 2
    assert "give a path (--from)" in err


@pytest.mark.parametrize("when", [0, 3, 6])
def test_a_lesson_that_is_stopped_leaves_nothing_behind(here, when):
    def stop(done, whole, what):
        if done == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach_file(Path("vol.nrrd"), TeachJob(Path("labels.nrrd")), say=lambda line: None, on_progress=stop)
    assert sorted(path.name for path in Path().iterdir()) == ["labels.nrrd", "vol.nrrd"]


# Between open() and with, Ctrl-C leaves a file to be closed when it is forgotten, of which Python warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_while_files_are_written_leaves_nothing_behind(here):
    done = threading.Event()

    def interrupt():
        while not done.is_set():
            if list(Path("taught").glob(".*")):  # where files lie until all of them are whole
                signal.raise_signal(signal.SIGINT)
                return

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever pytest was started with
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            teach_file(Path("vol.nrrd"), TeachJob(Path("labels.nrrd")), say=lambda line: None)
    finally:
        done.set()
        signal.signal(signal.SIGINT, before)
    assert sorted(path.name for path in Path().rglob("*") if path.is_file()) == ["labels.nrrd", "vol.nrrd"]


def test_weights_that_an_interrupt_left_without_a_card_are_in_nobodys_way(here):
    weights = planned_weights(Path("trained_models/taught_vol.pt"), advice="")
    with weights.staged() as folder:
        (folder / "taught_vol.pt").write_bytes(b"half of the work")

    def stop(done, whole, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # it was not refused
        teach_file(Path("vol.nrrd"), TeachJob(Path("labels.nrrd")), say=lambda line: None, on_progress=stop)


@pytest.fixture
def lesson(rng):
    """Thick planes, three of them painted; one thread, as others of a busy machine are waited for in vain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    mask = tubes((8, 40, 44))
    labels = np.zeros(mask.shape, np.uint8)
    labels[[1, 4, 6]] = np.where(mask[[1, 4, 6]], 1, 2)
    yield Lesson((mask + rng.normal(0, 0.3, mask.shape)).astype(np.float32), labels, (4.0, 1.0, 1.0))
    torch.set_num_threads(threads)


def test_a_course_teaches_what_it_chose_and_repeats_with_its_seed(lesson):
    told = []

    def taught(seed, on_progress=None):
        learners = [TreesLearner(trees=5), MicroNetLearner(steps=2, most_voxels=20_000)]
        return course.teach(lesson, seed, on_progress, learners=learners)

    one, two, other = taught(3, lambda *step: told.append(step)), taught(3), taught(4)
    assert [done for done, _, _ in told] == list(range(9))
    assert {whole for _, whole, _ in told} == {2 * 3 + 2}
    assert told[1][2] == "pixel trees, held-out slices 1 of 3"
    assert isinstance(one.network, Taught)
    assert {member.kind for member in one.network.members} == {
        {"pixel trees": "trees", "u-net": "unet"}[name] for name in one.choice.names
    }
    states = [each.network.state_dict() for each in (one, two, other)]
    assert all((states[0][key] == states[1][key]).all() for key in states[0])
    assert states[0].keys() != states[2].keys() or any((states[0][k] != states[2][k]).any() for k in states[0])


@pytest.mark.parametrize("poor", [False, True])
def test_where_planes_are_thick_a_micro_net_and_regressions_join_what_was_chosen_by_whole_slices(
    lesson, monkeypatch, poor
):
    """Before, they joined only where all kinds of trees were chosen: Dice 0.826 in place of 0.848 (docs/teach.md)."""
    monkeypatch.setattr(course, "_STEPS", 2)
    monkeypatch.setattr(course, "_MOST_VOXELS", 20_000)
    if poor:
        two = [TreesLearner(trees=20), TreesLearner(trees=1, around=40.0)]
        monkeypatch.setattr(course, "default_learners", lambda lesson: two)
    told = []
    found = course.teach(lesson, 0, lambda *step: told.append(step))
    kinds = 1 if poor else 3
    joined = ("logistic regression", "logistic regression, evened", "u-net, evened")
    assert found.choice.names == (*[learner.name for learner in course.default_learners(lesson)][:kinds], *joined)
    assert found.choice.told().endswith(f"; {' + '.join(joined)} joined without being held out")
    assert [member.kind for member in found.network.members] == ["trees"] * (kinds + 2) + ["unet"]
    weights = np.array([4] * kinds + [1, 1, 2])
    np.testing.assert_allclose(found.network.weight, weights / weights.sum(), rtol=1e-6)
    assert "u-net, evened, step 2" in {what for _, _, what in told}
    assert not any("u-net" in name for name in found.choice.scores)  # too slow to be held out from
    cubes = replace(lesson, spacing_um=(1.0, 1.0, 1.0))
    assert course.default_companions(cubes) == []


def test_where_planes_are_thick_logistic_regressions_join_what_strokes_taught(lesson):
    strokes = lesson.labels.copy()
    strokes[:, :, 8:] = 0
    found = course.teach(replace(lesson, labels=strokes), 0)
    assert found.choice.names[3:] == ("logistic regression", "logistic regression, evened")
    assert "which do not decide" in found.choice.told()  # strokes are no sample of the volume
    assert [len(member.network.trees.slope) for member in found.network.members] == [0, 0, 0, 31, 31]
    np.testing.assert_allclose(found.network.weight, np.array([2, 2, 2, 1, 1]) / 8, rtol=1e-6)
    again = taught_for_state(found.network.state_dict())
    np.testing.assert_array_equal(*(one.predict(lesson.image, lesson.spacing_um) for one in (found.network, again)))
    cubes = replace(lesson, spacing_um=(1.0, 1.0, 1.0), labels=strokes)
    assert course.default_companions(cubes) == []


def test_the_mean_of_a_course_is_that_of_its_learners_on_the_volume(lesson):
    learners = [TreesLearner(trees=5), MicroNetLearner(steps=2, most_voxels=20_000)]
    found = [learner.learn(lesson, np.ones(len(lesson.lumen), bool), 0) for learner in learners]
    members = [member for taught in found for member in taught.members()]
    network = Taught(members, lesson.spacing_um)
    expected = np.mean([taught.everywhere() for taught in found], axis=0)
    np.testing.assert_allclose(network.predict(lesson.image, lesson.spacing_um), expected, atol=1e-6)


class TestPlaces:
    def test_the_least_certain_ones_come_first_and_lie_apart(self):
        p = np.zeros((40, 80, 80), np.float32)
        p[8:14, 8:14, 8:14] = 0.5
        p[24:34, 58:68, 58:68] = 0.5
        p[24:34, 20:30, 58:68] = 0.5
        labels = np.zeros(p.shape, np.uint8)
        labels[24:34, 20:30, 58:68] = 2  # said already
        places, slices = uncertain_places(p, None, labels, (1, 1, 1))
        assert len(places) == 2
        assert 24 <= places[0].voxel[0] < 34
        assert all(58 <= i < 68 for i in places[0].voxel[1:])
        assert all(8 <= i < 14 for i in places[1].voxel)
        assert {place.why for place in places} == {"probability near one half"}
        assert 24 <= slices[0].voxel[0] < 34

    def test_few_are_named_however_much_is_in_doubt(self, rng):
        p = rng.random((60, 90, 90)).astype(np.float32)
        places, slices = uncertain_places(p, None, np.zeros(p.shape, np.uint8), (1, 1, 1))
        assert (len(places), len(slices)) == (15, 5)
        voxels = np.array([place.voxel for place in places])
        assert min(np.linalg.norm(a - b) for i, a in enumerate(voxels) for b in voxels[:i]) > 16 - 2 * 4 * 3**0.5

    def test_learners_that_disagree_are_a_reason(self):
        p, spread = np.full((20, 40, 40), 0.98, np.float32), np.zeros((20, 40, 40), np.float32)
        spread[8:12, 8:12, 8:12] = 0.4
        places, _ = uncertain_places(p, spread, np.zeros(p.shape, np.uint8), (1, 1, 1))
        assert places[0].why == "learners disagree"
        assert all(8 <= i < 12 for i in places[0].voxel)

    def test_they_are_written_as_a_table_and_as_segments_that_slicer_jumps_to(self, taught):
        lines = Path("taught/vol_look.csv").read_text(encoding="utf-8").splitlines()
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
        places = [row for row in rows if row["what"] == "place"]
        marked = read_segmentation("taught/vol_look.seg.nrrd")
        assert 0 < len(places) == len(marked.segments) <= 15
        for number, (row, segment) in enumerate(zip(places, marked.segments, strict=True), 1):
            z, y, x = (int(row[axis]) for axis in "zyx")
            assert segment.name == f"{number}: z {z} y {y} x {x}"
            assert marked.labels[z, y, x, 0] == number
            assert float(row["z_um"]) == 2 * z
