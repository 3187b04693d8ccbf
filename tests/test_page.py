"""Report pages: what they show of a volume, that they hold everything and stay small, that nothing in them runs."""

import base64
import io
import json
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from micronet.core.errors import FileError, InputError
from micronet.report.page.grid import VOXELS, Grid
from micronet.report.page.html import LARGEST_PAGE, Section, figure, note, table, write_page
from micronet.report.page.plots import Line, bins, histogram, plot
from micronet.report.page.scroller import Movie, Shown

EVIL = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&'\"<!--"
    "{{ 7 * 7 }}{% raw %}{# $title"
)


class Page(HTMLParser):
    """What a browser would see of a page: open elements, texts by element, attributes."""

    def __init__(self, path):
        super().__init__()
        self.open, self.texts, self.tags = [], {}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "input", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        key = self.open[-1] if self.open else ""
        self.texts[key] = self.texts.get(key, "") + text

    @property
    def data(self):
        return json.loads(self.texts["script"][: self.texts["script"].index("\n")])


def shown(shape=(6, 7, 8), *, frames=2, name="a", **more):
    grid = Grid(shape, (4.0, 2.0, 2.0))
    movie = Movie(grid)
    for number in range(frames):
        movie.add(np.indices(shape).sum(0) > 9 - number, f"after {number}")
    return Shown(name, movie, **more)


def test_a_small_volume_is_shown_as_it_is():
    grid = Grid((10, 20, 30), (5.0, 2.0, 2.0))
    assert grid.size == (10, 20, 30)
    assert grid.projected == (10, 20, 30)
    assert grid.planes(0).tolist() == list(range(10))


def test_a_large_volume_is_coarsened_to_cubes_where_its_voxels_are_finer():
    # 100 planes of 5 µm and 1000 x 1000 pixels of 1 µm: a million voxels as cubes of 5 x 5 x 5 µm would be 4,000,000.
    assert Grid((100, 1000, 1000), (5.0, 1.0, 1.0), voxels=4_000_000).size == (100, 200, 200)
    assert Grid((100, 100, 100), None, voxels=125_000).size == (50, 50, 50)
    assert Grid((100, 100, 100), None, voxels=125_000).planes(0)[:3].tolist() == [1, 3, 5]
    assert Grid((1, 1, 500_000)).size == (1, 1, 1024)  # what JPEG can hold
    assert max(Grid((200, 3000, 1500)).projected) == 400
    assert max(Grid((200, 3000, 1500), voxels=VOXELS // 8).projected) == 200


def test_bits_hold_the_mask_and_its_projections():
    mask = np.zeros((2, 2, 3), bool)
    mask[1, 0, 2] = mask[0, 1, 0] = True
    bits = np.unpackbits(np.frombuffer(Grid((2, 2, 3)).bits(mask), np.uint8))
    assert bits[:12].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0]
    assert bits[12:18].tolist() == [0, 0, 1, 1, 0, 0]  # along Z: (Y, X)
    assert bits[18:24].tolist() == [1, 0, 0, 0, 0, 1]  # along Y: (Z, X)
    assert bits[24:28].tolist() == [0, 1, 1, 0]  # along X: (Z, Y)


def test_a_probability_that_ends_above_the_volume_is_empty_below():
    grid = Grid((2, 3, 2))
    probability = np.full((2, 2, 2), 0.4, np.float32)
    whole = np.zeros((2, 3, 2), bool)
    whole[:, :2] = True
    assert grid.bits(probability, 0.3) == grid.bits(whole)
    assert grid.bits(probability) == grid.bits(whole & False)


def test_projections_keep_single_voxels_of_a_coarsened_volume():
    volume = np.zeros((64, 500, 900), np.uint8)
    volume[40, 333, 777] = 200
    grid = Grid(volume.shape, voxels=100_000)
    assert [projection.shape for projection in grid.projections(volume)] == [(61, 109), (8, 109), (8, 61)]
    assert [int(projection.max()) for projection in grid.projections(volume)] == [200, 200, 200]
    bits = np.unpackbits(np.frombuffer(grid.bits(volume > 0), np.uint8))
    assert bits[int(np.prod(grid.size)) :].sum() == 3


def test_masks_are_told_as_differences_and_come_back(rng):
    grid = Grid((5, 6, 7))
    movie, frames = Movie(grid), [rng.random(grid.shape) for _ in range(4)]
    for number, frame in enumerate(frames):
        movie.add(frame, str(number), threshold=0.3)
    annotation = grid.bits(rng.random(grid.shape) > 0.5)
    labels, text = movie.encoded([annotation], 10**6)
    assert labels == ["0", "1", "2", "3"]
    stored = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(5, -1)
    back = np.bitwise_xor.accumulate(stored)
    assert back[0].tobytes() == annotation
    assert [mask.tobytes() for mask in back[1:]] == [grid.bits(frame, 0.3) for frame in frames]


def test_masks_that_do_not_fit_are_thinned_out_and_the_last_stays(rng):
    grid = Grid((20, 20, 20))
    movie = Movie(grid)
    for number in range(30):
        movie.add(rng.random(grid.shape), str(number))
    labels, text = movie.encoded([], 8000)
    assert len(text) <= 8000
    assert 1 < len(labels) < 10
    assert labels[-1] == "29"
    labels, _ = movie.encoded([], 1)
    assert labels == ["29"]


def test_the_coarse_image_comes_back_from_its_jpeg():
    z, y, x = np.ogrid[:20, :18, :25]
    image = (100 + 40 * np.sin(z / 4) + 30 * np.cos(y / 5) + x).astype(np.float32)
    stored = shown(image.shape, image=image).encoded(10**6)["image"]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(stored["source"].split(",")[1]))))
    low, high = np.percentile(image, (0.5, 99.5))
    for number in (0, 7, 19):
        top, left = (
            n * size
            for n, size in zip(divmod(number, stored["columns"]), (stored["height"], stored["width"]), strict=True)
        )
        tile = picture[top : top + 18, left : left + 25]
        expected = ((image[number] - low) / (high - low) * 255).clip(0, 255)
        assert np.abs(tile - expected).max() < 16
        assert np.abs(tile - expected).mean() < 3


