"""What infer.py writes of a network that says what an image holds: presence, segmentation, points, maps, record."""

import csv
import json
import math

import numpy as np
import pytest
import tifffile
import torch
from matplotlib.image import imread

import infer
from micronet.core.classes import colour
from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume
from micronet.io import read_segmentation, read_volume, write_volume
from micronet.measure.cutting import Cut
from micronet.networks.micranet import MicraNet
from micronet.networks.weights import save_state
from micronet.segment.settings import Weights
from micronet.segment.weak.found import detections, look, marked, stands_out
from micronet.segment.weak.job import look_at_file
from micronet.segment.weak.regions import mean_in, regions_of
from micronet.segment.weak.settings import Ensemble, WeakJob

CENTRES = ((20, 20), (20, 70), (60, 40))


def detector(dimensions=2, classes=("bright", "dark"), least=2.0):
    """Return a network made by hand: a class is there where the image is above, or below, so many deviations.

    Channel 0 of each layer is what is bright, channel 1 what is dark, each smoothed a little on its way.
    """
    model = MicraNet(dimensions, classes, 2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
                module.weight.fill_(math.sqrt(1 + module.eps))
            if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
                middle = (1,) * dimensions
                for channel in range(2):
                    source = channel if module.in_channels > 1 else 0
                    module.weight[(channel, source, *middle)] = -1.0 if channel and module.in_channels == 1 else 1.0
        for number in range(len(classes)):
            model.linear.weight[number, number % 2] = 4.0
            model.linear.bias[number] = -4.0 * least
    return model


def spots(shape=(1, 90, 100), centres=CENTRES, radius=6, level=100):
    rng = np.random.default_rng(0)
    image = rng.normal(50, 2, shape)
    y, x = np.mgrid[: shape[1], : shape[2]]
    for row, column in centres:
        image[:, (y - row) ** 2 + (x - column) ** 2 <= radius**2] += level
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("spots.tif", spots()[0])
    save_state("micranet_1.pt", detector().state_dict())
    return tmp_path


def run(*words):
    return infer.main(infer.build_parser().parse_args([*map(str, words), "--threads", "1"]))


def rows_of(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def test_an_image_is_segmented_counted_and_its_pieces_are_points(here, capsys):
    assert run("spots.tif", "--model", "micranet_1.pt") == 0
    told = {row["class"]: row for row in rows_of(here / "predictions" / "spots_classes.csv")}
    assert float(told["bright"]["probability"]) > 0.9
    assert (told["bright"]["there"], told["bright"]["pieces"]) == ("1", "3")
    assert (told["dark"]["there"], told["dark"]["pieces"]) == ("0", "0")
    points = rows_of(here / "predictions" / "spots_detections.csv")
    assert {row["image"] for row in points} == {"spots.tif"}  # nothing matches by position in a list
    found = [(int(row["axis-1"]), int(row["axis-2"])) for row in points]
    assert len(found) == 3
    for centre in CENTRES:
        assert min(math.dist(centre, place) for place in found) <= 7
    assert all(row["class"] == "bright" and 0 < float(row["score"]) <= 1 for row in points)
    segmentation = read_segmentation(here / "predictions" / "spots.seg.nrrd")
    assert [segment.name for segment in segmentation.segments] == ["bright", "dark"]
    mask = segmentation.labels[..., 0] == segmentation.segments[0].label_value
    truth = spots() > 100
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.8  # each pooling widens what is bright
    record = json.loads((here / "predictions" / "spots.json").read_text(encoding="utf-8"))
    assert record["classes"]["bright"]["pieces"] == 3
    assert {one["name"] for one in record["outputs"]} == {
        f"spots{end}" for end in (".seg.nrrd", "_preview.png", "_classes.csv", "_detections.csv")
    }
    assert "bright 3, dark 0" in capsys.readouterr().out


def test_the_preview_shows_each_class_in_a_colour_of_its_own(here):
    """Before, what was found of any class had the colour of the first and was called segmentation."""
    image = spots(level=40)
    image[0, 60:72, 80:92] = 10
    tifffile.imwrite("both.tif", image[0])
    assert run("both.tif", "--model", "micranet_1.pt") == 0
    pixels = np.rint(imread("predictions/both_preview.png")[..., :3] * 255)
    for number in (1, 2):
        code = colour(number)
        wanted = [int(code[at : at + 2], 16) for at in (1, 3, 5)]
        assert (abs(pixels - wanted) <= 3).all(-1).sum() > 50


def test_a_part_without_images_has_nothing_to_do(here, capsys):
    """Before, one process of many that shared a folder ended with an internal error."""
    assert run("spots.tif", "--model", "micranet_1.pt", "--part", "2/2", "-o", "out") == 0
    assert "nothing to do: there are 1 volumes, fewer than parts" in capsys.readouterr().out
    assert not (here / "out").exists()


def test_a_border_of_no_voxels_is_an_option_of_other_networks_too(here):
    with pytest.raises(InputError, match="--border does not go with a network that says what an image holds"):
        run("spots.tif", "--model", "micranet_1.pt", "--border", "0")


@pytest.mark.parametrize(
    ("error", "told"), [(MemoryError, "memory ran out"), (torch.cuda.OutOfMemoryError, "memory of the GPU; the CPU")]
)
def test_memory_that_ends_is_one_line_and_nothing_is_written(here, error, told):
    def full(_):
        raise error

    ensemble = Ensemble((Weights.load(here / "micranet_1.pt"),))
    with pytest.raises(InputError, match=told):
        look_at_file(here / "spots.tif", ensemble, WeakJob(here / "out"), say=lambda _: None, on_image=full)
    assert not (here / "out").exists()


def test_of_an_ome_zarr_the_memory_is_that_of_the_level_that_is_read(here, capsys):
    """Before, a coarse level was refused where the finest did not fit."""
    pytest.importorskip("zarr", "3.0", reason="the extra 'zarr' is not installed")
    write_volume("large.ome.zarr", Volume(spots((4, 512, 512))))
    words = ("large.ome.zarr", "--model", "micranet_1.pt", "--max-ram", "560MB")
    with pytest.raises(InputError, match=r"large\.ome\.zarr.* does not fit"):
        run(*words)
    assert run(*words, "--level", "1") == 0
    assert "2 x 256 x 256 (Z, Y, X)" in capsys.readouterr().out


def test_it_is_done_once_and_again_only_where_asked(here, capsys):
    words = ("spots.tif", "--model", "micranet_1.pt")
    assert run(*words) == run(*words) == 0
    assert "skipped" in capsys.readouterr().out
    with pytest.raises(FileError, match=r"a result of other parameters for 'spots\.tif'"):
        run(*words, "--threshold-method", "triangle")
    assert run(*words, "--threshold-method", "triangle", "--force") == 0
    save_state("micranet_2.pt", detector(least=1.0).state_dict())
    with pytest.raises(FileError, match="a result of other weights and parameters"):
        run("spots.tif", "--model", "micranet_2.pt")


def test_each_way_to_a_threshold_cuts_the_same_map_where_it_says(here):
    """The map that is cut is the product of what is positive in both, the precise one smoothed."""
    found = {}
    for way in ("otsu", "triangle", "percentile:96", "percentile:99"):
        place = f"out_{way.replace(':', '_')}"
        words = () if way == "otsu" else ("--threshold-method", way)
        assert run("spots.tif", "--model", "micranet_1.pt", "--maps", "-o", place, *words) == 0
        coarse, precise = (read_volume(f"{place}/spots_bright_{kind}.nrrd").array for kind in ("coarse", "precise"))
        cut = marked(coarse, precise, flat=True)
        segmentation = read_segmentation(f"{place}/spots.seg.nrrd")
        mask = segmentation.mask(segmentation.choose("bright")).array
        assert mask.any()
        assert cut[mask].min() > cut[~mask].max() - 1e-6
        found[way] = mask
        if way.startswith("percentile"):
            assert mask.mean() == pytest.approx(1 - float(way[-2:]) / 100, abs=0.002)
    assert len({mask.tobytes() for mask in found.values()}) == 4


def test_a_file_of_a_person_is_not_replaced(here):
    (here / "predictions").mkdir()
    (here / "predictions" / "spots_detections.csv").write_text("mine")
    with pytest.raises(FileError, match="is in the way"):
        run("spots.tif", "--model", "micranet_1.pt", "--force")
    assert (here / "predictions" / "spots_detections.csv").read_text() == "mine"


def test_another_network_of_the_same_zoo_is_not_the_one_that_was_asked_for(here):
    """Before, what one had found was said to be done where another was asked for."""
    with pytest.importorskip("h5py").File("zoo.h5", "w") as file:
        for name, least in (("one", 2.0), ("two", 1.0)):
            for key, tensor in detector(least=least).state_dict().items():
                file[f"micranet/{name}/{key}"] = tensor.numpy()
    assert run("spots.tif", "--model", "zoo.h5:micranet/one") == 0
    with pytest.raises(FileError, match="a result of other weights for"):
        run("spots.tif", "--model", "zoo.h5:micranet/two")


def test_several_networks_are_averaged_and_their_spread_is_a_map(here):
    save_state("micranet_2.pt", detector(least=1.0).state_dict())
    words = ("--model", "micranet_1.pt", "--model", "micranet_2.pt", "--maps")
    assert run("spots.tif", *words) == 0
    maps = {f"spots_{name}_{kind}.nrrd" for name in ("bright", "dark") for kind in ("coarse", "precise", "spread")}
    assert {file.name for file in (here / "predictions").glob("*.nrrd")} == maps | {"spots.seg.nrrd"}
    coarse = read_volume(here / "predictions" / "spots_bright_coarse.nrrd").array
    assert np.unravel_index(coarse.argmax(), coarse.shape)[1:] in {
        (y, x) for row, column in CENTRES for y in range(row - 9, row + 10) for x in range(column - 9, column + 10)
    }
    spread = read_volume(here / "predictions" / "spots_bright_spread.nrrd").array
    assert spread.shape == (1, 90, 100)
    assert float(np.abs(spread).max()) < 1e-3  # they look alike, and are sure of other shares
    record = json.loads((here / "predictions" / "spots.json").read_text(encoding="utf-8"))
    assert [one["path"] for one in record["weights"]["members"]] == ["micranet_1.pt", "micranet_2.pt"]


def test_the_mean_and_the_spread_by_hand():
    one, other = detector(), detector()
    with torch.no_grad():  # the other sees the dark for the bright
        other.blocks[0][0].weight.neg_()
    image = np.random.default_rng(1).normal(size=(1, 24, 24)).astype(np.float32)
    alone = [look([network], image) for network in (one, other)]
    both = look([one, other], image)
    np.testing.assert_allclose(both.precise, (alone[0].precise + alone[1].precise) / 2, atol=1e-5)
    np.testing.assert_allclose(both.spread, np.abs(alone[0].precise - alone[1].precise) / 2, atol=1e-3)
    np.testing.assert_allclose(both.probability, (alone[0].probability + alone[1].probability) / 2, atol=1e-6)
    assert alone[0].spread is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: detector(classes=("bright", "dim")), "networks of other classes cannot be averaged"),
        (lambda: detector(3), "networks of other dimensions cannot be averaged"),
    ],
)
def test_networks_of_another_kind_are_not_averaged(here, other, message):
    save_state("micranet_2.pt", other().state_dict())
    with pytest.raises(InputError, match=message):
        run("spots.tif", "--model", "micranet_1.pt", "--model", "micranet_2.pt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mesh", "stl"], "--mesh does not go with a network that says what an image holds"),
        (["--until-stable"], "--until-stable does not go with"),
        (["--resample"], "--resample does not go with"),
        (["--time-lapse"], "--time-lapse does not go with"),
        (["--model", "ur-net_phantom"], "2 networks and no segments"),
        (["--max-ram", "1MB"], "'spots.tif' does not fit"),
    ],
)
def test_what_such_a_network_has_no_use_for_is_refused(here, words, message):
    with pytest.raises(InputError, match=message):
        run("spots.tif", "--model", "micranet_1.pt", *words)
    assert not (here / "predictions").exists()


