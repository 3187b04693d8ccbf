"""An array in pieces on a shared disk."""

import os

import numpy as np
import pytest

from micronet.core.errors import FileError, InputError
from micronet.io.pieces import PieceArray, ScratchPieces


def filled(folder, rng, shape=(7, 2, 9, 20), pieces=(4, 2, 5, 8), dtype=np.float32):
    values = (rng.random(shape) * 200).astype(dtype)
    made = PieceArray.make(folder, shape, pieces, dtype)
    made[:] = values
    return made, values


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.uint16, bool])
@pytest.mark.parametrize("pieces", [(4, 2, 5, 8), (3, 9, 9, 20), (7, 1, 9, 2000)], ids=str)
@pytest.mark.parametrize("shared", [True, False])
def test_boxes_are_those_of_an_array(shared, pieces, dtype, rng, tmp_path, monkeypatch):
    monkeypatch.setattr("micronet.io.pieces._AT_ONCE", 300)
    monkeypatch.setattr("micronet.io.pieces._BYTES_A_CALL", 60)
    shape = (7, 2, 9, 2000 if pieces[3] == 2000 else 20)
    if shared:
        made, values = filled(tmp_path / "a", rng, shape, pieces, dtype)
        again = PieceArray(tmp_path / "a")
        assert (again.shape, again.pieces, again.dtype) == (made.shape, made.pieces, values.dtype)
    else:
        again, values = ScratchPieces(tmp_path, shape, pieces, dtype), (rng.random(shape) * 200).astype(dtype)
        assert not again[:].any()
        again[:] = values
        assert not list(tmp_path.iterdir())
    for _ in range(60):
        cuts = [np.sort(rng.integers(0, length + 1, 2)) for length in values.shape]
        box = tuple(slice(int(a), int(b)) for a, b in cuts)
        np.testing.assert_array_equal(again[box], values[box])
    np.testing.assert_array_equal(np.stack(list(again)), values)
    assert again[:].dtype == values.dtype
    if not shared:
        again.close()


def test_zarr_opens_it(rng, tmp_path):
    zarr = pytest.importorskip("zarr", "3.0", reason="the extra 'zarr' is not installed")
    _, values = filled(tmp_path / "a", rng)
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "a"), mode="r")[:], values)


def test_only_whole_pieces_are_written(rng, tmp_path):
    made, values = filled(tmp_path / "a", rng)
    made[4:7, :, 5:9, 0:8] = 3
    values[4:7, :, 5:9, 0:8] = 3
    with pytest.raises(InputError, match=r"of 'a' are not whole pieces of \(4, 2, 5, 8\) voxels"):
        made[4:6, :, 5:9, 0:8] = 4
    with pytest.raises(InputError, match="are not whole pieces"):
        made[4:7, :, 5:9, 2:8] = 4
    np.testing.assert_array_equal(made[:], values)
    assert not [file for file in tmp_path.rglob(".*") if file.is_file()]


def test_a_piece_that_is_missing_or_cut_is_told(rng, tmp_path):
    made, values = filled(tmp_path / "a", rng)
    piece = tmp_path / "a" / "c" / "1" / "0" / "0" / "2"
    piece.write_bytes(piece.read_bytes()[:100])
    with pytest.raises(FileError, match="a' ends too early"):
        made[:]
    piece.unlink()
    with pytest.raises(FileError, match="a' lacks a piece"):
        made[:]
    np.testing.assert_array_equal(made[:4], values[:4])
    (tmp_path / "a" / "zarr.json").write_text("{}")
    with pytest.raises(FileError, match="is no intermediate volume"):
        PieceArray(tmp_path / "a")
    with pytest.raises(FileError, match="cannot read an intermediate volume in"):
        PieceArray(tmp_path / "none")


def test_a_disk_that_is_full_is_told_and_no_half_piece_stays(rng, tmp_path):
    resource = pytest.importorskip("resource", reason="not on Windows")
    made, values = filled(tmp_path / "a", rng)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(FileError, match=r"cannot write an intermediate volume into '.*a': File too large"):
            made[:] = values + 1
        with pytest.raises(FileError, match="cannot write an intermediate volume into"):
            ScratchPieces(tmp_path, (100, 100), (100, 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(made[:], values)
    assert all(os.path.basename(file)[0] != "." for file in tmp_path.rglob("*"))
