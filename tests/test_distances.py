"""Surface distances: shapes worked out by hand, MONAI, published annotations."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from shapes import ball, moved, torus

from micronet.core.errors import InputError
from micronet.io import read_annotation
from micronet.measure.distances import surface_distances

pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own


def _monai(predicted, annotated, spacing, tolerance):
    """Return HD95, ASSD and NSD as MONAI has them."""
    pair = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, annotated)]
    return (
        compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing).item(),
        compute_average_surface_distance(*pair, include_background=True, symmetric=True, spacing=spacing).item(),
        compute_surface_dice(*pair, [tolerance], include_background=True, spacing=spacing).item(),
    )


def test_a_plate_moved_by_two_voxels_is_two_voxels_away():
    plate = np.zeros((9, 12, 12), bool)
    plate[3, 2:10, 2:10] = True
    distances = surface_distances(moved(plate, 2, 0, 0), plate, (5.0, 1.0, 1.0))
    assert (distances.of_predicted == 10).all()
    assert distances.of_predicted.size == distances.of_annotated.size == 64
    assert distances.percentile(95) == distances.percentile(100) == distances.mean() == 10
    assert distances.within(10) == 1
    assert distances.within(9.99) == 0


@pytest.mark.parametrize("step", [(1, 0, 0), (0, -1, 0), (0, 0, 1)])
@pytest.mark.parametrize("um", [4.5, 0.1, 1 / 3])
def test_a_shape_moved_by_one_voxel_is_within_one_voxel(step, um):
    for mask in (ball(6), torus(9, 3)):
        distances = surface_distances(moved(mask, *step), mask, (um, um, um))
        assert distances.within(um) == 1
        assert distances.percentile(100) == um
        assert 0 < distances.mean() < um


def test_a_cube_and_one_a_voxel_larger_worked_out_by_hand():
    small, large = np.zeros((2, 9, 9, 9), bool)
    small[3:6, 3:6, 3:6] = True
    large[2:7, 2:7, 2:7] = True
    distances = surface_distances(large, small)
    # 98 voxels of the large cube's surface: 54 above a face (1 away), 36 above an edge (√2), 8 corners (√3); all 26
    # of the small one lie one below a face.
    assert np.unique(distances.of_annotated).tolist() == [1]
    values, counts = np.unique(distances.of_predicted, return_counts=True)
    np.testing.assert_allclose(values, np.sqrt([1, 2, 3]))
    assert counts.tolist() == [54, 36, 8]
    assert distances.of_annotated.size == 26
    assert distances.within(1) == (54 + 26) / 124
    assert distances.mean() == pytest.approx((54 + 36 * 2**0.5 + 8 * 3**0.5 + 26) / 124)
    assert distances.percentile(100) == 3**0.5


def test_where_the_volume_ends_there_is_a_surface():
    full = np.ones((4, 4, 4), bool)
    assert surface_distances(full, full).of_predicted.size == 64 - 8


def test_equal_masks_are_nowhere_apart():
    distances = surface_distances(torus(9, 3), torus(9, 3))
    assert (distances.percentile(), distances.mean(), distances.within(0)) == (0, 0, 1)


def test_empty_masks_are_defined():
    empty, full = np.zeros((5, 5, 5), bool), np.ones((5, 5, 5), bool)
    both = surface_distances(empty, empty)
    assert (both.percentile(), both.mean(), both.within(1)) == (0, 0, 1)
    for one in (surface_distances(empty, full), surface_distances(full, empty)):
        assert (one.percentile(), one.mean(), one.within(1)) == (np.inf, np.inf, 0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 2.0, 2.0)])
def test_random_blobs_score_as_monai_scores_them(rng, spacing):
    for density in (0.02, 0.3, 0.7):
        predicted, annotated = rng.random((2, 11, 13, 17)) < density
        distances = surface_distances(predicted, annotated, spacing)
        found = distances.percentile(95), distances.mean(), distances.within(2.0)
        assert found == pytest.approx(_monai(predicted, annotated, spacing, 2.0), abs=1e-5)


def test_published_annotations_score_as_monai_scores_them(shared):
    file = shared / "data/yolk_sac/annotations/annotation_082616_00_T46_iso_full.seg.nrrd"
    mask = read_annotation(file).mask
    annotated = np.ascontiguousarray(mask.array[:80, 60:150, 50:200])
    predicted = np.roll(annotated, (1, 2), (0, 2)) & (np.arange(150) < 140)
    spacing = mask.spacing_um
    distances = surface_distances(predicted, annotated, spacing)
    found = distances.percentile(95), distances.mean(), distances.within(4.5)
    assert found == pytest.approx(_monai(predicted, annotated, spacing, 4.5), rel=1e-5)
    assert 0.3 < found[2] < 0.99


def test_what_is_no_pair_of_masks_is_refused():
    with pytest.raises(InputError, match=r"of one shape \(Z, Y, X\), found bool \(2, 2, 2\), bool \(2, 2, 3\)"):
        surface_distances(np.ones((2, 2, 2), bool), np.ones((2, 2, 3), bool))
    with pytest.raises(InputError, match="found uint8"):
        surface_distances(np.ones((2, 2, 2), np.uint8), np.ones((2, 2, 2), bool))
