"""prepare.py: from a raw scan to a structural volume, and masks back, as a person runs it."""

import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from running import call_for_last_line, read_json
from skimage.transform import resize

import prepare
from micronet.core.errors import InputError
from micronet.core.resample import antialias_sigma
from micronet.core.volume import Volume, upright
from micronet.data.intensity import above_floor, finish, noise_floor, range_of, to_bytes
from micronet.data.map_back import BackMapping, map_back
from micronet.data.prepare import Preparation, prepare_file
from micronet.data.scan import RawScan, parallel_steps, structural_grid, true_grid
from micronet.io import Segment, read_annotation, read_volume, write_segmentation, write_volume

SPACE = "left-posterior-superior"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


call = partial(call_for_last_line, prepare)


def speckle(rng, shape, dtype=np.float32):
    """Intensity of a scan: speckle on noise of mean 100, tissue from the third row on, fading with depth."""
    y = np.arange(shape[1])[:, None]
    mean = 100 + np.where(y > shape[1] // 3, 5000 * np.exp(-y / shape[1]), 0)
    return (rng.exponential(1, shape) * mean).astype(dtype)


def rotation(a, b):
    """A rotation about two axes."""
    first = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    return first @ np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])


class TestIntensity:
    def test_every_domain_tells_the_same_logarithm(self):
        intensity = np.array([[1.0, 10.0, 1000.0]])
        expected = [0.0, 0.0, math.log(100)]  # the floor is 10
        for domain, values, floor in (
            ("intensity", intensity, 10.0),
            ("amplitude", np.sqrt(intensity), math.sqrt(10)),
            ("db", 10 * np.log10(intensity), 10.0),
        ):
            for dtype in (np.float32, np.float64):
                level = above_floor(values.astype(dtype), domain, floor, "log")
                assert level.dtype == np.float32
                assert level[0] == pytest.approx(expected, abs=1e-5)
                linear = above_floor(values.astype(dtype), domain, floor, "linear")
                assert linear[0] == pytest.approx([0.1, 1, 100], rel=1e-5)
                assert finish(linear, "linear")[0] == pytest.approx(expected, abs=1e-5)

    def test_a_logarithm_stays_what_it_is_and_zero_has_none(self):
        assert above_floor(np.array([[3, 7, 250]], np.uint8), "log", 5.0, "log").tolist() == [[0, 2, 245]]
        assert above_floor(np.array([[0, 5]], np.uint16), "intensity", 5.0, "log").tolist() == [[0, 0]]
        assert above_floor(np.array([[-np.inf, 5]]), "db", 5.0, "linear").tolist() == [[0, 1]]

    @pytest.mark.parametrize(("domain", "bad"), [("intensity", np.nan), ("amplitude", np.inf), ("db", np.inf)])
    def test_nan_and_infinity_are_refused(self, domain, bad):
        with pytest.raises(InputError, match="NaN or infinity"):
            above_floor(np.array([[1, bad]], np.float32), domain, 1.0, "log")

    def test_the_noise_floor_of_speckle_is_the_median_of_its_noise(self, rng):
        scan = speckle(rng, (64, 90, 80))
        floor, row = noise_floor(scan, 1, "intensity")
        assert floor == pytest.approx(100 * math.log(2), rel=0.05)
        assert row <= 30
        # The same voxel rank in every domain, and along every axis.
        assert noise_floor(np.sqrt(scan), 1, "amplitude")[0] ** 2 == pytest.approx(floor, rel=1e-5)
        db, _ = noise_floor(10 * np.log10(scan), 1, "db")
        assert 10 ** (db / 10) == pytest.approx(floor, rel=1e-5)
        assert noise_floor(scan.transpose(1, 0, 2), 0, "intensity") == (floor, row)

    def test_padding_does_not_count_as_noise(self, rng):
        scan = speckle(rng, (20, 90, 80))
        floor, _ = noise_floor(scan, 1, "intensity")
        padded = np.concatenate([np.zeros_like(scan), scan, np.zeros_like(scan)], axis=1)
        assert noise_floor(padded, 1, "intensity")[0] == pytest.approx(floor, rel=0.02)
        assert noise_floor((scan < 5).astype(np.uint8), 1, "intensity") == (1.0, None)

    def test_grey_values_leave_out_one_voxel_in_ten_thousand(self):
        values = np.arange(100_000, dtype=np.float32).reshape(10, 100, 100)
        low, high = range_of(iter(values), 0.0, 99_999.0)
        assert (low, high) == pytest.approx((10, 99_989), abs=2)
        assert range_of([np.array([0, 0, 0, 7], np.float32)], 0.0, 7.0) == (0.0, 7.0)
        assert to_bytes(np.array([[-1, 0, 0.5, 1, 2]], np.float32), 0.0, 1.0).tolist() == [[0, 0, 128, 255, 255]]
        with pytest.raises(InputError, match="constant"):
            range_of([], 3.0, 3.0)


