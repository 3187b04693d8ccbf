"""Phantoms of other kinds: drawn shapes, and optic lobes."""

import json
import tomllib
from dataclasses import replace
from functools import partial

import h5py
import numpy as np
import pytest
import running
import SimpleITK as sitk
from PIL import Image
from scipy import ndimage

import make_phantoms
from micronet import read_annotation, read_volume
from micronet.core.errors import InputError
from micronet.data.dataset import load_split, read_dataset
from micronet.data.phantom import optic_lobe as lobes
from micronet.data.phantom.optic_lobe import BRIGHTEST, OpticLobe, optic_lobe
from micronet.data.phantom.shapes import ELLIPSE, LINE, Shapes, draw_shapes

SMALL = (48, 52, 50)
# Nothing that is drawn at random but where things are.
STILL = Shapes(noise_sd=(0.0, 0.0), drift_sd=0.0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


call = partial(running.call, make_phantoms)


class TestShapes:
    def test_the_same_seed_draws_the_same_image_and_another_another(self):
        first, again, other = (draw_shapes((70, 90), np.random.default_rng(seed)) for seed in (3, 3, 4))
        for one, two in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, two)
        assert (first[0] != other[0]).mean() > 0.5
        assert first[0].shape == first[1].shape == (70, 90)
        assert first[0].dtype == first[1].dtype == np.uint8

    def test_a_line_is_as_wide_and_long_as_asked_and_of_one_grey(self):
        what = replace(STILL, lines=(1, 1), ellipses=(0, 0), line_width_px=(6, 6), line_length=(0.5, 0.5))
        areas = []
        for seed in range(40):
            image, labels = draw_shapes((200, 200), np.random.default_rng(seed), what)
            line = labels == LINE
            inside = not (line[[0, -1]].any() or line[:, [0, -1]].any())
            if inside:
                areas.append(line.sum())
            assert len(np.unique(image[line])) <= 1
            assert not (labels == ELLIPSE).any()
        # 100 pixels from end to end of its middle, 6 across, and two half discs of radius 3.
        assert len(areas) > 5
        np.testing.assert_allclose(areas, 100 * 6 + np.pi * 9, rtol=0.04)

    def test_an_ellipse_has_the_area_of_its_axes(self):
        what = replace(STILL, lines=(0, 0), ellipses=(1, 1), semi_axis=(0.1, 0.1))
        areas = []
        for seed in range(20):
            labels = draw_shapes((200, 240), np.random.default_rng(seed), what)[1]
            if not (labels[[0, -1]].any() or labels[:, [0, -1]].any()):
                areas.append((labels == ELLIPSE).sum())
        assert len(areas) > 3
        np.testing.assert_allclose(areas, np.pi * 20**2, rtol=0.02)

    def test_greys_are_any_but_those_near_the_background(self):
        greys, backgrounds = [], []
        for seed in range(60):
            image, labels = draw_shapes((64, 64), np.random.default_rng(seed), replace(STILL, least_contrast=40))
            behind = int(np.median(image[labels == 0]))
            drawn = np.unique(image[labels > 0]).astype(int)
            assert (np.abs(drawn - behind) >= 39).all()  # both are rounded
            greys += drawn.tolist()
            backgrounds.append(behind)
        assert min(greys) < 20
        assert max(greys) > 235
        assert 60 <= min(backgrounds) < 90 < 165 < max(backgrounds) <= 195

    def test_noise_has_the_strength_that_was_asked_for(self):
        what = replace(STILL, lines=(0, 0), ellipses=(0, 0), noise_sd=(9, 9))
        image, labels = draw_shapes((200, 200), np.random.default_rng(1), what)
        assert not labels.any()
        assert image.std() == pytest.approx(9, rel=0.03)

    def test_too_small_an_image_is_refused(self):
        with pytest.raises(InputError, match="an image of 31 x 64 pixels; shapes need at least 32 each"):
            draw_shapes((31, 64), np.random.default_rng(1))


