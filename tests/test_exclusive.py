"""Several exclusive classes: data sets, crops, scores, training of all of them by one network, evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from running import call, call_for_last_line, read_json
from tiny_training import ctrl_c_when, unfinished

import evaluate
import make_phantoms
import train_micronet
import train_network
from micronet import load_model, predict
from micronet.core.errors import InputError
from micronet.core.exclusive import most_probable
from micronet.core.volume import Volume, upright
from micronet.data.augmentation import CROPS
from micronet.data.dataset import DataSetError, Sample, classes_in, open_dataset, read_dataset
from micronet.io import Segment, read_segmentation, write_segmentation, write_volume
from micronet.io.classes import read_classes
from micronet.measure.confusion import Confusion, confusion, confusion_lines
from micronet.measure.overlap import Overlap
from micronet.networks.library import LIBRARY, Build
from micronet.networks.registry import classes_of
from micronet.networks.weights import load_state
from micronet.training.crops import Crops
from micronet.training.practice import Practice
from micronet.training.recipe import NETWORK_RECIPE
from micronet.training.scoring import numbers_of, with_numbers
from micronet.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("lumen", "wall")
SHAPE = (6, 20, 22)


def tube(seed=0, shape=SHAPE):
    """An image of a bright tube with a dark wall, and its labels."""
    rng = np.random.default_rng(seed)
    _, y, x = np.indices(shape)
    far = (y - rng.integers(8, 12)) ** 2 + (x - rng.integers(8, 12)) ** 2
    labels = np.where(far < 12, 1, np.where(far < 36, 2, 0)).astype(np.uint8)
    grey = np.array([120, 200, 40])[labels] + rng.normal(0, 8, shape)
    return grey.clip(0, 255).astype(np.uint8), labels


def grid(array):
    return Volume(array, upright((2, 2, 2)), units="um", space="left-posterior-superior")


def write_segments(path, masks):
    write_segmentation(
        path, [(Segment(name=name), mask) for name, mask in masks.items()], grid(next(iter(masks.values())))
    )
    return path


def sample(seed=0, shape=SHAPE, weight=None):
    image, labels = tube(seed, shape)
    one = Sample.of(f"v{seed}", grid(image), labels > 0, weight)
    return replace(one, classes=labels, entry=replace(one.entry, classes=NAMES))


def write_project(folder, keys='classes = ["lumen", "wall"]', labels_of=lambda labels: labels):
    """Write two volumes as arrays, with the numbers of their classes, and a data set of two lines."""
    for split, count in (("train", 2), ("val", 1)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, labels = tube(10 * len(split) + number)
            np.save(folder / split / f"data_{number}.npy", image)
            np.save(folder / split / f"mask_{number}.npy", labels_of(labels))
    (folder / "set.toml").write_text(f'folder = "."\n{keys}\n')
    return folder / "set.toml"


class TestReading:
    def test_segments_are_taken_by_name_whatever_their_order_and_others_are_left_out(self, tmp_path):
        _, labels = tube()
        masks = {"nerve": labels == 3, "wall": labels == 2, "lumen": labels == 1}
        found = read_classes(write_segments(tmp_path / "a.seg.nrrd", masks), NAMES)
        np.testing.assert_array_equal(found.volume.array, labels)
        assert found.counted is None
        assert found.description == (
            f"classes of 'a.seg.nrrd' (lumen {np.count_nonzero(labels == 1):,}, "
            f"wall {np.count_nonzero(labels == 2):,} voxels)"
        )

    def test_voxels_of_two_classes_are_counted_and_their_place_is_told(self, tmp_path):
        _, labels = tube()
        wall = labels == 2
        wall[2, 3, 4:7] = True
        lumen = labels == 1
        lumen[2, 3, 4:7] = True
        wall &= ~((labels == 1) & wall)
        path = write_segments(tmp_path / "a.seg.nrrd", {"lumen": lumen, "wall": wall | (lumen & (labels == 0))})
        with pytest.raises(InputError, match="which exclude each other: 3 are 'lumen' and 'wall'") as caught:
            read_classes(path, NAMES)
        assert "(the first at z, y, x = 2, 3, 4; all in z 2 to 2, y 3 to 3, x 4 to 6)" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_segment_that_is_not_there_is_told_with_those_that_are(self, tmp_path):
        _, labels = tube()
        path = write_segments(tmp_path / "a.seg.nrrd", {"lumen": labels == 1, "Walls": labels == 2})
        with pytest.raises(InputError, match=r"none is 'wall', a name or an index \(setting: classes\): 0 'lumen'"):
            read_classes(path, NAMES)

    def test_numbers_are_of_classes_in_their_order_and_others_are_refused(self, tmp_path):
        _, labels = tube()
        np.save(tmp_path / "a.npy", labels.astype(np.float32))
        np.testing.assert_array_equal(read_classes(tmp_path / "a.npy", NAMES, axes="ZYX").volume.array, labels)
        for bad, told in ((7.0, "7"), (0.5, "0.5"), (-1.0, "-1")):
            np.save(tmp_path / "b.npy", np.where(labels == 2, bad, labels))
            with pytest.raises(InputError, match=rf"of no class: {told}; known are 0 background, 1 lumen, 2 wall"):
                read_classes(tmp_path / "b.npy", NAMES, axes="ZYX")

    def test_of_sparse_numbers_0_is_not_annotated_and_background_comes_last(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([[[0, 1, 2, 3]]], np.uint8))
        found = read_classes(tmp_path / "a.npy", NAMES, sparse=True, axes="ZYX")
        assert found.volume.array.tolist() == [[[0, 1, 2, 0]]]
        assert found.counted.tolist() == [[[False, True, True, True]]]
        np.save(tmp_path / "a.npy", np.array([[[0, 4]]], np.uint8))
        with pytest.raises(InputError, match="known are 0 not annotated, 1 lumen, 2 wall, 3 background"):
            read_classes(tmp_path / "a.npy", NAMES, sparse=True, axes="ZYX")

    def test_of_sparse_segments_background_is_one_too(self, tmp_path):
        _, labels = tube()
        painted = {"lumen": labels == 1, "wall": labels == 2, "background": np.zeros(SHAPE, bool)}
        painted["background"][0] = labels[0] == 0
        called = {"Background" if name == "background" else name: mask for name, mask in painted.items()}
        found = read_classes(write_segments(tmp_path / "c.seg.nrrd", called), NAMES, sparse=True)
        np.testing.assert_array_equal(found.counted, (labels > 0) | painted["background"])  # before, it was left out
        np.testing.assert_array_equal(found.volume.array, labels)
        found = read_classes(write_segments(tmp_path / "a.seg.nrrd", painted), NAMES, sparse=True)
        np.testing.assert_array_equal(found.volume.array, labels)
        np.testing.assert_array_equal(found.counted, (labels > 0) | painted["background"])
        del painted["background"]
        found = read_classes(write_segments(tmp_path / "b.seg.nrrd", painted), NAMES, sparse=True)
        np.testing.assert_array_equal(found.counted, labels > 0)


class TestDataSets:
    def test_segments_of_the_listed_names_are_the_classes_of_every_volume(self, tmp_path):
        image, labels = tube()
        write_volume(tmp_path / "a.nrrd", grid(image))
        write_segments(tmp_path / "a.seg.nrrd", {"wall": labels == 2, "lumen": labels == 1})
        (tmp_path / "set.toml").write_text(
            'classes = ["lumen", "wall"]\n[[volume]]\nname = "a"\nsplit = "train"\nimage = "a.nrrd"\n'
            'annotation = "a.seg.nrrd"\ny_crop = 12\n'
        )
        dataset, samples = open_dataset(tmp_path / "set.toml")
        (one,) = samples["train"]
        assert dataset.classes == one.entry.classes == NAMES
        assert one.names == ("background", "lumen", "wall")
        np.testing.assert_array_equal(one.classes, labels[:, :12])
        np.testing.assert_array_equal(one.mask, labels[:, :12] > 0)
        assert classes_in(tmp_path / "set.toml") == NAMES
        assert classes_in(tmp_path / "missing.toml") == ()

    def test_arrays_of_numbers_train_by_two_lines(self, tmp_path):
        _, samples = open_dataset(write_project(tmp_path))
        np.testing.assert_array_equal(samples["train"][0].classes, tube(50)[1])

    def test_a_sparse_annotation_leaves_voxels_out(self, tmp_path):
        def sparse(labels):
            painted = np.where(labels > 0, labels, 3).astype(np.uint8)
            painted[3:] = 0
            return painted

        path = write_project(tmp_path, 'classes = ["lumen", "wall"]\n[defaults]\nlabels = "sparse"', sparse)
        _, samples = open_dataset(path)
        one = samples["train"][0]
        assert one.weight[:3].all()
        assert not one.weight[3:].any()
        np.testing.assert_array_equal(one.classes[:3], tube(50)[1][:3])

    def test_colours_of_several_classes_are_their_names_in_the_order_of_the_table(self, tmp_path):
        image, labels = tube(shape=(1, 20, 22))
        colours = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
        for kind, picture in (("images", image[0]), ("masks", colours[labels[0]])):
            (tmp_path / "train" / kind).mkdir(parents=True)
            Image.fromarray(picture).save(tmp_path / "train" / kind / "a.png")
        (tmp_path / "set.toml").write_text('folder = "."\ncolours = { lumen = "#ff0000", wall = "#0000ff" }\n')
        _, samples = open_dataset(tmp_path / "set.toml")
        assert samples["train"][0].entry.classes == NAMES
        np.testing.assert_array_equal(samples["train"][0].classes, labels)
        (tmp_path / "set.toml").write_text(
            'folder = "."\ncolours = { lumen = "#ff0000", wall = "#0000ff" }\nclasses = ["wall", "lumen"]\n'
        )
        _, samples = open_dataset(tmp_path / "set.toml")
        np.testing.assert_array_equal(samples["train"][0].classes, np.array([0, 2, 1])[labels])
        (tmp_path / "set.toml").write_text('folder = "."\ncolours = { lumen = "#ff0000", wall = "#00ff00" }\n')
        with pytest.raises(DataSetError, match=rf"of no class: #0000ff \({np.count_nonzero(labels == 2)} pixels\)"):
            open_dataset(tmp_path / "set.toml")

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ('classes = "lumen"', r'classes = "lumen" must be an array of names, such as \["lumen", "wall"\]'),
            ('classes = ["lumen", 3]', "must be an array of names"),
            ('classes = ["lumen"]', 'classes must be 2 to 254, found 1; one alone is segment = "lumen"'),
            ("classes = []", "classes must be 2 to 254, found 0"),
            ('classes = ["lumen", "Lumen"]', "classes: two classes have the same name: 'lumen' and 'Lumen'"),
            ('classes = ["lumen", "background"]', "classes: the name of a class is not 'background'"),
            (
                'classes = ["lumen", "wall"]\ncolours = { lumen = "#ff0000", nerve = "#0000ff" }',
                "classes are lumen, wall, colours name lumen, nerve: name the same",
            ),
            (
                'classes = ["lumen", "wall"]\n[defaults]\nsegment = "lumen"',
                "segment chooses one of several, classes names all: give one of the two",
            ),
        ],
    )
    def test_what_is_wrong_with_the_names_is_told(self, tmp_path, keys, message):
        with pytest.raises(DataSetError, match=message):
            read_dataset(write_project(tmp_path, keys))

    def test_numbers_and_collisions_are_told_with_their_volume(self, tmp_path):
        path = write_project(tmp_path, labels_of=lambda labels: labels * 2)
        with pytest.raises(
            DataSetError, match=r"volume 0 \(train\): '.*mask_0.npy' holds numbers .* no class: 4; known"
        ):
            open_dataset(path)


class TestCrops:
    def test_they_are_of_every_class_with_equal_chances_however_rare_it_is(self):
        one = sample()
        one.classes[:] = 0
        one.classes[2, 3, 4] = 1
        one.classes[4, 15, 10:12] = 2
        drawn = Crops([one], (1, 1, 1), 600, 1, None, 6)
        assert drawn.voxels.tolist() == [SHAPE[0] * SHAPE[1] * SHAPE[2] - 3, 1, 2]
        found = [int(drawn.batch(1, number, number).target) for number in range(600)]
        assert np.bincount(found).tolist() == pytest.approx([200, 200, 200], abs=45)

    def test_labels_are_bent_and_turned_to_the_nearest_voxel_like_masks(self):
        one = sample()
        for step in range(6):
            target = Crops([one], (6, 12, 12), 1, 1, replace(CROPS, elastic=3.0), 2).batch(1, 0, step).target
            assert target.dtype == torch.uint8
            assert set(target.unique().tolist()) <= {0, 1, 2}

    def test_a_class_without_voxels_is_named(self):
        one = sample()
        one.classes[one.classes == 2] = 0
        with pytest.raises(InputError, match="the class wall has no annotated voxel in the training volumes"):
            Crops([one], (4, 4, 4), 1, 1, None, 0)


class TestScores:
    def test_numbers_worked_by_hand(self):
        annotated = np.array([[[0, 0, 0, 1, 1, 2]]], np.uint8)
        found = np.array([[[0, 0, 1, 1, 2, 2]]], np.uint8)
        scores = confusion(found, annotated, ("background", *NAMES))
        assert scores.counts == ((2, 1, 0), (0, 1, 1), (0, 0, 1))
        assert [one.iou for one in scores.overlaps] == pytest.approx([2 / 3, 1 / 3, 1 / 2])
        assert [one.f_score() for one in scores.overlaps] == pytest.approx([4 / 5, 1 / 2, 2 / 3])
        assert scores.mean_iou == pytest.approx(1 / 2)
        assert scores.iou == pytest.approx(5 / 12)
        assert scores.f_score() == pytest.approx(7 / 12)
        assert (scores.precision, scores.recall) == pytest.approx((1 / 2, 3 / 4))
        assert (scores + scores).counts == ((4, 2, 0), (0, 2, 2), (0, 0, 2))
        counted = np.array([[[1, 1, 0, 1, 0, 1]]], bool)
        assert confusion(found, annotated, scores.names, counted).counts == ((2, 0, 0), (0, 1, 0), (0, 0, 1))

    @pytest.mark.parametrize("absent", [None, 1, 2])
    def test_they_are_those_of_scikit_learn(self, absent):
        metrics = pytest.importorskip("sklearn.metrics")
        rng = np.random.default_rng(3)
        annotated = rng.integers(0, 3, (4, 5, 6)).astype(np.uint8)
        found = np.where(rng.random(annotated.shape) < 0.6, annotated, rng.integers(0, 3, annotated.shape))
        found = found.astype(np.uint8)
        if absent is not None:
            annotated[annotated == absent] = 0
            found[found == absent] = 0
        scores = confusion(found, annotated, ("background", *NAMES))
        truth, answer, labels = annotated.ravel(), found.ravel(), [0, 1, 2]
        how = {"labels": labels, "zero_division": 1.0}
        np.testing.assert_array_equal(scores.counts, metrics.confusion_matrix(truth, answer, labels=labels))
        each = metrics.jaccard_score(truth, answer, average=None, **how)
        np.testing.assert_allclose([one.iou for one in scores.overlaps], each)
        assert scores.mean_iou == pytest.approx(metrics.jaccard_score(truth, answer, average="macro", **how))
        of_classes = how | {"labels": [1, 2]}
        assert scores.iou == pytest.approx(metrics.jaccard_score(truth, answer, average="macro", **of_classes))
        assert scores.f_score() == pytest.approx(metrics.f1_score(truth, answer, average="macro", **of_classes))

    def test_what_does_not_fit_is_refused(self):
        one = np.zeros((1, 2, 2), np.uint8)
        with pytest.raises(InputError, match="labels up to 3, of 2 classes"):
            confusion(one + 3, one, ("background", *NAMES))
        with pytest.raises(InputError, match="labels of shapes"):
            confusion(one, one[:, :1], ("background", *NAMES))
        with pytest.raises(InputError, match="do not add"):
            confusion(one, one, ("background", "a")) + confusion(one, one, ("background", "b"))
        for counts in ([[1, 2]], [[-1, 0], [0, 0]], [["a", "b"], ["c", "d"]]):
            with pytest.raises(InputError, match="are none of 2 classes"):
                Confusion.of(("background", "a"), counts)

    def test_the_table_has_a_line_for_each_class_and_the_means(self):
        scores = Confusion(
            ("background", "a-class-with-a-long-name-of-its-own", "wall"), ((8, 1, 1), (0, 0, 0), (0, 0, 5))
        )
        lines = confusion_lines(scores)
        assert len(lines) == 5
        assert "80.0 %" in lines[1]
        assert lines[2].rstrip().endswith("-")
        assert lines[4].startswith("mean")
        assert len({len(line) for line in lines[:4]}) == 1

    def test_the_most_probable_class_is_found_and_background_where_it_is_as_probable(self):
        shares = np.array([[0.5, 0.4, 0.2, 0.0], [0.1, 0.5, 0.2, 0.0]], np.float32).reshape(2, 1, 1, 4)
        assert most_probable(shares).tolist() == [[[1, 2, 0, 0]]]
        assert most_probable([shares[0], shares[1]]).tolist() == [[[1, 2, 0, 0]]]


def trainer(network="unet", dimensions=3, validate_every=50, **practice):
    torch.manual_seed(1)
    build = Build(dimensions, depth=1, start_channels=4, classes=NAMES)
    crop = (1, 12, 12) if dimensions == 2 else (6, 12, 12)
    told = Practice(**{"crop_size": crop, "samples_per_volume": 3, "batch_size": 2, **practice})
    recipe = replace(NETWORK_RECIPE, augmentation=CROPS, validate_every=validate_every)
    return Trainer(LIBRARY[network](build), [sample(1), sample(2)], [sample(3)], recipe, 7, practice=told)


class TestTraining:
    @pytest.mark.parametrize("loss", ["dice", "cross_entropy", "boundary_dice", "focal"])
    def test_it_learns_to_tell_the_classes_apart_with_each_loss_of_several(self, loss):
        one = trainer(dimensions=2, loss=loss, lr=2e-2, samples_per_volume=12)
        validations = []
        before = one.score(one.validation_samples)[0].mean_iou
        one.begin(5)
        one.run(lambda _: None, validations.append)
        found = validations[-1]
        assert found.classes.mean_iou > max(0.6, before)
        assert found.f == found.classes.f_score()
        assert found.classes.names == ("background", *NAMES)
        assert one.present_counts == found.classes

    def test_a_resumed_training_ends_with_the_same_bits_and_knows_its_scores(self):
        whole = trainer("hourglass", dimensions=2, validate_every=2)
        whole.begin(2)
        whole.run(lambda _: None, lambda _: None)
        first, steps = trainer("hourglass", dimensions=2, validate_every=2), []
        first.begin(2)
        first.run(steps.append, lambda _: None, lambda: len(steps) >= 3)
        again = trainer("hourglass", dimensions=2, validate_every=2)
        again.restore(first.state(), first.begun)
        assert again.best_counts == first.best_counts is not None
        again.run(lambda _: None, lambda _: None)
        assert all(
            torch.equal(one, other)
            for one, other in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
        )
        assert (again.last_counts, again.best_counts) == (whole.last_counts, whole.best_counts)

    def test_voxels_that_are_not_annotated_count_neither_in_steps_nor_in_validation(self):
        weight = np.zeros(SHAPE, bool)
        weight[:2] = True
        one = trainer()
        one.validation_samples = [sample(3, weight=weight)]
        counts = one.score(one.validation_samples)[0]
        assert sum(map(sum, counts.counts)) == weight.sum()

    def test_a_network_of_other_classes_than_the_volumes_is_refused(self):
        model = LIBRARY["unet"](Build(depth=1, classes=("lumen", "nerve")))
        told = Practice((4, 4, 4))
        with pytest.raises(InputError, match="tells lumen, nerve from background, volume v1 has lumen, wall"):
            Trainer(model, [sample(1)], (), NETWORK_RECIPE, 7, practice=told)


SMALL = ("--network", "unet", "--dimensions", 2, "--depth", 2, "--crop-size", "32,32", "--lr", 0.02, "--threads", 1)


@pytest.fixture
def phantoms(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(make_phantoms, 4, "--kind", "shapes", "--shape", "48,56", "--test", 1, capsys=capsys)
    assert code == 0, err
    return tmp_path / "phantoms" / "phantoms.toml"


def test_shapes_train_to_weights_that_know_their_classes_and_results_that_evaluate_scores(phantoms, tmp_path, capsys):
    run = "3; val; save a; test; load best; save b; finish"
    code, out, err = call(
        train_network,
        *SMALL,
        "--dataset",
        phantoms,
        "--validate-every",
        10,
        "--batch-size",
        2,
        "--run",
        run,
        capsys=capsys,
    )
    assert code == 0, out + err
    assert "classes line, ellipse; " in out
    assert "mean IoU " in out
    assert "found as background" in out
    assert classes_of(load_model("checkpoints/unet_a.pt")) == ("line", "ellipse")
    card = read_json("checkpoints/unet_b.json")
    assert card["build"]["classes"] == ["line", "ellipse"]
    assert set(card["validation"]["classes"]) == {"background", "line", "ellipse"}
    header, *rows = (tmp_path / "logs" / "unet.csv").read_text(encoding="utf-8").splitlines()
    assert header.endswith("mean_iou,iou background,dice background,iou line,dice line,iou ellipse,dice ellipse")
    validated = next(row.split(",") for row in rows if ",validation," in row)
    assert float(validated[11]) == pytest.approx(np.mean([float(validated[column]) for column in (12, 14, 16)]))

    (result,) = (tmp_path / "predictions").glob("*shapes_0003*.seg.nrrd")
    segmentation = read_segmentation(result)
    assert [segment.name for segment in segmentation.segments] == ["line", "ellipse"]
    assert len({segment.color for segment in segmentation.segments}) == 2
    stem = result.name.removesuffix(".seg.nrrd")
    for end in ("_line_probability.nrrd", "_ellipse_probability.nrrd", "_preview.png"):
        assert (result.parent / f"{stem}{end}").is_file()
    told = read_json(result.parent / f"{stem}.json")
    assert told["classes"] == ["line", "ellipse"]

    code, out, err = call(evaluate, result, "--annotation", "phantoms/masks/shapes_0003.png", "--report", capsys=capsys)
    assert code == 0, out + err
    assert "classes line, ellipse (as the records of the predictions say" in out
    scored = read_json("scores/scores.json")
    assert scored["together"]["mean_iou"] == pytest.approx(told["scores"]["mean_iou"])
    page = (tmp_path / "scores" / "scores_report.html").read_text(encoding="utf-8")
    assert "Confusion matrix" in page
    assert '<th scope="col" class="number">Dice</th>' in page  # before, to the left: a mean is of IoU only

    code, out, err = call(
        train_network, "--network", "unet", "--resume", "--threads", 1, "--run", "status; threshold 0.3", capsys=capsys
    )
    assert code == 2
    assert "classes line, ellipse; " in out
    assert "classes line, ellipse, recipe" in out
    assert "no threshold applies" in out


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        (train_network, (*SMALL, "--loss", "bce"), "the loss bce is of one class, the data set has 2 (--loss)"),
        (train_network, (*SMALL, "--loss", "fbeta"), "the loss fbeta is of one class"),
        (
            train_micronet,
            (),
            'has the classes line, ellipse, and a µ-Net tells one from background: write segment = "line" under '
            "[defaults] instead, or train_network.py takes them all",
        ),
    ],
)
def test_what_does_not_fit_several_classes_costs_a_line(phantoms, script, options, message, capsys):
    code, _, err = call_for_last_line(script, *options, "--dataset", phantoms, "--run", "1", capsys=capsys)
    assert code == 2
    assert message in err


def test_a_class_that_nobody_annotated_costs_a_line_before_training(phantoms, capsys):
    phantoms.write_text(phantoms.read_text().replace('"line", "ellipse"', '"line", "ellipse", "cross"'))
    code, out, err = call(train_network, *SMALL, "--dataset", phantoms, "--run", "1", capsys=capsys)
    assert code == 2
    assert err == "error: the class cross has no annotated voxel in the training volumes\n"
    assert "step" not in out
    assert not list(phantoms.parent.parent.glob("checkpoints/*"))


def test_ctrl_c_in_a_training_of_several_classes_saves_it_and_what_is_left_ends_with_the_same_bits(
    phantoms, tmp_path, capsys
):
    how = (*SMALL, "--dataset", phantoms, "--validate-every", 25, "--samples-per-volume", 20)
    code, out, err = call(train_network, *how, "--project", tmp_path / "whole", "--run", "2; finish", capsys=capsys)
    assert code == 0, out + err
    log = tmp_path / "logs" / "unet.csv"
    with ctrl_c_when(lambda: log.is_file() and log.read_text(encoding="utf-8").count("\n") > 8):
        code, out, err = call(train_network, *how, "--run", "2; finish", capsys=capsys)
    assert (code, err) == (130, "")
    assert "> finish" not in out
    assert not unfinished(tmp_path)
    again = ("--network", "unet", "--resume", "--threads", 1, "--run", "finish")
    code, out, err = call(train_network, *again, capsys=capsys)
    assert code == 0, out + err
    whole, resumed = ({path.name: load_state(path) for path in folder.glob("checkpoints/*.pt")}
                      for folder in (tmp_path / "whole", tmp_path))  # fmt: skip
    assert "unet_dice_80.pt" in whole
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name][key], resumed[name][key]) for name in whole for key in whole[name])


def test_a_data_set_whose_classes_have_changed_does_not_resume_and_other_weights_do_not_load(phantoms, capsys):
    how = ("--dataset", phantoms, "--samples-per-volume", 1, "--validate-every", 100)
    code, out, err = call(train_network, *SMALL, *how, "--run", "1; save a; finish", capsys=capsys)
    assert code == 0, out + err
    phantoms.write_text(phantoms.read_text().replace('"line", "ellipse"', '"bar", "disk"'))
    code, _, err = call_for_last_line(train_network, "--network", "unet", "--resume", "--run", "1", capsys=capsys)
    assert code == 2
    assert "the session tells line, ellipse apart" in err
    code, out, err = call(train_network, *SMALL, *how, "--run", "load a", capsys=capsys)
    assert code == 2
    assert "unet_a.pt is built as " in out
    assert "'classes': ['bar', 'disk']" in out


class TestEvaluating:
    @pytest.fixture
    def files(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        _, labels = tube()
        found = labels.copy()
        found[0][labels[0] == 2] = 0
        found[1][labels[1] == 1] = 2
        for name, one in (("true", labels), ("found", found)):
            write_segments(tmp_path / f"{name}.seg.nrrd", {"wall": one == 2, "lumen": one == 1})
            np.save(tmp_path / f"{name}.npy", one)
        return confusion(found, labels, ("background", *NAMES))

    @pytest.mark.parametrize("kind", ["seg.nrrd", "npy"])
    def test_classes_asked_for_are_scored_of_segments_and_of_numbers(self, files, tmp_path, kind, capsys):
        code, out, err = call(
            evaluate,
            f"found.{kind}",
            "--annotation",
            f"true.{kind}",
            "--axes",
            "ZYX",
            "--classes",
            "lumen,wall",
            capsys=capsys,
        )
        assert code == 0, out + err
        assert "classes lumen, wall (as asked for)" in out
        record = read_json("scores/scores.json")
        assert record["pairs"][0]["confusion"]["voxels"] == [list(row) for row in files.counts]
        assert record["together"]["classes"]["wall"]["iou"] == files.overlap(2).iou
        rows = [line for line in (tmp_path / "scores/scores.csv").read_text().splitlines() if not line.startswith("#")]
        assert [row.split(",")[3] for row in rows] == ["class", "background", "lumen", "wall", "all"]
        assert float(rows[2].split(",")[4]) == pytest.approx(files.overlap(1).iou, abs=1e-6)
        assert float(rows[4].split(",")[10]) == pytest.approx(files.mean_iou, abs=1e-6)
        table = [line for line in (tmp_path / "scores/confusion.csv").read_text().splitlines() if line[0] != "#"]
        assert table[3].split(",")[3:] == ["wall", *map(str, files.counts[2])]

    def test_a_crop_is_looked_at_only(self, files, capsys):
        how = ("--annotation", "true.seg.nrrd", "--classes", "lumen,wall", "--y-crop", 5)
        code, out, err = call(evaluate, "found.seg.nrrd", *how, capsys=capsys)
        assert code == 0, out + err
        voxels = read_json("scores/scores.json")["together"]["confusion"]["voxels"]
        assert sum(map(sum, voxels)) == SHAPE[0] * 5 * SHAPE[2]

    def test_several_volumes_are_scored_together_and_masks_again_afterwards(self, files, tmp_path, capsys):
        for folder, name in (("p", "found"), ("t", "true")):
            (tmp_path / folder).mkdir()
            for volume in "ab":
                (tmp_path / folder / f"{volume}.seg.nrrd").write_bytes((tmp_path / f"{name}.seg.nrrd").read_bytes())
        how = ("--annotation", "t", "--force")
        code, out, err = call(evaluate, "p", *how, "--classes", "lumen,wall", "--report", capsys=capsys)
        assert code == 0, out + err
        assert "the voxels of 2 volumes together:" in out
        record = read_json("scores/scores.json")
        assert record["together"]["confusion"]["voxels"] == [list(row) for row in (files + files).counts]
        assert {"scores.csv", "confusion.csv", "summary.csv", "scores_report.html"} <= {
            path.name for path in (tmp_path / "scores").iterdir()
        }
        code, out, err = call(evaluate, "p", *how, "--segment", "lumen", "--prediction-segment", "lumen", capsys=capsys)
        assert code == 0, out + err
        assert not (tmp_path / "scores" / "confusion.csv").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--classes", "lumen"), "2 to 254 names, such as lumen,wall"),
            (("--classes", "lumen,lumen"), "two classes have the same name"),
            (("--classes", "lumen,wall", "--measures"), "--measures is of one mask, and the classes lumen, wall"),
            (("--classes", "lumen,wall", "--segment", "lumen"), "--segment is of one mask"),
            (("--classes", "lumen,wall", "--tolerance", 3), "--tolerance is of one mask"),
        ],
    )
    def test_what_does_not_go_together_costs_a_line(self, files, options, message, capsys):
        how = ("found.seg.nrrd", "--annotation", "true.seg.nrrd")
        code, _, err = call_for_last_line(evaluate, *how, *options, capsys=capsys)
        assert code == 2
        assert message in err

    def test_a_class_that_is_not_there_fails_its_volume(self, files, capsys):
        how = ("found.seg.nrrd", "--annotation", "true.seg.nrrd", "--classes", "lumen,nerve")
        code, out, err = call(evaluate, *how, capsys=capsys)
        assert code == 2
        assert "none is 'nerve', a name or an index (--classes): 0 'wall'" in out + err


def test_a_search_of_several_classes_tries_the_losses_that_fit_them(phantoms, capsys):
    pytest.importorskip("optuna")
    import search

    options = (
        "--network",
        "unet",
        "--dimensions",
        2,
        "--trials",
        2,
        "--epochs",
        1,
        "--validate-every",
        20,
        "--threads",
        1,
    )
    code, out, err = call(search, *options, "--dataset", phantoms, capsys=capsys)
    assert code == 0, out + err
    assert "2 trials to the end" in out
    code, _, err = call_for_last_line(search, "--network", "u-net", "--dataset", phantoms, capsys=capsys)
    assert code == 2
    assert "a µ-Net tells one from background" in err


def test_a_search_draws_only_losses_of_several_classes():
    from micronet.training.search.spaces import larger

    class Drawn:
        def __init__(self):
            self.choices = {}

        def suggest_categorical(self, name, choices):
            self.choices[name] = list(choices)
            return choices[0]

        def suggest_float(self, name, low, high, log=False):
            return low

    drawn = Drawn()
    larger(lambda _: None, (1, 48, 48), 3, 1, lambda _: None).suggest(drawn)
    assert drawn.choices["loss"] == ["dice", "boundary_dice", "cross_entropy", "focal"]


def test_one_probability_is_not_taken_for_that_of_several_classes():
    model = LIBRARY["unet"](Build(depth=1, classes=NAMES)).eval()
    with pytest.raises(InputError, match="this U-Net tells lumen, wall apart, each with a probability of its own"):
        predict(tube()[0], model)


def test_counts_go_from_process_to_process_as_numbers():
    names = ("background", *NAMES)
    scores = Confusion(names, ((8, 1, 1), (0, 2, 0), (0, 3, 5)))
    assert with_numbers(Confusion(names, ((0,) * 3,) * 3), numbers_of(scores)) == scores
    assert with_numbers(Overlap(0, 0, 0), numbers_of(Overlap(3, 1, 2))) == Overlap(3, 1, 2)
