"""infer.py --resample: the network sees its own voxels, and what it finds lies on the input's grid."""

import numpy as np
import pytest
import torch
from running import call, read_json
from scipy.ndimage import map_coordinates

import infer
from micronet import MicroRNet, Volume, load_model, predict, read_volume, write_volume
from micronet.core.errors import InputError
from micronet.core.resample import decimate
from micronet.core.volume import upright
from micronet.io import Segment, read_annotation, write_segmentation
from micronet.networks.card import Look, expected, planned_weights, write_card
from micronet.networks.weights import save_state
from micronet.segment.resampling import NetworkGrid, OnInput

# Oblique, one axis flipped; 2, 3 and 2.5 µm.
DIRECTIONS = np.array([[1.2, 0, 1.6], [0, -3.0, 0], [2.0, 0, -1.5]])
SHAPE = (70, 66, 74)
RATIOS = (4.5 / 2, 4.5 / 3, 4.5 / 2.5)


def volume(spacing, shape=(9, 10, 3)):
    return Volume(np.zeros(shape, np.uint8), upright(spacing), units="um")


class TestGrid:
    def test_voxels_of_the_network_cover_those_of_the_volume(self):
        grid = NetworkGrid.of(volume((2, 2, 4.5)), 4.5)
        assert (grid.size, grid.ratios) == ((4, 5, 3), (2.25, 2.25, 1.0))
        assert (grid.depth(None), grid.depth(1), grid.depth(3), grid.depth(99)) == (None, 1, 2, 5)
        assert NetworkGrid.of(volume((9, 9, 9)), 4.5).size == (18, 20, 6)

    def test_none_is_needed_where_the_spacing_is_that_asked_for_or_none_is(self):
        assert NetworkGrid.of(volume((4.5, 4.51, 4.5)), 4.5) is None
        assert NetworkGrid.of(volume((2, 2, 2)), None) is None
        with pytest.raises(InputError, match="voxel size is not stated"):
            NetworkGrid.of(Volume(np.zeros((3, 3, 3))), 4.5)

    def test_the_near_edges_of_both_grids_coincide(self, rng):
        source = Volume(rng.random(SHAPE), DIRECTIONS, np.array([1.0, 2, 3]), units="um")
        seen = NetworkGrid.of(source, 4.5).volume(source)
        np.testing.assert_allclose(seen.spacing_um, (4.5, 4.5, 4.5))
        edges = [one.origin - one.directions.sum(0) / 2 for one in (source, seen)]
        np.testing.assert_allclose(*edges)
        assert seen.array.dtype == np.float32

    def test_a_constant_volume_is_still_refused(self):
        source = Volume(np.full((40, 40, 40), 7.3), upright((2, 2, 2)), units="um")
        with pytest.raises(InputError, match="the image is constant"):
            NetworkGrid.of(source, 4.5).volume(source)

    @pytest.mark.parametrize("spacing", [2.0, 9.0])
    def test_a_ramp_comes_back_as_it_was_but_for_the_rim(self, spacing):
        source = volume((spacing,) * 3, (24, 22, 20))
        grid = NetworkGrid.of(source, 4.5)
        ramp = np.broadcast_to(np.linspace(0, 1, 24, dtype=np.float32)[:, None, None], source.shape)
        back = grid.back(grid.start(ramp), None)
        np.testing.assert_allclose(back[8:16], ramp[8:16], atol=1e-5)
        assert np.array_equal(back[:], np.stack(list(back)))
        assert np.array_equal(back[5:7], back[:][5:7])

    def test_below_the_crop_is_nothing_and_above_it_all(self):
        grid = NetworkGrid.of(volume((2, 2, 2), (9, 20, 9)), 4.5)
        for depth in (grid.size[1], grid.depth(7)):  # whole, and cut at the crop
            found = np.zeros((grid.size[0], depth, grid.size[2]), np.float32)
            found[:, : grid.depth(7)] = 1
            back = OnInput(found, grid, 7)[:]
            assert (back[:, :7] == 1).all()
            assert not back[:, 7:].any()


