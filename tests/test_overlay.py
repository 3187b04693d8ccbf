"""What the scripts write lies on their input in 3D Slicer: SimpleITK, which reads as Slicer does, is the judge.

NRRD states units, but neither ITK nor 3D Slicer looks at them, so the numbers must be those that ITK has for the input.
"""

import csv
import math

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import slicerio
import tifffile
import torch
from running import call, exit_code, read_json

import evaluate
import infer
import prepare
from micronet import MicroRNet, read_annotation, read_volume, write_volume
from micronet.app.napari.layers import GRID, settled_grids
from micronet.app.napari.reader import get_reader
from micronet.app.napari.writer import write_seg_nrrd
from micronet.core.volume import Volume, share_grid
from micronet.data.dataset import load_split, read_dataset
from micronet.io import Segment, write_segmentation
from micronet.networks.weights import save_state

pytestmark = pytest.mark.usefixtures("engine_ready")

SHAPE = (32, 34, 36)
STEPS = np.array([2.0, 3.0, 4.5])  # x, y, z
ORIGIN = np.array([-10.0, -20.0, 30.0])
_TURN = np.linalg.qr(np.array([[1.0, 0.2, -0.3], [0.1, -1.0, 0.4], [0.5, 0.3, 1.0]]))[0]
_TURN_LPS = np.diag([-1, -1, 1]) @ _TURN


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(11)
    save_state(tmp_path / "ur-net.pt", MicroRNet().state_dict())
    return tmp_path


@pytest.fixture
def array(rng):
    return rng.integers(1, 255, SHAPE, np.uint8)


def write_nifti(path, array, units="mm", steps=STEPS, origin=ORIGIN, turn=_TURN):
    affine = np.eye(4)
    affine[:3, :3] = turn * steps
    affine[:3, 3] = origin
    image = nibabel.Nifti1Image(array.T, affine)
    image.header.set_xyzt_units(units)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nibabel.save(image, path)


def write_nrrd(path, array, units=None, steps=STEPS, origin=ORIGIN):
    header = {
        "space": "left-posterior-superior",
        "space directions": (_TURN * steps).T,
        "space origin": origin,
    }
    nrrd.write(path, array, header | ({"space units": [units] * 3} if units else {}), index_order="C")


def write_by_itk(path, array, steps=STEPS, origin=ORIGIN, turn=_TURN):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(steps)
    image.SetOrigin(origin)
    image.SetDirection(turn.ravel())
    sitk.WriteImage(image, str(path))


def assert_on(path, other):
    """Both lie at the same place for ITK."""
    one, two = sitk.ReadImage(str(path)), sitk.ReadImage(str(other))
    small = min(two.GetSpacing())
    assert np.allclose(one.GetSpacing(), two.GetSpacing(), rtol=1e-5)
    assert np.allclose(one.GetOrigin(), two.GetOrigin(), rtol=1e-5, atol=1e-3 * small)
    assert np.allclose(one.GetDirection(), two.GetDirection(), atol=1e-5)


def infer_file(name, *more):
    assert exit_code(infer, name, "--model", "ur-net.pt", "--iterations", 1, "-o", "out", "--force", *more) == 0


INPUTS = {
    **{
        f"nifti-{units}.nii.gz": (lambda path, array, units=units: write_nifti(path, array, units), factor)
        for units, factor in {"mm": 1e3, "micron": 1.0, "meter": 1e6, "unknown": 1e3}.items()
    },
    **{
        f"nrrd-{units}.nrrd": (lambda path, array, units=units: write_nrrd(path, array, units), factor)
        for units, factor in {"um": 1.0, "mm": 1e3, "nm": 1e-3, "m": 1e6, None: 1.0}.items()
    },
    "itk.nrrd": (write_by_itk, 1.0),
    "itk.nii": (write_by_itk, 1e3),
}


