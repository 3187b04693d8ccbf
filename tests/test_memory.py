"""Memory: what is estimated is what is taken; what does not fit is done in slabs with the same result, or refused."""

import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from running import call, read_json

import infer
from micronet import MicroNet, MicroRNet, Volume, predict, read_volume, write_volume
from micronet.core.errors import FileError, InputError
from micronet.core.ram import available_memory
from micronet.core.volume import upright
from micronet.io import Segment, claimed_bytes, open_stack, write_segmentation
from micronet.io.scratch import Scratch
from micronet.networks import engine
from micronet.networks.weights import save_state
from micronet.segment.memory import Need, plan_memory
from micronet.segment.refine import Refinement
from micronet.segment.slabs import predict_in_slabs

pytestmark = pytest.mark.usefixtures("engine_ready")


@pytest.fixture(params=[MicroNet, MicroRNet], ids=["u-net", "ur-net"])
def model(request):
    torch.manual_seed(6)
    return request.param()


@pytest.fixture(autouse=True)
def choice_is_put_back():
    yield
    engine.choose("auto")


def numbers_of(iterations):
    return [(one.number, one.largest_change, one.mean_change, one.flipped, one.foreground) for one in iterations]


class TestSlabs:
    @pytest.mark.parametrize(
        ("dtype", "crop", "planes"), [(np.uint8, None, 12), (np.uint16, 37, 4), (np.float32, None, 64)]
    )
    def test_probability_and_iterations_are_those_of_the_whole_volume(self, tmp_path, rng, model, dtype, crop, planes):
        image = rng.integers(0, 200, (45, 41, 34)).astype(dtype)
        start = rng.random(image.shape) if isinstance(model, MicroRNet) and crop else None
        whole, slabs = [], []
        expected = predict(image, model, 3, start, whole.append, y_crop=crop)
        how = Refinement(3, start, slabs.append, y_crop=crop)
        with predict_in_slabs(image, model, tmp_path, planes, how) as found:
            assert np.array_equal(found[:], expected)
            assert np.array_equal(np.stack(list(found)), expected)
        assert numbers_of(slabs) == numbers_of(whole)
        assert not list(tmp_path.iterdir())

    def test_they_stop_where_nothing_changes(self, tmp_path, rng):
        model = MicroRNet()
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)
        seen = []
        image = rng.random((32, 32, 32))
        with predict_in_slabs(image, model, tmp_path, 16, Refinement(9, None, seen.append, until_stable=True)) as found:
            assert (found[:] == 0.5).all()
        assert [one.number for one in seen] == [1, 2, 3]

    def test_they_are_the_same_where_planes_are_cut_into_strips(self, tmp_path, rng, model, monkeypatch):
        monkeypatch.setattr("micronet.networks.kernels.layout._STRIP", 1000)
        image = rng.integers(0, 200, (40, 66, 40), np.uint8)
        expected = predict(image, model, 2)
        with predict_in_slabs(image, model, tmp_path, 8, Refinement(2)) as found:
            assert np.array_equal(found[:], expected)

    @pytest.mark.parametrize("fault", [KeyboardInterrupt, RuntimeError])
    def test_files_go_when_a_pass_is_interrupted(self, tmp_path, rng, fault):
        def stop(_):
            raise fault("now")

        before = _open_files()
        with pytest.raises(fault, match="now"):
            predict_in_slabs(rng.random((32, 32, 32)), MicroRNet(), tmp_path, 8, Refinement(3, None, stop))
        assert not list(tmp_path.iterdir())
        assert _open_files() == before

    def test_only_the_engine_does_it(self, tmp_path, rng):
        with pytest.raises(InputError, match="only the numba engine on the CPU works in slabs"):
            predict_in_slabs(rng.random((32, 32, 32)), MicroNet().double(), tmp_path, 8)


def _open_files():
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


