"""The plot of a training."""

import matplotlib.image
import numpy as np
import pytest

from micronet.core.errors import FileError
from micronet.training.curves import Curve, write_curves


def test_the_plot_is_a_png_with_curves_in_it(tmp_path):
    training = {
        name: Curve(list(range(40)), [0.9 * n / 40 for n in range(40)], [1 - n / 50 for n in range(40)])
        for name in ("one", "$two_{", "_três 心")
    }
    write_curves(tmp_path / "plot.png", training, Curve([9, 19], [0.3, 1.0], [0.8, 0.2]), title="u-net")

    assert (tmp_path / "plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    picture = matplotlib.image.imread(tmp_path / "plot.png")
    orange = np.abs(picture[..., :3] - np.array([0xD5, 0x5E, 0x00]) / 255).max(-1) < 0.05
    assert orange.any()
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


def test_one_point_and_none_are_drawn_without_complaint(tmp_path):
    write_curves(tmp_path / "one.png", {"a": Curve([0], [0.0], [float("nan")])}, Curve())
    write_curves(tmp_path / "none.png", {}, Curve())
    assert (tmp_path / "none.png").is_file()


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(FileError, match=r"the folder .* does not exist"):
        write_curves(tmp_path / "nowhere" / "plot.png", {}, Curve())