def test_slices_begin_where_most_is_to_be_seen_and_in_the_middle_of_nothing():
    mask = np.zeros((6, 7, 8), bool)
    mask[4, 1:5, 2:7] = mask[:, 3, 5] = True
    movie = Movie(Grid(mask.shape))
    movie.add(mask, "")
    assert Shown("a", movie).encoded(10**6)["start"] == [4, 3, 5]
    empty = Movie(Grid(mask.shape))
    empty.add(mask & False, "")
    assert Shown("a", empty).encoded(10**6)["start"] == [3, 3, 4]
    assert Shown("a", empty, annotation=mask).encoded(10**6)["start"] == [4, 3, 5]


def test_a_volume_without_a_mask_or_with_an_image_of_another_shape_is_refused():
    with pytest.raises(InputError, match="needs at least one mask"):
        shown(frames=0)
    with pytest.raises(InputError, match=r"image of shape \(2, 2, 2\) differs from the masks: \(6, 7, 8\)"):
        shown(image=np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match="annotation of shape"):
        shown(annotation=np.zeros((2, 2, 2), bool))


def test_noise_in_image_and_masks_of_a_published_size_stays_below_the_limit(tmp_path, rng):
    shape = (166, 260, 218)
    movie = Movie(Grid(shape, (4.5, 4.5, 4.5)))
    noise = rng.random(shape, dtype=np.float32)
    for number in range(4):
        movie.add(np.roll(noise, number, 0), str(number))
    volume = Shown("noise", movie, noise, np.roll(noise, 9, 0) > 0.5)
    record = {"text": "<&'\"" * 100_000}
    write_page(tmp_path / "page.html", "noise", [], [volume], [], record)
    assert 1_000_000 < (tmp_path / "page.html").stat().st_size < LARGEST_PAGE == 3_000_000


