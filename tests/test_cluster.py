"""A cluster of processes gives what one process gives, bit for bit, whoever is killed meanwhile."""

import json
import logging
import os
import signal
import subprocess
import time
from importlib.metadata import PackageNotFoundError

import filelock
import numpy as np
import pytest
import torch
from disks import fill
from forking import fork
from taught_networks import CUBES, THICK, in_small_parts, weights_of, with_grids

from micronet import predict
from micronet.app.options import infer_parser
from micronet.app.segmenting import segment_inputs
from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume, upright
from micronet.io import read_annotation, read_volume, write_segmentation, write_volume
from micronet.io.pieces import PieceArray
from micronet.io.seg_nrrd import Segment
from micronet.segment.box_plan import plan_boxes
from micronet.segment.cluster import crew_of, do_step
from micronet.segment.job import Job, Weights, segment_file
from micronet.segment.tile_plan import TilePlan

distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
zarr = pytest.importorskip("zarr", "3.0", reason="the extra 'zarr' is not installed")

SHAPE = (41, 66, 53)


@pytest.fixture(scope="module")
def cluster():
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        ) as started,
        distributed.Client(started) as client,
    ):
        yield client


@pytest.fixture
def weights(root):
    return Weights.load(root / "trained_models" / "ur-net_phantom.pt")


@pytest.fixture
def volume(rng):
    return Volume(rng.integers(1, 255, SHAPE, np.uint8), upright((4.5, 4.5, 4.5)), units="um")


@pytest.fixture(autouse=True)
def many_tiles(monkeypatch):
    def plan(shape, **_):
        return TilePlan(shape, (20, 40, 32), (8, 8, 8), True, 0, 0)

    monkeypatch.setattr("micronet.segment.store_plan.plan_tiles", plan)


class Watched:
    """Segments, keeps what is said, the last probability as it lies on the disk, and does something at some tiles."""

    def __init__(self, tmp_path, weights, cluster):
        self.output, self.weights = tmp_path / "out", weights
        self.cluster = cluster.scheduler.address
        self.said, self.probability, self.shown = [], None, set()

    def __call__(self, path, at=lambda done: None, *, force=False, **settings):
        job = Job(self.output, cluster=self.cluster, **({"iterations": 3} | settings))

        def on_tile(done, total, where=""):
            self.shown.add(where)
            at(done)
            arrays = sorted(self.output.glob(".*.tiles/probability.*"), key=lambda name: int(name.suffix[1:]))
            if done == total:
                self.probability = PieceArray(arrays[-1])[:]

        return segment_file(path, self.weights, job, say=self.said.append, on_tile=on_tile, force=force)


@pytest.fixture
def segment(tmp_path, weights, cluster):
    return Watched(tmp_path, weights, cluster)


def test_a_cluster_gives_the_bits_of_the_whole_volume(volume, segment, rng, tmp_path):
    mask = rng.random(SHAPE) > 0.6
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    write_segmentation(tmp_path / "m.seg.nrrd", [(Segment(name="lumen"), mask)], volume)
    beside = {"initial_mask": tmp_path / "m.seg.nrrd", "annotation": tmp_path / "m.seg.nrrd"}
    outcome = segment(path, y_crop=51, **beside)
    expected = predict(volume.array, segment.weights.model, 3, initial_mask=mask, y_crop=51)
    np.testing.assert_array_equal(segment.probability, expected[:, :51])
    stored = segment.output / "a_probability.ome.zarr"
    np.testing.assert_array_equal(read_volume(stored).array, np.rint(expected * 255))
    np.testing.assert_array_equal(read_annotation(stored).mask.array, expected > 0.5)
    assert sorted(file.name for file in segment.output.iterdir()) == ["a.json", "a_preview.png", stored.name]
    record = json.loads((segment.output / "a.json").read_text())
    assert record["scores"]["true_positives"] == np.count_nonzero((expected > 0.5)[:, :51] & mask[:, :51])
    assert record["cluster"] == {"processes": 2, "lost": 0}
    # One bar over all tiles, beside which stands where to look, if there is anything to see.
    links = [line.split("dashboard: ")[1] for line in segment.said if "dashboard: " in line]
    assert segment.shown == {link if link.startswith("http") else "" for link in links}
    assert outcome.status == "done"
    assert segment(path, y_crop=51, **beside).status == "skipped"


def test_thin_volumes_and_networks_that_look_once_too(segment, root, rng, tmp_path, monkeypatch):
    # Of a thin volume the axis that is mirrored is never cut, the others are.
    monkeypatch.setattr(
        "micronet.segment.store_plan.plan_tiles",
        lambda shape, **_: TilePlan(shape, (32, 36, 32), (8, 8, 8), True, 0, 0),
    )
    volume = Volume(rng.normal(size=(9, 70, 35)).astype(np.float32))
    path = write_volume(tmp_path / "a.zarr", volume)
    segment.weights = Weights.load(root / "trained_models" / "u-net_phantom.pt")
    segment(path)
    np.testing.assert_array_equal(segment.probability, predict(volume.array, segment.weights.model))
    assert "4 tiles of 32 x 36 x 32 voxels" in "".join(segment.said)
    assert len(json.loads((segment.output / "a.json").read_text())["iterations"]) == 1


