"""Whatever the format, a voxel stays where it is in the world: SimpleITK, which reads them all, is the judge."""

import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from micronet.core.errors import MicronetError
from micronet.core.volume import Volume, upright
from micronet.io import Segment, read_volume, write_segmentation, write_volume

SHAPE = (3, 4, 5)
INDICES = [(0, 0, 0), (4, 0, 0), (0, 3, 0), (0, 0, 2), (4, 3, 2)]  # x, y, z
_TURN = np.linalg.qr(np.array([[1.0, 0.2, -0.3], [0.1, -1.0, 0.4], [0.5, 0.3, 1.0]]))[0]

GEOMETRIES = {
    "upright": upright((4.5, 1.3, 0.7)),
    "flipped": np.diag([-4.5, 1.3, -0.7])[:, ::-1],
    "permuted": np.diag([4.5, 1.3, 0.7])[:, [1, 2, 0]],
    "oblique": (_TURN * [0.7, 1.3, 4.5]).T[::-1],
}


def _points(path):
    image = sitk.ReadImage(str(path))
    return np.array([image.TransformIndexToPhysicalPoint(index) for index in INDICES])


def _volume(rng, kind, space, units="mm"):
    array = rng.integers(0, 255, SHAPE, np.uint8)
    return Volume(array, GEOMETRIES[kind], [-12.5, 7.25, 98.125], space, units)


def _expected(volume):
    """Points in ITK's left-posterior-superior world."""
    lps = volume.in_space("left-posterior-superior")
    return np.array([lps.origin + np.array(index[::-1]) @ lps.directions for index in INDICES])


@pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior", "left-anterior-superior", ""])
@pytest.mark.parametrize("kind", GEOMETRIES)
def test_simpleitk_sees_our_voxels_at_their_place_in_every_format(tmp_path, rng, kind, space):
    volume = _volume(rng, kind, space)
    expected = _expected(volume)
    assert np.allclose(_points(write_volume(tmp_path / "a.nrrd", volume)), expected, atol=1e-9)
    assert np.allclose(_points(write_volume(tmp_path / "a.nhdr", volume)), expected, atol=1e-9)
    assert np.allclose(_points(write_volume(tmp_path / "a.nii.gz", volume)), expected, atol=1e-4)
    path = write_segmentation(tmp_path / "a.seg.nrrd", [(Segment("a"), volume.array > 99)], volume)
    assert np.allclose(_points(path), expected, atol=1e-9)
    for name in ("a.nrrd", "a.nii.gz"):
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name))), volume.array)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", GEOMETRIES)
def test_we_see_the_voxels_of_simpleitk_at_their_place(tmp_path, rng, kind, suffix):
    volume = _volume(rng, kind, "left-posterior-superior")
    image = sitk.GetImageFromArray(volume.array)
    spacing = np.linalg.norm(volume.directions, axis=1)
    image.SetSpacing(spacing[::-1].tolist())
    image.SetOrigin(volume.origin.tolist())
    image.SetDirection((volume.directions / spacing[:, None])[::-1].T.ravel().tolist())
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(image, str(path), useCompression=True)
    found = read_volume(path)
    assert np.array_equal(found.array, volume.array)
    assert np.allclose(_expected(found), _points(path), atol=1e-4)
    # Rewritten, the geometry is the same to the bit, for SimpleITK too.
    again = write_volume(tmp_path / f"b{suffix}", found)
    assert _points(again).tobytes() == _points(path).tobytes()
    back = read_volume(again)
    assert back.directions.tobytes() == found.directions.tobytes()
    assert back.origin.tobytes() == found.origin.tobytes()


@pytest.mark.parametrize("kind", GEOMETRIES)
def test_nrrd_to_nifti_and_back(tmp_path, rng, kind):
    volume = _volume(rng, kind, "left-posterior-superior", "um")
    nrrd = write_volume(tmp_path / "a.nrrd", volume)
    nifti = write_volume(tmp_path / "a.nii", read_volume(nrrd))
    back = read_volume(write_volume(tmp_path / "b.nrrd", read_volume(nifti)))
    assert np.array_equal(back.array, volume.array)
    assert np.allclose(_expected(back.in_units("um")), _expected(volume), atol=1e-4)
    # ITK turns the micrometres that NIfTI states into its millimetres, those of NRRD it passes on.
    assert np.allclose(_points(nifti) * 1000, _points(nrrd), atol=1e-3)
    assert np.allclose(_points(tmp_path / "b.nrrd"), _points(nifti), atol=1e-6)


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_simpleitk_reads_every_voxel_type(tmp_path, rng, dtype, suffix):
    array = (rng.random(SHAPE) * 100).astype(dtype)
    path = write_volume(tmp_path / f"a{suffix}", Volume(array))
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".seg.nrrd", ".nii", ".nii.gz", ".tif", ".ome.tif", ".npy"])
def test_damaged_files_never_raise_anything_but_our_own(tmp_path, rng, suffix):
    """Bytes changed, cut and put in at random: read, or refused in one line that names the file."""
    volume = Volume(rng.integers(0, 255, SHAPE, np.uint8), upright((4.5, 1.5, 0.5)), units="um")
    path = tmp_path / f"a{suffix}"
    if suffix == ".seg.nrrd":
        write_segmentation(path, [(Segment("a"), volume.array > 99), (Segment("b"), volume.array > 200)], volume)
    else:
        write_volume(path, volume)
    content = path.read_bytes()
    refused = []
    for _ in range(150):
        changed = bytearray(content)
        for _ in range(rng.integers(1, 5)):
            at = int(rng.integers(len(changed)))
            what = rng.integers(4)
            if what == 0:
                changed[at] = rng.integers(256)
            elif what == 1:
                changed[at] = rng.choice(np.frombuffer(b"0959-.x \n\xff", np.uint8))
            elif what == 2:
                del changed[at : at + int(rng.integers(1, 20))]
            else:
                changed[at:at] = rng.bytes(int(rng.integers(1, 5)))
            changed = changed or bytearray(b"x")
        path.write_bytes(changed)
        try:
            read_volume(path)
        except MicronetError as error:
            refused.append(str(error))
    assert refused
    assert all(str(tmp_path) in message and "\n" not in message for message in refused)


def test_importing_io_loads_no_format_library():
    code = (
        "import sys, micronet.io; loaded = {'nibabel', 'tifffile', 'nrrd', 'torch'} & set(sys.modules); "
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