PEAK = """
import re, sys, numpy as np, torch
from pathlib import Path
import micronet.segment.job, micronet.report.preview, micronet.app.computing
from micronet import MicroNet, MicroRNet, predict
from micronet.networks import engine
from micronet.segment.refine import Refinement
from micronet.segment.slabs import predict_in_slabs
from micronet.segment.memory import Need
from micronet.core.ram import PROGRAM
def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
network, planes, shape, choice = sys.argv[1], int(sys.argv[2]), tuple(map(int, sys.argv[3].split("x"))), sys.argv[4]
engine.choose(choice)
torch.set_num_threads(1)
torch.manual_seed(0)
model = {"u-net": MicroNet, "ur-net": MicroRNet}[network]()
small = np.random.default_rng(0).integers(0, 255, (32, 32, 32), dtype=np.uint8)
predict(small, model, 2)
before = kilobytes("VmRSS")
image = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
if planes:
    predict_in_slabs(image, model, Path(sys.argv[5]), planes, Refinement(2)).close()
else:
    predict(image, model, 2)
taken = kilobytes("VmHWM") - before
estimate = Need(shape, shape[1], image.dtype).bytes(model, planes or None) - PROGRAM
print(taken * 1024 / estimate)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
class TestEstimate:
    @pytest.mark.parametrize(
        ("network", "planes", "shape", "choice"),
        [
            ("ur-net", 0, "128x160x140", "numba"),
            ("ur-net", 16, "64x400x400", "numba"),
            ("ur-net", 0, "64x96x112", "torch"),
        ],
    )
    def test_it_is_what_is_taken(self, tmp_path, network, planes, shape, choice):
        command = [sys.executable, "-c", PEAK, network, str(planes), shape, choice, str(tmp_path)]
        found = []
        for _ in range(3):  # PyTorch takes a peak as it comes, and what the allocator kept from before is not counted
            found.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
            if max(found) > 0.6:
                break
        assert 0.6 < max(found) < 1.02

    def test_what_is_available_lies_between_nothing_and_all_there_is(self):
        total = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
        assert 0 < available_memory() <= total

    def test_a_control_group_limits_it(self, tmp_path, monkeypatch):
        """A container of 3 MB, of which 1 MB is taken, 200 kB of that by files that can be read again."""
        group = tmp_path / "job" / "step"
        group.mkdir(parents=True)
        (group / "memory.max").write_text("max\n")
        (group.parent / "memory.max").write_text("3000000\n")
        (group.parent / "memory.current").write_text("1000000\n")
        (group.parent / "memory.stat").write_text("anon 800000\ninactive_file 200000\n")
        (tmp_path / "cgroup").write_text("0::/job/step\n")
        monkeypatch.setattr("micronet.core.ram._CGROUP", tmp_path)
        monkeypatch.setattr("micronet.core.ram._GROUPS", tmp_path / "cgroup")
        assert available_memory() == 2_200_000


class TestPlan:
    BIG = Need((1024, 1024, 512), 1024, np.dtype(np.uint8))

    def test_half_a_billion_voxels_fit_into_three_gigabytes(self, tmp_path, model):
        torch.set_num_threads(2)
        plan = plan_memory(self.BIG, model, 3_000_000_000, tmp_path)
        assert plan.slab_planes % 4 == 0
        assert 16 <= plan.slab_planes <= 128
        assert plan.needed <= 3_000_000_000
        assert re.match(
            r"slabs of \d+ planes: about [23]\.\d\d GB needed, 3\.00 GB allowed \(setting: max_ram\)", plan.description
        )

    def test_what_fits_is_done_whole(self, tmp_path, model):
        assert plan_memory(self.BIG, model, 10**12, tmp_path).slab_planes is None

    def test_by_default_a_stated_share_of_what_is_available_is_allowed(self, tmp_path, model):
        plan = plan_memory(Need((32, 32, 32), 32, np.dtype(np.uint8)), model, None, tmp_path)
        assert "allowed (80% of what is available)" in plan.description
        assert plan.allowed == pytest.approx(0.8 * available_memory(), rel=0.2)

    def test_what_does_not_fit_even_in_slabs_is_refused(self, tmp_path, model):
        with pytest.raises(InputError, match=r"of memory needed even in slabs, 1\.00 GB allowed \(setting: max_ram\)"):
            plan_memory(self.BIG, model, 10**9, tmp_path)

    def test_what_cannot_run_in_slabs_is_refused(self, tmp_path, model):
        with pytest.raises(InputError, match=r"GB allowed \(setting: max_ram\); only the numba engine on the CPU"):
            plan_memory(self.BIG, model.double(), 3 * 10**9, tmp_path)

    def test_room_for_the_intermediate_files_is_looked_for_before_work(self, tmp_path, model):
        endless = Need((10**7, 1024, 512), 32, np.dtype(np.uint8))  # 21 TB of them
        with pytest.raises(FileError, match=r"intermediate files take .* GB in '.*', .* GB are free"):
            plan_memory(endless, model, 3 * 10**13, tmp_path / "not" / "yet")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(7)
    save_state(tmp_path / "checkpoints" / "u-net_test.pt", MicroNet().state_dict())
    save_state(tmp_path / "checkpoints" / "ur-net_test.pt", MicroRNet().state_dict())
    return tmp_path


#: What the process is said to take before it holds a volume, in these tests: little, so that small volumes count.
@pytest.fixture
def light(monkeypatch):
    monkeypatch.setattr("micronet.core.ram.PROGRAM", 1_000_000)


@pytest.mark.usefixtures("light")
class TestInfer:
    def _segment(self, capsys, output, *options):
        code, out, err = call(infer, "a.nrrd", "-o", output, "--threads", 1, *options, capsys=capsys)
        assert code == 0, err
        return out, read_json(Path(output) / "a.json")

    @pytest.mark.parametrize("network", ["u-net_test", "ur-net_test"])
    def test_little_memory_means_slabs_and_the_same_files(self, folder, rng, capsys, network):
        z, y, x = np.ogrid[:70, :90, :80]
        tube = ((y - 40) ** 2 + (x - 40) ** 2 < 200) & (z >= 0)
        image = (80 + 60 * tube + rng.normal(0, 8, tube.shape)).clip(0, 255).astype(np.uint8)
        grid = Volume(image, upright((3, 2, 2)), np.array([1.0, 2, 3]), "left-posterior-superior", "um")
        write_volume(folder / "a.nrrd", grid)
        write_segmentation(folder / "true.seg.nrrd", [(Segment("lumen"), tube)], grid)
        options = ["--model", network, "--iterations", 3, "--annotation", "true.seg.nrrd", "--y-crop", 81, "--report"]
        if network == "ur-net_test":
            options += ["--initial-mask", "true.seg.nrrd"]
        whole, expected = self._segment(capsys, "whole", *options)
        slabs, found = self._segment(capsys, "slabs", *options, "--max-ram", "23MB")

        assert "memory      whole: about" in whole
        assert re.search(r"memory      slabs of \d+ planes: about \d+ MB needed, 23 MB allowed \(--max-ram\)", slabs)
        assert expected["memory"]["slab_planes"] is None
        assert 4 <= found["memory"]["slab_planes"] < 64
        assert found["memory"]["estimated_bytes"] <= found["memory"]["allowed_bytes"] == 23_000_000
        assert 0 < found["result"]["fraction"] < 1
        for key in ("parameters", "masks", "result", "scores", "files"):
            assert found[key] == expected[key]
        for kind, name in expected["files"].items():
            if kind == "report":  # says how long it took
                continue
            assert (folder / "slabs" / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
        strip = [[{**one, "seconds": 0} for one in record["iterations"]] for record in (found, expected)]
        assert strip[0] == strip[1]

        again, _ = self._segment(capsys, "slabs", *options)  # how it was done is no setting of the result
        assert "1 skipped" in again

    def test_logarithms_in_slabs_are_those_of_the_whole(self, folder, rng, capsys):
        write_volume(folder / "a.nrrd", Volume(rng.integers(0, 60000, (64, 64, 64), np.uint16)))
        for output, options in (("whole", ()), ("slabs", ("--max-ram", "14MB"))):
            self._segment(capsys, output, "--model", "u-net_test", "--intensity", "log", *options)
        assert read_json("slabs/a.json")["memory"]["slab_planes"]
        for name in ("a_probability.nrrd", "a.seg.nrrd", "a_preview.png"):
            assert (folder / "slabs" / name).read_bytes() == (folder / "whole" / name).read_bytes()

    def test_too_little_memory_is_refused_by_the_header_before_anything_is_read(self, folder, rng, capsys):
        good = Volume(rng.integers(0, 255, (32, 32, 32), np.uint8))
        write_volume(folder / "a.nrrd", good)
        claims = (folder / "a.nrrd").read_bytes().replace(b"sizes: 32 32 32", b"sizes: 32000 32000 32000")
        (folder / "a.nrrd").write_bytes(claims)
        code, out, err = call(infer, "a.nrrd", "--model", "u-net_test", "--max-ram", "2GB", capsys=capsys)
        assert code == 2
        assert re.fullmatch(
            r"error: 'a\.nrrd': about \d+\.\d\d GB of memory needed even in slabs, 2\.00 GB allowed \(--max-ram\); "
            r"crop the volume, free memory or allow more \(--max-ram\)\n",
            err,
        )
        assert "volume " not in out
        assert not Path("predictions").exists()

    def test_pytorch_is_refused_where_it_would_take_too_much(self, folder, rng, capsys):
        write_volume(folder / "a.nrrd", Volume(rng.integers(0, 255, (32, 32, 32), np.uint8)))
        options = ("--model", "u-net_test", "--engine", "torch", "--max-ram", "3MB")
        code, _, err = call(infer, "a.nrrd", *options, capsys=capsys)
        assert code == 2
        assert "only the numba engine on the CPU could do it in slabs (--engine, --device)" in err

    @pytest.mark.parametrize("text", ["3", "GB", "-3GB", "3 parsecs", "1e3MB"])
    def test_a_size_without_sense_is_refused(self, folder, capsys, text):
        code, _, err = call(infer, "a.nrrd", f"--max-ram={text}", capsys=capsys)
        assert code == 2
        assert "expected a size with its unit, such as 3GB or 800MB" in err


def test_scratch_reads_back_what_was_put_anywhere(tmp_path, rng):
    planes = rng.random((6, 3, 4), np.float32)
    with Scratch(tmp_path, planes.shape) as scratch:
        scratch.put(4, planes[4:])
        scratch.put(0, planes[:4])
        assert np.array_equal(scratch[2:5], planes[2:5])
        assert np.array_equal(scratch[:], planes)
        assert len(scratch) == 6
        assert np.array_equal(np.stack(list(scratch)), planes)
    with Scratch(tmp_path, planes.shape) as scratch:
        scratch.put(0, planes[:2])
        with pytest.raises(FileError, match="ends before its plane 3"):
            scratch[1:3]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: open("/dev/full", "r+b", buffering=0))  # noqa: A006
    with pytest.raises(FileError, match=r"cannot write an intermediate volume into '.*': No space left on device"):
        predict_in_slabs(rng.random((32, 32, 32)), MicroNet(), tmp_path, 8)


def test_the_bytes_of_a_mask_are_known_by_its_header(tmp_path):
    mask = np.zeros((4, 5, 6), bool)
    both = [(Segment("a"), ~mask), (Segment("b"), ~mask)]  # overlapping, so two layers
    write_segmentation(tmp_path / "layers.seg.nrrd", both, Volume(mask))
    assert claimed_bytes(tmp_path / "layers.seg.nrrd") == 2 * 120
    write_volume(tmp_path / "a.tif", Volume(mask.astype(np.uint16)))
    assert claimed_bytes(tmp_path / "a.tif") == 240
    (tmp_path / "a.raw").write_bytes(bytes(120))
    assert claimed_bytes(tmp_path / "a.raw", shape=(4, 5, 6)) == 120


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_scaled_nifti_is_read_plane_by_plane(tmp_path, rng, name):
    image = nibabel.Nifti1Image(rng.integers(0, 999, (5, 6, 7), np.int16), np.diag([2.0, 2, 3, 1]))
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / name)
    expected = read_volume(tmp_path / name)
    with open_stack(tmp_path / name) as stack:
        assert stack.grid.array.dtype == expected.array.dtype
        assert np.array_equal(stack.grid.directions, expected.directions)
        assert stack.grid.notes == expected.notes
        assert np.array_equal(np.concatenate([stack.read(0, 3), stack.read(3, 7)]), expected.array)
        assert np.array_equal(stack.read(2, 4), expected.array[2:4])
