"""Volume: geometry in numbers worked by hand, and the comparison of two grids."""

import numpy as np
import pytest

from micronet.core.errors import InputError
from micronet.core.volume import Volume, check_same_grid, upright


def _zeros(shape=(2, 3, 4)):
    return np.zeros(shape, np.uint8)


def test_default_geometry_runs_x_along_the_first_world_axis():
    volume = Volume(_zeros())
    assert volume.directions.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert volume.origin.tolist() == [0, 0, 0]
    assert volume.spacing_um is None
    assert volume.voxel_um3 is None


def test_spacing_and_voxel_size_by_hand():
    # A step along Z is 3-4-0 long: 5 mm; Y 2 mm, X 1 mm; voxel 5 x 2 x 1 mm where the steps are orthogonal.
    volume = Volume(_zeros(), [[3, 4, 0], [0, 0, 2], [0.8, -0.6, 0]], units="mm")
    assert volume.spacing_um == pytest.approx((5000, 2000, 1000))
    assert volume.voxel_um3 == pytest.approx(10e9)


def test_spacing_given_later_keeps_axes_unit_and_origin():
    volume = Volume(_zeros(), [[0, 0, -2], [0, 3, 0], [4, 0, 0]], [1, 2, 3], "left-posterior-superior", "mm")
    other = volume.with_spacing((10, 20, 30))
    assert np.allclose(other.directions, np.array([[0, 0, -10], [0, 20, 0], [30, 0, 0]]) / 1000, rtol=1e-15)
    assert other.origin.tolist() == [1, 2, 3]
    # 3D Slicer looks at the numbers alone, so they stay of the size that it knows.
    assert (other.units, other.space) == ("mm", volume.space)
    assert other.spacing_um == pytest.approx((10, 20, 30), rel=1e-15)


@pytest.mark.parametrize("spacing", [(1, 2), (1, 2, 0), (1, -2, 3), (1, 2, np.nan), (1, 2, np.inf)])
def test_spacing_must_be_three_positive_lengths(spacing):
    with pytest.raises(InputError, match="spacing must be three positive lengths Z,Y,X"):
        Volume(_zeros()).with_spacing(spacing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"array": np.zeros((2, 3))}, "three axes .* has 2"),
        ({"array": np.zeros((2, 3, 4), complex)}, "real numbers, this array holds complex128"),
        ({"array": np.zeros((2, 3, 4), "U1")}, "real numbers, this array holds <U1"),
        ({"directions": np.eye(2)}, r"directions must be \(3, 3\)"),
        ({"origin": [0, 0]}, r"origin \(3,\)"),
        ({"directions": np.full((3, 3), np.nan)}, "finite"),
        ({"directions": [[1, 0, 0], [2, 0, 0], [0, 0, 1]]}, "independent"),
        ({"directions": np.diag([1, 1, 0])}, "longer than zero"),
        ({"units": "furlong"}, "unknown length unit 'furlong'; known: voxel, nm, um, mm, cm, m"),
    ],
)
def test_what_is_no_volume_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Volume(**({"array": _zeros()} | arguments))


def test_geometry_is_copied_so_that_the_caller_may_go_on_with_his_own():
    directions = upright()
    volume = Volume(_zeros(), directions)
    directions[0, 0] = 9
    assert volume.directions[0, 0] == 0


def test_another_array_on_the_grid_keeps_the_rest():
    volume = Volume(_zeros(), upright((3, 2, 1)), [1, 2, 3], "left-posterior-superior", "um", {"a": 1}, ("note",))
    other = volume.with_array(np.ones((2, 3, 4)))
    assert other.array.dtype == np.float64
    assert (other.space, other.units, other.header, other.notes) == (
        "left-posterior-superior",
        "um",
        {"a": 1},
        ("note",),
    )
    with pytest.raises(InputError, match=r"shape \(2, 3, 5\) does not fit the grid \(2, 3, 4\)"):
        volume.with_array(np.zeros((2, 3, 5)))