class TestOpticLobe:
    def test_the_same_seed_gives_the_same_volume_and_another_another(self):
        first, again, other = (optic_lobe(SMALL, np.random.default_rng(seed)) for seed in (3, 3, 4))
        for one, two in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, two)
        assert (first[0] != other[0]).mean() > 0.5
        assert (first[0].dtype, first[1].dtype) == (np.uint16, np.bool_)

    def test_the_mask_is_the_cones_of_the_columns_voxel_by_voxel(self):
        what = replace(OpticLobe(), jitter=0.0)  # so that none touch, and each voxel is of one column at most
        columns = lobes._columns(np.array(SMALL) * what.spacing_um, np.random.default_rng(5), what)
        mask = columns.mask(SMALL, what.spacing_um)
        by_definition = np.zeros(SMALL, bool)
        middles = np.moveaxis(np.indices(SMALL), 0, -1) + 0.5 - columns.centre
        for axis, outer in zip(columns.axes, columns.outer, strict=True):
            along = middles @ axis
            across = np.linalg.norm(middles - along[..., None] * axis, axis=-1)
            ends = (along <= outer) & (along >= outer - columns.length)
            by_definition |= ends & (across <= along * np.tan(columns.half_angle))
        assert 0.05 < mask.mean() < 0.5
        assert (mask != by_definition).mean() < 1e-5  # on the surface itself, roundings decide

    def test_columns_stand_on_the_ellipsoid_in_hexagons_and_do_not_touch(self):
        still = replace(OpticLobe(), jitter=0.0, left_out=0.0, tilt_deg=(0, 0), semi_axis=(1.0, 1.0))
        columns = lobes._columns(np.array((128.0, 128, 128)), np.random.default_rng(1), still)
        np.testing.assert_allclose(columns.outer, 128)
        near = columns.axes[columns.axes[:, 0] < -0.97]
        apart = np.arccos(np.clip(near @ near.T, -1, 1)) * 128
        np.fill_diagonal(apart, np.inf)
        middle = np.argmin(near[:, 0])
        six = np.sort(apart[middle])[:7]
        np.testing.assert_allclose(six[:6], still.pitch_um, rtol=0.02)
        assert six[6] > 1.6 * still.pitch_um
        everywhere = np.arccos(np.clip(columns.axes @ columns.axes.T, -1, 1))
        np.fill_diagonal(everywhere, np.inf)
        assert everywhere.min() > 2 * columns.half_angle

    def test_the_share_of_columns_that_was_asked_for_is_left_out(self):
        shares = []
        for seed in range(8):
            counts = [
                len(
                    lobes._columns(
                        np.full(3, 128.0), np.random.default_rng(seed), replace(OpticLobe(), left_out=p)
                    ).axes
                )
                for p in (0.0, 0.3)
            ]
            shares.append(1 - counts[1] / counts[0])
        assert np.mean(shares) == pytest.approx(0.3, abs=0.03)

    def test_a_curve_begins_at_its_first_and_ends_at_its_last_point(self):
        points = np.array([[[0.0, 0, 0], [1, 0, 0], [2, 0, 3], [3, 0, 0]]])
        np.testing.assert_allclose(lobes._bezier(points, np.array([0.0])), [[0, 0, 0]])
        np.testing.assert_allclose(lobes._bezier(points, np.array([1.0])), [[3, 0, 0]])
        # By hand: 3 * 0.5 * 0.25 * 3 = 1.125 along the last axis, and halfway along the first.
        np.testing.assert_allclose(lobes._bezier(points, np.array([0.5])), [[1.5, 0, 1.125]])

    def test_neurites_run_from_the_outer_ends_to_the_centre(self):
        what = OpticLobe()
        columns = lobes._columns(np.full(3, 128.0), np.random.default_rng(2), what)
        curves = lobes._curves(columns, np.arange(len(columns.axes)), np.random.default_rng(3))
        ends = columns.centre + columns.axes * columns.outer[:, None]
        assert np.median(np.linalg.norm(curves[:, 0] - ends, axis=1)) < what.pitch_um / 2
        assert np.median(np.linalg.norm(curves[:, 3] - columns.centre, axis=1)) < what.pitch_um / 2

    def test_clusters_have_three_densities(self):
        what = replace(OpticLobe(), cluster_um=0.0, neurite_per_um=0.0, densities=(10, 40, 160))
        columns = lobes._columns(np.full(3, 64.0), np.random.default_rng(2), what)
        places = lobes._fluorophores(columns, np.random.default_rng(3), what)
        counts = np.unique(places, axis=0, return_counts=True)[1]
        assert set(counts) == {10, 40, 160}
        depths = columns.outer.max() - np.linalg.norm(places - columns.centre, axis=1)
        assert np.quantile(depths, 0.95) < columns.length + what.pitch_um

    def test_grey_values_without_fluorescence_are_photons_and_noise_of_the_detector(self):
        what = replace(OpticLobe(), photons=0.0)
        image, _ = optic_lobe((64, 64, 64), np.random.default_rng(1), what)
        assert image.mean() == pytest.approx(what.offset + what.gain * what.background, rel=0.01)
        # Poisson's variance is its mean; the detector adds its own.
        assert image.std() == pytest.approx(np.hypot(what.gain * what.background**0.5, what.read_noise), rel=0.01)

    def test_light_is_spread_as_far_as_asked_along_each_axis(self):
        what = replace(OpticLobe(), background=0.0, read_noise=0.0, photons=2e4, gain=1.0, offset=0.0)
        image = lobes._image((33, 33, 33), np.full((1, 3), 16.5), np.random.default_rng(1), what).astype(float)
        for axis, sigma in enumerate(what.blur_um):
            profile = image.sum(axis=tuple({0, 1, 2} - {axis}))
            spread = np.sqrt((profile * (np.arange(33) - 16) ** 2).sum() / profile.sum())
            assert spread == pytest.approx(sigma, rel=0.05)

    def test_columns_are_brighter_than_what_is_between_them(self):
        image, mask = optic_lobe((64, 96, 96), np.random.default_rng(1))
        beside = ndimage.binary_dilation(mask, iterations=2) & ~mask
        assert image[mask].mean() > 1.2 * image[beside].mean()

    def test_too_small_a_volume_is_refused(self):
        with pytest.raises(InputError, match="a volume of 64 x 31 x 64 voxels; an optic lobe needs at least 32 each"):
            optic_lobe((64, 31, 64), np.random.default_rng(1))


