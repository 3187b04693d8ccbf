"""Report pages in a real browser: no console errors, sliders and keys work, the movie plays, nothing is cut off."""

import base64
import io
import json
import re
import shutil
import time

import numpy as np
import pytest
from matplotlib.image import imread, imsave

from micronet import MicroRNet, Volume, write_volume
from micronet.core import classes
from micronet.core.ownership import RECORD_KEYS
from micronet.networks.weights import save_state
from micronet.report.annotated import planes_annotated
from micronet.report.page.grid import VOXELS, Grid
from micronet.report.page.html import Section, figure, note, table, write_page
from micronet.report.page.plots import Line, plot
from micronet.report.page.scroller import Movie, Outlined, Shown
from micronet.segment.job import Job, Weights, segment_file

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
EVIL = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>"
SHAPE = (40, 48, 56)
# The pixels of a canvas, and how many of them have a colour, given as red, green, blue.
COPY = """
const copyOf = (number) => {
    const canvas = document.querySelectorAll('canvas')[number], copy = new OffscreenCanvas(canvas.width, canvas.height);
    const context = copy.getContext('2d', {willReadFrequently: true});
    context.drawImage(canvas, 0, 0);
    return context.getImageData(0, 0, copy.width, copy.height);
};"""
COUNT = f"""{COPY}
const {{data}} = copyOf(arguments[0]), wanted = arguments[1];
let count = 0;
for (let i = 0; i < data.length; i += 4)
    if ([0, 1, 2].every((k) => Math.abs(data[i + k] - wanted[k]) <= 12)) count++;
return count;"""
ORANGE, BLUE, GREEN = [0xE6, 0x9F, 0x00], [0x56, 0xB4, 0xE9], [0x00, 0x9E, 0x73]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium, driven by selenium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


def _ball(radius, shift=0):
    z, y, x = np.indices(SHAPE)
    return ((z - 20) ** 2 + (y - 24) ** 2 + (x - 28 - shift) ** 2) < radius**2


@pytest.fixture
def open_page(browser, tmp_path):
    """Write a page, open it as a file in a window of some width, and return once its slices are there."""

    def opened(volumes, *, width=1366, sections=(), title="a page"):
        path = tmp_path / "page.html"
        write_page(path, title, ["one fact"], volumes, sections, {"a": 1}, warnings=[])
        _resize(browser, width)
        browser.get_log("browser")
        browser.get(path.as_uri())
        _wait(lambda: _text(browser, "where") != "" and browser.execute_script(COUNT, 0, ORANGE) > 0)
        return browser

    yield opened
    assert browser.get_log("browser") == []


def _resize(browser, width):
    """Give the window a width, and let the page answer to it before it is drawn the next time."""
    how = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", how)
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(arguments[0])))")