def test_a_plan_that_cuts_an_axis_that_is_mirrored_is_refused(segment, rng, tmp_path):
    path = write_volume(tmp_path / "a.zarr", Volume(rng.normal(size=(9, 70, 35)).astype(np.float32)))
    segment.output.mkdir()
    with pytest.raises(AssertionError, match="cut an axis that is mirrored"):
        segment(path)
    assert not list(segment.output.iterdir())


def test_workers_that_are_killed_are_told_and_lose_nothing(volume, segment, cluster, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)

    def kill(done):
        if done in (3, 14):  # one step copies, twelve encode, then they decode
            os.kill(next(iter(cluster.run(os.getpid).values())), signal.SIGKILL)

    segment(path, kill, iterations=2)
    np.testing.assert_array_equal(segment.probability, predict(volume.array, segment.weights.model, 2))
    told = [line for line in segment.said if "is lost" in line]
    assert len(told) == 2
    assert json.loads((segment.output / "a.json").read_text())["cluster"]["lost"] == 2
    assert "worker tcp://" in told[0]


def test_a_killed_driver_goes_on_after_the_last_refinement(volume, segment, root, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    words = [root / "infer.py", path, "-o", segment.output, "--iterations", 20, "--cluster", segment.cluster]
    # A plan of one tile, as the driver makes: it is killed as soon as three refinements are finished.
    driver = fork(words, cwd=root, stdout=subprocess.DEVNULL)
    progress = segment.output / ".a.tiles" / "progress.json"
    until = time.monotonic() + 120
    while time.monotonic() < until and driver.poll() is None:
        if progress.exists() and progress.read_text().count("flipped") >= 3:
            break
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    with pytest.raises(
        FileError, match=r"is an unfinished segmentation of 'a.ome.zarr' with other settings: iterations 20 there, 5"
    ):
        segment(path, iterations=5)
    segment(path, iterations=20)
    line = next(line for line in segment.said if "resumes" in line)
    assert int(line.rsplit(" ", 1)[1]) >= 3
    np.testing.assert_array_equal(segment.probability, predict(volume.array, segment.weights.model, 20))
    assert not list(segment.output.glob(".*"))


def test_what_goes_wrong_is_one_line_and_what_is_finished_is_kept(volume, segment, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)

    def fail(done):
        if done == 26:  # in the second refinement
            raise FileError("the disk is full")

    with pytest.raises(FileError, match="the disk is full"):
        segment(path, fail)
    assert any("the same call goes on after refinement 1" in line for line in segment.said)
    segment(path)
    assert any(line == "  resumes     after refinement 1" for line in segment.said)
    np.testing.assert_array_equal(segment.probability, predict(volume.array, segment.weights.model, 3))


def test_with_less_memory_what_is_finished_is_done_again(volume, segment, tmp_path, monkeypatch):
    path = write_volume(tmp_path / "a.ome.zarr", volume)

    def plans(sides, needed):
        plan = TilePlan(SHAPE, sides, (8, 8, 8), True, needed, 0)
        monkeypatch.setattr("micronet.segment.store_plan.plan_tiles", lambda shape, **_: plan)

    def fail(done):
        if done == 10:  # in the first refinement, all tiles are encoded
            raise FileError("the disk is full")

    plans((32, 40, 32), 2000)
    with pytest.raises(FileError, match="the disk is full"):
        segment(path, fail, iterations=2)
    plans((20, 36, 32), 900)
    segment(path, iterations=2, max_ram=1000)
    assert any("less memory than before" in line for line in segment.said)
    assert not any("resumes" in line for line in segment.said)
    np.testing.assert_array_equal(segment.probability, predict(volume.array, segment.weights.model, 2))


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr("micronet.segment.store_plan.plan_boxes", lambda *given: in_small_parts(plan_boxes(*given)))


def test_what_was_taught_is_killed_and_goes_on_with_the_bits_of_the_whole_volume(
    segment, cluster, small_parts, rng, tmp_path
):
    volume = Volume(rng.gamma(2, 30, (9, 60, 45)).astype(np.uint8), upright(THICK), units="um")
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    segment.weights = weights_of(with_grids(rng, THICK, 2.0), tmp_path, "taught_a")
    looked = [0]

    def stop(done):
        looked[0] = done
        if done == 30:  # boxes are looked at, tiles of the first grid are not all done
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment(path, stop)
    assert any("the same call goes on with what is finished" in line for line in segment.said)
    first = []

    def kill(done):
        first.append(done)
        if done == first[0] + 20:
            os.kill(next(iter(cluster.run(os.getpid).values())), signal.SIGKILL)

    segment(path, kill)
    assert first[0] > 9  # what was looked at is not looked at again
    assert any("is lost" in line for line in segment.said)
    np.testing.assert_array_equal(segment.probability, predict(volume, segment.weights.model))
    assert not list(segment.output.glob(".*"))


@pytest.mark.parametrize("wish", [{"window": 16}, {"window": 16, "border": 4}])
def test_a_larger_network_goes_on_window_by_window_with_the_bits_of_the_whole_volume(wish, segment, rng, tmp_path):
    pytest.importorskip("monai", reason="the extra 'networks' is not installed")
    from micronet.networks.library import Build, UNet

    torch.manual_seed(3)
    segment.weights = weights_of(UNet(Build(depth=1, start_channels=2)).eval(), tmp_path, "unet_a")
    volume = Volume(rng.integers(0, 255, (21, 40, 18), np.uint8), upright(CUBES), units="um")
    path = write_volume(tmp_path / "a.ome.zarr", volume)

    def stop(done):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment(path, stop, y_crop=37, **wish)
    stored = {file: file.stat().st_mtime_ns for file in segment.output.glob(".a.tiles/*/c/**/*") if file.is_file()}
    segment(path, y_crop=37, **wish)
    assert len(stored) > 7
    whole = write_volume(tmp_path / "b.nrrd", volume)
    segment_file(whole, segment.weights, Job(tmp_path / "whole", y_crop=37, **wish), say=lambda line: None)
    np.testing.assert_array_equal(
        read_volume(segment.output / "a_probability.ome.zarr").array,
        read_volume(tmp_path / "whole" / "b_probability.nrrd").array,
    )


def test_a_truncated_chunk_is_told_and_leaves_nothing(volume, segment, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    chunk = path / "0" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(FileError, match=r"a.ome.zarr' is damaged or cut short"):
        segment(path)
    assert not list(segment.output.iterdir())


def test_a_disk_that_is_full_is_told_and_gone_on_with_when_there_is_room(volume, segment, small_disk, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    ballast = fill(small_disk(segment.output, "20m"), 1_000_000)  # enough for what is done once
    with pytest.raises(FileError, match=r"cannot write an intermediate volume into '.*': No space left on device"):
        segment(path)
    ballast.unlink()
    segment(path)
    assert "  resumes     after what is done once for all refinements" in segment.said
    np.testing.assert_array_equal(segment.probability, predict(volume.array, segment.weights.model, 3))


def test_where_nothing_can_be_written_is_one_line(volume, segment, read_only, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    read_only(segment.output)
    with pytest.raises(FileError, match=r"cannot write into '.*out'"):
        segment(path)


def test_without_dask_a_line_says_what_to_install(volume, segment, tmp_path, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("micronet.segment.cluster.version", missing)
    with pytest.raises(InputError, match="a cluster needs the package distributed: pip install 'distributed>="):
        segment(write_volume(tmp_path / "a.ome.zarr", volume))
    assert not segment.output.exists()


def test_a_volume_that_is_no_ome_zarr_is_refused_before_any_work(volume, root, tmp_path):
    path = write_volume(tmp_path / "a.nrrd", volume)
    with pytest.raises(InputError, match=r"--cluster is for OME-Zarr, not for '.*a.nrrd': leave it out \(--part 1/8"):
        segment_inputs(infer_parser().parse_args([str(path), "--cluster", "2"]), root)


def test_a_folder_that_is_none_of_ours_is_not_touched(volume, segment, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    (segment.output / ".a.tiles").mkdir(parents=True)
    (segment.output / ".a.tiles" / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match="is in the way: it is no unfinished segmentation of ours"):
        segment(path, force=True)
    assert [file.name for file in (segment.output / ".a.tiles").iterdir()] == ["notes.txt"]


def test_one_call_at_a_time_works_on_a_result(volume, segment, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    (segment.output / ".a.tiles").mkdir(parents=True)
    with (
        filelock.FileLock(segment.output / ".a.tiles" / ".lock"),
        pytest.raises(FileError, match=r"a.ome.zarr' is being segmented by another process in"),
    ):
        segment(path)


def test_schedulers_that_are_not_there_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("micronet.segment.cluster._PATIENCE", 0.5)
    with pytest.raises(InputError, match=r"no scheduler answers at 'tcp://127.0.0.1:9' .*\(setting: cluster\)"):
        crew_of("tcp://127.0.0.1:9", print).__enter__()
    with pytest.raises(FileError, match=r"scheduler.json' is no scheduler file: is the scheduler running\?"):
        crew_of(str(tmp_path / "scheduler.json"), print).__enter__()


def test_only_steps_are_done_and_only_where_the_folder_is_seen(tmp_path):
    with pytest.raises(InputError, match="'remove' is no step"):
        do_step(0, str(tmp_path), "remove", (), 1)
    with pytest.raises(FileError, match="is not seen here, or has gone"):
        do_step(0, str(tmp_path), "copy", (), 1)