@pytest.mark.parametrize("name", INPUTS)
def test_result_lies_on_its_input_in_slicer(folder, array, name):
    write, factor = INPUTS[name]
    write(name, array)
    volume = read_volume(name)
    assert volume.spacing_um == pytest.approx(STEPS[::-1] * factor)
    write_segmentation("a.seg.nrrd", [(Segment("lumen"), volume.array > 99)], volume)
    write_volume("b.nrrd", volume)
    for result in ("a.seg.nrrd", "b.nrrd"):
        assert_on(result, name)
        # And for us: lengths in µm are those of the input.
        assert read_volume(result).spacing_um == pytest.approx(volume.spacing_um)
        assert read_volume(result).units_assumed == ("None" in name or name == "itk.nrrd")


@pytest.mark.parametrize("name", ["nifti-micron.nii.gz", "nifti-meter.nii.gz", "nrrd-None.nrrd"])
def test_everything_that_infer_writes_lies_on_its_input_in_slicer(folder, array, name):
    INPUTS[name][0](name, array)
    stem = name.split(".")[0]
    infer_file(name)
    assert_on(f"out/{stem}.seg.nrrd", name)
    assert_on(f"out/{stem}_probability.nrrd", name)
    assert read_json(f"out/{stem}.json")["volume"]["spacing_um_zyx"] == pytest.approx(STEPS[::-1] * INPUTS[name][1])


def write_imagej(path, array):
    metadata = {"axes": "ZYX", "spacing": 4.5, "unit": "um"}
    tifffile.imwrite(path, array, imagej=True, resolution=(1 / 2.0, 1 / 3.0), metadata=metadata)


def write_ome(path, array):
    metadata = {"axes": "ZYX", "PhysicalSizeX": 2.0, "PhysicalSizeY": 3.0, "PhysicalSizeZ": 4.5}
    tifffile.imwrite(path, array, ome=True, metadata=metadata, photometric="minisblack")


@pytest.mark.parametrize(
    ("name", "write", "more"),
    [
        ("a.tif", write_imagej, {}),
        ("a.ome.tif", write_ome, {}),
        ("a.npy", np.save, {"spacing_um": (4.5, 3, 2)}),
    ],
)
def test_result_of_a_format_without_place_lies_at_zero_with_its_spacing_in_um(folder, array, name, write, more):
    write(name, array)
    volume = read_volume(name, **more)
    write_segmentation("a.seg.nrrd", [(Segment("lumen"), volume.array > 99)], volume)
    for result in ("a.seg.nrrd", write_volume("b.nrrd", volume)):
        image = sitk.ReadImage(result)
        assert image.GetSpacing() == tuple(STEPS)
        assert image.GetOrigin() == (0, 0, 0)
        assert image.GetDirection() == tuple(np.eye(3).ravel())


@pytest.mark.parametrize("name", [name for name in INPUTS if "meter" not in name and "-m." not in name])
def test_structural_volume_and_mask_mapped_back_lie_on_the_scan_in_slicer(folder, array, name):
    write, factor = INPUTS[name]
    write(name, array)
    stem = name.split(".")[0]
    iso = 4.5 * factor
    assert exit_code(prepare, name, "--domain", "log", "--iso", iso, "-o", "struct") == 0
    scan, made = sitk.ReadImage(name), sitk.ReadImage(f"struct/{stem}.nrrd")
    assert np.allclose(made.GetSpacing(), 4.5 * scan.GetSpacing()[0] / 2, rtol=1e-5)
    assert np.allclose(made.GetDirection(), scan.GetDirection(), atol=1e-5)
    # The edges of the first voxels coincide.
    edge = [image.TransformContinuousIndexToPhysicalPoint((-0.5,) * 3) for image in (scan, made)]
    assert np.allclose(*edge, rtol=1e-5, atol=1e-3 * min(scan.GetSpacing()))
    structural = read_volume(f"struct/{stem}.nrrd")
    write_segmentation("mask.seg.nrrd", [(Segment("lumen"), structural.array > 99)], structural)
    assert exit_code(prepare, "mask.seg.nrrd", "--back-to", name, "--record", f"struct/{stem}.json", "-o", "back") == 0
    assert_on(f"back/mask_on_{stem}.seg.nrrd", name)
    assert read_annotation(f"back/mask_on_{stem}.seg.nrrd").mask.array.any()