def test_regions_have_the_borders_of_the_image(here):
    run("spots.tif", "--model", "micranet_1.pt", "--regions")
    found = read_segmentation(here / "predictions" / "spots.seg.nrrd")
    truth = spots() > 100
    mask = found.labels[..., 0] == found.segments[0].label_value
    assert mask[truth].mean() > 0.95
    assert (
        2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.85
    )  # slivers of the rim, which the map is as high at
    points = rows_of(here / "predictions" / "spots_detections.csv")
    assert len(points) == 3
    assert all(truth[0, int(row["axis-1"]), int(row["axis-2"])] for row in points)
    with pytest.raises(FileError, match="a result of other parameters"):
        run("spots.tif", "--model", "micranet_1.pt")


def test_regions_and_what_is_in_them_by_hand():
    image = np.zeros((2, 12, 24), np.float32)
    image[:, :, 8:16], image[:, :, 16:] = 2, 2.1  # the last two are alike
    image += np.random.default_rng(0).normal(0, 0.01, image.shape).astype(np.float32)
    for flat in (True, False):
        regions = regions_of(image, flat=flat)
        assert [len(np.unique(plane)) for plane in regions] == [2, 2]
        assert (np.unique(regions[0]).tolist() == np.unique(regions[1]).tolist()) is not flat
        assert (regions[0, :, :7] == regions[0, 0, 0]).all()
        assert (regions[0, :, 9:] == regions[0, 0, -1]).all()
    values = np.zeros((1, 1, 4), np.float32)
    values[0, 0] = 1, 3, 5, 0
    assert mean_in(np.array([[[0, 0, 2, 2]]], np.int32), values).tolist() == [[[2, 2, 2.5, 2.5]]]