def _wait(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not come so far"
        time.sleep(0.05)


def _text(browser, what, number=0):
    """Return the caption ("where") of a picture, or the text of an element by its id."""
    if what == "where":
        return browser.execute_script(
            "return document.querySelectorAll('.caption')[arguments[0]]?.innerText || ''", number
        )
    return browser.find_element("id", what).text


def _picture(browser, number):
    return browser.execute_script("return document.querySelectorAll('canvas')[arguments[0]].toDataURL()", number)


@pytest.fixture
def movie():
    growing = Movie(Grid(SHAPE, (4.0, 2.0, 2.0)))
    for number, radius in enumerate((3, 6, 9, 12), 1):
        growing.add(_ball(radius), f"after iteration {number}")
    return growing


@pytest.fixture
def volume(movie, rng):
    image = (100 + 60 * _ball(12) + rng.normal(0, 8, SHAPE)).astype(np.float32)
    return Shown("ball", movie, image, _ball(12, shift=4))


def test_sliders_and_arrow_keys_move_through_the_slices(open_page, volume):
    browser = open_page([volume])
    assert [_text(browser, "where", n).split("\n")[0] for n in range(6)] == [
        *("z 20 of 40", "y 24 of 48", "x 30 of 56"),
        *("maximum along z", "maximum along y", "maximum along x"),
    ]
    assert "80 µm" in _text(browser, "where", 0)
    for number, (axis, there) in enumerate(zip("zyx", (5, 9, 50), strict=True)):
        before = _picture(browser, number)
        browser.execute_script(
            "const slider = document.getElementById(arguments[0]); slider.value = arguments[1];"
            "slider.dispatchEvent(new Event('input'))",
            *(f"slice-{axis}", there),
        )
        assert f"{axis} {there} of" in _text(browser, "where", number)
        assert _picture(browser, number) != before
        slider = browser.find_element("id", f"slice-{axis}")
        slider.send_keys("\ue014")  # arrow to the right
        assert f"{axis} {there + 1} of" in _text(browser, "where", number)
        assert slider.get_attribute("aria-valuetext").startswith(f"slice, {axis} {there + 1} of")
        slider.send_keys("\ue010")  # end
        assert f"{axis} {SHAPE[number] - 1} of {SHAPE[number]}" in _text(browser, "where", number)


def test_each_view_shows_its_plane_of_the_volume(open_page):
    # A ramp along each axis in turn: the picture grows brighter that way, in no other.
    movie = Movie(Grid(SHAPE))
    movie.add(_ball(8), "")
    ramps = np.broadcast_arrays(*np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]])
    browser = open_page([Shown(name, movie, ramp.astype(np.uint8)) for name, ramp in zip("zyx", ramps, strict=True)])
    views = (("y", "x"), ("z", "x"), ("y", "z"))  # what runs down and right
    browser.execute_script("for (const id of ['show-mask', 'show-cross']) document.getElementById(id).click()")
    for number, axis in enumerate("zyx"):
        browser.execute_script(
            "const chosen = document.getElementById('volume'); chosen.value = arguments[0];"
            "chosen.dispatchEvent(new Event('change'))",
            number,
        )
        time.sleep(0.3)
        for view, (down, right) in enumerate(views):
            top_left, bottom_left, top_right = browser.execute_script(
                f"{COPY} const {{data, width, height}} = copyOf(arguments[0]);"
                "return [0, 4 * width * (height - 1), 4 * (width - 1)].map((place) => data[place])",
                view,
            )
            assert (bottom_left > top_left + 100) == (down == axis), (axis, view)
            assert (top_right > top_left + 100) == (right == axis), (axis, view)


def test_segments_have_a_colour_and_a_box_each_and_a_volume_may_have_its_own(open_page):
    movies = Movie(Grid(SHAPE)), Movie(Grid(SHAPE), classes.colour(2))
    for movie in movies:
        movie.add(_ball(5), "")
    wall = Outlined("wall", classes.colour(2), _ball(11))
    browser = open_page([Shown("both", movies[0], mask_name="lumen", further=[wall]), Shown("wall", movies[1])])
    assert [browser.execute_script(COUNT, 0, one) > 50 for one in (ORANGE, GREEN)] == [True, True]
    assert browser.find_element("id", "further").text == "wall"
    browser.find_element("css selector", "#further input").click()
    assert [browser.execute_script(COUNT, 0, one) > 50 for one in (ORANGE, GREEN)] == [True, False]
    browser.execute_script(
        "const chosen = document.getElementById('volume'); chosen.value = 1;chosen.dispatchEvent(new Event('change'))"
    )
    _wait(lambda: browser.execute_script(COUNT, 0, GREEN) > 50)
    assert browser.execute_script(COUNT, 0, ORANGE) == 0
    assert browser.find_element("id", "further").text == ""


def test_of_segments_that_touch_the_first_lies_uppermost(open_page):
    """Before, a wall around a lumen hid the contour of the lumen, which the preview shows."""
    movie = Movie(Grid(SHAPE))
    movie.add(_ball(5), "")
    wall = Outlined("wall", classes.colour(2), _ball(5))
    browser = open_page([Shown("both", movie, mask_name="lumen", further=[wall])])
    assert browser.execute_script(COUNT, 0, ORANGE) > 50
    assert browser.execute_script(COUNT, 0, GREEN) == 0


