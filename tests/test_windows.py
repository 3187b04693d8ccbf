"""Larger networks look in windows: MONAI's average to the bit, in memory and on disk; told, recorded, within memory."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import call, call_for_last_line, read_json

import infer
from micronet import MicroNet, Volume, predict, read_volume, write_volume
from micronet.core.errors import InputError
from micronet.core.volume import upright
from micronet.networks.library import Build, UNet, VNet
from micronet.networks.normalize import normalize_image
from micronet.networks.weights import save_state
from micronet.segment.memory import Need, plan_memory
from micronet.segment.refine import Refinement
from micronet.segment.window_plan import WindowWish
from micronet.segment.windows import predicted_in_windows

pytestmark = pytest.mark.usefixtures("one_thread")

inferers = pytest.importorskip("monai.inferers")

SMALL = Build(depth=1, start_channels=2)
FLAT = Build(dimensions=2, depth=1, start_channels=2)


def fresh(kind=UNet, build=SMALL, seed=3):
    torch.manual_seed(seed)
    return kind(build).eval()


def image(*shape, seed=4):
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


def windows_of(wish, model, shape, *, on_disk=False):
    return next(one for one in wish.candidates(model, shape) if one.on_disk == on_disk)


def found_in(volume, model, wish, folder, *, on_disk=False, how=None):
    """Return the probability (C, Z, Y, X) that is found in windows."""
    how = how or Refinement()
    shape = (volume.shape[0], how.y_crop or volume.shape[1], volume.shape[2])
    windows = windows_of(wish, model, shape, on_disk=on_disk)
    with predicted_in_windows(volume, model, windows, folder, how) as (every, _):
        return np.stack([one[:] for one in every])


def monais(volume, model, roi, overlap, mode):
    inferer = inferers.SlidingWindowInferer(roi, overlap=overlap, mode=mode)
    with torch.inference_mode():
        return inferer(torch.from_numpy(normalize_image(volume))[None, None], model)[0].numpy()


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(
    ("shape", "window", "overlap", "blend"),
    [
        ((24, 32, 16), 16, 0.5, "gaussian"),  # divides
        ((21, 30, 17), 8, 0.5, "gaussian"),
        ((21, 30, 17), 8, 0.25, "constant"),
        ((19, 9, 26), 10, 0.0, "constant"),  # smaller than the window along one axis
        ((13, 22, 5), 12, 0.7, "gaussian"),
    ],
)
def test_the_average_is_monais_on_shapes_that_divide_and_do_not(tmp_path, shape, window, overlap, blend, on_disk):
    volume = image(*shape)
    for build in (SMALL, Build(depth=1, start_channels=2, out_channels=3)):
        model = fresh(build=build)
        found = found_in(volume, model, WindowWish(window, overlap, blend), tmp_path, on_disk=on_disk)
        expected = monais(volume, model, [min(window, length) for length in shape], overlap, blend)
        assert found.shape == expected.shape == (len(model.classes), *shape)
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
    assert not list(tmp_path.iterdir())


def test_the_average_on_disk_is_that_in_memory_to_the_bit(tmp_path):
    volume, model = image(37, 18, 23), fresh()
    wish = WindowWish(window=12)
    in_memory = found_in(volume, model, wish, tmp_path)
    assert np.array_equal(found_in(volume, model, wish, tmp_path, on_disk=True), in_memory)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_2d_network_has_windows_in_every_slice(tmp_path, on_disk):
    volume, model = image(3, 21, 26), fresh(build=FLAT)
    windows = windows_of(WindowWish(window=10), model, volume.shape)
    assert (windows.sides, windows.count) == ((1, 10, 10), 3 * 4 * 5)
    found = found_in(volume, model, WindowWish(window=10), tmp_path, on_disk=on_disk)[0]
    normal = torch.from_numpy(normalize_image(volume))
    inferer = inferers.SlidingWindowInferer((10, 10), overlap=0.5, mode="gaussian")
    for plane, expected in zip(found, normal, strict=True):  # MONAI in two dimensions
        with torch.inference_mode():
            flat = inferer(expected[None, None], lambda window: torch.sigmoid(model.net(window)))
        np.testing.assert_allclose(plane, flat[0, 0], atol=1e-6, rtol=0)


def test_a_volume_smaller_than_the_window_is_looked_at_whole(tmp_path):
    volume, model = image(7, 5, 9), fresh()
    assert np.array_equal(found_in(volume, model, WindowWish(window=64), tmp_path)[0], predict(volume, model))


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("shape", [(48, 32, 64), (37, 30, 41), (20, 50, 33)])
def test_inner_cubes_with_enough_context_are_the_whole_volume(tmp_path, shape, on_disk):
    """A voxel of this network sees 9 voxels at most to each side."""
    volume, model = image(*shape), fresh()
    found = found_in(volume, model, WindowWish(window=32, border=10), tmp_path, on_disk=on_disk)[0]
    np.testing.assert_allclose(found, predict(volume, model), atol=1e-5, rtol=0)


def test_inner_cubes_of_a_2d_network_with_enough_context_are_the_whole_slices(tmp_path):
    volume, model = image(2, 50, 41), fresh(build=FLAT)
    found = found_in(volume, model, WindowWish(window=32, border=10), tmp_path)[0]
    np.testing.assert_allclose(found, predict(volume, model), atol=1e-5, rtol=0)


def test_inner_cubes_without_context_are_what_the_network_says_of_each_alone(tmp_path):
    volume, model = image(16, 16, 24), fresh()
    found = found_in(volume, model, WindowWish(window=8, border=0), tmp_path)[0]
    normal = torch.from_numpy(normalize_image(volume))
    for z, y, x in itertools.product(range(0, 16, 8), range(0, 16, 8), range(0, 24, 8)):
        box = np.s_[z : z + 8, y : y + 8, x : x + 8]
        with torch.inference_mode():
            np.testing.assert_allclose(found[box], model(normal[box][None, None])[0, 0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("wish", [WindowWish(window=12), WindowWish(window=16, border=4)])
def test_only_the_crop_is_looked_at_and_what_is_kept_stays(tmp_path, wish, on_disk):
    volume, model = image(20, 30, 18), fresh()
    keep = np.zeros(volume.shape, np.uint8)
    keep[3:5, 10:25, 4], keep[9, 2, :] = 1, 2
    seen = []
    how = Refinement(1, None, seen.append, y_crop=19, keep=keep)
    found = found_in(volume, model, wish, tmp_path, on_disk=on_disk, how=how)[0]
    free = found_in(volume, model, wish, tmp_path, on_disk=on_disk, how=Refinement(y_crop=19))[0]
    assert (found[keep == 1] == 1).all()
    assert (found[keep == 2] == 0).all()
    assert np.array_equal(found[keep == 0], free[keep == 0])
    assert not free[:, 19:].any()
    assert seen[0].foreground == np.count_nonzero(found[:, :19] > 0.5)


def test_windows_are_counted_and_files_go_when_they_are_interrupted(tmp_path):
    volume, model = image(20, 16, 16), fresh()
    windows = windows_of(WindowWish(window=8), model, volume.shape, on_disk=True)
    told = []

    def stop_after_three(done, total):
        told.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        predicted_in_windows(volume, model, windows, tmp_path, Refinement(), stop_after_three),
    ):
        pass
    assert told == [(1, 36), (2, 36), (3, 36)]
    assert not list(tmp_path.iterdir())


class TestWish:
    @pytest.mark.parametrize(
        ("wish", "message"),
        [
            ({"border": 4, "overlap": 0.5}, r"nothing overlaps: leave one out \(settings: border, overlap\)"),
            ({"border": 4, "blend": "constant"}, r"leave one out \(settings: border, blend\)"),
            ({"window": 16, "border": 8}, "windows of 16 voxels have nothing inside a border of 8 on each side"),
            ({"window": 0}, "a window has at least 1 voxel a side, found 0"),
            ({"border": -1}, "a border is not negative, found -1"),
            ({"overlap": 0.95}, r"overlap must lie in 0 to 0.9, found 0.95"),
            ({"overlap": float("nan")}, "overlap must lie in 0 to 0.9, found nan"),
            ({"blend": "mean"}, "blend must be one of gaussian, constant, found 'mean'"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, wish, message):
        with pytest.raises(InputError, match=message):
            WindowWish(**wish)

    def test_a_border_that_leaves_nothing_in_steps_of_the_network_is_refused(self):
        model = fresh(build=Build(depth=4))
        with pytest.raises(InputError, match=r"windows of 24 voxels have nothing .* in steps of 16 voxels"):
            list(WindowWish(window=24, border=4).candidates(model, (64, 64, 64)))

    @pytest.mark.parametrize(("depth", "sides"), [(4, [128, 96, 64, 48, 32]), (6, [128, 64]), (8, [256])])
    def test_windows_that_are_chosen_are_halved_evenly(self, depth, sides):
        model = fresh(build=Build(depth=depth, start_channels=1))
        found = WindowWish().candidates(model, (999, 999, 999))
        assert list(dict.fromkeys(one.sides[0] for one in found)) == sides


class TestPlan:
    NEED = Need((200, 300, 250), 300, np.dtype(np.uint8))

    def test_what_fits_is_done_whole_unless_windows_are_asked_for(self, tmp_path):
        model = fresh(build=Build())
        assert plan_memory(self.NEED, model, 10**10, tmp_path).windows is None
        asked = plan_memory(self.NEED, model, 10**10, tmp_path, WindowWish(overlap=0.25))
        assert (asked.windows.sides, asked.windows.overlap, asked.windows.on_disk) == ((128, 128, 128), 0.25, False)
        assert "18 windows of 128 x 128 x 128 voxels, overlap 0.25, weights gaussian: about" in asked.description

    def test_what_does_not_fit_goes_in_the_largest_windows_that_do(self, tmp_path):
        model = fresh(build=Build())
        whole = self.NEED.bytes(model)
        chosen = [plan_memory(self.NEED, model, limit * 10**6, tmp_path) for limit in (1250, 800, 740, 700)]
        assert whole > 1250e6
        assert all(one.needed <= one.allowed for one in chosen)
        sides = [one.windows.sides[0] for one in chosen]
        assert sides == sorted(sides, reverse=True)
        assert [one.windows.on_disk for one in chosen] == [False, True, True, True]
        assert sides[0] == 128 > sides[-1]
        assert chosen[0].description.startswith("1.43 GB would be needed whole: 36 windows of 128 x 128 x 128 voxels")
        assert "60 MB of intermediate files in" in chosen[1].description

    def test_what_does_not_fit_even_in_small_windows_is_refused(self, tmp_path):
        model = fresh(build=Build())
        with pytest.raises(InputError, match=r"MB of memory needed even in [\d,]+ windows of 32 x 32 x 32 voxels, 600"):
            plan_memory(self.NEED, model, 600_000_000, tmp_path)
        with pytest.raises(InputError, match=r"even in \d+ windows of 96 x 96 x 96 voxels \(setting: window\), 680 MB"):
            plan_memory(self.NEED, model, 680_000_000, tmp_path, WindowWish(window=96))

    def test_weights_count(self, tmp_path):
        """A V-Net has 45.6 million, and they are in memory twice while they are read."""
        tiny = Need((16, 16, 16), 16, np.dtype(np.uint8))
        assert tiny.bytes(VNet().eval()) > 500e6 + 2 * 4 * 45.6e6

    def test_a_µ_net_never_goes_through_windows(self, tmp_path):
        with pytest.raises(InputError, match=r"µ-Net takes volumes whole or in slabs .*leave them out \(setting: wind"):
            plan_memory(self.NEED, MicroNet(), 10**10, tmp_path, WindowWish(window=64))


PEAK = """
import json, re, sys, numpy as np, torch
from micronet.networks.library import LIBRARY, Build
def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
torch.set_num_threads(1)
for kind, build, shape in json.loads(sys.argv[1]):
    torch.manual_seed(0)
    model = LIBRARY[kind](Build(**build)).eval()
    x = torch.zeros(1, 1, *shape)
    with torch.inference_mode():
        model(x[:, :, :16, :32, :32])
        open("/proc/self/clear_refs", "w").write("5")
        before = kilobytes("VmRSS")
        y = model(x)
    print((kilobytes("VmHWM") - before) * 1024 / model.pass_bytes(shape))
    del x, y, model
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc to measure memory")
def test_a_pass_takes_what_it_is_said_to_take():
    cases = [
        ("unet", {}, (64, 96, 96)),
        ("unet", {"start_channels": 16, "norm": "group"}, (48, 64, 96)),
        ("unet", {"depth": 1, "out_channels": 4}, (48, 64, 96)),
        ("unet", {"dimensions": 2, "start_channels": 16}, (2, 512, 512)),
        ("hourglass", {"num_stacks": 3, "start_channels": 16, "out_channels": 3}, (48, 64, 64)),
        ("hourglass", {"num_stacks": 2}, (48, 64, 96)),
        ("vnet", {"dimensions": 2}, (1, 256, 256)),
        ("vnet", {}, (48, 48, 64)),
    ]
    # What is freed goes back to the system at once, so that one network is not given what another left.
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, json.dumps(cases)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    ratios = [float(line) for line in ran.stdout.split()]
    told = {f"{kind} {build}": ratio for (kind, build, _), ratio in zip(cases, ratios, strict=True)}
    assert all(0.4 < ratio < 1.1 for ratio in told.values()), told