def test_options_of_such_networks_are_refused_with_others(here):
    with pytest.raises(InputError, match="--maps goes with a network that says what an image holds"):
        run("--maps")
    with pytest.raises(InputError, match="--regions goes with a network that says what an image holds"):
        run("--regions")


def test_a_stack_is_looked_at_plane_by_plane_by_a_flat_network_and_whole_by_another(here):
    stack = spots((10, 48, 56), ((20, 20),))
    stack[5:] = spots((5, 48, 56), ())
    tifffile.imwrite("stack.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    run("stack.tif", "--model", "micranet_1.pt", "--spacing", "2,1,1")
    told = [row for row in rows_of(here / "predictions" / "stack_classes.csv") if row["class"] == "bright"]
    assert [row["there"] for row in told] == [*"1111100000", "1"]
    assert told[-1] == told[-1] | {"plane": "all", "pieces": "1"}
    (point,) = rows_of(here / "predictions" / "stack_detections.csv")
    assert float(point["z_um"]) == 2 * int(point["axis-0"]) < 10
    save_state("micranet_3.pt", detector(3).state_dict())
    run("stack.tif", "--model", "micranet_3.pt", "--spacing", "2,1,1", "-o", "volume")
    (bright,) = [row for row in rows_of(here / "volume" / "stack_classes.csv") if row["class"] == "bright"]
    assert (bright["plane"], bright["pieces"]) == ("", "1")


def test_a_class_is_marked_where_both_maps_say_so_by_hand():
    precise = np.zeros((1, 1, 60), np.float32)
    precise[..., 10:20], precise[..., 30:40], precise[..., 50:60] = 2, 2, -2
    coarse = np.zeros_like(precise)
    coarse[..., :25], coarse[..., 25:45], coarse[..., 45:] = 0.5, -1, 1
    found = marked(coarse, precise, flat=True)
    np.testing.assert_allclose(found[0, 0, [5, 15, 25, 35, 55]], [0, 1, 0, 0, 0], atol=1e-5)


@pytest.mark.parametrize("flat", [True, False])
def test_the_precise_map_is_smoothed_by_hand_within_planes_that_are_images_of_their_own(flat):
    precise = np.zeros((5, 11, 11), np.float32)
    precise[2, 5, 5] = 1
    found = marked(np.full_like(precise, 2), precise, flat=flat)
    beside, middle = math.exp(-0.5) / math.sqrt(2 * math.pi), 1 / math.sqrt(2 * math.pi)  # of a Gaussian of 1 voxel
    depth = (0, 1) if flat else (beside, middle)
    np.testing.assert_allclose(found[1:3, 5, 5], [2 * middle**2 * share for share in depth], rtol=2e-3)
    np.testing.assert_allclose(found[2, 5, 4:7] / found[2, 5, 5], [math.exp(-0.5), 1, math.exp(-0.5)], rtol=2e-3)


def test_a_piece_is_a_point_at_its_largest_value_by_hand():
    found = np.zeros((1, 6, 8), np.float32)
    found[0, 1, 1:4] = 2, 4, 3
    found[0, 4, 6] = 1
    mask = stands_out(found, [True], Cut.of("percentile:50"))
    assert mask.sum() == 4
    first, second = detections(0, found, mask, [0.5])
    assert (first.voxel, first.score, first.voxels) == ((0, 1, 2), 0.5, 3)
    assert (second.voxel, second.score, second.voxels) == ((0, 4, 6), 0.125, 1)
    assert not stands_out(found, [False], Cut.of("otsu")).any()


def test_pieces_can_be_cleaned(here):
    image = spots()
    image[0, 80:82, 80:82] = 150
    tifffile.imwrite("specks.tif", image[0])
    run("specks.tif", "--model", "micranet_1.pt", "--spacing", "1", "--clean", "30")
    assert len(rows_of(here / "predictions" / "specks_detections.csv")) == 3


def test_the_points_open_in_napari_as_a_layer(here):
    run("spots.tif", "--model", "micranet_1.pt")
    reader = pytest.importorskip("napari_builtins.io._read")
    data, meta, kind = reader.csv_to_layer_data(str(here / "predictions" / "spots_detections.csv"))
    assert kind == "points"
    assert data.shape == (3, 3)
    assert list(meta["properties"]["class"]) == ["bright"] * 3


def test_a_constant_image_is_refused_in_one_line(here):
    tifffile.imwrite("flat.tif", np.full((40, 40), 7, np.uint8))
    ensemble = Ensemble((Weights.load(here / "micranet_1.pt"),))
    with pytest.raises(InputError, match=r"'flat\.tif': ") as caught:
        look_at_file(here.joinpath("flat.tif").relative_to(here), ensemble, WeakJob(), say=lambda _: None)
    assert "\n" not in str(caught.value)