@pytest.mark.parametrize("name", ["nifti-micron.nii.gz", "nifti-meter.nii.gz", "nifti-unknown.nii.gz", "itk.nrrd"])
def test_labels_saved_by_the_napari_writer_lie_on_the_image_in_slicer(folder, array, name):
    INPUTS[name][0](name, array)
    [(data, attributes, _)] = get_reader(name)(name)
    write_seg_nrrd("labels.seg.nrrd", (data > 99).astype(np.uint8), attributes)
    assert_on("labels.seg.nrrd", name)


class TestSpacingThatIsGiven:
    """``--spacing`` may say the same as the file, correct its unit, or its lengths; the result stays on the input."""

    @pytest.mark.parametrize(
        ("name", "write", "given"),
        [
            ("a.nii", lambda path, array: write_nifti(path, array, "mm", STEPS / 1000, ORIGIN / 1000), "4.5,3,2"),
            ("a.nii", lambda path, array: write_nifti(path, array, "micron"), "4.5,3,2"),
            ("a.nii", lambda path, array: write_nifti(path, array, "unknown"), "4.5,3,2"),
            ("a.nii", lambda path, array: write_nifti(path, array, "mm"), "4.5,3,2"),
            ("a.nrrd", lambda path, array: write_nrrd(path, array, None, STEPS / 1000, ORIGIN / 1000), "4.5,3,2"),
            ("a.nrrd", lambda path, array: write_nrrd(path, array, "mm"), "4.5,3,2"),
        ],
    )
    def test_a_unit_that_is_corrected_moves_nothing(self, folder, array, name, write, given):
        write(name, array)
        volume = read_volume(name, spacing_um=[float(length) for length in given.split(",")])
        write_segmentation("a.seg.nrrd", [(Segment("lumen"), volume.array > 99)], volume)
        assert_on("a.seg.nrrd", name)
        found = read_volume("a.seg.nrrd")
        assert found.spacing_um == pytest.approx((4.5, 3, 2), rel=1e-12)
        assert not found.units_assumed

    def test_other_lengths_rescale_an_origin_whose_unit_was_assumed(self, folder, array):
        write_nrrd("a.nrrd", array, None, np.ones(3), np.array([10.0, 20.0, 30.0]) @ _TURN.T)
        volume = read_volume("a.nrrd", spacing_um=(4.5, 3, 2))
        placed = volume.in_space("left-posterior-superior")
        # 10, 20 and 30 voxels along x, y and z, whatever a voxel is.
        assert np.allclose(placed.origin @ _TURN, [20, 60, 135])
        assert (volume.units, volume.units_assumed) == ("um", False)

    def test_other_lengths_leave_an_origin_whose_unit_is_stated(self, folder, array):
        write_nrrd("a.nrrd", array, "mm", np.ones(3))
        volume = read_volume("a.nrrd", spacing_um=(4.5, 3, 2))
        assert volume.origin.tolist() == ORIGIN.tolist()
        assert (volume.units, volume.spacing_um) == ("mm", pytest.approx((4.5, 3, 2)))