def test_a_dozen_volumes_of_noise_share_the_room_of_a_page(tmp_path, rng):
    noise = rng.random((80, 80, 80), dtype=np.float32)
    volumes = []
    for number in range(12):
        movie = Movie(Grid(noise.shape, voxels=VOXELS // 12))
        movie.add(np.roll(noise, number, 1), "")
        volumes.append(Shown(f"noise {number}", movie, noise, noise > 0.5))
    write_page(tmp_path / "page.html", "noise", [], volumes, [], {})
    assert (tmp_path / "page.html").stat().st_size < LARGEST_PAGE


def test_a_volume_of_a_hundred_million_voxels_needs_little_memory(tmp_path, rng):
    import tracemalloc

    plane = rng.integers(0, 256, (460, 460), dtype=np.uint8)
    image = np.broadcast_to(plane, (460, 460, 460))
    tracemalloc.start()
    movie = Movie(Grid(image.shape))
    movie.add(image, "", threshold=200)
    write_page(tmp_path / "page.html", "big", [], [Shown("big", movie, image)], [], {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "page.html").stat().st_size < LARGEST_PAGE
    assert peak < 200e6  # a float32 of the volume would be 390 MB


def test_a_page_is_whole_without_any_network_and_nothing_a_person_named_is_markup(tmp_path):
    path = tmp_path / "page.html"
    volume = shown(name=EVIL, mask_name=EVIL, annotation_name=EVIL)
    parts = [note(EVIL), table((EVIL, EVIL), [(EVIL, EVIL)]), figure("data:image/png;base64,", EVIL)]
    write_page(path, EVIL, [EVIL], [volume], [Section(EVIL, parts)], {EVIL: EVIL}, warnings=[EVIL])
    page = Page(path)
    assert page.open == []
    assert page.texts["title"] == page.texts["h1"] == EVIL
    assert page.texts["td"] == page.texts["figcaption"] == EVIL
    assert json.loads(page.texts["pre"]) == {EVIL: EVIL}
    assert page.data["volumes"][0]["name"] == page.data["volumes"][0]["maskName"] == EVIL
    assert [tag for tag, _ in page.tags].count("script") == 2
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest|innerHTML", text)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")


def test_who_asks_for_no_page_loads_no_jinja2():
    code = "import sys, micronet.report.page.html; sys.exit('jinja2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_very_long_record_is_cut_and_says_so(tmp_path):
    write_page(tmp_path / "page.html", "a", [], [shown()], [], {"text": "ä" * 200_000})
    assert "… the rest is in the .json file" in Page(tmp_path / "page.html").texts["pre"]


def test_columns_of_numbers_are_set_to_the_right():
    numbers = table(("volume", "Dice", "size", "note"), [("a", "0.95", "1,234 µm³", "2 of 3"), ("b", "–", "1e-05", "")])
    assert numbers.count('<td class="number"') == 4
    assert '<th scope="col">note</th>' in numbers


def test_a_page_replaces_an_older_one_only_when_whole(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("older", encoding="utf-8")
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_page(path, "a", [], [shown()], [], {"a": object()})
    assert path.read_text(encoding="utf-8") == "older"
    write_page(path, "a", [], [shown()], [], {})
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(FileError, match="absent"):
        write_page(tmp_path / "absent" / "page.html", "a", [], [shown()], [], {})


def test_histogram_counts_every_voxel_once_and_those_inside():
    volume = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    edges = np.array([3.5, 9.5, 15.5, 20.5])
    assert histogram(volume, edges).tolist() == [10, 6, 8]  # what lies beyond is in the end bins
    assert histogram(volume, edges, volume > 12).tolist() == [0, 3, 8]
    assert histogram(volume, edges, volume / 24, threshold=0.75).tolist() == [0, 0, 5]


def test_bins_of_whole_numbers_hold_equally_many_of_them():
    edges = bins(np.arange(256, dtype=np.uint8))
    assert set(np.diff(edges)) == {3.0}
    assert set((edges + 0.5) % 1) == {0.0}
    assert len(bins(np.full(9, 7, np.uint16))) == 2
    assert len(bins(np.linspace(0, 1, 1000), most=20)) == 21
    assert (np.diff(bins(np.full(9, 0.5))) > 0).all()


def test_plots_are_pictures_with_the_names_of_their_lines(tmp_path):
    source = plot(
        [Line("$a_{$", [1, 2], [3, 4], "points"), Line("試料", [0, 1, 2], [3, 4], "steps")],
        "x <y>",
        "y",
        mark=(1.5, "here"),
    )
    svg = base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode()
    assert svg.startswith("<?xml")
    for comment in ("$a_{$", "here"):
        assert comment in svg  # matplotlib notes each text beside its outlines
    for more in ({"y_log": True}, {"whole_x": True}):
        assert plot([Line("a", [0, 1], [0, 1])], "x", "y", **more).startswith("data:image/svg+xml;base64,")
