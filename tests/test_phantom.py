"""Phantoms: a seed is a volume, the anatomy is a yolk sac's, the image is what its mask says."""

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from micronet.core.errors import InputError
from micronet.data.phantom import PRESETS, Anatomy, Optics, beating, lumen_mask, render_oct, varied
from micronet.data.phantom.distance import squared_distance
from micronet.io import read_annotation, read_volume

SHAPE = (96, 96, 96)


@pytest.fixture(scope="module")
def mask():
    return lumen_mask(SHAPE, np.random.default_rng(7))


@pytest.fixture(scope="module")
def image(mask):
    return render_oct(mask, np.random.default_rng(8), Optics())


def test_same_seed_gives_same_volume_and_other_seed_another(mask, image):
    again = lumen_mask(SHAPE, np.random.default_rng(7))
    np.testing.assert_array_equal(again, mask)
    np.testing.assert_array_equal(render_oct(again, np.random.default_rng(8), Optics()), image)
    assert (lumen_mask(SHAPE, np.random.default_rng(9)) != mask).mean() > 0.02
    assert (render_oct(mask, np.random.default_rng(9), Optics()) != image).mean() > 0.5


def test_global_random_state_plays_no_part():
    volumes = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002 - the very thing that must not matter
        volumes.append(lumen_mask((64, 64, 64), np.random.default_rng(3)))
    np.testing.assert_array_equal(*volumes)


@pytest.mark.parametrize("shape", [(64, 64, 64), (64, 90, 131), (140, 70, 66)])
def test_any_shape_from_64_gives_lumens(shape):
    mask = lumen_mask(shape, np.random.default_rng(1))
    assert mask.shape == shape
    assert mask.dtype == np.bool_
    assert 0.02 < mask.mean() < 0.25


def test_short_axis_is_refused():
    with pytest.raises(InputError, match="at least 64 voxels each, not \\(64, 63, 64\\)"):
        lumen_mask((64, 63, 64), np.random.default_rng(1))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_anatomy_has_few_large_components_loops_medium_above_and_both_calibres(seed):
    mask = lumen_mask(SHAPE, np.random.default_rng(seed))
    sizes = np.bincount(ndimage.label(mask, np.ones((3, 3, 3)))[0].ravel())[1:]
    assert np.sort(sizes)[-2:].sum() > 0.85 * mask.sum()
    assert not mask[:, :4].any()  # medium
    # Islands: tissue that plexus vessels enclose as seen from above.
    from_above = mask[48:].any(axis=1)
    islands = ndimage.label(~from_above)[0]
    inner = set(np.unique(islands)) - set(np.unique(np.r_[islands[0], islands[-1], islands[:, 0], islands[:, -1]]))
    assert len(inner - {0}) >= 1
    radius = ndimage.distance_transform_edt(mask)
    assert radius.max() > 7
    thick = ndimage.distance_transform_edt(radius < 6) < 6
    assert 0.2 < thick[mask].mean() < 0.9  # heart, and vessels too


def test_foreground_fraction_of_full_size_lies_among_published_annotations():
    # Ten published annotations, cropped: 0.046 to 0.102.
    fractions = [lumen_mask((217, 160, 218), np.random.default_rng(seed)).mean() for seed in (1, 2)]
    assert all(0.035 < fraction < 0.11 for fraction in fractions)


def test_more_deep_vessels_add_lumen():
    few, many = (
        lumen_mask(SHAPE, np.random.default_rng(5), dataclasses.replace(Anatomy(), deep_vessels=count))
        for count in (0, 6)
    )
    assert many[:, 60:].sum() > few[:, 60:].sum()


def test_beat_starts_at_rest_narrows_the_heart_and_comes_back(mask):
    masks = list(beating(SHAPE, 7, 8, dataclasses.replace(Anatomy(), vessel_pulse=0.0)))
    volumes = np.array([int(one.sum()) for one in masks])
    np.testing.assert_array_equal(masks[0], mask)
    assert volumes.argmax() == 0
    assert 3 <= volumes.argmin() <= 5
    assert volumes.min() < 0.8 * volumes[0]
    assert (np.diff(volumes[: volumes.argmin() + 1]) < 0).all()
    assert (np.diff(volumes[volumes.argmin() :]) > 0).all()  # and would be as at the start again