class TestGrids:
    def test_the_first_voxels_begin_together_by_hand(self):
        # 2 µm to 4.5 µm: the first centre moves (4.5 - 2) / 2 = 1.25 µm along each axis; path 2.76 / 1.38 = 2 µm.
        raw = Volume(np.zeros((9, 9, 10), np.uint8), upright((2, 2.76, 2)), [10, 20, 30], SPACE, "um")
        true = true_grid(raw, "Y", 1.38)
        assert true.spacing_um == pytest.approx((2, 2, 2))
        grid, ratios = structural_grid(true, 4.5)
        assert ratios == pytest.approx((2.25, 2.25, 2.25))
        assert grid.shape == (4, 4, 5)
        assert grid.origin == pytest.approx([11.25, 21.25, 31.25])
        assert (grid.units, grid.space) == ("um", SPACE)
        order, steps, starts = parallel_steps(true, grid)
        assert order == (0, 1, 2)
        assert steps == pytest.approx([2 / 4.5] * 3)
        assert starts == pytest.approx([-1.25 / 4.5] * 3)

    def test_turned_and_flipped_axes_are_followed_and_oblique_ones_refused(self):
        raw = Volume(np.zeros((4, 5, 6), np.uint8), upright((3, 2, 1)), units="mm")
        turned = Volume(np.zeros((6, 4, 5), np.uint8), raw.directions[[2, 0, 1]] * -1e3, [5e3, 8e3, 9e3], units="um")
        order, steps, starts = parallel_steps(raw, turned)
        assert (order, steps.tolist(), starts.tolist()) == ((1, 2, 0), [-1, -1, -1], [3, 4, 5])
        tilted = Volume(np.zeros((4, 5, 6), np.uint8), raw.directions @ rotation(0.1, 0), units="mm")
        with pytest.raises(InputError, match="axes are not parallel"):
            parallel_steps(raw, tilted)


