"""The preview: a PNG of the right size and proportions, whatever the volume; whole or not there."""

import itertools
import struct
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from micronet.core.errors import FileError, InputError
from micronet.report.panels import ANNOTATION_COLOUR, MASK_COLOUR, Sheet, draw_sheet, grey_range
from micronet.report.preview import Scene, write_paper_figure, write_preview
from micronet.report.wish import FigureWish

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
    write_preview(path, Scene(image, ball, (4.5, 4.5, 4.5), np.roll(ball, 4, 2)), "ball")
    pixels = _pixels(path)
    assert pixels.shape[1] == PAGE_WIDTH
    for colour in (MASK_COLOUR, ANNOTATION_COLOUR):
        assert _shows(pixels[100:], colour) > 300  # contours
        assert _shows(pixels[:60], colour) > 20  # legend
    assert (pixels[:, :8] == 255).all()  # nothing is clipped at the borders of the page
    assert (pixels[:, -8:] == 255).all()
    assert (pixels[-8:] == 255).all()


def test_without_annotation_its_colour_does_not_appear(tmp_path, image):
    write_preview(tmp_path / "p.png", Scene(image, _ball(image.shape)))
    assert _shows(_pixels(tmp_path / "p.png"), ANNOTATION_COLOUR) == 0


@pytest.mark.parametrize("value", [0, 1], ids=["empty", "full"])
def test_mask_without_outline_still_shows_the_image(tmp_path, image, value):
    path = tmp_path / "p.png"
    write_preview(path, Scene(image, np.full(image.shape, value, np.uint8), annotation=np.zeros(image.shape, bool)))
    pixels = _pixels(path)
    assert _shows(pixels[60:], MASK_COLOUR) == 0
    assert _shows(pixels[:60], MASK_COLOUR) > 20


def test_pictures_keep_physical_proportions(tmp_path):
    # 20 x 60 x 60 voxels of 12 x 4 x 4 µm are a cube of 240 µm: every picture must be a square.
    plain = np.ones((20, 60, 60), np.float32)  # middle grey
    write_preview(tmp_path / "p.png", Scene(plain, plain > 2, (12.0, 4.0, 4.0)))
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
    write_preview(tmp_path / "p.png", Scene(volume, volume % 7 == 0, (2.0, 2.0, 2.0)))
    width, height = _size(tmp_path / "p.png")
    assert width == PAGE_WIDTH
    assert 200 < height < 1600


@pytest.mark.parametrize("title", ["x" * 300, "$\\frac{1}$ ^_{", "試料 3", "a\nb"])
def test_any_title_fits(tmp_path, image, title):
    write_preview(tmp_path / "p.png", Scene(image, _ball(image.shape)), title)
    assert (_pixels(tmp_path / "p.png")[:, -8:] == 255).all()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.float64])
def test_any_real_dtype_and_constant_images(tmp_path, dtype):
    for volume in (np.ones((8, 9, 10), dtype), np.eye(10, dtype=dtype)[None].repeat(4, 0)):
        write_preview(tmp_path / "p.png", Scene(volume, volume > 0))


def test_bad_arrays_are_refused(image):
    with pytest.raises(InputError, match="mask of shape \\(2, 2, 2\\) differs from the image"):
        Scene(image, np.zeros((2, 2, 2), bool))
    with pytest.raises(InputError, match="annotation of shape"):
        Scene(image, image > 0, annotation=np.zeros((2, 2, 2), bool))
    with pytest.raises(InputError, match="three positive lengths"):
        Scene(image, image > 0, (1.0, 0.0, 1.0))
    with pytest.raises(InputError, match="real numbers, found \\(4, 4\\)"):
        Scene(np.zeros((4, 4)), np.zeros((4, 4)))


def test_failure_leaves_nothing_half_written(tmp_path, image, monkeypatch):
    path = tmp_path / "p.png"
    path.write_bytes(b"older")

    def full_disk(self, target, **_):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full_disk)
    with pytest.raises(FileError, match="No space left"):
        write_preview(path, Scene(image, image > 100))
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.png"]


def test_missing_folder_is_named(tmp_path, image):
    with pytest.raises(FileError, match="absent"):
        write_preview(tmp_path / "absent" / "p.png", Scene(image, image > 100))


def test_pyplot_is_never_loaded(tmp_path, image):
    loaded = "matplotlib.pyplot" in sys.modules
    write_preview(tmp_path / "p.png", Scene(image, image > 100))
    assert ("matplotlib.pyplot" in sys.modules) == loaded


SPACING = (2.0, 2.0, 2.0)


def _panels(scene):
    """Return the pictures of a preview by their captions."""
    rows = scene.rows([scene.plane(axis) for axis in range(3)])
    return {panel.caption: panel for row in rows for panel in row}