def test_contours_go_and_come_back_and_agreement_is_coloured(open_page, volume):
    browser = open_page([volume])
    for box, colour in (("show-mask", ORANGE), ("show-annotation", BLUE)):
        assert browser.execute_script(COUNT, 0, colour) > 50
        browser.find_element("id", box).send_keys(" ")
        assert browser.execute_script(COUNT, 0, colour) == 0
        assert browser.execute_script(COUNT, 3, colour) == 0
    assert not browser.find_element("id", "agreement").is_displayed()
    before = _picture(browser, 0)
    browser.find_element("id", "show-agreement").click()
    assert "annotated only: missed" in _text(browser, "agreement")
    assert _picture(browser, 0) != before
    browser.find_element("id", "show-mask").send_keys(" ")
    assert browser.execute_script(COUNT, 0, ORANGE) > 50


def test_the_movie_shows_the_mask_after_each_iteration(open_page, volume):
    browser = open_page([volume])
    assert _text(browser, "frame-name") == "after iteration 4"
    browser.find_element("id", "frame").send_keys("\ue011")  # home
    assert _text(browser, "frame-name") == "after iteration 1"
    small = browser.execute_script(COUNT, 0, ORANGE)
    browser.find_element("id", "play").send_keys(" ")
    assert _text(browser, "play") == "Stop"
    _wait(lambda: _text(browser, "frame-name") == "after iteration 4")
    assert _text(browser, "play") == "Play"
    assert browser.execute_script(COUNT, 0, ORANGE) > 2 * small


def test_a_click_into_a_slice_moves_the_other_two(open_page, volume):
    browser = open_page([volume])
    webdriver = pytest.importorskip("selenium.webdriver")
    canvas = browser.find_elements("tag name", "canvas")[0]
    width, height = canvas.size["width"], canvas.size["height"]
    move = webdriver.ActionChains(browser).move_to_element_with_offset(canvas, 0.25 * width, -0.25 * height)
    move.click().perform()
    assert _text(browser, "where", 2).split("\n")[0] in ("x 41 of 56", "x 42 of 56")
    assert _text(browser, "where", 1).split("\n")[0] in ("y 11 of 48", "y 12 of 48")
    assert "z 20 of" in _text(browser, "where", 0)


@pytest.mark.parametrize("width", [1366, 390])
def test_nothing_is_cut_off(open_page, volume, width):
    long = "a_long_file_name_without_any_blank_" * 5
    sections = [
        Section("Table", [table(("name", "value", "text"), [(long, "0.5", long)] * 3), note(long)]),
        Section("Plot", [figure(plot([Line("a", [0, 1], [0, 1])], "x", "y"), long)]),
    ]
    flat = Movie(Grid((2, 100, 400)))
    flat.add(np.indices((2, 100, 400))[1] > 40, long)
    browser = open_page([volume, Shown(long, flat)], width=width, sections=sections, title=long)
    for number in (0, 1):
        browser.execute_script(
            "const chosen = document.getElementById('volume'); chosen.value = arguments[0];"
            "chosen.dispatchEvent(new Event('change'))",
            number,
        )
        time.sleep(0.3)
        beyond = browser.execute_script(
            "const room = document.documentElement.clientWidth;"
            "return [...document.querySelectorAll('body *')].filter((e) => {"
            "  const box = e.getBoundingClientRect();"
            "  return box.width && (box.right > room + 1 || box.left < -1)"
            "    || (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible');"
            "}).map((e) => e.outerHTML.slice(0, 200))"
        )
        assert beyond == []


def test_names_are_text_whatever_they_hold(open_page, movie, volume):
    evil = Shown(EVIL, movie, annotation=_ball(9), mask_name=EVIL, annotation_name=EVIL)
    browser = open_page([evil, volume], title=EVIL, sections=[Section(EVIL, [table((EVIL,), [(EVIL,)])])])
    assert browser.title == EVIL
    assert _text(browser, "mask-name") == EVIL
    assert browser.find_element("id", "volume").text.split("\n")[0].strip() == EVIL
    assert len(browser.find_elements("css selector", "main img")) == 0