def test_contraction_runs_from_inflow_to_outflow():
    # The inflow lies at large z, the outflow at z = 0; both are heart, the plexus begins beyond z = 40.
    rest, *others = beating(SHAPE, 7, 12)
    lost = np.array([[(rest[part] & ~mask[part]).sum() for part in (np.s_[:16], np.s_[40:56, 40:])] for mask in others])
    outflow, inflow = lost.argmax(axis=0)
    assert inflow < outflow


def test_vessels_are_nearly_still_while_the_heart_beats():
    rest, *others = beating((64, 64, 160), 3, 4, dataclasses.replace(Anatomy(), beat_depth=0.0, beat_travel=0.0))
    for mask in others:
        assert not (rest & ~mask).any()  # the pulse only widens them
        assert (mask & ~rest).sum() < 0.1 * rest.sum()


def test_still_heart_and_vessels_give_the_same_mask_at_every_time_point():
    still = dataclasses.replace(Anatomy(), beat_depth=0.0, beat_travel=0.0, vessel_pulse=0.0)
    first, *others = beating((64, 64, 64), 5, 3, still, beats=2)
    for mask in others:
        np.testing.assert_array_equal(mask, first)


def test_two_beats_repeat_the_first():
    masks = list(beating((64, 64, 64), 5, 4, beats=2))
    np.testing.assert_array_equal(masks[0], masks[2])
    np.testing.assert_array_equal(masks[1], masks[3])
    assert (masks[0] != masks[1]).any()


def test_sequence_without_time_points_is_refused():
    with pytest.raises(InputError, match="at least 1 time point, not 0"):
        next(beating((64, 64, 64), 1, 0))


def test_image_levels_follow_the_tissues(mask, image):
    assert image.shape == mask.shape
    assert image.dtype == np.uint8
    outside = ndimage.distance_transform_edt(~mask)
    medium = np.median(image[:, :6])
    lumen = np.median(image[mask])
    wall = np.median(image[(outside > 0.5) & (outside < 2.5)])
    assert medium + 15 < lumen < wall - 15
    assert np.mean(image == 0) < 0.001
    assert 0 < np.mean(image == 255) < 0.1  # the brightest walls saturate


def test_deep_layers_are_darker_under_more_tissue():
    mask = np.zeros((40, 80, 40), bool)
    mask[10:30, 20:50, 10:30] = True
    quiet = Optics(body_texture=0.0, wall_texture=0.0)
    image = render_oct(mask, np.random.default_rng(1), quiet).astype(float)
    assert image[20, 44:48, 20].mean() < image[20, 24:28, 20].mean()  # down through blood
    assert image[18:22, 70:, 18:22].mean() < image[:3, 70:, :3].mean() - 5  # shadow


def test_speckle_strength_is_that_of_its_average():
    flat = np.zeros((40, 40, 40), bool)
    spread = []
    for average in (0.6, 1.2):
        optics = Optics(body_texture=0.0, wall_texture=0.0, speckle_average_vox=average)
        grey = render_oct(flat, np.random.default_rng(2), optics)[:, :3].astype(float)
        spread.append(grey.std() * (optics.white - optics.black) / 255)
    # A Gaussian of standard deviation s averages exponential speckle to (2 sqrt(pi) s)^-1.5 of its mean.
    assert spread[1] == pytest.approx((2 * np.pi**0.5 * 1.2) ** -1.5, rel=0.25)
    assert spread[0] > 1.8 * spread[1]


def test_empty_and_full_masks_render():
    for value in (False, True):
        image = render_oct(np.full((33, 40, 37), value), np.random.default_rng(1))
        assert image.shape == (33, 40, 37)
        assert image.std() > 1


def test_mask_that_is_not_bool_or_3d_is_refused():
    with pytest.raises(InputError, match="bool array, not \\(4, 4\\) of bool"):
        render_oct(np.zeros((4, 4), bool), np.random.default_rng(1))
    with pytest.raises(InputError, match="of uint8"):
        render_oct(np.zeros((4, 4, 4), np.uint8), np.random.default_rng(1))


