"""What prepare.py shows of a scan and of what it made of it."""

import matplotlib.image
import numpy as np
import pytest

from micronet.report.before_after import Cuts, write_before_after


@pytest.mark.parametrize("axes", ["ZYX", "YZX", "XYZ", "ZXY"])
def test_slices_are_the_middle_ones_whatever_the_order_of_the_file(rng, axes):
    volume = rng.random((6, 9, 7))
    stored = volume.transpose(["ZYX".index(letter) for letter in axes])
    cuts = Cuts(stored.shape, (3.0, 1.0, 2.0), axes)
    for plane, same in zip(stored, cuts.through(iter(stored)), strict=True):
        assert same is plane or np.shares_memory(same, plane)
    z, y, x = cuts.panels("before")
    assert [panel.caption for panel in (z, y, x)] == ["before: z 3 of 6", "before: y 4 of 9", "before: x 3 of 7"]
    assert np.array_equal(z.picture, volume[3])  # y down, x to the right
    assert np.array_equal(y.picture, volume[:, 4])  # z down, x to the right
    assert np.array_equal(x.picture, volume[:, :, 3].T)  # y down, z to the right
    assert (z.lengths, y.lengths, x.lengths) == ((9, 14), (18, 14), (9, 18))


def test_both_rows_have_one_scale_and_the_proportions_of_the_specimen(tmp_path):
    # 120 x 120 x 120 µm, before in voxels of 12 x 2 x 4 µm, after in cubes of 4 µm: six equal squares.
    both = []
    for shape, spacing in (((10, 60, 30), (12, 2, 4)), ((30, 30, 30), (4, 4, 4))):
        cuts = Cuts(shape, spacing)
        list(cuts.through(np.ones(shape)))
        both.append(cuts)
    write_before_after(tmp_path / "p.png", *both, "scan")
    grey = (matplotlib.image.imread(tmp_path / "p.png")[..., :3].max(-1) * 255) < 250
    for along in (0, 1):
        filled = grey[100:].mean(1 - along) > 0.4
        edges = np.flatnonzero(np.diff(filled.astype(int)))
        sides = edges[1::2] - edges[::2]
        assert len(sides) == 2 + along
        assert np.ptp(sides) <= 2