def test_nothing_is_fetched_and_masks_without_an_image_are_shown(open_page, movie):
    browser = open_page([Shown("no image", movie)])
    assert not browser.find_element("id", "show-annotation").is_displayed()
    assert not browser.find_element("id", "volume").is_displayed()
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in fetched if not name.startswith(("data:", "blob:"))] == []


def test_the_page_of_a_segmentation_loads_and_tells_all_of_it(open_page, tmp_path, browser, rng, engine_ready):
    image = rng.integers(60, 90, SHAPE).astype(np.uint8) + 60 * _ball(12).astype(np.uint8)
    volume = Volume(image).with_spacing((4.5, 4.5, 4.5))
    write_volume(tmp_path / "embryo.nrrd", volume)
    write_volume(tmp_path / "true.nrrd", volume.with_array(_ball(12).astype(np.uint8)))
    save_state(tmp_path / "ur-net.pt", MicroRNet().state_dict())
    job = Job(tmp_path, iterations=2, threshold=0.3, annotation=tmp_path / "true.nrrd", report=True)
    segment_file(tmp_path / "embryo.nrrd", Weights.load(tmp_path / "ur-net.pt"), job, say=lambda _: None)
    browser.get((tmp_path / "embryo_report.html").as_uri())
    _wait(lambda: _text(browser, "where").startswith("z "))
    assert browser.title == "embryo"
    assert [heading.text for heading in browser.find_elements("tag name", "h2")] == [
        *("Slices", "Projections", "Scores", "Refinement", "Histograms", "How it was made", "Manifest")
    ]
    assert _text(browser, "frame-name").startswith("after iteration 2: ")
    record = json.loads((tmp_path / "embryo.json").read_text(encoding="utf-8"))
    told = {key: value for key, value in record.items() if key not in RECORD_KEYS}  # hashes, the page's own among them
    assert json.loads(browser.find_element("tag name", "pre").get_attribute("textContent")) == told
    assert f"{record['scores']['recall']:.4f}" in browser.find_element("tag name", "main").text


def test_three_pictures_stand_in_one_row(open_page):
    # Cubes, slabs and bars of odd sizes: where lengths are rounded up, the third does not fit.
    shapes = [(41, 41, 41), (2, 100, 400), (61, 45, 83)]
    shown = []
    for shape in shapes:
        movie = Movie(Grid(shape))
        movie.add(np.indices(shape).sum(0) > 60, "")
        shown.append(Shown(str(shape), movie))
    browser = open_page(shown)
    for number in range(len(shapes)):
        _choose(browser, number)
        for width in (1000, 1100, 1300, 1366, 1400):
            _resize(browser, width)
            tops = browser.execute_script(
                "return [...document.querySelectorAll('.view')].map((one) => one.getBoundingClientRect().top)"
            )
            assert len(set(tops[:3])) == len(set(tops[3:])) == 1, width


@pytest.mark.parametrize("width", [400, 1400])
def test_an_image_of_one_plane_is_one_picture_and_a_volume_beside_it_has_all_six(open_page, width):
    """Before, its other views were lines, which took most of the page."""
    shown = []
    for shape in ((1, 60, 80), (40, 60, 80)):
        movie = Movie(Grid(shape))
        movie.add(np.indices(shape)[1] > 30, "")
        shown.append(Shown(str(shape), movie))
    browser = open_page(shown, width=width)
    visible = "return [...document.querySelectorAll('canvas, .view input')].map((one) => one.checkVisibility())"
    cross = "return document.getElementById('show-cross').checkVisibility()"
    for number, expected in ((0, [True, *[False] * 8]), (1, [True] * 9), (0, [True, *[False] * 8])):
        _choose(browser, number)
        assert sorted(browser.execute_script(visible), reverse=True) == expected
        assert "Projections" in _text(browser, "viewer") or not number
        assert browser.execute_script(cross) == bool(number)
        right = "return document.querySelector('.view').getBoundingClientRect().right"
        assert browser.execute_script(right) <= width
        assert _text(browser, "where").startswith("z ")