class TestFiles:
    def test_shapes_are_png_with_labels_and_a_data_set_of_two_classes(self, folder, capsys):
        code, out, err = call(3, "--kind", "shapes", "--shape", "80,96", "--seed", 5, capsys=capsys)
        assert code == 0, err
        assert "3 made. Train on them: python train_network.py --network unet --dimensions 2" in out
        told = tomllib.loads((folder / "phantoms/phantoms.toml").read_text(encoding="utf-8"))
        assert told["classes"] == ["line", "ellipse"]
        assert [one["split"] for one in told["volume"]] == ["train", "validation", "test"]
        for one in told["volume"]:
            image, labels = (
                np.asarray(Image.open(folder / "phantoms" / told["defaults"][key].format(name=one["name"])))
                for key in ("image", "annotation")
            )
            assert image.shape == labels.shape == (80, 96)
            assert set(np.unique(labels)) <= {0, 1, 2}
        record = json.loads((folder / "phantoms/images/shapes_0005.json").read_text(encoding="utf-8"))
        assert record["parameters"]["seed"] == 5
        assert record["parameters"]["line_width_px"] == [3.0, 7.0]

    def test_an_optic_lobe_loads_as_a_data_set_and_lies_in_hdf5(self, folder, capsys):
        code, _, err = call(2, "--kind", "optic-lobe", "--shape", "48,52,50", "--hdf5", "-o", "lobes", capsys=capsys)
        assert code == 0, err
        samples = load_split(read_dataset("lobes/phantoms.toml"))
        assert [len(samples[split]) for split in ("train", "validation", "test")] == [1, 1, 0]
        volume, mask = read_volume("lobes/volumes/optic_lobe_0001.nrrd"), samples["train"][0].mask
        assert volume.spacing_um == (1, 1, 1)
        np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(sitk.ReadImage(str(volume_path(folder)))))
        with h5py.File("lobes/hdf5/optic_lobe_0001.h5") as file:
            assert set(file) == {"vol_data", "vol_labels"}
            assert {file[name].dtype for name in file} == {np.dtype(np.float16)}
            assert volume.array.max() <= BRIGHTEST
            np.testing.assert_array_equal(file["vol_data"][...], volume.array)
            np.testing.assert_array_equal(file["vol_labels"][...], mask)
            np.testing.assert_array_equal(file["vol_data"].attrs["spacing_um"], [1, 1, 1])

    def test_what_is_there_is_not_made_again_and_what_a_person_changed_stays(self, folder, capsys):
        arguments = (2, "--kind", "shapes", "--shape", "64,64")
        assert call(*arguments, capsys=capsys)[0] == 0
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        mask = folder / "phantoms/masks/shapes_0002.png"
        mask.unlink()
        code, out, _ = call(*arguments, capsys=capsys)
        assert code == 0
        assert "1 made, 1 there already" in out
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        mask.write_bytes(b"mine")
        code, _, err = call(*arguments, "--force", capsys=capsys)
        assert (code, mask.read_bytes()) == (2, b"mine")
        assert "shapes_0002.png' is in the way" in err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--kind", "shapes", "--shape", "64,64,64"), "--shape: 3 sizes; shapes takes 2, such as 256,256"),
            (("--kind", "oct", "--shape", "64,64"), "--shape: 2 sizes; oct takes 3, such as 217,260,218"),
            (("--kind", "shapes", "--shape", "20,64"), "--shape: '20,64'; shapes needs at least 32 along each axis"),
            (("--kind", "shapes", "--hdf5"), "--hdf5 is for volumes; shapes are PNG"),
            (("--kind", "optic-lobe", "--vary"), "--vary: for --kind oct, not for optic-lobe"),
            (("--kind", "optic-lobe", "--y-crop", 40), "--y-crop: for --kind oct"),
            (("--kind", "shapes", "--time-points", 3), "--time-points: for --kind oct, not for shapes"),
            (("--kind", "shapes", "--from-annotation", __file__), "--from-annotation: for --kind oct"),
            (("--kind", "optic-lobe", "--shape", "9999,9999,9999"), "GB of memory needed"),
        ],
    )
    def test_what_a_kind_does_not_have_is_told_in_one_line(self, folder, capsys, arguments, message):
        code, _, err = call(*arguments, capsys=capsys)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
        assert not (folder / "phantoms" / "phantoms.toml").exists()

    def test_hdf5_without_h5py_is_told_before_any_work(self, folder, capsys, monkeypatch):
        monkeypatch.setattr("micronet.io.hdf5.find_spec", lambda name: None)
        code, _, err = call("--kind", "optic-lobe", "--hdf5", capsys=capsys)
        assert code == 2
        assert "needs the package h5py: pip install h5py" in err
        assert not (folder / "phantoms").exists()


def volume_path(folder):
    return folder / "lobes" / "volumes" / "optic_lobe_0001.nrrd"


def test_annotations_name_their_segment(folder, capsys):
    assert call("--kind", "optic-lobe", "--shape", "40,40,40", capsys=capsys)[0] == 0
    found = read_annotation("phantoms/annotations/optic_lobe_0001.seg.nrrd", segment="column")
    assert found.mask.array.any()