class TestPipeline:
    def test_values_by_hand_without_decimation(self, folder, capsys):
        # exp(0 .. 5) at the voxel size that is wanted: the grey values are the logarithms, in equal steps.
        levels = np.tile(np.arange(6.0), (3, 8, 1))
        write_volume("scan.nrrd", Volume(np.exp(levels), upright((4.5, 4.5, 4.5)), units="um"))
        code, out, err = call("scan.nrrd", "--domain", "intensity", "--noise-floor", 1, capsys=capsys)
        assert code == 0, err
        volume = read_volume("struct_iso/scan.nrrd")
        assert volume.array.dtype == np.uint8
        assert volume.array.tolist() == np.rint(levels * 51).tolist()
        assert volume.spacing_um == (4.5, 4.5, 4.5)
        assert "3 x 4.5 µm to 3 x 4.5 µm: as it is" in out

    def test_what_is_written_is_what_scikit_image_computes(self, folder, rng, capsys):
        scan = speckle(rng, (36, 45, 54))
        write_volume("scan.nrrd", Volume(scan, upright((2, 3, 1.5)), units="um"))
        for average in ("log", "linear"):
            code, _, err = call(
                "scan.nrrd", "--domain", "intensity", "--average", average, "-o", average, capsys=capsys
            )
            assert code == 0, err
            record = read_json(f"{average}/scan.json")
            steps = {step["step"]: step for step in record["steps"]}
            floor = steps["noise floor"]["value_in_the_scans_numbers"]
            assert floor == pytest.approx(100 * math.log(2), rel=0.1)
            source = scan / floor if average == "linear" else np.log(np.maximum(scan / floor, 1))
            sigmas = [antialias_sigma(4.5 / length) for length in (2, 3, 1.5)]
            shape = (16, 30, 18)
            expected = resize(source, shape, order=1, mode="symmetric", anti_aliasing=True, anti_aliasing_sigma=sigmas)
            if average == "linear":
                expected = np.log(np.maximum(expected, 1))
            volume = read_volume(f"{average}/scan.nrrd")
            assert volume.shape == shape
            low, high = steps["8 bits"]["value_of_0"], steps["8 bits"]["value_of_255"]
            value = low + volume.array * (high - low) / 255
            assert np.abs(value - expected.clip(low, high)).max() <= 0.501 * (high - low) / 255
            names = [step["step"] for step in record["steps"]]
            assert (names.index("decimation") < names.index("logarithm above the noise floor")) == (average == "linear")

    def test_every_domain_and_every_file_gives_the_same_volume(self, folder, rng, capsys):
        scan = (speckle(rng, (24, 40, 30)) + 1).astype(np.uint16)
        spacing = upright((3, 2, 2))
        write_volume("intensity.nrrd", Volume(scan, spacing, units="um"))
        write_volume("intensity2.tif", Volume(scan, spacing, units="um"))
        os.mkdir("folder")
        for number, plane in enumerate(scan):
            tifffile.imwrite(f"folder/b{number}.tif", plane, photometric="minisblack", compression="zlib")
        scan.transpose(1, 0, 2).astype(">u2").tofile("turned.raw")
        np.save("fortran.npy", np.asfortranarray(scan))
        write_volume("amplitude.nrrd", Volume(np.sqrt(scan.astype(float)), spacing, units="um"))
        write_volume("db.nrrd", Volume(10 * np.log10(scan.astype(float)), spacing, units="um"))
        write_volume("log.nrrd", Volume(np.log(scan.astype(float)), spacing, units="um"))
        results = {}
        for path, *options in (
            ("intensity.nrrd",),
            ("intensity2.tif",),
            ("folder", "--spacing", "3,2,2"),
            ("turned.raw", "--axes", "YZX", "--shape", "40,24,30", "--dtype", ">u2", "--spacing", "3,2,2"),
            ("fortran.npy", "--spacing", "3,2,2"),
            ("amplitude.nrrd",),
            ("db.nrrd",),
            ("log.nrrd",),
        ):
            stem = path.split(".")[0]
            domain = stem if stem in ("amplitude", "db", "log") else "intensity"
            code, out, err = call(path, "--domain", domain, *options, capsys=capsys)
            assert code == 0, err
            assert "noise floor" in out
            assert f"domain      {domain} (--domain)" in out
            results[stem] = read_volume(f"struct_iso/{stem}.nrrd")
        first = results["intensity"]
        assert first.shape == (16, 18, 14)
        for stem, volume in results.items():
            # Slab by slab along Z the bits are the same; another order or logarithm differs by rounding.
            exact = stem in ("intensity", "intensity2", "folder")
            apart = np.abs(volume.array.astype(int) - first.array)
            assert apart.max() <= (0 if exact else 1), stem
            assert np.count_nonzero(apart) <= 0.01 * apart.size
            assert np.allclose(volume.origin, first.origin)

    def test_slabs_of_any_thickness_give_the_same_bytes(self, folder, rng, capsys, monkeypatch):
        write_volume("scan.nrrd", Volume(speckle(rng, (50, 40, 30)), upright((2, 2, 2)), units="um"))
        for name, size in (("whole", 1 << 25), ("planes", 1), ("slabs", 7 * 40 * 30 * 4)):
            monkeypatch.setattr("micronet.data.prepare._BLOCK_BYTES", size)
            assert call("scan.nrrd", "--domain", "intensity", "-o", name, capsys=capsys)[0] == 0
        assert Path("whole/scan.nrrd").read_bytes() == Path("planes/scan.nrrd").read_bytes()
        assert Path("whole/scan.nrrd").read_bytes() == Path("slabs/scan.nrrd").read_bytes()

    def test_the_record_tells_every_step(self, folder, rng, capsys):
        write_volume("scan.nrrd", Volume(speckle(rng, (12, 30, 20)), upright((2, 2.76, 2)), [1, 2, 3], units="um"))
        code, out, _ = call("scan.nrrd", "--domain", "intensity", "--refractive-index", 1.38, capsys=capsys)
        assert code == 0
        assert "depth       along Y (--depth-axis), refractive index 1.38: 2.76 µm of path are 2" in out
        record = read_json("struct_iso/scan.json")
        assert (record["made_by"], record["domain"]) == ("prepare.py", "log")
        assert len(record["input"]["sha256"]) == len(record["output"]["sha256"]) == 64
        assert record["parameters"]["scan"]["refractive_index"] == 1.38
        assert [step["step"] for step in record["steps"]] == [
            "depth",
            "noise floor",
            "logarithm above the noise floor",
            "decimation",
            "8 bits",
        ]
        assert record["steps"][0]["true_spacing_um_zyx"] == pytest.approx([2, 2, 2])
        assert record["steps"][3]["gaussian_sigma_raw_voxels_zyx"] == pytest.approx([1.5403] * 3, abs=1e-3)
        assert record["output"]["origin"] == pytest.approx([2.25, 3.25, 4.25])
        assert set(record["versions"]) >= {"micronet", "numpy", "scipy", "python"}
        image = sitk.ReadImage("struct_iso/scan.nrrd")
        assert image.GetOrigin() == pytest.approx((2.25, 3.25, 4.25))
        assert image.GetSpacing() == (4.5, 4.5, 4.5)
        assert sorted(os.listdir("struct_iso")) == ["scan.json", "scan.nrrd", "scan_before_after.png"]


