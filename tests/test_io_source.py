"""No file is opened three times, and one that changes between header and voxels is noticed."""

import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from running import exit_code

import evaluate
import infer
import prepare
from micronet.core.errors import FileError
from micronet.core.provenance import sha256_of
from micronet.core.volume import Volume, upright
from micronet.io import Segment, Sources, open_stack, read_volume, write_segmentation, write_volume
from micronet.io.source import Source
from micronet.segment.job import Job, Weights, segment_file
from micronet.training.teach.job import TeachJob, teach_file

_OPENED = Counter()
_COUNTING = []


def _note_opened(event, arguments):
    if event == "open" and _COUNTING and isinstance(arguments[0], str | bytes | os.PathLike):
        _OPENED[os.path.realpath(os.fsdecode(arguments[0]))] += 1


sys.addaudithook(_note_opened)  # it cannot be removed: it does nothing unless something is counted


@contextmanager
def counted():
    """Count how often each file is opened in a block."""
    _OPENED.clear()
    _COUNTING.append(True)
    try:
        yield _OPENED
    finally:
        _COUNTING.clear()


@pytest.fixture
def volume(rng):
    return Volume(
        rng.integers(0, 255, (17, 18, 19), np.uint8),
        upright((4.5, 4.5, 4.5)),
        space="left-posterior-superior",
        units="um",
    )


NAMES = ("a.nrrd", "b.nhdr", "c.nii", "d.nii.gz", "e.tif", "f.ome.tif", "packed.tif", "g.npy")


def _write(folder, name, volume):
    """Write a volume; return the file and what belongs to it."""
    path = folder / name
    if name == "packed.tif":
        tifffile.imwrite(path, volume.array, compression="zlib", photometric="minisblack")
    else:
        write_volume(path, volume)
    return [path, *folder.glob(f"{path.stem}.raw*")]


@pytest.fixture
def masks(tmp_path, volume):
    """An initial mask (a plain one) and an annotation (a segmentation), each a file of its own."""
    initial, annotation = tmp_path / "initial.nrrd", tmp_path / "annotation.seg.nrrd"
    write_volume(initial, volume.with_array((volume.array > 200).astype(np.uint8)))
    write_segmentation(annotation, [(Segment("full seg"), volume.array > 128)], volume)
    return initial, annotation


class TestOpenings:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_job_opens_each_of_its_files_once(self, tmp_path, root, volume, masks, name):
        path, *more = _write(tmp_path, name, volume)
        weights = Weights.load(root / "trained_models" / "ur-net_phantom.pt", "cpu")
        job = Job(
            output=tmp_path / "out",
            iterations=1,
            initial_mask=masks[0],
            annotation=masks[1],
            spacing_um=(4.5, 4.5, 4.5) if name in ("packed.tif", "g.npy") else None,
        )

        with counted() as opened_files:
            segment_file(path, weights, job, say=lambda _: None)

        assert [opened_files[os.path.realpath(file)] for file in (path, *more, *masks)] == [1] * (3 + len(more))

    @pytest.mark.parametrize("name", NAMES[:2])
    def test_a_run_opens_no_file_three_times_whatever_its_roles(self, tmp_path, volume, masks, name, capsys):
        path, *more = _write(tmp_path, name, volume)

        with counted() as opened_files:
            code = exit_code(
                infer, path, "-o", tmp_path / "out", "--model", "ur-net_phantom", "--iterations", 1,
                "--initial-mask", masks[1], "--annotation", masks[1],
            )  # fmt: skip

        assert code == 0
        assert {1, 2} >= {opened_files[os.path.realpath(file)] for file in (path, *more, masks[1])}

    def test_a_time_lapse_opens_no_file_three_times(self, tmp_path, volume, masks, capsys):
        paths = [tmp_path / f"beat_t{number}.nrrd" for number in range(3)]
        for path in paths:
            write_volume(path, volume)

        with counted() as opened_files:
            code = exit_code(
                infer, *paths, "-o", tmp_path / "out", "--model", "ur-net_phantom", "--iterations", 1,
                "--initial-mask", masks[0], "--time-lapse",
            )  # fmt: skip

        assert code == 0
        assert max(opened_files[os.path.realpath(file)] for file in (*paths, masks[0])) <= 2

    def test_a_recording_is_opened_at_most_twice(self, tmp_path, volume, capsys):
        path = tmp_path / "beat.nii"
        array = np.stack([volume.array] * 2).transpose(3, 2, 1, 0)
        nibabel.save(nibabel.Nifti1Image(array, np.diag([4.5, 4.5, 4.5, 1])), path)

        with counted() as opened_files:
            code = exit_code(
                infer, path, "-o", tmp_path / "out", "--model", "u-net_phantom", "--time-lapse",
                "--spacing", "4.5,4.5,4.5",
            )  # fmt: skip

        assert code == 0
        assert 1 <= opened_files[str(path)] <= 2

    @pytest.mark.parametrize("name", NAMES)
    def test_scores_open_no_file_three_times(self, tmp_path, volume, masks, name, capsys):
        prediction = _write(tmp_path, name, volume.with_array((volume.array > 100).astype(np.uint8)))
        image = _write(tmp_path, "image.nrrd", volume)

        with counted() as opened_files:
            code = exit_code(
                evaluate, prediction[0], "--annotation", masks[1], "-o", tmp_path / "scores", "--spacing",
                "4.5,4.5,4.5", "--report", "--image", image[0],
            )  # fmt: skip

        assert code == 0
        assert {1, 2} >= {opened_files[os.path.realpath(file)] for file in (*prediction, *image, masks[1])}

    @pytest.mark.parametrize("name", NAMES)
    def test_a_scan_and_the_way_back_open_no_file_three_times(self, tmp_path, volume, name, capsys):
        scan = _write(tmp_path, name, volume)
        told = ["--spacing", "4.5,4.5,4.5"]

        with counted() as opened_files:
            code = exit_code(prepare, scan[0], "--domain", "log", "--iso", 9, "-o", tmp_path / "made", *told)
        assert code == 0
        assert {1, 2} >= {opened_files[os.path.realpath(file)] for file in scan}

        made = read_volume(tmp_path / "made" / f"{scan[0].name.split('.')[0]}.nrrd")
        mask = write_segmentation(tmp_path / "found.seg.nrrd", [(Segment("full seg"), made.array > 128)], made)
        with counted() as opened_files:
            code = exit_code(prepare, mask, "--back-to", scan[0], "-o", tmp_path / "back", *told)
        assert code == 0
        assert {1, 2} >= {opened_files[os.path.realpath(file)] for file in (*scan, mask)}

    def test_a_lesson_opens_volume_and_labels_once(self, tmp_path, volume, monkeypatch):
        monkeypatch.chdir(tmp_path)
        labels = np.zeros(volume.array.shape, np.uint8)
        labels[8] = 1 + (volume.array[8] < 128)
        write_volume("embryo.nrrd", volume)
        write_volume("labels.nrrd", volume.with_array(labels))
        with counted() as opened:
            teach_file(Path("embryo.nrrd"), TeachJob(Path("labels.nrrd")), say=lambda line: None)
        assert {name: opened[str(tmp_path / name)] for name in ("embryo.nrrd", "labels.nrrd")} == {
            "embryo.nrrd": 1,
            "labels.nrrd": 1,
        }