def test_phantom_brings_in_no_torch():
    code = "import sys, micronet.data.phantom; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_volume_of_a_seed_is_the_same_everywhere():
    mask = lumen_mask((64, 64, 64), np.random.default_rng(11))
    assert hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()[:16] == "e7ecb6c2dd80f689"
    for preset, digest in (("plain", "027eb50780831106"), ("oct", "903c8f60f1218502")):
        image = render_oct(mask, np.random.default_rng(12), PRESETS[preset])
        assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == digest


def test_bundled_demo_is_what_the_script_makes(root, tmp_path):
    files = ("struct_iso/E5D_phantom_demo.nrrd", "annotations/annotation_phantom_demo_iso_full.seg.nrrd")
    for name in files:
        (tmp_path / name).parent.mkdir()
    script = root / "tools" / "make_bundled.py"
    subprocess.run([sys.executable, script, "--volumes", "--root", tmp_path], check=True, capture_output=True)
    # Values, not bytes: another zlib may compress otherwise.
    made, bundled = (read_volume(folder / files[0]) for folder in (tmp_path, root))
    np.testing.assert_array_equal(made.array, bundled.array)
    assert bundled.spacing_um == (4.5, 4.5, 4.5)
    assert bundled.space == "left-posterior-superior"
    made, bundled = (read_annotation(folder / files[1]) for folder in (tmp_path, root))
    assert bundled.segment.name == "full seg"
    np.testing.assert_array_equal(made.mask.array, bundled.mask.array)


def test_what_is_bundled_stays_below_4_mb(root):
    names = [f"*/{pattern}" for pattern in ("E5D_phantom_*", "annotation_phantom_*", "*_phantom.pt", "*_phantom.json")]
    files = [path for name in names for path in root.glob(name) if path.parent.name != "predictions"]
    assert len(files) >= 14
    assert sum(path.stat().st_size for path in files) < 4_000_000


@pytest.mark.parametrize("limit", [3, 9])
def test_squared_distance_is_scipys_up_to_the_limit(limit):
    mask = np.random.default_rng(4).random((23, 31, 17)) > 0.997
    expected = np.minimum(np.rint(ndimage.distance_transform_edt(~mask) ** 2), limit**2)
    for threads in (1, 3):
        np.testing.assert_array_equal(squared_distance(mask, limit, threads), expected)
    assert (squared_distance(np.zeros((4, 5, 6), bool), limit) == limit**2).all()


def test_image_is_the_same_on_any_number_of_threads(mask, image):
    for threads in (1, 3):
        np.testing.assert_array_equal(render_oct(mask, np.random.default_rng(8), Optics(), threads=threads), image)


def test_lengths_are_in_micrometres():
    # The same sphere of blood, 60 µm in radius, in voxels of 4.5 and of 3 µm: its wall is equally thick in µm.
    walls = []
    for spacing in (4.5, 3.0):
        centre = np.arange(-48, 49)
        distance = spacing * np.sqrt(sum(axis**2 for axis in np.meshgrid(centre, centre, centre, indexing="ij")))
        optics = Optics(
            spacing_um=spacing, body_texture=0.0, wall_texture=0.0, speckle_average_vox=2.0, noise_floor=-4.0, white=5.0
        )
        grey = render_oct(distance < 60, np.random.default_rng(1), optics).astype(float)
        side = grey[48, 48, 48:] > 0.5 * (grey[48, 48, 48 + int(70 / spacing)] + grey[48, 48, 48])  # along x
        walls.append(spacing * side.sum())
    assert walls[1] == pytest.approx(walls[0], abs=9)


def test_oct_is_the_default(mask, image):
    default, named = (render_oct(mask[:20], np.random.default_rng(8), optics) for optics in (None, PRESETS["oct"]))
    np.testing.assert_array_equal(default, named)
    assert (default != image[:20]).mean() > 0.5


def test_variation_surrounds_the_preset():
    assert PRESETS["plain"] == Optics()
    rng = np.random.default_rng(1)
    drawn = [varied(Optics(), rng) for _ in range(300)]
    assert len(set(drawn)) == 300
    for name in ("heart_blood", "heart_roof_um", "body_loss_per_mm"):
        values = np.array([getattr(optics, name) for optics in drawn])
        assert np.median(values) == pytest.approx(getattr(Optics(), name), rel=0.05)
        assert values.std() > 0.05 * abs(getattr(Optics(), name))
    assert {optics.spacing_um for optics in drawn} == {4.5}
    assert varied(Optics(), rng, strength=0.0) == Optics()
