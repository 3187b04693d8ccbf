"""The preview: a PNG of the right size and proportions, whatever the volume; whole or not there."""

import struct
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from micronet.core.errors import FileError, InputError
from micronet.report.preview import ANNOTATION_COLOUR, MASK_COLOUR, write_preview

PAGE_WIDTH = 1600  # 10 inches at 160 per inch


def _pixels(path):
    """Return (H, W, 4) uint8."""
    return np.rint(imread(path) * 255).astype(np.uint8)


def _size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def _ball(shape):
    z, y, x = (np.linspace(-1, 1, n) for n in shape)
    return (z[:, None, None] ** 2 + y[None, :, None] ** 2 + x**2) < 0.4


def _shows(pixels, colour):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels[..., :3].astype(int) - rgb) <= 3).all(-1).sum())


@pytest.fixture
def image(rng):
    return rng.normal(100, 10, (40, 48, 56)).astype(np.float32)


def test_preview_shows_both_contours_and_their_legend(tmp_path, image):
    ball = _ball(image.shape)
    path = tmp_path / "preview.png"
    write_preview(path, image, ball, spacing_um=(4.5, 4.5, 4.5), annotation=np.roll(ball, 4, 2), title="ball")
    pixels = _pixels(path)
    assert pixels.shape[1] == PAGE_WIDTH
    for colour in (MASK_COLOUR, ANNOTATION_COLOUR):
        assert _shows(pixels[100:], colour) > 300  # contours
        assert _shows(pixels[:60], colour) > 20  # legend
    assert (pixels[:, :8] == 255).all()  # nothing is clipped at the borders of the page
    assert (pixels[:, -8:] == 255).all()
    assert (pixels[-8:] == 255).all()


def test_without_annotation_its_colour_does_not_appear(tmp_path, image):
    write_preview(tmp_path / "p.png", image, _ball(image.shape))
    assert _shows(_pixels(tmp_path / "p.png"), ANNOTATION_COLOUR) == 0


@pytest.mark.parametrize("value", [0, 1], ids=["empty", "full"])
def test_mask_without_outline_still_shows_the_image(tmp_path, image, value):
    path = tmp_path / "p.png"
    write_preview(path, image, np.full(image.shape, value, np.uint8), annotation=np.zeros(image.shape, bool))
    pixels = _pixels(path)
    assert _shows(pixels[60:], MASK_COLOUR) == 0
    assert _shows(pixels[:60], MASK_COLOUR) > 20


def test_pictures_keep_physical_proportions(tmp_path):
    # 20 x 60 x 60 voxels of 12 x 4 x 4 µm are a cube of 240 µm: every picture must be a square.
    plain = np.ones((20, 60, 60), np.float32)  # middle grey
    write_preview(tmp_path / "p.png", plain, plain > 2, spacing_um=(12.0, 4.0, 4.0))
    grey = _pixels(tmp_path / "p.png")[..., :3].astype(int)
    middle = (grey.max(-1) < 250).mean(axis=1) > 0.5  # rows of pixels that pictures fill
    edges = np.flatnonzero(np.diff(middle.astype(int)))
    heights = edges[1::2] - edges[::2]
    columns = (grey[edges[0] + 5 : edges[1] - 5].max(-1) < 250).mean(axis=0) > 0.5
    sides = np.flatnonzero(np.diff(columns.astype(int)))
    widths = sides[1::2] - sides[::2]
    assert len(heights) == 2
    assert len(widths) == 3
    assert np.ptp(np.concatenate([heights, widths])) <= 3


@pytest.mark.parametrize(
    "shape", [(32, 32, 700), (700, 32, 40), (40, 500, 32), (200, 32, 200), (3, 200, 200), (1, 1, 1)]
)
def test_flat_and_elongated_volumes_stay_on_one_page(tmp_path, shape):
    volume = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    write_preview(tmp_path / "p.png", volume, volume % 7 == 0, spacing_um=(2.0, 2.0, 2.0))
    width, height = _size(tmp_path / "p.png")
    assert width == PAGE_WIDTH
    assert 200 < height < 1600


@pytest.mark.parametrize("title", ["x" * 300, "$\\frac{1}$ ^_{", "試料 3", "a\nb"])
def test_any_title_fits(tmp_path, image, title):
    write_preview(tmp_path / "p.png", image, _ball(image.shape), title=title)
    assert (_pixels(tmp_path / "p.png")[:, -8:] == 255).all()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.float64])
def test_any_real_dtype_and_constant_images(tmp_path, dtype):
    for volume in (np.ones((8, 9, 10), dtype), np.eye(10, dtype=dtype)[None].repeat(4, 0)):
        write_preview(tmp_path / "p.png", volume, volume > 0)


def test_bad_arrays_are_refused(tmp_path, image):
    path = tmp_path / "p.png"
    with pytest.raises(InputError, match="mask of shape \\(2, 2, 2\\) differs from the image"):
        write_preview(path, image, np.zeros((2, 2, 2), bool))
    with pytest.raises(InputError, match="annotation of shape"):
        write_preview(path, image, image > 0, annotation=np.zeros((2, 2, 2), bool))
    with pytest.raises(InputError, match="three positive lengths"):
        write_preview(path, image, image > 0, spacing_um=(1.0, 0.0, 1.0))
    with pytest.raises(InputError, match="real numbers, found \\(4, 4\\)"):
        write_preview(path, np.zeros((4, 4)), np.zeros((4, 4)))
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_nothing_half_written(tmp_path, image, monkeypatch):
    path = tmp_path / "p.png"
    path.write_bytes(b"older")

    def full_disk(self, target, **_):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full_disk)
    with pytest.raises(FileError, match="No space left"):
        write_preview(path, image, image > 100)
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.png"]


def test_missing_folder_is_named(tmp_path, image):
    with pytest.raises(FileError, match="absent"):
        write_preview(tmp_path / "absent" / "p.png", image, image > 100)


def test_pyplot_is_never_loaded(tmp_path, image):
    loaded = "matplotlib.pyplot" in sys.modules
    write_preview(tmp_path / "p.png", image, image > 100)
    assert ("matplotlib.pyplot" in sys.modules) == loaded