# --- the script ---


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A tube of 24 x 40 x 36 voxels, and an untrained network that calls about half of it lumen."""
    monkeypatch.chdir(tmp_path)
    for name, model in (
        ("unet_a", fresh()),
        ("unet_flat", fresh(build=FLAT)),
        ("unet_classes", fresh(build=Build(depth=1, start_channels=2, classes=("lumen", "wall")))),
        ("u-net_a", MicroNet()),
    ):
        save_state(tmp_path / "checkpoints" / f"{name}.pt", model.state_dict())
    write_volume(tmp_path / "a.nrrd", Volume(image(24, 40, 36), upright((2, 2, 2)), units="um"))
    return tmp_path


#: What the process is said to take before it holds a volume: little, so that small volumes count.
@pytest.fixture
def light(monkeypatch):
    monkeypatch.setattr("micronet.core.ram.PROGRAM", 1_000_000)
    monkeypatch.setattr("micronet.segment.memory._MONAI", 0)


def segmented(output, *options, capsys, model="unet_a"):
    code, out, err = call(infer, "a.nrrd", "--model", model, "-o", output, "--threads", 1, *options, capsys=capsys)
    assert code == 0, err
    return out, read_json(Path(output) / "a.json")


def levels(output, name="a_probability.nrrd"):
    return read_volume(Path(output) / name).array


def rounded(probability):
    return np.rint(probability * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("options", "wish"),
    [
        (("--window", 16), WindowWish(16)),
        (("--window", 16, "--overlap", 0.25), WindowWish(16, 0.25)),
        (("--window", 16, "--blend", "constant"), WindowWish(16, blend="constant")),
        (("--window", 16, "--border", 0), WindowWish(16, border=0)),
    ],
)
def test_each_option_changes_what_is_found_as_it_says(folder, options, wish, capsys):
    model = fresh()
    out, record = segmented("out", *options, capsys=capsys)
    volume = image(24, 40, 36)
    assert np.array_equal(levels("out"), rounded(found_in(volume, model, wish, folder)[0]))
    others = [WindowWish(16), WindowWish(16, 0.25), WindowWish(16, blend="constant"), WindowWish(16, border=0)]
    others = [found_in(volume, model, one, folder)[0] for one in others if one != wish]
    assert all(not np.array_equal(levels("out"), rounded(one)) for one in [*others, predict(volume, model)])
    windows = windows_of(wish, model, volume.shape)
    assert f"  memory      {windows.words}: about" in out
    assert record["memory"]["windows"] == windows.record
    assert {name: record["parameters"][name] for name in wish.asked} == {
        name: getattr(wish, name) for name in wish.asked
    }


def test_without_them_it_is_looked_at_whole_and_the_record_is_as_before(folder, capsys):
    out, record = segmented("out", capsys=capsys)
    assert "  memory      whole: about" in out
    assert np.array_equal(levels("out"), rounded(predict(image(24, 40, 36), fresh())))
    assert "windows" not in record["memory"]
    assert not {"window", "overlap", "blend", "border"} & set(record["parameters"])


def test_a_result_of_other_windows_is_told_and_one_of_the_same_is_skipped(folder, capsys):
    segmented("out", "--window", 16, "--overlap", 0.25, capsys=capsys)
    out, _ = segmented("out", "--window", 16, "--overlap", 0.25, capsys=capsys)
    assert "1 skipped" in out
    for options, words in (
        (("--window", 16), "overlap 0.25 there, none asked"),
        (("--window", 12, "--overlap", 0.25), "window 16 there, 12 asked"),
        ((), "window 16 there, none asked"),
        (("--window", 16, "--border", 2), "border none there, 2 asked"),
    ):
        code, out, err = call(infer, "a.nrrd", "--model", "unet_a", "-o", "out", *options, capsys=capsys)
        assert code == 2
        assert words in out + err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "u-net_a", "--window", 16), "µ-Net takes volumes whole or in slabs with the same bits, windows "
         "are of the larger networks: leave them out (--window)"),
        (("--model", "u-net_a", "--overlap", 0.5, "--blend", "constant"), "leave them out (--overlap, --blend)"),
        (("--model", "u-net_a", "--border", 4), "leave them out (--border)"),
        (("--model", "unet_a", "--border", 4, "--overlap", 0.5), "leave one out (--border, --overlap)"),
        (("--model", "unet_a", "--window", 8, "--border", 4), "have nothing inside a border of 4 on each side"),
        (("--model", "unet_a", "--window", 0), "'0': expected a whole number from 1"),
        (("--model", "unet_a", "--overlap", 1), "'1': expected a number from 0 to 0.9"),
        (("--model", "unet_a", "--border", "-1"), "expected a whole number from 0"),
        (("--model", "a=u-net_a", "--model", "b=unet_a", "--window", 16), "leave them out (--window)"),
    ],
)  # fmt: skip
def test_what_cannot_be_costs_a_line_and_writes_nothing(folder, options, message, capsys):
    code, _, err = call_for_last_line(infer, "a.nrrd", *options, capsys=capsys)
    assert code == 2
    assert message in err
    assert not Path("predictions").exists()


@pytest.mark.usefixtures("light")
def test_what_does_not_fit_goes_in_windows_whose_result_lies_on_disk_and_a_line_says_so(folder, capsys):
    model = fresh()
    big = image(40, 300, 200)
    write_volume(folder / "a.nrrd", Volume(big, upright((2, 2, 2)), units="um"))
    out, record = segmented("out", "--max-ram", "38MB", capsys=capsys)
    memory = record["memory"]
    assert re.search(r"memory      1\d\d MB would be needed whole: \d+ windows of \d+ x \d+ x \d+ voxels", out)
    assert re.search(r"38 MB allowed \(--max-ram\); 10 MB of intermediate files in out/", out)
    assert memory["estimated_bytes"] <= memory["allowed_bytes"] == 38_000_000
    side = memory["windows"]["sides_zyx"][1]
    assert np.array_equal(levels("out"), rounded(found_in(big, model, WindowWish(side), folder)[0]))
    assert sorted(path.suffix for path in Path("out").iterdir()) == [".json", ".nrrd", ".nrrd", ".png"]


def test_a_2d_network_and_one_of_several_classes_go_in_windows_too(folder, capsys):
    volume = image(24, 40, 36)
    segmented("flat", "--window", 16, model="unet_flat", capsys=capsys)
    expected = found_in(volume, fresh(build=FLAT), WindowWish(16), folder)[0]
    assert np.array_equal(levels("flat"), rounded(expected))
    out, record = segmented("classes", "--window", 16, model="unet_classes", capsys=capsys)
    assert "windows of 16 x 16 x 16 voxels, overlap 0.5, weights gaussian" in out
    model = fresh(build=Build(depth=1, start_channels=2, classes=("lumen", "wall")))
    each = found_in(volume, model, WindowWish(16), folder)
    for name, probability in zip(("lumen", "wall"), each, strict=True):
        assert np.array_equal(levels("classes", f"a_{name}_probability.nrrd"), rounded(probability))
    assert [one["memory"]["windows"]["count"] for one in record["segments"]] == [2 * 4 * 4] * 2


def test_a_folder_of_png_is_images_to_a_2d_network_and_no_volumes_to_another(folder, capsys):
    """Before, such a folder was one without volumes, and each image had to be named."""
    (folder / "images").mkdir()
    for number in (2, 10):
        Image.fromarray(image(1, 40, 36)[0]).save(f"images/cell{number}.png")
    how = ("--model", "unet_flat", "--threads", 1)
    code, out, err = call(infer, "images", *how, capsys=capsys)
    assert code == 0, out + err
    assert [path.name for path in sorted(Path("predictions").glob("*.seg.nrrd"))] == [
        "cell10.seg.nrrd", "cell2.seg.nrrd"
    ]  # fmt: skip
    code, _, err = call_for_last_line(infer, "images", "--model", "unet_a", capsys=capsys)
    assert code == 2
    assert "'images' is a folder without volumes" in err
    code, out, err = call(infer, "images", *how, "-o", "images", capsys=capsys)
    assert code == 0, out + err
    code, out, err = call(infer, "images", *how, "-o", "images", capsys=capsys)  # the previews are no images
    assert (code, "2 skipped" in out) == (0, True), out + err
    write_volume(folder / "images" / "volume.nrrd", Volume(image(2, 40, 36), upright((2, 2, 2)), units="um"))
    code, out, err = call(infer, "images", *how, capsys=capsys)
    assert (code, "1 done" in out) == (0, True), out + err
    assert "note: 2 PNG in 'images' are left, as there are volumes: cell2.png, cell10.png" in out


PROCESS = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="ru_maxrss is in kilobytes on Linux")
def test_a_process_takes_no_more_than_it_is_allowed(folder, root):
    model = fresh(build=Build(depth=4, start_channels=2))
    save_state(folder / "unet_quick.pt", model.state_dict())
    write_volume(folder / "big.nrrd", Volume(image(96, 320, 320), upright((2, 2, 2)), units="um"))
    command = [sys.executable, str(root / "infer.py"), "big.nrrd", "--model", "unet_quick.pt", "--overlap", "0"]
    command += ["--max-ram", "670MB", "--threads", "1"]  # 1 GB whole
    ran = subprocess.run(
        [sys.executable, "-c", PROCESS, *command], capture_output=True, text=True, check=True, cwd=folder
    )
    memory = read_json(folder / "predictions" / "big.json")["memory"]
    assert memory["windows"]["count"] > 1
    assert int(ran.stdout) <= memory["estimated_bytes"] <= 670_000_000