class TestRefusals:
    @pytest.fixture
    def scan(self, folder, rng):
        write_volume("scan.nrrd", Volume(speckle(rng, (6, 30, 20)), upright((2, 2, 2)), units="um"))
        return folder

    def test_a_logarithm_is_never_taken_twice(self, scan, capsys):
        assert call("scan.nrrd", "--domain", "intensity", capsys=capsys)[0] == 0
        code, _, err = call("struct_iso/scan.nrrd", "--domain", "intensity", "-o", "twice", capsys=capsys)
        assert code == 2
        assert "'scan.json' beside it says that it is in the domain log" in err
        assert "the logarithm would be taken twice" in err
        assert not os.path.exists("twice")
        code, out, _ = call("struct_iso/scan.nrrd", "-o", "again", "--iso", 9, capsys=capsys)
        assert code == 0
        assert "domain      log ('scan.json' beside it); a logarithm already, none is taken" in out
        os.rename("struct_iso/scan.nrrd", "lost.nrrd")  # away from its record only a warning is possible
        code, out, _ = call("lost.nrrd", "--domain", "intensity", capsys=capsys)
        assert (code, "8-bit voxels are mostly logarithms already" in out) == (0, True)

    def test_a_note_of_a_person_beside_the_scan_is_heeded(self, scan, capsys):
        Path("scan.json").write_text('{"domain": "dB"}', encoding="utf-8")
        code, _, err = call("scan.nrrd", "--domain", "amplitude", capsys=capsys)
        assert (code, "domain db, this call says amplitude: the logarithm would be taken twice" in err) == (2, True)
        assert call("scan.nrrd", capsys=capsys)[0] == 0
        assert read_json("struct_iso/scan.json")["parameters"]["domain"] == "db"
        Path("scan.json").write_text("[" * 100_000, encoding="utf-8")  # no JSON: as if it were not there
        assert "what its numbers are is not known; say intensity" in call("scan.nrrd", capsys=capsys)[2]

    def test_the_record_of_the_result_does_not_speak_for_the_scan_beside_it(self, scan, capsys):
        os.rename("scan.nrrd", "embryo.nrrd")
        volume = read_volume("embryo.nrrd")
        write_volume("embryo.tif", volume)
        os.remove("embryo.nrrd")
        assert call("embryo.tif", "--domain", "intensity", "-o", ".", capsys=capsys)[0] == 0
        code, out, _ = call("embryo.tif", "--domain", "intensity", "-o", ".", capsys=capsys)
        assert (code, "1 skipped" in out) == (0, True)

    def test_what_was_done_is_skipped_and_replaced_only_by_force(self, scan, capsys):
        arguments = ("scan.nrrd", "--domain", "intensity")
        assert call(*arguments, capsys=capsys)[0] == 0
        assert "1 skipped" in call(*arguments, capsys=capsys)[1]
        code, _, err = call(*arguments, "--average", "linear", capsys=capsys)
        assert (code, "holds a result of other settings" in err) == (2, True)
        assert call(*arguments, "--average", "linear", "--force", capsys=capsys)[0] == 0
        os.remove("struct_iso/scan.json")
        assert "scan.nrrd' is in the way: no record" in call(*arguments, "--force", capsys=capsys)[2]
        Path("struct_iso/scan.json").write_text('{"mine": 1}', encoding="utf-8")
        assert "scan.json' is in the way: we did not write it" in call(*arguments, "--force", capsys=capsys)[2]
        found = call(*arguments, "-o", ".", capsys=capsys)[2]
        assert "'scan.nrrd' would replace 'scan.nrrd', which this call reads" in found

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ((), "what its numbers are is not known; say intensity, amplitude, db or log (--domain)"),
            (("--domain", "log", "--average", "linear"), "a logarithm of unknown scale cannot be undone"),
            (
                ("--domain", "intensity", "--noise-floor", "0"),
                "noise floor 0 (--noise-floor): expected a number above 0",
            ),
            (
                ("--domain", "intensity", "--refractive-index", "0.7"),
                "--refractive-index: '0.7': expected a number from 1 to below 5",
            ),
            (("--domain", "intensity", "--iso", "0"), "--iso: '0': expected a number from 0.001 to 1e+06"),
            (("--domain", "loud"), "invalid choice: 'loud'"),
            (("--domain", "intensity", "--axes", "XYZ"), "states its axes itself"),
        ],
    )
    def test_bad_options_cost_one_line(self, scan, capsys, options, message):
        code, out, err = call("scan.nrrd", *options, capsys=capsys)
        assert code == 2
        assert message in err
        assert "Traceback" not in out + err
        assert not os.path.exists("struct_iso")

    def test_bad_scans_cost_one_line(self, folder, capsys):
        good = np.full((6, 30, 20), 5.0, np.float32)
        good[:, 10:] = 50
        cases = {}
        for name, value, message in (
            ("nan", np.nan, "holds NaN"),
            ("infinite", np.inf, "NaN or infinity"),
            ("negative", -3, "holds negative numbers (-3), which no intensity is: is the domain db or log (--domain)?"),
        ):
            array = good.copy()
            array[3, 20, 4] = value
            np.save(f"{name}.npy", array)
            cases[f"{name}.npy"] = message
        np.save("constant.npy", np.full((6, 30, 20), 7, np.uint8))
        np.save("zero.npy", np.zeros((6, 30, 20), np.uint8))
        np.save("flat.npy", np.zeros((6, 30), np.uint8))
        cases |= {
            "constant.npy": "the volume is constant",
            "zero.npy": "no voxel of the sampled planes is above zero",
            "flat.npy": "no 3-D volume",
            "absent.npy": "does not exist",
            "notes.txt": "no volume format has this suffix",
            "empty": "is a folder without B-scans",
        }
        Path("notes.txt").touch()
        os.mkdir("empty")
        for path, message in cases.items():
            code, _, err = call(path, "--domain", "intensity", "--spacing", 2, capsys=capsys)
            assert code == 2, path
            assert path in err
            assert message in err, err
        assert "the spacing is not known" in call("nan.npy", "--domain", "intensity", capsys=capsys)[2]
        assert os.listdir("struct_iso") == []
        # Negative intensities are taken where the person names the floor, and one bad scan does not stop the next.
        code, out, err = call(
            *("absent.npy", "negative.npy"),
            *("--domain", "intensity", "--spacing", 2, "--noise-floor", 5),
            capsys=capsys,
        )
        assert code == 2
        assert "1 failed, 1 done" in out


