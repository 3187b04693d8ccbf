"""evaluate.py on OME-Zarr that do not fit into memory: counted slab by slab, as the whole is."""

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from running import call_for_last_line

import evaluate
from micronet.core.errors import InputError
from micronet.core.volume import Volume, upright
from micronet.io import write_volume
from micronet.io.store_mask import StoreMask
from micronet.io.zarr_write import LabelColour, Writer, write_labels

pytest.importorskip("zarr", "3.0", reason="the extra 'zarr' is not installed")

# Whole, two masks take 2.6 MB; three of four slabs of 128 planes, 1.6 MB. The program itself takes 200 MB.
SHAPE, ALLOWED = (400, 40, 40), "202MB"
COUNTED = ("dice", "iou", "precision", "recall", "f_beta", "predicted_um3", "annotated_um3", "volume_ratio")

call = partial(call_for_last_line, evaluate)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stored(name, array):
    """Write an array as an OME-Zarr in the working directory."""
    write_volume(Path(name), Volume(array, upright((4.5, 4.5, 4.5)), units="um"))


def row_of(folder):
    lines = (Path(folder) / "scores.csv").read_text(encoding="utf-8").splitlines()
    return next(csv.DictReader(line for line in lines if not line.startswith("#")))


@pytest.fixture
def masks(folder, rng):
    blob = np.zeros(SHAPE, bool)
    blob[100:300, 10:30, 5:25] = True
    stored("found.ome.zarr", np.roll(blob, (9, 2, 0), (0, 1, 2)))
    stored("truth.ome.zarr", blob)


@pytest.mark.parametrize("crop", [(), ("--y-crop", "20")])
def test_slab_by_slab_the_counts_are_those_of_the_whole(crop, masks, capsys):
    words = ("found.ome.zarr", "--annotation", "truth.ome.zarr", *crop)
    assert call(*words, "-o", "whole", capsys=capsys)[0] == 0
    code, out, _ = call(*words, "-o", "slabs", "--max-ram", ALLOWED, capsys=capsys)
    assert code == 0
    whole, slabs = row_of("whole"), row_of("slabs")
    assert {name: slabs[name] for name in COUNTED} == {name: whole[name] for name in COUNTED}
    if not crop:  # 191 of 200 planes and 18 of 20 rows lie on each other
        assert float(slabs["dice"]) == pytest.approx(191 * 18 / (200 * 20), abs=1e-6)
    assert whole["cl_dice"]
    assert not slabs["cl_dice"] + slabs["nsd"] + slabs["betti0_error"]
    assert (
        "counted slab by slab; clDice, pieces and tunnels and surface distances need the volume whole: left out" in out
    )
    assert "nan" not in out


def test_a_probability_is_swept_slab_by_slab(masks, rng, capsys):
    stored("p.ome.zarr", rng.integers(0, 255, SHAPE, np.uint8))
    words = ("p.ome.zarr", "--annotation", "truth.ome.zarr", "--sweep", "--threshold", "0.7")
    # Of a probability what is read stays, so that more is needed whole.
    assert call(*words, "-o", "whole", capsys=capsys)[0] == 0
    assert call(*words, "-o", "slabs", "--max-ram", ALLOWED, capsys=capsys)[0] == 0
    assert row_of("slabs")["precision"] == row_of("whole")["precision"]
    whole, slabs = (Path(name, "p_sweep.csv").read_text().splitlines() for name in ("whole", "slabs"))
    assert [line for line in slabs if line[:1] != "#"] == [line for line in whole if line[:1] != "#"]
    assert len(slabs) == len(whole) > 255


def test_what_needs_the_whole_is_refused_where_that_does_not_fit(masks, capsys):
    words = ("found.ome.zarr", "--annotation", "truth.ome.zarr", "--max-ram", ALLOWED)
    for wish in ("--measures", "--report"):
        code, _, err = call(*words, wish, "-o", "wished", capsys=capsys)
        assert code != 0
        assert "'found.ome.zarr' does not fit" in err
    assert not Path("wished/scores.csv").exists()


def test_a_coarser_level_is_scored_and_files_without_levels_are_refused(masks, capsys):
    words = ("found.ome.zarr", "--annotation", "truth.ome.zarr", "--level", "1")
    assert call(*words, "-o", "whole", capsys=capsys)[0] == 0
    # Half of 200 planes, of 20 rows, and of 20 columns from an odd one on: those at the ends are 0.5, rounded to 0.
    assert float(row_of("whole")["annotated_um3"]) == pytest.approx(100 * 10 * 9 * 9**3)
    assert row_of("whole")["spacing_um_zyx"] == "9 9 9"
    write_volume(Path("truth.nrrd"), Volume(np.zeros(SHAPE, bool), upright((4.5, 4.5, 4.5)), units="um"))
    code, _, err = call("found.ome.zarr", "--annotation", "truth.nrrd", "--level", "1", "-o", "other", capsys=capsys)
    assert code != 0
    assert "'truth.nrrd' is no OME-Zarr and has one scale only (--level)" in err


def test_labels_and_masks_are_read_box_by_box(folder, rng):
    grid = Volume(np.zeros((9, 10, 11), np.uint8), upright((1.0, 1.0, 1.0)), units="um")
    labels = rng.integers(0, 3, grid.shape, np.uint8)
    Path("a.ome.zarr").mkdir()
    Writer.of(Path("a.ome.zarr"), grid, np.dtype(np.uint8))[(slice(0, 9), slice(0, 10), slice(0, 11))] = labels
    writer = write_labels(Path("a.ome.zarr"), grid, LabelColour(), "0.5")
    writer[(slice(0, 9), slice(0, 10), slice(0, 11))] = labels
    mask = StoreMask(Path("a.ome.zarr"))
    box = (slice(2, 5), slice(0, 10), slice(3, 4))
    np.testing.assert_array_equal(mask[box], labels[box] != 0)
    with pytest.raises(InputError, match=r"has no labels 'wall', only lumen \(setting: segment\)"):
        StoreMask(Path("a.ome.zarr"), segment="wall")
    for values, wrong in (((0, 255), None), ((0, 1), None), ((0, 7), 7), ((1, 255), "(1|255)")):
        array = rng.choice(np.array(values, np.uint8), grid.shape)
        stored(f"{values}.ome.zarr", array)
        found = StoreMask(Path(f"{values}.ome.zarr"))
        if wrong is None:
            np.testing.assert_array_equal(found[box], array[box] != 0)
        else:
            with pytest.raises(InputError, match=rf"is no mask: it holds {wrong}, expected 0 and 1"):
                found[box]