def test_scale_bars_are_equal_where_the_scale_is(open_page):
    movie = Movie(Grid((60, 50, 200), (2.0, 2.0, 2.0)))
    movie.add(_tube((60, 50, 200)), "")
    browser = open_page([Shown("a", movie)])
    bars = browser.execute_script(
        "return [...document.querySelectorAll('.bar')].map((one) => [one.innerText,"
        "one.querySelector('i').getBoundingClientRect().width])"
    )
    assert len({text for text, _ in bars}) == 1
    assert max(width for _, width in bars) - min(width for _, width in bars) < 0.5


def test_the_crop_is_marked_and_the_mask_has_no_outline_there(open_page):
    movie = Movie(Grid(SHAPE))
    inside = np.zeros(SHAPE, bool)
    inside[:, :30, 20:40] = True
    movie.add(inside, "")
    lowest = f"""{COPY}
    const {{data, width, height}} = copyOf(0);
    let below = 0;
    for (let row = Math.floor(height * 29 / 48) ; row < height; row++)
        for (let i = 4 * row * width; i < 4 * (row + 1) * width; i += 4)
            if (data[i] > 130 && data[i + 2] < 90 && data[i] > data[i + 2] + 60) below++;
    return below;"""
    browser = open_page([Shown("whole", movie), Shown("cropped", movie, y_crop=30)])
    assert not browser.find_element("id", "crop").is_displayed()
    assert browser.execute_script(lowest) > 50
    white = browser.execute_script(COUNT, 0, [255, 255, 255])
    _choose(browser, 1)
    assert "y 30" in _text(browser, "crop-name")
    assert browser.execute_script(lowest) < 50  # the sides go to the line, and there is none along it
    assert browser.execute_script(COUNT, 0, [255, 255, 255]) > white + 100


@pytest.mark.parametrize("voxels", [VOXELS, 60_000])  # as it is, and coarsened
def test_an_annotation_has_no_outline_where_it_plainly_was_drawn_no_further(open_page, voxels):
    """Before, its contour was closed by a line along the last plane that was annotated."""
    movie = Movie(Grid(SHAPE, voxels=voxels))
    found, tubes = np.zeros((2, *SHAPE), bool)
    found[:, 20:28, 4:12] = tubes[:, 20:28, 22:34] = tubes[:, 34:42, 40:48] = True
    movie.add(found, "")
    part, one = tubes.copy(), tubes.copy()
    part[15:] = one[15:] = one[:, 30:] = False  # one lumen alone may end like that
    names = {"x": one, "y": part, "z": _ball(8)}
    further = Outlined("wall, annotated", classes.ANNOTATION_COLOUR, part, planes_annotated(part))
    shown = [Shown(name, movie, annotation=annotation) for name, annotation in names.items()]
    browser = open_page([*shown, Shown("further", movie, further=[further])])
    # Of the slice along y (z down, x to the right) and of the projection: what is blue within a box, given in voxels.
    blue = f"""{COPY}
    const [top, bottom, left, right] = arguments[0];
    return [1, 4].map((number) => {{
        const {{data, width, height}} = copyOf(number);
        let count = 0;
        for (let row = Math.floor(height * top / 40); row < height * bottom / 40; row++)
            for (let column = Math.floor(width * left / 56); column < width * right / 56; column++) {{
                const i = 4 * (row * width + column);
                if (data[i + 2] > data[i] + 60) count++;
            }}
        return count;
    }});"""
    end, side = (12, 19, 25, 31), (2, 10, 20, 24)
    assert min(browser.execute_script(blue, end)) > 50
    for number in (1, 3):
        _choose(browser, number)
        assert browser.execute_script(blue, end) == [0, 0]
        assert min(browser.execute_script(blue, side)) > 50