@pytest.mark.usefixtures("engine_ready")
class TestInfer:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        """A volume of voxels of 2, 3 and 2.5 µm, a mask on it, and weights whose card says 4.5 µm."""
        monkeypatch.chdir(tmp_path)
        torch.manual_seed(11)
        outputs = planned_weights(tmp_path / "ur-net_test.pt", advice="")
        with outputs.staged() as staging:
            save_state(staging / "ur-net_test.pt", MicroRNet().state_dict())
        z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
        tube = ((y - 30) ** 2 / 4 + (x - 40) ** 2 / 9 < 36) & (z >= 0)
        array = (80 + 60 * tube + np.random.default_rng(3).normal(0, 8, SHAPE)).clip(0, 255).astype(np.uint8)
        write_card(
            outputs,
            spacing_um=4.5,
            intensity_domain="log",
            dtype="uint8",
            look=expected([Look.of(decimate(array, RATIOS))]),
            more={},
        )
        embryo = Volume(array, DIRECTIONS, np.array([1.0, 2, 3]), "left-posterior-superior", "um")
        write_volume("embryo.nrrd", embryo)
        write_segmentation("true.seg.nrrd", [(Segment(name="lumen"), tube)], embryo)
        return tmp_path

    def infer(self, *options, capsys, code=0, given="embryo.nrrd", output="out"):
        arguments = (given, "--model", "ur-net_test.pt", "--iterations", 1, "-o", output)
        found, out, err = call(infer, *arguments, *options, capsys=capsys)
        assert found == code, err
        return out + err

    def test_what_is_found_lies_on_the_input_grid_and_is_that_of_scipy(self, folder, capsys):
        out = self.infer("--annotation", "true.seg.nrrd", "--report", "--resample", capsys=capsys)
        assert "  resample    32 x 44 x 42 voxels of 4.5 µm for the network; what is written has the input's own" in out
        source = read_volume("embryo.nrrd")
        probability = read_volume("out/embryo_probability.nrrd")
        mask = read_annotation("out/embryo.seg.nrrd").mask
        for found in (probability, mask):
            assert np.array_equal(found.directions, source.directions)
            assert np.array_equal(found.origin, source.origin)
            assert found.shape == SHAPE
        seen = predict(decimate(source.array, RATIOS), load_model("ur-net_test.pt"), 1)
        at = np.meshgrid(*((np.arange(n) + 0.5) / r - 0.5 for n, r in zip(SHAPE, RATIOS, strict=True)), indexing="ij")
        expected = map_coordinates(seen, at, order=1, mode="nearest")
        np.testing.assert_allclose(probability.array, 255 * expected, atol=0.51)
        assert np.mean(mask.array != (expected > 0.5)) < 1e-4
        record = read_json("out/embryo.json")
        assert record["parameters"]["resample_um"] == 4.5
        assert record["scores"]["f1"] > 0
        assert 0.1 < record["result"]["fraction"] < 0.9

    def test_slabs_crop_start_and_logarithm_give_what_the_whole_gives(self, folder, capsys, monkeypatch):
        options = ("--resample", "4.5", "--y-crop", 50, "--initial-mask", "true.seg.nrrd", "--intensity", "log")
        self.infer(*options, capsys=capsys)
        monkeypatch.setattr("micronet.core.ram.PROGRAM", 0)
        out = self.infer(*options, "--max-ram", "8.5MB", output="slabs", capsys=capsys)
        assert "slabs of" in out
        whole, slabs = (read_volume(f"{name}/embryo_probability.nrrd").array for name in ("out", "slabs"))
        assert np.array_equal(whole, slabs)
        assert whole[:, :50].any()
        assert not whole[:, 50:].any()

    def test_a_volume_of_these_voxels_is_left_as_it_is(self, folder, capsys):
        write_volume("same.nrrd", Volume(read_volume("embryo.nrrd").array, upright((4.5,) * 3), units="um"))
        self.infer(given="same.nrrd", capsys=capsys)
        assert "resample    not needed" in self.infer("--resample", given="same.nrrd", output="new", capsys=capsys)
        one, other = (folder / name / "same_probability.nrrd" for name in ("out", "new"))
        assert one.read_bytes() == other.read_bytes()
        assert "resample_um" not in read_json("out/same.json")["parameters"]

    def test_other_voxels_are_told_and_what_brings_them_there(self, folder, capsys):
        assert "voxels of 2 x 3 x 2.5 µm, not 4.5: bring them there (--resample)" in self.infer(capsys=capsys)
        assert "resample none there, 4.5 asked" in self.infer("--resample", capsys=capsys, code=2)
        assert "WARNING" not in self.infer("--resample", output="new", capsys=capsys)

    def test_weights_without_a_card_need_the_size(self, folder, capsys):
        (folder / "ur-net_test.json").unlink()
        out = self.infer("--resample", capsys=capsys, code=2)
        assert "no model card says which voxels 'ur-net_test.pt' was trained on" in out
        self.infer("--resample", "4.5", capsys=capsys)

    def test_a_volume_of_unknown_voxels_cannot_be_resampled(self, folder, capsys):
        np.save("b.npy", np.zeros((33, 34, 35), np.uint8))
        out = self.infer("--resample", given="b.npy", capsys=capsys, code=2)
        assert "'b.npy': the voxel size is not stated (--spacing Z,Y,X)" in out or "(--resample)" in out

    def test_an_input_after_the_option_is_told(self, folder, capsys):
        code, _, err = call(infer, "--resample", "embryo.nrrd", capsys=capsys)
        assert (code, "an INPUT goes before the option" in err) == (2, True)