def test_a_projection_of_bright_voxels_is_not_burnt_out(tmp_path, rng):
    # Speckle that is white somewhere along nearly every line: its maximum is white nearly everywhere.
    image = rng.choice(np.array([40, 90, 255], np.uint8), (60, 60, 60))
    write_preview(tmp_path / "p.png", Scene(image, _ball(image.shape)))
    pixels = _pixels(tmp_path / "p.png")
    half = len(pixels) // 2
    dark, bright = 30, 235
    for row in (pixels[80 : half - 60], pixels[half + 40 :]):  # slices, projections
        inner = row[row.shape[0] // 4 : row.shape[0] // 2, 100:500, :3].max(-1)
        middle = np.median(inner)
        assert dark < middle < bright
        assert (inner >= bright).mean() < 0.4


def test_slices_share_a_window_and_projections_have_their_own(image):
    panels = _panels(Scene(image, _ball(image.shape)))
    slices = {panel.grey for caption, panel in panels.items() if " of " in caption}
    assert len(slices) == 1
    assert not slices & {panel.grey for caption, panel in panels.items() if "maximum" in caption}


def test_a_sparse_annotation_is_shown_where_it_is_and_not_where_it_ends(image):
    # Three planes are annotated, of which the middle ones of the volume are none.
    truth, known = _ball(image.shape), np.zeros(image.shape, bool)
    known[10:13] = True
    panels = _panels(Scene(image, truth, annotation=truth & known, known=known))
    assert "z 12 of 40" in panels  # the plane with most lumen
    blue = panels["z 12 of 40"].contours[0]
    assert blue.known.all()
    assert np.array_equal(blue.inside, truth[12])
    side = panels["x 28 of 56"].contours[0]  # depth down, z to the right: annotated in three columns
    assert np.flatnonzero(side.known.any(0)).tolist() == [10, 11, 12]
    # Of three planes the outline along z is not known, for there may be lumen in the others.
    along = panels["maximum along z"].contours[0]
    assert np.array_equal(along.known, truth[10:13].any(0))


def test_the_edge_of_what_was_annotated_is_no_contour(tmp_path):
    flat = np.full((40, 40, 40), 100, np.uint8)
    annotation = np.zeros(flat.shape, bool)
    annotation[18:23, 10:30, 10:30] = True  # lumen wherever anything is annotated: no outline is known
    drawn = {}
    for name, known in (("known", annotation.copy()), ("everywhere", None)):
        scene = Scene(flat, np.zeros(flat.shape, bool), annotation=annotation, known=known)
        write_preview(tmp_path / f"{name}.png", scene)
        drawn[name] = _shows(_pixels(tmp_path / f"{name}.png")[100:], ANNOTATION_COLOUR)
    assert drawn["known"] == 0
    assert drawn["everywhere"] > 300


def test_a_plain_mask_of_some_planes_has_no_outline_where_they_end(image):
    """Before, its contour was closed by a line along the last plane that was annotated."""
    tubes = np.zeros(image.shape, bool)
    tubes[:, 20:26, 22:30] = tubes[:, 30:34, 40:44] = True
    part = tubes.copy()
    part[15:] = False
    ball = _ball(image.shape)  # ends by itself; cut through, it ends along one axis alone
    hemisphere, slab = ball.copy(), ball.copy()
    hemisphere[20:] = slab[:18] = slab[23:] = False
    box = np.zeros(image.shape, bool)
    box[10:25, 16:30, 20:40] = True
    lumen = int(hemisphere.any((1, 2)).sum())
    cases = ((part, 15), (tubes, 40), (ball, 40), (hemisphere, lumen), (slab, 5), (box, 40), (_lying_tube(image), 40))
    for annotation, columns in cases:
        panels = _panels(Scene(image, tubes, annotation=annotation))
        blue = next(panel for caption, panel in panels.items() if caption.startswith("y ")).contours[0]
        known = np.ones(blue.inside.shape, bool) if blue.known is None else blue.known
        assert known.any(1).sum() == columns  # z runs down
        along = panels["maximum along z"].contours[0]
        assert along.known is None  # every line along z has been looked at where it counts
        assert along.inside.any()


def _lying_tube(image):
    """Return a straight round tube along x."""
    z, y, _ = np.indices(image.shape)
    return (z - 20) ** 2 + (y - 24) ** 2 < 6**2


def test_the_crop_is_a_white_line_and_the_mask_has_no_outline_there(tmp_path):
    flat = np.full((40, 40, 40), 100, np.float32)
    mask = np.zeros(flat.shape, bool)
    mask[:, :25] = True  # everything that was looked at
    shown = {}
    for name, crop in (("crop", 25), ("none", None)):
        scene = Scene(flat, mask, y_crop=crop)
        write_preview(tmp_path / f"{name}.png", scene)
        pixels = _pixels(tmp_path / f"{name}.png")[100:, 100:450, :3].astype(int)
        shown[name] = _shows(pixels, MASK_COLOUR), (pixels.min(-1) > 240)
    assert shown["crop"][0] == 0
    assert shown["none"][0] > 300
    # Of the rows through a picture some hold dashes: white, but not all along.
    dashed = [(row > 0.3) & (row < 0.95) for row in (shown["crop"][1].mean(1), shown["none"][1].mean(1))]
    assert dashed[0].sum() > dashed[1].sum()


def test_scale_bars_are_equal_where_the_scale_is(tmp_path):
    volume = np.ones((90, 60, 200), np.uint8)  # of one scale, but of unequal widths
    figure = draw_sheet(Scene(volume, volume > 1, SPACING).rows([1, 1, 1]), Sheet())
    bars = [text.get_text() for text in figure.texts if text.get_text().endswith(" µm")]
    assert len(bars) == 6
    assert len(set(bars)) == 1


@pytest.mark.parametrize("width", [10.0, 7.2])
@pytest.mark.parametrize(
    "shape", [(72, 64, 30), (72, 30, 64), (30, 64, 72), (200, 20, 30), (12, 200, 200), (90, 60, 200)]
)
def test_nothing_of_a_sheet_lies_beside_it_however_narrow_a_crop_is(shape, width):
    volume = np.ones(shape, np.uint8)
    sheet = Sheet(width=width, dpi=50)
    figure = draw_sheet(Scene(volume, volume > 1, SPACING).rows([n // 2 for n in shape]), sheet)
    page = figure.bbox
    boxes = [axes.get_window_extent() for axes in figure.axes] + [text.get_window_extent() for text in figure.texts]
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)
    assert all(page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_a_figure_for_a_paper_has_its_text_as_text(tmp_path, image):
    scene = Scene(image, _ball(image.shape), SPACING, _ball(image.shape))
    write_paper_figure(tmp_path / "all.svg", scene, FigureWish("all.svg", slice=(("z", 12),)))
    root = ElementTree.parse(tmp_path / "all.svg").getroot()
    written = {"".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"z 12 of 40", "y 24 of 48", "maximum along x", "20 µm", "segmentation", "annotation"} <= written
    assert len(list(root.iter("{http://www.w3.org/2000/svg}image"))) == 6
    assert float(root.get("width").removesuffix("pt")) == pytest.approx(72 * 7.2)

    write_paper_figure(tmp_path / "one.pdf", scene, FigureWish("one.pdf", "max-y"))
    pdf = (tmp_path / "one.pdf").read_bytes()
    assert b"/Subtype /Type0" in pdf  # a TrueType font, not outlines
    assert b"/FontFile2" in pdf
    assert pdf.count(b"/Subtype /Image") >= 1


def test_a_figure_of_one_panel_is_a_column_wide_at_300_dpi(tmp_path, image):
    mask = _ball(image.shape)
    wish = FigureWish("p.png", "x", (("x", 20),), (("y", 10, 40), ("x", 0, 30)))
    write_paper_figure(tmp_path / "p.png", Scene(image, mask, SPACING), wish)
    assert _size(tmp_path / "p.png")[0] == 3.5 * 300
    assert _shows(_pixels(tmp_path / "p.png"), MASK_COLOUR) > 500
    again = (tmp_path / "p.png").read_bytes()
    write_paper_figure(tmp_path / "p.png", Scene(image, mask, SPACING), wish)
    assert (tmp_path / "p.png").read_bytes() == again


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (FigureWish("f.svg", slice=(("z", 40),)), "no plane z=40 to show: z runs from 0 to 39"),
        (FigureWish("f.svg", slice=(("y", 9),), crop=(("y", 10, 20),)), "no plane y=9 to show: y runs from 10 to 19"),
        (FigureWish("f.svg", crop=(("x", 10, 57),)), "no x=10:57: its x runs from 0 to 56"),
    ],
)
def test_a_plane_or_box_outside_of_the_volume_is_refused(tmp_path, image, wish, message):
    with pytest.raises(InputError, match=message):
        write_paper_figure(tmp_path / "f.svg", Scene(image, image > 100), wish)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.15, 0.4, 0.9])
def test_a_projection_is_not_burnt_out_however_much_of_it_is_bright(share):
    # In a detector's saturation all bright pixels are equal: the median alone looks at the dark half.
    projection = np.where(np.linspace(0, 1, 1000) < share, 255, 20)
    projection[-10:] = 0
    low, high = grey_range(projection, projection=True)
    assert low == 0
    assert (255 - low) / (high - low) <= 0.8
