"""From a yes or no per block to a mask: what is read, what is learned, what is written."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import teach
from micronet.core.errors import FileError, InputError
from micronet.core.ownership import Outputs
from micronet.core.volume import Volume, upright
from micronet.io import Sources, nrrd, read_annotation, read_volume
from micronet.measure.overlap import overlap
from micronet.networks.normalize import normalize_image
from micronet.training.blocks.job import BlockWish, labels_path, teach_blocks
from micronet.training.blocks.labels import blocks_of_labels, blocks_of_mask, read_blocks
from micronet.training.blocks.learn import BlockMap, block_map, over_voxels, sparse_labels, train_block_net
from micronet.training.teach.plan import TeachJob

SIZE = (8, 8, 8)


def tubes(shape=(20, 36, 44)):
    """Return an image with two bright tubes along Z, and where they are; the last blocks are shorter."""
    rng = np.random.default_rng(1)
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]]
    mask = ((y - 10) ** 2 + (x - 12 - z / 4) ** 2 <= 9) | ((y - 27) ** 2 + (x - 33) ** 2 <= 6)
    image = rng.normal(100, 12, shape) + 60 * mask
    return image.clip(0, 255).astype(np.uint8), mask


def test_a_block_holds_lumen_where_one_of_its_voxels_is_by_hand():
    mask = np.zeros((3, 4, 5), bool)
    mask[2, 3, 4] = mask[0, 0, 0] = True
    found = blocks_of_mask(mask, (2, 2, 4))
    assert found.shape == (2, 2, 2)
    assert found.tolist() == [[[1, 2], [2, 2]], [[2, 2], [2, 1]]]
    assert over_voxels(found == 1, (2, 2, 4), mask.shape).sum() == 2 * 2 * 4 + 1 * 2 * 1


def test_of_a_block_that_is_not_annotated_throughout_only_lumen_is_known():
    labels = np.zeros((1, 2, 6), np.uint8)
    labels[0, :, :2] = 2
    labels[0, 0, 2] = 2
    labels[0, 1, 4] = 1
    assert blocks_of_labels(labels, (1, 2, 2)).tolist() == [[[2, 0, 1]]]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image, mask = tubes()
    grid = Volume(image, upright((1, 1, 1)), units="um")
    nrrd.write(tmp_path / "tubes.nrrd", grid)
    nrrd.write(tmp_path / "mask.nrrd", grid.with_array(mask.astype(np.uint8)))
    return tmp_path


def blocks_in(path, size=SIZE):
    with Sources() as sources:
        return read_blocks(sources.of(path), read_volume("tubes.nrrd"), "tubes.nrrd", size)[1]


def test_a_mask_a_volume_of_blocks_and_a_table_say_the_same(here):
    of_mask = blocks_in(here / "mask.nrrd")
    np.save("blocks.npy", of_mask.labels)
    lines = ["index,z,y,x,lumen"]
    for number, (at, value) in enumerate(np.ndenumerate(of_mask.labels)):
        z, y, x = (i * 8 + 1 for i in at)
        lines.append(f"{number},{z},{y},{x},{'yes' if value == 1 else 0}")
    (here / "blocks.csv").write_text("# of a person\n" + "\n".join(lines))
    for name in ("blocks.npy", "blocks.csv"):
        assert np.array_equal(blocks_in(here / name).labels, of_mask.labels)
    assert "of 90 blocks of 8 x 8 x 8 voxels" in of_mask.description


def test_blocks_that_a_table_leaves_out_are_not_known(here):
    (here / "some.csv").write_text("z,y,x,lumen\n0,10,12,1\n0,0,43,0\n")
    found = blocks_in(here / "some.csv")
    assert found.labels[0, 1, 1] == 1
    assert found.labels[0, 0, 5] == 2
    assert np.count_nonzero(found.labels) == 2
    assert "of 88 nothing is known" in found.description


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "the first line names the columns z, y, x, lumen"),
        ("z;y;x;lumen\n0;0;0;1\n", "its cells are apart by semicolons, expected commas"),
        ("z,y,x,lumen\n0,0,0,maybe\n", "row 2: lumen is 0 or 1, found 'maybe'"),
        ("z,y,x,lumen\n0,zero,0,1\n", "row 2: z, y and x are numbers"),
        ("z,y,x,lumen\n0,inf,0,1\n", "row 2: z, y and x are numbers"),
        ("z,y,x,lumen\n0,36,0,1\n", "lies outside of the volume"),
        ("z,y,x,lumen\n0,0,0,1\n7,7,7,0\n", "row 3: the block of voxel .* was said to be the other before"),
        ("z,y,x,lumen\n0\n", "row 2: lumen is 0 or 1"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_in_one_line(here, text, message):
    (here / "bad.csv").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        blocks_in(here / "bad.csv")
    assert "\n" not in str(caught.value)


def test_other_volumes_are_refused(here):
    np.save("small.npy", np.ones((2, 2, 2), np.uint8))
    with pytest.raises(InputError, match="a volume of blocks has a voxel for each, 3 x 5 x 6"):
        blocks_in(here / "small.npy")
    np.save("nine.npy", np.full((3, 5, 6), 9, np.uint8))
    with pytest.raises(InputError, match="holds 0 not known, 1 lumen, 2 none"):
        blocks_in(here / "nine.npy")
    (here / "table.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match="cannot be read as a table of blocks"):
        blocks_in(here / "table.csv")


def test_blocks_that_all_say_the_same_are_told_before_training():
    image = np.zeros(SIZE, np.float32)
    with pytest.raises(InputError, match="of 1 blocks that are known none holds lumen"):
        train_block_net(image, np.full((1, 1, 1), 2, np.uint8), SIZE)
    with pytest.raises(InputError, match="all 1 blocks that are known hold lumen"):
        train_block_net(image, np.full((1, 1, 1), 1, np.uint8), SIZE)


def test_what_is_sure_by_hand():
    activation = np.array([[[-3, -1, 0.5, 2], [5, -3, -3, -3]]], np.float32)
    blocks = np.array([[[1], [2]]], np.uint8)
    empty = over_voxels(blocks == 2, (1, 1, 4), activation.shape)
    found = BlockMap(activation, 0.0, (-2.0, 1.0), empty)
    assert sparse_labels(found, blocks, (1, 1, 4)).tolist() == [[[2, 0, 0, 1], [2, 2, 2, 2]]]
    assert found.mask.tolist() == [[[False, False, True, True], [False] * 4]]
    unknown = sparse_labels(BlockMap(activation, 0.0, (-2.0, 1.0), empty & False), blocks * 0 + 1, (1, 1, 4))
    assert unknown.tolist() == [[[2, 0, 0, 1], [1, 2, 2, 2]]]
    with pytest.raises(InputError, match="sure of no voxel"):
        sparse_labels(BlockMap(activation, 0.0, (-2.0, 9.0), empty), blocks, (1, 1, 4))


def test_lumen_is_found_within_blocks_and_the_same_seed_finds_the_same():
    image, mask = tubes()
    seen, blocks = normalize_image(image), blocks_of_mask(mask, SIZE)
    steps = []
    network = train_block_net(seen, blocks, SIZE, steps=12, seed=3, on_step=lambda *step: steps.append(step[:2]))
    assert steps == [(number, 12) for number in range(1, 13)]
    found = block_map(network, seen, blocks, SIZE)
    told = overlap(over_voxels(blocks == 1, SIZE, mask.shape), mask).f_score()
    assert overlap(found.mask, mask).f_score() > 2 * told  # it has hardly been trained
    labels = sparse_labels(found, blocks, SIZE)
    assert mask[labels == 1].mean() > mask[found.mask].mean()
    assert mask[labels == 2].mean() < 0.01
    again = train_block_net(seen, blocks, SIZE, steps=2, seed=3).state_dict()
    other = train_block_net(seen, blocks, SIZE, steps=2, seed=3).state_dict()
    assert all(torch.equal(again[key], other[key]) for key in again)


def test_one_call_goes_from_blocks_to_a_mask_with_every_step_on_a_page(here):
    said = []
    job = TeachJob(labels_path(here / "taught", here / "tubes.nrrd"), here / "taught")
    wish = BlockWish(here / "mask.nrrd", SIZE, steps=12)
    before = torch.get_num_threads()
    outcome = teach_blocks(here / "tubes.nrrd", wish, job, say=said.append)
    assert torch.get_num_threads() == before
    assert outcome.status == "done"
    found, mask = read_annotation(here / "taught" / "tubes.seg.nrrd").mask.array, tubes()[1]
    told = over_voxels(blocks_of_mask(mask, SIZE) == 1, SIZE, mask.shape)
    assert overlap(found, mask).f_score() > 2 * overlap(told, mask).f_score()
    page = (here / "taught" / "tubes_blocks.html").read_text(encoding="utf-8")
    for step in ("1 of 4", "2 of 4", "3 of 4", "4 of 4", "activation of the classifier"):
        assert step in page
    record = json.loads((here / "taught" / "tubes_blocks.json").read_text(encoding="utf-8"))
    assert {one["name"] for one in record["outputs"]} == {
        f"tubes_blocks{end}" for end in (".seg.nrrd", "_map.nrrd", ".html")
    }
    assert record["known"]["lumen"] + record["known"]["none"] == 90
    assert (here / "trained_models" / "taught_tubes.pt").is_file()
    assert teach_blocks(here / "tubes.nrrd", wish, job, say=said.append).status == "skipped"
    with pytest.raises(FileError, match=r"a result of other parameters for 'tubes\.nrrd'"):
        teach_blocks(here / "tubes.nrrd", BlockWish(wish.blocks, (4, 8, 8)), job, say=said.append)
    mine = here / "taught" / "tubes_blocks.html"
    mine.write_text("mine")
    with pytest.raises(FileError, match="is in the way"):
        teach_blocks(here / "tubes.nrrd", wish, job, say=said.append, force=True)
    assert mine.read_text() == "mine"


def untaught(here, message, error=FileError, force=False, **more):
    """Ask for what cannot be done; nothing is trained, and nothing written."""
    wish = BlockWish(here / "mask.nrrd", SIZE, steps=1)
    job = TeachJob(labels_path(here / "taught", here / "tubes.nrrd"), here / "taught", **more)
    before, steps = sorted(here.rglob("*")), []
    with pytest.raises(error, match=message):
        teach_blocks(
            here / "tubes.nrrd",
            wish,
            job,
            say=lambda _: None,
            on_progress=lambda *step: steps.append(step),
            force=force,
        )
    assert not steps
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("force", [False, True])
def test_what_is_in_the_way_of_teaching_is_told_before_blocks_are_learned(here, force):
    """Before, it was told after the training, beside files of a result that came to nothing."""
    (here / "taught").mkdir()
    (here / "taught" / "tubes.seg.nrrd").write_text("mine")
    untaught(here, r"tubes\.seg\.nrrd' is in the way", force=force)
    assert (here / "taught" / "tubes.seg.nrrd").read_text() == "mine"


def test_an_earlier_result_of_labels_is_told_before_blocks_are_learned(here):
    Outputs(here / "taught", "tubes.json", "teach.py").finish({})
    untaught(here, r"tubes\.json' holds a result of other labels for 'tubes\.nrrd'")


def test_a_place_that_cannot_be_written_is_told_before_blocks_are_learned(here):
    (here / "taught").write_text("a file")
    untaught(here, "cannot write into ")


@pytest.mark.parametrize("stopped", ["blocks, loss", "fold"])
def test_interrupted_it_leaves_nothing_behind(here, stopped):
    """Before, labels and map stayed where it was interrupted while it was taught."""
    wish = BlockWish(here / "mask.nrrd", SIZE, steps=3)
    job = TeachJob(labels_path(here / "taught", here / "tubes.nrrd"), here / "taught")
    before = sorted(here.rglob("*"))

    def advance(done, whole, what):
        if what.startswith("blocks") == stopped.startswith("blocks"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach_blocks(here / "tubes.nrrd", wish, job, say=lambda _: None, on_progress=advance)
    assert sorted(path for path in here.rglob("*") if path.is_file()) == [path for path in before if path.is_file()]


def test_a_block_ends_where_the_volume_does(here):
    """Before, the volume was filled up to whole blocks, however large these were."""
    lines = "z,y,x,lumen\n0,10,12,1\n0,0,43,0\n"
    (here / "some.csv").write_text(lines)
    found = blocks_in(here / "some.csv", (100_000, 8, 8))
    assert (found.labels.shape, found.size) == ((1, 5, 6), (20, 8, 8))


PEAK = """
import re, sys, numpy as np, torch
from micronet.training.blocks.learn import block_map, map_bytes, train_block_net, train_bytes
def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
torch.set_num_threads(1)
shape, size = (tuple(map(int, words.split("x"))) for words in sys.argv[1:3])
def run(shape, size, what):
    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    blocks = np.ones([-(-length // edge) for length, edge in zip(shape, size)], np.uint8)
    blocks.flat[0] = 2
    before = kilobytes("VmRSS")
    if what == "train":
        return train_block_net(image, blocks, size, steps=2), before
    return block_map(network, image, blocks, size), before
network, _ = run((16, 16, 16), (8, 8, 8), "train")
run((16, 16, 16), (8, 8, 8), "map")
_, before = run(shape, size, sys.argv[3])
estimate = {"train": train_bytes, "map": lambda shape, size: map_bytes(shape)}[sys.argv[3]](shape, size)
print((kilobytes("VmHWM") - before) * 1024 / estimate)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
@pytest.mark.parametrize(
    ("shape", "size", "what"),
    [("64x64x64", "8x8x8", "train"), ("90x70x70", "90x40x40", "train"), ("60x100x100", "8x8x8", "map")],
)
def test_memory_is_not_more_than_estimated(root, shape, size, what):
    """Before, 300 MB were taken for a step whatever the size of the blocks."""
    script = [sys.executable, "-c", PEAK, shape, size, what]
    for _ in range(3):  # a busy machine may put pages of libraries aside before, which then come back
        done = subprocess.run(script, cwd=root, capture_output=True, text=True, check=True)
        if float(done.stdout) <= 1.1:
            break
    assert 0.5 < float(done.stdout) <= 1.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "learns from --labels FILE or from --blocks FILE"),
        (["--labels", "tubes.nrrd", "--blocks", "mask.nrrd"], "learns from --labels FILE or from --blocks FILE"),
        (["--labels", "tubes.nrrd", "--block", "8"], "--block goes with --blocks FILE"),
        (["--blocks", "mask.nrrd", "--checked", "x"], "--checked goes with --labels"),
        (["--blocks", "mask.nrrd", "--block", "100"], "all 1 blocks that are known hold lumen"),
        (["--blocks", "mask.nrrd", "--max-ram", "1MB"], "does not fit"),
    ],
)
def test_what_teach_cannot_do_is_told_in_one_line(here, words, message):
    with pytest.raises((InputError, FileError), match=message):
        teach.main(teach.build_parser().parse_args(["tubes.nrrd", *words]))
    assert not (here / "taught").exists()
