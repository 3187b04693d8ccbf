"""Betti numbers, skeletons and clDice: shapes worked out by hand, scikit-image, published annotations."""

import numpy as np
import pytest
from shapes import ball, hollow_torus, moved, shell, torus
from skimage import measure, morphology

from micronet.core.errors import InputError
from micronet.io import read_annotation
from micronet.measure.topology import betti_numbers, cl_dice, components, skeleton


def _cube_with_three_tunnels():
    cube = np.ones((7, 7, 7), bool)
    cube[3, 3, :] = cube[3, :, 3] = cube[:, 3, 3] = False
    return cube


def _corner_to_corner():
    mask = np.zeros((4, 4, 4), bool)
    mask[1, 1, 1] = mask[2, 2, 2] = True
    return mask


def _beads(number):
    mask = np.zeros((3, 3, 4 * number), bool)
    mask[1, 1, 1::4] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.zeros((3, 4, 5), bool), (0, 0, 0)),
        (np.ones((3, 4, 5), bool), (1, 0, 0)),
        (ball(6), (1, 0, 0)),
        (shell(8, 4), (1, 0, 1)),
        (torus(9, 3), (1, 1, 0)),
        (hollow_torus(12, 5, 2), (1, 2, 1)),
        (_cube_with_three_tunnels(), (1, 5, 0)),  # six openings into one hollow: five loops
        (_corner_to_corner(), (1, 0, 0)),
        (_beads(5), (5, 0, 0)),
        (np.concatenate([torus(9, 3), torus(9, 3)], axis=2), (2, 2, 0)),
    ],
)
def test_betti_numbers_of_shapes_known_by_hand(mask, expected):
    assert betti_numbers(mask) == expected


def test_a_tunnel_that_ends_at_the_rim_of_the_volume_is_one():
    assert betti_numbers(torus(9, 3)[4:-4, 4:-4, 4:-4]) == (1, 1, 0)


def test_betti_numbers_agree_with_scikit_image_on_random_masks(rng):
    for _ in range(40):
        mask = rng.random(rng.integers(1, 9, 3)) < rng.random()
        pieces, tunnels, cavities = betti_numbers(mask)
        assert pieces == measure.label(mask, connectivity=3).max()
        assert pieces - tunnels + cavities == measure.euler_number(mask, connectivity=3)
        outside = np.pad(~mask, 1, constant_values=True)
        assert cavities == measure.label(outside, connectivity=1).max() - 1


def test_a_skeleton_keeps_what_the_mask_consists_of():
    for mask in (ball(6), torus(9, 3), _cube_with_three_tunnels(), _beads(3)):
        line = skeleton(mask)
        assert not (line & ~mask).any()
        assert betti_numbers(line) == betti_numbers(mask)


def test_the_skeleton_of_a_straight_tube_is_its_axis():
    tube = np.zeros((9, 9, 40), bool)
    tube[2:7, 2:7, 3:37] = ball(2, shape=(5, 5, 1))
    line = np.argwhere(skeleton(tube))
    assert (line[:, :2] == 4).all()
    assert 28 <= len(line) <= 34


def test_a_piece_that_thinning_removes_keeps_its_innermost_voxel():
    mask = np.zeros((12, 12, 24), bool)
    mask[2:4, 2:4, 2:4] = True  # scikit-image's thinning leaves nothing of 2 x 2 x 2 voxels
    mask[5:8, 5:8, 4:20] = True
    assert not morphology.skeletonize(mask, method="lee")[2:4, 2:4, 2:4].any()
    kept = np.argwhere(skeleton(mask)[:5])
    assert kept.tolist() == [[2, 2, 2]]  # all eight are equally deep: the first


def test_cl_dice_of_two_tubes_worked_out_by_hand():
    truth = np.zeros((7, 7, 40), bool)
    truth[2:5, 2:5, 5:35] = True
    found = np.zeros_like(truth)
    found[2:5, 2:5, 5:20] = True  # half of it, nothing wrong
    precision, sensitivity, score = cl_dice(found, truth)
    line = np.argwhere(skeleton(truth))[:, 2]
    assert precision == 1
    assert sensitivity == np.count_nonzero(line < 20) / len(line)
    assert score == pytest.approx(2 * sensitivity / (1 + sensitivity))


def test_cl_dice_forgives_a_thin_tube_and_not_a_second_one():
    truth = np.zeros((9, 20, 40), bool)
    truth[2:7, 2:7, 5:35] = True
    thin = np.zeros_like(truth)
    thin[4, 4, 5:35] = True
    assert cl_dice(thin, truth).score == 1
    spurious = thin.copy()
    spurious[4, 14, 5:35] = True
    precision, sensitivity, _ = cl_dice(spurious, truth)
    assert (precision, sensitivity) == (0.5, 1)


def test_cl_dice_of_a_moved_tube_is_that_of_its_ends_only():
    tube = np.zeros((13, 13, 40), bool)
    tube[4:9, 4:9, 5:35] = True
    assert cl_dice(moved(tube, 1, 0, 0), tube).score == 1
    assert cl_dice(moved(tube, 4, 0, 0), tube).score == 0  # beyond the radius


def test_empty_masks_are_defined():
    empty, full = np.zeros((5, 5, 5), bool), np.ones((5, 5, 5), bool)
    assert cl_dice(empty, empty) == (1, 1, 1)
    assert cl_dice(empty, full) == cl_dice(full, empty) == (0, 0, 0)
    assert skeleton(empty).sum() == 0


def test_every_speck_of_noise_counts_once():
    labels, count = components(_beads(7))
    assert count == 7
    assert np.unique(labels).tolist() == list(range(8))
    assert skeleton(_beads(7)).sum() == 7


def test_published_annotations_agree_with_scikit_image(shared):
    file = shared / "data/yolk_sac/annotations/annotation_082616_00_T46_iso_full.seg.nrrd"
    mask = read_annotation(file).mask.array[:80, 40:110, 50:]
    pieces, tunnels, cavities = betti_numbers(mask)
    assert pieces > 5
    assert pieces - tunnels + cavities == measure.euler_number(mask, connectivity=3)
    line = skeleton(mask)
    assert betti_numbers(line) == (pieces, tunnels, cavities)
    thinned = morphology.skeletonize(mask, method="lee")
    extra = line & ~thinned
    assert not (thinned & ~line).any()
    labels, _ = components(mask)
    assert len(np.unique(labels[extra])) == np.count_nonzero(extra)
    assert not np.isin(labels[extra], labels[thinned]).any()


def test_what_is_no_mask_is_refused():
    with pytest.raises(InputError, match=r"bool mask \(Z, Y, X\), found uint8 \(2, 2, 2\)"):
        betti_numbers(np.ones((2, 2, 2), np.uint8))
    with pytest.raises(InputError, match=r"found bool \(2, 2\)"):
        skeleton(np.ones((2, 2), bool))
    with pytest.raises(InputError, match=r"differ in shape: \(2, 2, 2\) and \(2, 2, 3\)"):
        cl_dice(np.ones((2, 2, 2), bool), np.ones((2, 2, 3), bool))
