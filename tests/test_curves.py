"""The plot of a training."""

import matplotlib.image
import numpy as np
import pytest

from micronet.core.errors import FileError
from micronet.training.curves import Curve, write_curves

NAMES = ("one", "$two_{", "_três 心")


def rising(height):
    return Curve(list(range(40)), [height * n / 40 for n in range(40)], [1 - n / 50 for n in range(40)])


def picture(path, *, changes=(), training=None):
    training = {name: rising(0.9) for name in NAMES} if training is None else training
    write_curves(path, training, Curve([9, 19], [0.3, 1.0], [0.8, 0.2]), changes=changes, title="u-net")
    return matplotlib.image.imread(path)[..., :3]


def rows_of(pixels, colour):
    """Return the rows of the upper plot in which a colour appears, as a share of the height of the picture."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    near = np.abs(pixels[: len(pixels) // 2, :1100] - wanted).max(-1) < 0.1
    return np.flatnonzero(near.any(1)) / len(pixels)


def test_the_plot_is_a_png_with_curves_in_it(tmp_path):
    pixels = picture(tmp_path / "plot.png", training={name: rising(0.5 + n / 5) for n, name in enumerate(NAMES)})
    assert (tmp_path / "plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for colour in ("#0072B2", "#D55E00", "#009E73", "#000000"):
        assert len(rows_of(pixels, colour)) > 50
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


def test_dice_stands_on_a_plain_axis(tmp_path):
    # Up to 0.2, 0.4 and 0.8: equal steps of Dice are equal heights.
    tops = []
    for number, height in enumerate((0.2, 0.4, 0.8)):
        flat = Curve([0, 40], [height, height], [0.5, 0.5])
        tops.append(rows_of(picture(tmp_path / f"{number}.png", training={"a": flat}), "#0072B2").mean())
    assert tops[1] - tops[2] == pytest.approx(2 * (tops[0] - tops[1]), rel=0.05)


def test_where_something_was_changed_a_line_goes_through_both_plots(tmp_path):
    training = {"a": rising(0.9)}
    plain = picture(tmp_path / "plain.png", training=training)
    # Written above the plot, which makes it a little lower: only what is new in a column tells.
    marked = picture(tmp_path / "marked.png", training=training, changes=[(20, "β² 0.5"), (20, "rate 0.001")])
    grey = [(np.abs(pixels - 0.35).max(-1) < 0.1) for pixels in (plain, marked)]
    columns = [pixels[150:850].sum(0) for pixels in grey]
    assert columns[0].max() < 100
    assert (columns[1] > 150).sum() in (1, 2, 3)


def test_many_volumes_are_told_apart_by_their_dashes(tmp_path):
    solid = picture(tmp_path / "1.png", training={"a": rising(0.9)})
    fifth = {f"{n}": Curve() for n in range(4)} | {"a": rising(0.9)}
    dashed = picture(tmp_path / "5.png", training=fifth)
    blue = [(np.abs(p[:, :1100] - np.array([0, 0x72, 0xB2]) / 255).max(-1) < 0.1).sum() for p in (solid, dashed)]
    assert 0.4 * blue[0] < blue[1] < 0.9 * blue[0]


def test_the_highest_loss_is_drawn_whole(tmp_path):
    training = {"a": Curve([0], [0.3], [0.777]), "b": Curve([1], [0.3], [0.75])}
    lower = picture(tmp_path / "plot.png", training=training)[550:, :1100]
    colours = ((0, 0x72, 0xB2), (0xD5, 0x5E, 0))
    marks = [(np.abs(lower - np.array(colour) / 255).max(-1) < 0.1).sum() for colour in colours]
    assert marks[0] == pytest.approx(marks[1], rel=0.1)


def test_one_point_and_none_are_drawn_without_complaint(tmp_path):
    write_curves(tmp_path / "one.png", {"a": Curve([0], [0.0], [float("nan")])}, Curve())
    write_curves(tmp_path / "none.png", {}, Curve(), changes=[(3, "β² 2")])
    assert (tmp_path / "none.png").is_file()


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(FileError, match=r"the folder .* does not exist"):
        write_curves(tmp_path / "nowhere" / "plot.png", {}, Curve())
