"""Cleaning: pieces removed and holes filled, as counted by hand; told, recorded, and the same in every file."""

import numpy as np
import pytest
import torch
from running import call, read_json

import infer
from micronet import MicroRNet, Volume, load_model, predict, read_volume, write_volume
from micronet.core.errors import InputError
from micronet.core.volume import upright
from micronet.io import read_annotation
from micronet.measure.cleaning import Cleaning
from micronet.measure.pieces import Cleaned, clean_mask
from micronet.networks.weights import save_state


@pytest.fixture
def mask():
    """A hollow cube of 5³ - 1 voxels, a bar of 3, a dot of 1, a dot inside a hollow of 3³ of a cube of 5³."""
    mask = np.zeros((7, 9, 20), bool)
    mask[1:6, 1:6, 1:6] = True
    mask[3, 3, 3] = False
    mask[1, 8, 1:4] = True
    mask[6, 8, 19] = True
    mask[1:6, 1:6, 8:13] = True
    mask[2:5, 2:5, 9:12] = False
    mask[3, 3, 10] = True
    return mask


@pytest.mark.parametrize(
    ("how", "found", "left"),
    [
        ("2", Cleaned(2, 2, 0, 0, 227), 225),  # dots of 1 are below 2, the bar is not
        ("3", Cleaned(2, 2, 0, 0, 227), 225),  # 3 µm³ are not below 3
        ("3.5", Cleaned(3, 5, 0, 0, 227), 222),
        ("largest", Cleaned(4, 103, 0, 0, 227), 124),
        ("holes", Cleaned(0, 0, 2, 27, 227), 254),  # the dot inside is no hole, what is around it is
        ("2,holes", Cleaned(2, 2, 2, 28, 227), 253),  # it goes first
        ("500,largest", Cleaned(5, 227, 0, 0, 227), 0),
    ],
)
def test_pieces_and_holes_are_those_counted_by_hand(mask, how, found, left):
    assert clean_mask(mask, Cleaning.of(how), 1.0) == found
    assert np.count_nonzero(mask) == left


def test_voxels_that_touch_by_corners_are_one_piece_and_no_way_out_of_a_hole():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert clean_mask(mask, Cleaning.of("largest")).pieces == 0
    shell = np.ones((3, 3, 3), bool)
    shell[1, 1, 1] = shell[0, 0, 0] = False  # they touch by a corner only
    assert clean_mask(shell, Cleaning.of("holes")).holes == 1
    shell[1, 1, 1] = shell[0, 1, 1] = False  # a way out through a face
    assert clean_mask(shell, Cleaning.of("holes")).holes == 0


def test_an_empty_mask_stays_empty():
    assert clean_mask(np.zeros((3, 3, 3), bool), Cleaning.of("5,largest,holes"), 1.0) == Cleaned(0, 0, 0, 0, 0)


@pytest.mark.parametrize("text", ["", "0", "-5", "largest,largest", "5,6", "all", "500 largest", "1e3", "nan"])
def test_what_says_not_how_to_clean_is_refused(text):
    with pytest.raises(InputError, match="says not how to clean a mask"):
        Cleaning.of(text)


@pytest.mark.usefixtures("engine_ready")
class TestInfer:
    @pytest.fixture
    def arguments(self, tmp_path, monkeypatch, rng):
        monkeypatch.chdir(tmp_path)
        torch.manual_seed(11)
        save_state(tmp_path / "ur-net_test.pt", MicroRNet().state_dict())
        write_volume("a.nrrd", Volume(rng.integers(0, 255, (32, 33, 34), np.uint8), upright((4.5,) * 3), units="um"))
        return ("a.nrrd", "--model", "ur-net_test.pt", "--iterations", 1, "--threshold", "0.55")

    def test_the_mask_is_cleaned_in_every_file_and_the_probability_is_not(self, arguments, capsys):
        code, out, err = call(infer, *arguments, "--clean", "500,largest,holes", "--measures", capsys=capsys)
        assert code == 0, err
        expected = predict(read_volume("a.nrrd"), load_model("ur-net_test.pt"), 1) > 0.55
        found = clean_mask(expected, Cleaning.of("500,largest,holes"), 4.5**3)
        mask = read_annotation("predictions/a.seg.nrrd").mask.array
        assert found.removed > 0
        assert np.array_equal(mask, expected)
        assert f"  clean       {found}" in out
        record = read_json("predictions/a.json")
        assert record["parameters"]["clean"] == "500,largest,holes"
        assert record["cleaned"] == vars(found)
        assert record["result"]["voxels"] == np.count_nonzero(mask)
        assert record["result"]["vessels"] == 1

    def test_without_it_the_record_is_as_it_was(self, arguments, capsys):
        call(infer, *arguments, capsys=capsys)
        record = read_json("predictions/a.json")
        assert "clean" not in record["parameters"]
        assert "cleaned" not in record
        code, _, err = call(infer, *arguments, "--clean", "largest", capsys=capsys)
        assert (code, "clean none there, largest asked" in err) == (2, True)

    def test_what_is_added_to_a_cleaned_result_is_cleaned(self, arguments, capsys):
        call(infer, *arguments, "--clean", "largest", capsys=capsys)
        code, out, _ = call(infer, *arguments, "--clean", "largest", "--label-tiff", capsys=capsys)
        assert (code, "which is there: labels" in out) == (0, True)
        labels = read_annotation("predictions/a_labels.tif").mask.array
        assert np.array_equal(labels, read_annotation("predictions/a.seg.nrrd").mask.array)
        assert "cleaned" in read_json("predictions/a.json")

    def test_a_page_ends_with_the_cleaned_mask(self, arguments, capsys):
        assert call(infer, *arguments, "--clean", "largest", "--report", capsys=capsys)[0] == 0
        with open("predictions/a_report.html", encoding="utf-8") as stream:
            assert '"after cleaning"]' in stream.read()

    def test_a_smallest_volume_needs_a_voxel_size(self, arguments, capsys):
        np.save("b.npy", np.zeros((33, 34, 35), np.uint8))
        code, _, err = call(infer, "b.npy", *arguments[1:], "--clean", "500", capsys=capsys)
        assert code == 2
        assert "does not state its voxel size (--spacing Z,Y,X), which a smallest volume needs (--clean)" in err

    def test_too_little_memory_for_it_is_told_before_anything_is_computed(self, arguments, capsys, monkeypatch):
        monkeypatch.setattr("micronet.measure.footprint._CLEANED", 100_000)
        code, _, err = call(infer, *arguments, "--clean", "largest", "--max-ram", "2GB", capsys=capsys)
        assert code == 2
        assert "what was asked for (--clean) does not fit" in err