def annotate_in_slicer(path, array, steps, origin, turn=_TURN):
    """Write a segmentation as 3D Slicer does, which states no unit."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * steps, origin
    segmentation = {
        "voxels": array.T.astype(np.uint8),
        "ijkToLPS": affine,
        "encoding": "gzip",
        "segments": [
            {
                "id": "Segment_1",
                "labelValue": 1,
                "layer": 0,
                "name": "full seg",
                "color": [1, 0, 0],
                "terminology": {
                    "category": ["SCT", "85756007", "Tissue"],
                    "type": ["SCT", "85756007", "Tissue"],
                },
            }
        ],
    }
    slicerio.write_segmentation(str(path), segmentation)


def lps(origin):
    return origin * [-1, -1, 1]


PAIRS = {
    # A NIfTI in mm, as scanners and ITK write it, and what is drawn on it in 3D Slicer; by both, mm.
    "slicer over nifti in mm": (
        "image.nii.gz",
        lambda array: write_nifti("image.nii.gz", array, "mm", STEPS / 1000, ORIGIN / 1000),
        "truth.seg.nrrd",
        lambda mask: annotate_in_slicer("truth.seg.nrrd", mask, STEPS / 1000, lps(ORIGIN / 1000), _TURN_LPS),
        (4.5, 3.0, 2.0),
        "'truth.seg.nrrd': its numbers are taken in mm, as it then lies on 'image.nii.gz'",
    ),
    "slicer over nifti in um": (
        "image.nii.gz",
        lambda array: write_nifti("image.nii.gz", array, "micron"),
        "truth.seg.nrrd",
        lambda mask: annotate_in_slicer("truth.seg.nrrd", mask, STEPS / 1000, lps(ORIGIN / 1000), _TURN_LPS),
        (4.5, 3.0, 2.0),
        "'truth.seg.nrrd': its numbers are taken in mm",
    ),
    "slicer over nifti without unit": (
        "image.nii.gz",
        lambda array: write_nifti("image.nii.gz", array, "unknown", STEPS / 1000, ORIGIN / 1000),
        "truth.seg.nrrd",
        lambda mask: annotate_in_slicer("truth.seg.nrrd", mask, STEPS / 1000, lps(ORIGIN / 1000), _TURN_LPS),
        (4.5, 3.0, 2.0),
        "'truth.seg.nrrd': its numbers are taken in mm",
    ),
    # The reverse: the image states nothing, the mask mm.
    "nifti in mm over nrrd without unit": (
        "image.nrrd",
        lambda array: write_by_itk("image.nrrd", array, STEPS / 1000, ORIGIN / 1000),
        "truth.nii.gz",
        lambda mask: write_by_itk("truth.nii.gz", mask.astype(np.uint8), STEPS / 1000, ORIGIN / 1000),
        (4.5, 3.0, 2.0),
        "'image.nrrd': its numbers are taken in mm, as it then lies on 'truth.nii.gz' (spacing 4.5 x 3 x 2 µm), "
        "unless said otherwise",
    ),
    "nifti without unit over nrrd in um": (
        "image.nrrd",
        lambda array: write_nrrd("image.nrrd", array, "um"),
        "truth.nii.gz",
        lambda mask: write_nifti("truth.nii.gz", mask.astype(np.uint8), "unknown", origin=lps(ORIGIN), turn=_TURN_LPS),
        (4.5, 3.0, 2.0),
        "'truth.nii.gz': its numbers are taken in um, as it then lies on 'image.nrrd'",
    ),
}


@pytest.fixture(params=PAIRS)
def pair(request, folder, array):
    image, write_image, truth, write_truth, spacing_um, note = PAIRS[request.param]
    write_image(array)
    write_truth(array > 128)
    one, two = sitk.ReadImage(image), sitk.ReadImage(truth)
    assert np.allclose(one.GetOrigin(), two.GetOrigin()) or "um" in request.param  # they are of one grid
    return image, truth, spacing_um, note


class TestUnitsThatYield:
    def test_infer(self, pair, array, capsys):
        image, truth, spacing_um, note = pair
        infer_file(image, "--annotation", truth, "--initial-mask", truth)
        out = capsys.readouterr().out
        assert out.count(note) == (1 if note.startswith("'image") else 2)  # masks are two
        assert_on("out/image.seg.nrrd", image)
        assert read_volume("out/image.seg.nrrd").spacing_um == pytest.approx(spacing_um)
        # Said by the person, no unit is assumed.
        infer_file(image, "--annotation", truth, "--spacing", "4.5,3,2")
        assert "no length unit" not in capsys.readouterr().out
        assert_on("out/image.seg.nrrd", image)

    def test_evaluate(self, pair, capsys):
        image, truth, spacing_um, _ = pair
        mask = read_annotation(truth).mask.array
        write_volume("truth.nrrd", read_volume(image).with_array(mask))
        for options, told in (((), 1), (("--spacing", "4.5,3,2"), 0)):
            code, out, err = call(
                evaluate, "truth.nrrd", "--annotation", truth, "-o", "scores", "--force", *options, capsys=capsys
            )
            assert code == 0, err
            assert out.count("its numbers are taken in") == told
            with open("scores/scores.csv", encoding="utf-8") as stream:
                [scores] = csv.DictReader(line for line in stream if not line.startswith("#"))
            assert float(scores["dice"]) == 1
            assert float(scores["annotated_um3"]) == pytest.approx(mask.sum() * math.prod(spacing_um), rel=1e-3)

    def test_data_set(self, pair):
        image, truth, spacing_um, note = pair
        whole = f'name = "x"\n[[volume]]\nname = "a"\nsplit = "train"\nimage = "{image}"\nannotation = "{truth}"\n'
        with open("two.toml", "w", encoding="utf-8") as stream:
            stream.write(whole)
        [sample] = load_split(read_dataset("two.toml"))["train"]
        assert sample.volume.spacing_um == pytest.approx(spacing_um)
        assert note.split(",")[0].split(": ")[1] in sample.notes[0]
        with open("two.toml", "w", encoding="utf-8") as stream:
            stream.write(whole.replace("[[volume]]", "[defaults]\nspacing_um = [4.5, 3.0, 2.0]\n[[volume]]", 1))
        [sample] = load_split(read_dataset("two.toml"))["train"]
        assert (sample.notes, sample.volume.spacing_um) == ((), pytest.approx(spacing_um))

    def test_back_to(self, pair, capsys):
        image, truth, _, note = pair
        code, out, err = call(prepare, truth, "--back-to", image, "-o", "back", capsys=capsys)
        assert code == 0, err
        assert note.split(",")[0] in out
        name = truth.split(".")[0]
        assert_on(f"back/{name}_on_image.seg.nrrd", image)
        assert np.array_equal(
            read_annotation(f"back/{name}_on_image.seg.nrrd").mask.array, read_annotation(truth).mask.array
        )

    def test_napari(self, pair):
        image, truth, spacing_um, note = pair
        [(data, attributes, _)] = get_reader(image)(image)
        [(start, other, _)] = get_reader(truth)(truth)
        grid, start_grid, told = settled_grids((data.shape, attributes), (start.shape, other), (image, truth))
        assert note in told
        assert grid.spacing_um == pytest.approx(spacing_um)
        assert start_grid.spacing_um == pytest.approx(spacing_um)
        write_seg_nrrd("labels.seg.nrrd", start, {"metadata": {GRID: grid}, "scale": grid.spacing_um})
        assert_on("labels.seg.nrrd", image)


def test_units_that_are_stated_do_not_yield(folder, array):
    write_nrrd("a.nrrd", array, "um")
    write_nrrd("b.nrrd", array, "mm")
    code = exit_code(infer, "a.nrrd", "--model", "ur-net.pt", "--annotation", "b.nrrd", "-o", "out")
    assert code == 2


def test_of_two_that_are_assumed_the_mm_of_nifti_stands_whichever_comes_first():
    one = Volume(np.zeros((2, 3, 4)), units="um", units_assumed=True)
    two = Volume(np.zeros((2, 3, 4)), units="mm", units_assumed=True)
    for pair in ((one, two), (two, one)):
        first, second, note = share_grid(*pair, "a", "b")
        assert (first.units, second.units, first.units_assumed, second.units_assumed) == ("mm", "mm", True, True)
        assert note