class TestSource:
    def test_streams_of_one_file_keep_their_own_places(self, tmp_path):
        path = tmp_path / "a.raw"
        path.write_bytes(bytes(range(256)) * 100)
        source = Source(path)
        one, other = source.open(), source.open()

        assert one.read(3) == bytes([0, 1, 2])
        other.seek(-2, os.SEEK_END)
        assert other.read() == bytes([254, 255])
        assert one.read(2) == bytes([3, 4])
        assert source.sha256([path]) == sha256_of(path)
        one.close()
        other.seek(256 * 99)
        other.seek(7, os.SEEK_CUR)
        assert other.read(1) == bytes([7])
        source.close()

    def test_a_packed_file_is_read_on_after_its_hash_was_taken(self, tmp_path, volume):
        write_volume(tmp_path / "a.nrrd", volume)

        with open_stack(tmp_path / "a.nrrd") as stack:
            first = stack.read(0, 5)
            found = stack.sha256()
            rest = stack.read(5, 17)

        assert found == sha256_of(tmp_path / "a.nrrd")
        assert np.array_equal(np.concatenate([first, rest]), volume.array)

    def test_what_was_open_before_stays_open_and_else_is_closed(self, tmp_path, volume):
        path = write_volume(tmp_path / "a.nrrd", volume)
        with Sources() as sources:
            source = sources.of(path)
            read_volume(source)
            with open_stack(source) as stack:
                stack.read(0, 1)
            assert sources.of(path) is source
            with counted() as opened_files:
                assert np.array_equal(read_volume(source).array, volume.array)
            assert not opened_files[str(path)]

        with counted() as opened_files:
            read_volume(path)
        assert opened_files[str(path)] == 1  # and a file that is not closed fails a test of this suite

    @pytest.mark.parametrize("name", NAMES)
    def test_a_volume_that_changes_between_its_hash_and_its_voxels_is_not_segmented(self, tmp_path, root, volume, name):
        files = _write(tmp_path, name, volume)
        weights = Weights.load(root / "trained_models" / "u-net_phantom.pt", "cpu")

        def touch(line):
            if line.startswith("  memory"):  # told once the header is known and the hash taken
                os.utime(files[-1], ns=(1, 1))

        with pytest.raises(FileError, match=r"' was changed while it was read; start again once it is complete"):
            segment_file(files[0], weights, Job(output=tmp_path / "out"), say=touch)
        assert not (tmp_path / "out").exists()

    def test_a_plane_of_a_file_that_was_written_to_is_told(self, tmp_path, volume):
        path = write_volume(tmp_path / "a.npy", volume)
        with open_stack(path) as stack:
            assert np.array_equal(stack.read(0, 1), volume.array[:1])
            with path.open("r+b") as stream:  # of the same length, with a time of its own
                stream.write(b"\x93")
            os.utime(path, ns=(1, 1))
            with pytest.raises(FileError, match=r"a\.npy' was changed while it was read; start again"):
                stack.read(1, 2)