def test_a_plot_lies_on_the_dark_page_without_a_box(open_page, browser, volume):
    white = io.BytesIO()
    imsave(white, np.ones((200, 300, 3)))
    source = "data:image/png;base64," + base64.b64encode(white.getvalue()).decode()
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        open_page([volume], sections=[Section("Plot", [figure(source, "a plot")])])
        shown = browser.find_element("css selector", ".plot img").screenshot_as_png
        page = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    pixels = imread(io.BytesIO(shown))[..., :3] * 255
    wanted = [int(part) for part in re.findall(r"\d+", page)]
    assert np.abs(pixels[50:150, 50:200] - wanted).max() <= 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_told_from_what_it_lies_on(open_page, browser, volume, scheme):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    sections = [
        Section("Table", [table(("name", "value"), [("a", "0.5")], ["what it is"]), note("a note")]),
        Section("Warned", [note("a warning", warning=True)]),
    ]
    try:
        open_page([volume], sections=sections)
        pairs = browser.execute_script(
            "const opaque = (e) => { const c = getComputedStyle(e).backgroundColor;"
            "  return c === 'rgba(0, 0, 0, 0)' && e.parentElement ? opaque(e.parentElement) : c; };"
            "return [...document.querySelectorAll('h1, h2, li, p, th, td, small, span, figcaption, summary, pre')]"
            ".filter((e) => e.innerText).map((e) => [e.outerHTML.slice(0, 80), getComputedStyle(e).color, opaque(e)])"
        )
        assert len(pairs) > 20
        weak = [(what, _contrast(text, ground)) for what, text, ground in pairs if _contrast(text, ground) < 4.5]
        assert weak == []
        page = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (_luminance(page) < 0.05) == (scheme == "dark")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize(("width", "cards"), [(1366, False), (390, True)])
def test_a_table_of_many_columns_fits_the_page_and_breaks_no_word(open_page, volume, width, cards):
    header = ("volume", *(f"score {number}" for number in range(8)))
    rows = [(f"phantom_train_{number}", *(["0.9876"] * 8)) for number in range(3)]
    browser = open_page([volume], width=width, sections=[Section("Each", [table(header, rows)])])
    fits, heights, named = browser.execute_script(
        "const scroll = document.querySelector('.scroll'), name = document.querySelector('tbody th');"
        "return [scroll.scrollWidth <= scroll.clientWidth, name.getClientRects().length,"
        "getComputedStyle(document.querySelector('tbody td'), '::before').content]"
    )
    assert fits
    assert heights == 1
    assert (named == '"score 0"') == cards


def test_on_paper_a_heading_stands_with_what_it_heads(open_page, browser, volume):
    rows = [(f"row {number}", "value") for number in range(60)]
    open_page([volume], sections=[Section(f"Part {n}", [table(("a", "b"), rows[: 25 + n])]) for n in range(6)])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        rules = browser.execute_script(
            "return [getComputedStyle(document.querySelector('h2')).breakAfter,"
            "getComputedStyle(document.querySelector('tr')).breakInside,"
            "getComputedStyle(document.querySelector('.beside')).display]"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert rules == ["avoid", "avoid", "block"]


def _choose(browser, number):
    browser.execute_script(
        "const chosen = document.getElementById('volume'); chosen.value = arguments[0];"
        "chosen.dispatchEvent(new Event('change'))",
        number,
    )
    time.sleep(0.3)


def _tube(shape):
    _, y, x = np.indices(shape)
    return (y - 25) ** 2 + (x - 90) ** 2 < 200


def _luminance(colour):
    """Return the relative luminance (WCAG 2) of a colour as CSS computes it, ``rgb(r, g, b)``."""
    parts = [int(part) / 255 for part in re.findall(r"[0-9]+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one, other):
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("width", [1366, 390])
def test_a_fact_has_the_width_of_a_narrow_page_to_itself(open_page, volume, width):
    """Before, a file's name stood in half the width, and broke in the middle of a word."""
    facts = table(("", ""), [("annotation", "annotations/annotation_demo_full.seg.nrrd")])
    browser = open_page([volume], width=width, sections=[Section("How it was made", [facts])])
    found = browser.execute_script(
        "const text = document.createRange(); text.selectNodeContents(document.querySelector('tbody td'));"
        "return text.getClientRects().length"
    )
    assert found == 1