def test_space_changes_signs_only():
    volume = Volume(_zeros(), [[0, 0, 3], [0, 2, 0], [1, 0, 0]], [1, 2, 3], "left-posterior-superior")
    ras = volume.in_space("right-anterior-superior")
    assert ras.directions.tolist() == [[0, 0, 3], [0, -2, 0], [-1, 0, 0]]
    assert ras.origin.tolist() == [-1, -2, 3]
    assert not np.signbit(ras.directions[ras.directions == 0]).any()
    las = volume.in_space("left-anterior-superior")
    assert las.origin.tolist() == [1, -2, 3]
    back = las.in_space("right-anterior-superior").in_space("left-posterior-superior")
    assert np.array_equal(back.directions, volume.directions)
    assert np.array_equal(back.origin, volume.origin)
    assert volume.in_space("left-posterior-superior") is volume


def test_space_without_anatomy_cannot_be_converted():
    with pytest.raises(InputError, match="space 'scanner-xyz' cannot be converted"):
        Volume(_zeros(), space="scanner-xyz").in_space("left-posterior-superior")
    with pytest.raises(InputError, match="space 'nowhere' cannot be converted; known: left-posterior"):
        Volume(_zeros()).in_space("nowhere")


class TestSameGrid:
    lps = "left-posterior-superior"

    def _check(self, volume, other):
        check_same_grid(volume, other, "a.nrrd", "b.nrrd")

    def test_units_and_space_may_differ(self):
        volume = Volume(_zeros(), upright((3, 2, 1)), [10, 20, 30], self.lps, "um")
        other = Volume(_zeros(), upright((3e-3, 2e-3, 1e-3)), [0.01, 0.02, 0.03], self.lps, "mm")
        self._check(volume, other)
        self._check(volume, other.in_space("right-anterior-superior"))

    def test_shape_must_agree(self):
        with pytest.raises(InputError, match=r"'b.nrrd': shape \(Z, Y, X\) \(2, 3, 5\) differs from 'a.nrrd'"):
            self._check(Volume(_zeros()), Volume(_zeros((2, 3, 5))))

    def test_without_spacing_only_the_shape_counts(self):
        self._check(Volume(_zeros(), upright((3, 2, 1)), units="um"), Volume(_zeros()))

    def test_a_tenth_of_a_voxel_is_near_enough_and_more_is_not(self):
        volume = Volume(_zeros(), upright((1, 1, 1)), units="um")
        self._check(volume, Volume(_zeros(), upright(), [0.09, 0, 0], units="um"))
        with pytest.raises(
            InputError, match=r"lies on another grid than 'a.nrrd'.*0.11 µm apart.*\(setting: spacing_um\)"
        ):
            self._check(volume, Volume(_zeros(), upright(), [0.11, 0, 0], units="um"))

    def test_a_flipped_axis_is_another_grid(self):
        volume = Volume(_zeros(), upright(), units="um")
        flipped = Volume(_zeros(), [[0, 0, -1], [0, 1, 0], [1, 0, 0]], units="um")
        with pytest.raises(InputError, match="another grid"):
            self._check(volume, flipped)

    def test_spaces_that_cannot_be_compared(self):
        volume = Volume(_zeros(), units="um", space=self.lps)
        with pytest.raises(InputError, match=r"space 'scanner-xyz' cannot be compared with 'a.nrrd'"):
            self._check(volume, Volume(_zeros(), units="um", space="scanner-xyz"))


def test_another_length_unit_moves_no_voxel():
    volume = Volume(_zeros(), upright((4.5, 3, 2)), [1, 2, 3], units="um")
    told = volume.in_units("mm")
    assert told.spacing_um == pytest.approx((4.5, 3, 2), rel=1e-15)
    assert told.origin.tolist() == [0.001, 0.002, 0.003]
    assert told.in_units("um").directions.tolist() == volume.directions.tolist()
    assert told.in_units("mm") is told
    with pytest.raises(InputError, match="a spacing that is not known cannot be told in a length unit"):
        Volume(_zeros()).in_units("mm")
