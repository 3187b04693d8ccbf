"""Thin stacks: an axis below 32 voxels is mirrored up to 32 for the network, and the result is the input's."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from running import call, read_json

import infer
import train_micronet
import train_micrornet
from micronet import MicroNet, MicroRNet, Volume, predict, read_volume, write_volume
from micronet.app.terminal import run
from micronet.core.errors import InputError
from micronet.core.volume import upright
from micronet.data.augmentation import Augmentation
from micronet.data.dataset import Sample
from micronet.io import Segment, read_annotation, write_segmentation
from micronet.networks.normalize import normalize_image, normalize_mask
from micronet.networks.padding import Padding
from micronet.networks.weights import save_state
from micronet.segment.refine import Refinement
from micronet.segment.slabs import predict_in_slabs
from micronet.training.losses import fbeta_loss
from micronet.training.recipe import RECIPES
from micronet.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("engine_ready")

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "two_photon"


class TestPadding:
    def test_an_axis_is_mirrored_on_both_sides_up_to_32(self):
        padding = Padding((30, 40, 32))
        padded = padding.pad(np.broadcast_to(np.arange(30)[:, None, None], (30, 40, 32)))
        assert padded[:, 0, 0].tolist() == [0, *range(30), 29]
        assert padding.shape == padded.shape == (32, 40, 32)

    def test_an_axis_shorter_than_its_margins_is_mirrored_again(self):
        padded = Padding((2, 32, 32)).pad(np.broadcast_to(np.arange(2)[:, None, None], (2, 32, 32)))
        assert padded[:, 0, 0].tolist() == [1, 1, 0, 0] * 8  # the two themselves are the 16th and 17th
        assert not np.ptp(Padding((1, 32, 32)).pad(np.ones((1, 32, 32))))

    def test_unpadding_gives_the_array_back(self, rng):
        array = rng.random((5, 32, 7))
        padding = Padding(array.shape)
        assert np.array_equal(padding.unpad(padding.pad(array)), array)

    def test_planes_are_those_of_the_whole(self, rng):
        array = rng.random((5, 40, 7))
        padding = Padding(array.shape)
        planes = padding.pad_planes(lambda first, stop: array[first:stop], 3, 21)
        assert np.array_equal(planes, padding.pad(array)[3:21])
        first, inside = padding.unpad_planes(3, planes)
        assert first == 0
        assert np.array_equal(inside, array)

    def test_long_axes_are_left_as_they_are(self, rng):
        array = rng.random((32, 33, 34))
        padding = Padding(array.shape)
        assert padding.pad(array) is array
        assert padding.unpad(array) is array
        assert padding.note is None

    def test_one_line_says_so(self):
        assert Padding((12, 512, 512)).note == (
            "axis Z has 12 planes: padded to 32 by mirroring for the network; the result has 12"
        )
        assert Padding((1, 40, 20)).note == (
            "axes Z, X have 1, 20 planes: padded to 32 by mirroring for the network; the result has 1, 20"
        )


@pytest.fixture(params=[MicroNet, MicroRNet], ids=["u-net", "ur-net"])
def model(request):
    torch.manual_seed(6)
    return request.param()


@pytest.mark.parametrize("shape", [(12, 40, 36), (1, 33, 32), (40, 7, 20)])
class TestPredict:
    def test_it_is_the_inside_of_what_the_network_says_of_the_mirrored_volume(self, rng, model, shape):
        image = rng.integers(0, 255, shape).astype(np.uint8)
        found = predict(image, model, 1)
        assert found.shape == shape
        padding = Padding(shape)
        x = np.stack([padding.pad(normalize_image(image)), normalize_mask(np.zeros(padding.shape))])
        with torch.no_grad():
            expected = model(torch.from_numpy(x[None, : 1 + model.mask_channels]))[0, 0].numpy()
        assert np.array_equal(found, padding.unpad(expected))

    def test_slabs_give_the_same_numbers(self, tmp_path, rng, model, shape):
        image = rng.integers(0, 255, shape).astype(np.uint8)
        whole, slabs = [], []
        expected = predict(image, model, 3, None, whole.append)
        with predict_in_slabs(image, model, tmp_path, 8, Refinement(3, None, slabs.append)) as found:
            assert np.array_equal(found[:], expected)
        for one, other in zip(whole, slabs, strict=True):
            assert (one.largest_change, one.flipped, one.foreground) == (
                other.largest_change, other.flipped, other.foreground,
            )  # fmt: skip

    def test_refinements_one_by_one_are_those_of_one_go(self, rng, shape):
        torch.manual_seed(1)
        model = MicroRNet()
        image = rng.integers(0, 255, shape).astype(np.uint8)
        one = predict(image, model, 1, predict(image, model, 1))
        assert np.array_equal(one, predict(image, model, 2))


def test_a_thin_crop_of_the_depth_is_padded_too(rng):
    torch.manual_seed(1)
    found = predict(rng.random((33, 40, 34)), MicroNet(), y_crop=10)
    assert found.shape == (33, 40, 34)
    assert found[:, :10].all()
    assert not found[:, 10:].any()


class TestTraining:
    @pytest.fixture
    def sample(self, rng):
        z, y, x = np.indices((10, 40, 36))
        mask = (y - 20) ** 2 + (x - 18) ** 2 < 60 + z
        image = (80 + 60 * mask + rng.normal(0, 8, mask.shape)).clip(0, 255).astype(np.uint8)
        return Sample.of("thin", Volume(image), mask)

    @pytest.mark.parametrize("network", [MicroNet, MicroRNet])
    @pytest.mark.parametrize("recipe", ["default", "published"])
    def test_both_networks_learn_from_a_thin_stack(self, sample, network, recipe):
        torch.manual_seed(0)
        trainer = Trainer(network(), [sample], [sample], RECIPES[recipe], iterations=2)
        trainer.begin(2, 2)
        steps = []
        trainer.run(steps.append, lambda _: None)
        assert len(steps) == 4
        assert all(np.isfinite(step.loss) for step in steps)
        assert trainer.validate().f >= 0
        assert trainer.predict(sample).shape == (10, 40, 36)

    def test_the_loss_is_that_of_the_real_voxels_only(self, sample):
        torch.manual_seed(0)
        model = MicroNet()
        trainer = Trainer(model, [sample], recipe=RECIPES["published"])
        x, target, weight, _ = trainer._inputs(0, 0)
        assert x.shape == (1, 1, 32, 40, 36)
        assert weight.sum() == sample.image.size
        with torch.no_grad():
            probability = model(x)
        padding = Padding(sample.image.shape)
        inside = torch.from_numpy(padding.unpad(probability[0, 0].numpy()))
        expected = fbeta_loss(inside, torch.from_numpy(sample.mask))
        assert fbeta_loss(probability, target, 1.0, weight).item() == pytest.approx(expected.item(), rel=1e-6)
        assert np.array_equal(padding.unpad(x[0, 0].numpy()), normalize_image(sample.volume.array))

    def test_what_is_not_annotated_stays_so(self, sample, rng):
        weight = rng.random(sample.mask.shape) < 0.5
        sparse = Sample.of("sparse", sample.volume, sample.mask, weight)
        trainer = Trainer(MicroNet(), [sparse], recipe=RECIPES["published"])
        counted = trainer._inputs(0, 0).weight
        assert np.array_equal(Padding(weight.shape).unpad(counted[0, 0].numpy()), weight)
        assert counted.sum() == weight.sum()

    def test_crops_leave_a_thin_axis_whole(self, rng):
        for _ in range(20):
            view = Augmentation(smallest_crop=0.1).draw((5, 40, 60), rng)
            assert view.box[0] == (0, 5)


def tube_stack(shape, rng):
    z, y, x = np.indices(shape)
    mask = (y - shape[1] / 2) ** 2 + (x - shape[2] / 2) ** 2 < 60 + z
    image = (80 + 60 * mask + rng.normal(0, 8, shape)).clip(0, 255).astype(np.uint8)
    grid = Volume(image, upright((5, 1, 1)), np.array([1.0, 2, 3]), "left-posterior-superior", "um")
    return grid, mask


@pytest.fixture
def folder(tmp_path, monkeypatch, rng):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(7)
    save_state(tmp_path / "checkpoints" / "ur-net_test.pt", MicroRNet().state_dict())
    grid, mask = tube_stack((12, 44, 40), rng)
    write_volume(tmp_path / "thin.nrrd", grid)
    write_segmentation(tmp_path / "thin.seg.nrrd", [(Segment("lumen"), mask)], grid)
    return tmp_path


class TestScripts:
    def test_infer_says_so_and_writes_on_the_grid_of_the_input(self, folder, capsys):
        options = (
            "--model",
            "ur-net_test",
            "--iterations",
            2,
            "--report",
            "--mesh",
            "stl",
            "--measures",
            "--label-tiff",
        )
        code, out, err = call(
            infer,
            "thin.nrrd",
            "-o",
            "out",
            "--annotation",
            "thin.seg.nrrd",
            "--threshold",
            0.3,
            *options,
            capsys=capsys,
        )
        assert code == 0, err
        assert out.count("axis Z has 12 planes: padded to 32 by mirroring for the network; the result has 12") == 1
        found, given = read_volume("out/thin_probability.nrrd"), read_volume("thin.nrrd")
        assert found.shape == given.shape
        assert np.array_equal(found.directions, given.directions)
        assert np.array_equal(found.origin, given.origin)
        assert read_annotation("out/thin.seg.nrrd").mask.shape == given.shape
        assert read_json("out/thin.json")["volume"]["shape_zyx"] == [12, 44, 40]

    @pytest.mark.parametrize("shape", [(1, 44, 40), (2, 2, 2), (40, 44, 1)])
    def test_infer_takes_a_stack_of_a_single_plane(self, folder, rng, capsys, shape):
        write_volume(folder / "one.nrrd", Volume(rng.integers(0, 255, shape, np.uint8), upright(2), units="um"))
        options = (
            "--model",
            "ur-net_test",
            "--iterations",
            2,
            "--report",
            "--mesh",
            "stl",
            "--measures",
            "--label-tiff",
        )
        code, _, err = call(infer, "one.nrrd", "-o", "out", *options, capsys=capsys)
        assert code == 0, err
        assert read_volume("out/one_probability.nrrd").shape == shape

    def test_a_recording_of_thin_stacks_is_segmented(self, folder, rng, capsys):
        first, _ = tube_stack((12, 44, 40), rng)
        write_volume(folder / "thin_t1.nrrd", first)
        write_volume(folder / "thin_t2.nrrd", first.with_array(np.roll(first.array, 2, 2)))
        code, out, err = call(
            infer, "thin_t1.nrrd", "thin_t2.nrrd", "--time-lapse", "--model", "ur-net_test", "--iterations", 1,
            capsys=capsys,
        )  # fmt: skip
        assert code == 0, err
        assert re.search(r"drift \(Z, Y, X\) of the picture [+-]0\.\d, [+-]0\.\d, \+(1\.[5-9]|2\.[0-5]) µm", out), out

    def test_training_says_so_and_looks_at_the_stack_at_the_prompt(self, folder, capsys):
        volume = '[[volume]]\nname = "{0}"\nsplit = "{0}"\nimage = "thin{1}.nrrd"\nannotation = "thin.seg.nrrd"'
        write_volume(folder / "thin1.nrrd", read_volume("thin.nrrd"))
        text = ['name = "thin"', volume.format("train", ""), volume.format("validation", 1)]
        (folder / "thin.toml").write_text("\n\n".join(text), encoding="utf-8")
        for script, work in (
            (train_micronet, "4; bootstrap; finish"),
            (train_micrornet, "load bootstrap; 1 2; val; finish"),
        ):
            with pytest.raises(SystemExit) as left:
                run(script.build_parser(), script.main, ["--dataset", "thin.toml", "--iterations", "2", "--run", work])
            out, err = capsys.readouterr()
            assert left.value.code == 0, err
            assert "train: axis Z has 12 planes: padded to 32 by mirroring for the network; the result has 12" in out
        found = next((folder / "predictions").glob("*validation_2_probability.nrrd"))
        assert read_volume(found).shape == (12, 44, 40)


def test_the_plugin_takes_a_thin_layer(tmp_path, rng):
    from micronet.app.napari.segmenter import Segmenting, Step, segment

    save_state(tmp_path / "ur-net.pt", MicroRNet().state_dict())
    movie, found = rng.integers(0, 255, (2, 5, 40, 36), np.uint8), []
    segment(movie, Volume(movie[0]), Segmenting(tmp_path / "ur-net.pt", iterations=2), found.append)
    assert {step.mask.shape for step in found if isinstance(step, Step)} == {(5, 40, 36)}


def test_an_axis_without_voxels_is_refused():
    with pytest.raises(InputError, match="holds no voxel"):
        predict(np.zeros((0, 40, 40)), MicroNet())


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/two_photon")
def test_a_real_two_photon_stack_is_segmented_and_trained_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "poon2015_plaqueVessels"
    given = read_volume(SHARED / f"{name}.nrrd")
    assert given.shape[0] < 32
    cropped = given.array[:, :96, :96]
    write_volume(tmp_path / "stack.nrrd", Volume(cropped, given.directions, given.origin, given.space, given.units))
    label = read_volume(SHARED / f"{name}_label.nrrd").array[:, :96, :96] > 0
    write_segmentation(tmp_path / "stack.seg.nrrd", [(Segment("vessel"), label)], read_volume("stack.nrrd"))
    assert label.any()
    (tmp_path / "real.toml").write_text(
        'name = "real"\n[[volume]]\nname = "stack"\nsplit = "train"\n'
        'image = "stack.nrrd"\nannotation = "stack.seg.nrrd"\n'
    )
    with pytest.raises(SystemExit) as left:
        run(
            train_micronet.build_parser(),
            train_micronet.main,
            ["--dataset", "real.toml", "--run", "12; save real; finish"],
        )
    assert left.value.code == 0
    code, out, err = call(infer, "stack.nrrd", "--model", "checkpoints/u-net_real.pt", capsys=capsys)
    assert code == 0, err
    assert f"axis Z has {given.shape[0]} planes: padded to 32" in out
    assert json.loads(Path("predictions/stack.json").read_text())["volume"]["shape_zyx"] == list(cropped.shape)