def _peak(script, folder):
    """Return the peak memory of a Python process in bytes."""
    code = f"{script}\nimport resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return int(ran.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)


def test_memory_does_not_grow_with_the_stack(root, folder, rng):
    script = f"""
import sys; sys.path.insert(0, {str(root)!r})
from pathlib import Path
from micronet.data.prepare import Preparation, prepare_file
from micronet.data.scan import RawScan
scan = RawScan(shape=({{planes}}, 512, 512), dtype="uint8", spacing_um=(2, 2, 2))
prepare_file(Path("{{planes}}.raw"), Preparation(scan, "intensity", noise_floor=1), say=lambda line: None)
"""
    peaks = []
    for planes in (160, 400):  # 42 and 105 MB
        with open(f"{planes}.raw", "wb") as stream:
            stream.write(rng.integers(0, 255, 40 * 512 * 512, np.uint8))
            stream.truncate(planes * 512 * 512)
        peaks.append(_peak(script.format(planes=planes), folder))
    assert peaks[1] - peaks[0] < 30e6


class TestBack:
    @pytest.mark.parametrize(
        ("spacing", "depth_axis", "index", "space"),
        [
            ((5.2, 1.9, 2.3), "Y", 1.38, SPACE),
            ((2.0, 1.4, 6.0), "Z", 1.45, "right-anterior-superior"),
            ((1.5, 3.7, 2.0), "X", 1.33, ""),
        ],
    )
    def test_a_marked_point_ends_within_half_a_raw_voxel(self, folder, rng, capsys, spacing, depth_axis, index, space):
        """Oblique, anisotropic, one axis flipped: raw scan, structural volume, mask, and back."""
        directions = rotation(0.4, -0.7)[[2, 1, 0]] * np.array(spacing)[:, None] * [[1], [-1], [1]] / 1000
        origin = np.array([0.3, -0.2, 0.1])
        indices = np.array([index if letter == depth_axis else 1 for letter in "ZYX"])
        true = np.array(spacing) / indices
        shape = tuple(int(260 / length) for length in true)
        here = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
        point = np.array([0.31, 0.62, 0.44]) * shape
        ball = (((here - point) * true) ** 2).sum(axis=-1) < 18**2
        scan = rng.exponential(1, shape) * np.where(ball, 5000, 10)
        write_volume("scan.nrrd", Volume(scan.astype(np.float32), directions, origin, space, "mm"))
        options = ("--refractive-index", index, "--depth-axis", depth_axis)
        code, _, err = call("scan.nrrd", "--domain", "intensity", *options, capsys=capsys)
        assert code == 0, err

        structural = read_volume("struct_iso/scan.nrrd")
        assert structural.spacing_um == pytest.approx((4.5, 4.5, 4.5))
        mask = structural.array > 140
        # The ball lies where the optics put it: its centre is the point, with depth for path.
        corrected = directions / indices[:, None]
        world = (point @ corrected + origin) * 1000
        assert structural.units == "mm"  # as the scan, on which it lies in 3D Slicer
        structural = structural.in_units("um")
        centre = np.argwhere(mask).mean(axis=0) @ structural.directions + structural.origin
        assert np.linalg.norm(centre - world) < 0.5 * min(true)
        os.mkdir("predictions")
        write_segmentation("predictions/scan.seg.nrrd", [(Segment("lumen"), mask)], structural)
        for interpolation in ("linear", "nearest"):
            code, out, err = call(
                *("predictions/scan.seg.nrrd", "--back-to", "scan.nrrd", "-o", interpolation),
                *("--interpolation", interpolation),
                capsys=capsys,
            )
            assert code == 0, err
            assert "record      struct_iso/scan.json" in out
            back = read_annotation(f"{interpolation}/scan_on_scan.seg.nrrd").mask
            assert back.shape == shape
            found = np.argwhere(back.array).mean(axis=0)
            assert np.abs(found - point).max() < 0.5
            raw = sitk.ReadImage("scan.nrrd")
            written = sitk.ReadImage(f"{interpolation}/scan_on_scan.seg.nrrd")
            assert np.allclose(written.GetOrigin(), raw.GetOrigin())
            assert np.allclose(written.GetDirection(), raw.GetDirection())
            assert np.allclose(written.GetSpacing(), raw.GetSpacing())
            volume = back.array.sum() * np.prod(true)
            assert volume == pytest.approx(mask.sum() * 4.5**3, rel=0.1)  # steps are cut across

    def test_every_single_voxel_goes_back_to_its_place(self, folder, rng, capsys):
        """At corners, faces and inside, exact to the last raw voxel by its position in the world."""
        shape, spacing, index = (23, 41, 30), (1.7, 1.3, 2.1), 1.4
        raw = Volume(speckle(rng, shape), rotation(1.1, 0.3) * np.array(spacing)[:, None], [5, 6, 7], SPACE, "um")
        write_volume("scan.nrrd", raw)
        options = ("--domain", "intensity", "--refractive-index", index, "--depth-axis", "X")
        assert call("scan.nrrd", *options, capsys=capsys)[0] == 0
        structural = read_volume("struct_iso/scan.nrrd")
        corrected = true_grid(raw, "X", index)
        last = np.array(structural.shape) - 1
        for voxel in (np.zeros(3, int), last, last // 2, np.array([0, last[1], last[2] // 3])):
            mask = np.zeros(structural.shape, bool)
            mask[tuple(voxel)] = True
            write_volume("mask.nrrd", structural.with_array(mask))
            code, _, err = call(
                *("mask.nrrd", "--back-to", "scan.nrrd", "--interpolation", "nearest", "--force"),
                *("--record", "struct_iso/scan.json"),
                capsys=capsys,
            )
            assert code == 0, err
            found = np.argwhere(read_annotation("mask_on_scan.seg.nrrd").mask.array)
            # Exactly the raw voxels whose centres lie in the structural voxel.
            every = np.argwhere(np.ones(shape, bool))
            there = (every @ corrected.directions + corrected.origin - structural.origin) @ np.linalg.inv(
                structural.directions
            )
            assert found.tolist() == every[(np.abs(there - voxel) <= 0.5).all(axis=1)].tolist()

    def test_options_stand_in_for_a_record_and_a_wrong_scan_is_refused(self, folder, rng, capsys):
        scan = speckle(rng, (20, 30, 25), np.uint16)
        scan.tofile("scan.raw")
        raw = ("--shape", "20,30,25", "--dtype", "uint16", "--spacing", "3,2.6,3")
        assert call("scan.raw", *raw, "--domain", "intensity", "--refractive-index", 1.3, capsys=capsys)[0] == 0
        structural = read_volume("struct_iso/scan.nrrd")
        write_volume("mask.nrrd", structural.with_array(structural.array > 128))

        assert call("mask.nrrd", "--back-to", "scan.raw", capsys=capsys)[0] == 0  # the record knows the rest
        with_record = Path("mask_on_scan.seg.nrrd").read_bytes()
        code, _, err = call("mask.nrrd", "--back-to", "scan.raw", capsys=capsys)
        assert (code, "mask_on_scan.seg.nrrd' exists; replace it (--force), or write elsewhere (-o DIR)" in err) == (
            2,
            True,
        )
        os.rename("struct_iso", "elsewhere")
        arguments = ("mask.nrrd", "--back-to", "scan.raw", "--force", *raw, "--refractive-index", 1.3)
        code, out, _ = call(*arguments, capsys=capsys)
        assert code == 0
        assert "none found" in out
        assert Path("mask_on_scan.seg.nrrd").read_bytes() == with_record

        scan[:10].tofile("other.raw")
        record = ("--record", "elsewhere/scan.json")
        code, _, err = call("mask.nrrd", "--back-to", "other.raw", "--shape", "10,30,25", *record, capsys=capsys)
        assert code == 2
        assert "'other.raw' is not the scan that 'elsewhere/scan.json' tells of: its shape_zyx is [10, 30, 25]" in err
        code, _, err = call("mask.nrrd", "--back-to", "scan.raw", "--force", "--record", "absent.json", capsys=capsys)
        assert (code, "'absent.json' does not exist (--record)" in err) == (2, True)
        np.save("bare.npy", structural.array > 128)
        code, _, err = call("bare.npy", "--back-to", "scan.raw", *record, capsys=capsys)
        assert (code, "does not state where its voxels lie" in err) == (2, True)
        far = Volume(structural.array > 128, structural.directions, structural.origin + 1e4, units="um")
        write_volume("far.nrrd", far)
        assert (
            "nothing of the mask lies within the scan"
            in call("far.nrrd", "--back-to", "scan.raw", *record, capsys=capsys)[1]
        )


def test_an_interrupt_leaves_nothing_behind(folder, rng):
    write_volume("scan.nrrd", Volume(speckle(rng, (6, 30, 20)), upright((2, 2, 2)), units="um"))

    def interrupt(done, total):
        assert (done, total) == (6, 6)
        raise KeyboardInterrupt("stop")

    job = Preparation(RawScan(), "intensity")
    with pytest.raises(KeyboardInterrupt, match="stop"):
        prepare_file(Path("scan.nrrd"), job, say=lambda line: None, on_planes=interrupt)
    assert os.listdir("struct_iso") == []
    prepare_file(Path("scan.nrrd"), job, say=lambda line: None)
    mask = read_volume("struct_iso/scan.nrrd")
    write_volume("mask.nrrd", mask.with_array(mask.array > 100))
    before = set(os.listdir("."))
    with pytest.raises(KeyboardInterrupt, match="stop"):
        map_back(
            Path("mask.nrrd"),
            BackMapping(Path("scan.nrrd"), RawScan(), Path(".")),
            say=lambda line: None,
            on_planes=lambda done, total: interrupt(6, total),
        )
    assert set(os.listdir(".")) == before
