"""What a larger network sees in a step: crops that hold annotated voxels, image and mask changed alike."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, stats

from micronet.core.errors import InputError
from micronet.core.volume import Volume, upright
from micronet.data.augmentation import CROPS, FLIPS, Augmentation, View
from micronet.data.dataset import Sample
from micronet.training.crops import Crops, usual_crop

STILL = Augmentation(flips="", smallest_crop=1.0, contrast=0.0, brightness=0.0, speckle=0.0)


def sample(mask, weight=None, image=None, name="v"):
    image = np.random.default_rng(4).integers(0, 255, mask.shape).astype(np.uint8) if image is None else image
    return Sample.of(name, Volume(image, upright((1, 1, 1)), units="um"), mask, weight)


def crops(samples, size, each=10, batch=1, augmentation=None, seed=6):
    return Crops(samples, size, each, batch, augmentation, seed)


def corner(shape=(20, 30, 40), at=(0, 29, 39)):
    mask = np.zeros(shape, bool)
    mask[at] = True
    return mask


def test_a_batch_has_the_size_of_the_crop_and_as_many_crops_as_asked_for():
    drawn = crops([sample(corner())], (4, 6, 8), each=5, batch=3)
    assert drawn.batches_a_pass == 2
    first, last = drawn.batch(1, 0, 0), drawn.batch(1, 1, 1)
    assert (first.x.shape, last.x.shape) == ((3, 1, 4, 6, 8), (2, 1, 4, 6, 8))
    assert first.x.shape == first.target.shape
    assert first.weight is None


def test_an_epoch_has_as_many_crops_of_every_volume_as_asked_for():
    drawn = crops([sample(corner(), name="a"), sample(corner(), name="b")], (4, 4, 4), each=7)
    names = [drawn.batch(1, number, number).name for number in range(drawn.batches_a_pass)]
    assert sorted(names) == ["a"] * 7 + ["b"] * 7
    assert names != sorted(names)


@pytest.mark.parametrize("augmentation", [None, CROPS])
@pytest.mark.parametrize("at", [(0, 0, 0), (19, 29, 39), (10, 29, 0)])
def test_every_crop_of_a_volume_with_one_annotated_voxel_of_each_class_holds_one_wherever_they_lie(at, augmentation):
    mask = corner(at=at)
    weight = mask.copy()
    weight[10, 15, 20] = True
    drawn = crops([sample(mask, weight)], (4, 6, 8), augmentation=augmentation)
    lumen = 0
    for step in range(drawn.batches_a_pass):
        batch = drawn.batch(1, step, step)
        assert batch.weight.sum() >= 1
        lumen += bool((batch.target.float() * batch.weight).any())
    assert 0 < lumen < 10  # each of the two with equal chances


def test_a_crop_is_centred_on_its_voxel():
    drawn = crops([sample(corner(at=(10, 15, 20)), corner(at=(10, 15, 20)) | corner())], (5, 5, 5))
    places = [np.argwhere(drawn.batch(1, step, step).target[0, 0].numpy()).tolist() for step in range(10)]
    assert [[2, 2, 2]] in places
    assert all(place in ([], [[2, 2, 2]]) for place in places)


def test_the_same_seed_draws_the_same_batches_and_another_others():
    one, again, other = (
        crops([sample(corner())], (4, 4, 4), augmentation=CROPS, seed=seed).batch(1, 0, 0) for seed in (6, 6, 7)
    )
    assert one.x.equal(again.x)
    assert not one.x.equal(other.x)


def test_sparse_labels_count_where_they_are_and_volumes_without_them_everywhere():
    mask, weight = corner(at=(3, 3, 3)), np.zeros((20, 30, 40), bool)
    weight[3, 3] = True
    batch = crops([sample(mask, weight), sample(mask, name="w")], (20, 30, 40), each=1, batch=2).batch(1, 0, 0)
    assert sorted(batch.weight.sum((1, 2, 3, 4)).tolist()) == [40, 20 * 30 * 40]
    assert batch.name == "crops"


def test_a_crop_larger_than_a_volume_names_volume_and_setting():
    with pytest.raises(
        InputError, match=r"volume v: it has 20 x 30 x 40 voxels, fewer than a crop of 21 x 6 x 6 \(sett"
    ):
        crops([sample(corner())], (21, 6, 6))


@pytest.mark.parametrize(("label", "name"), [(True, "background"), (False, "lumen")])
def test_a_class_without_a_voxel_in_training_is_named(label, name):
    mask = np.full((8, 8, 8), label)
    with pytest.raises(InputError, match=f"the class {name} has no annotated voxel in the training volumes"):
        crops([sample(mask, corner((8, 8, 8), (1, 1, 1)))], (4, 4, 4))


def test_the_usual_crop_is_as_large_as_64_and_the_smallest_volume():
    samples = [sample(corner((20, 80, 40), (0, 0, 0))), sample(corner((30, 90, 70), (0, 0, 0)))]
    assert usual_crop(samples, 3) == (20, 64, 40)
    assert usual_crop(samples, 2) == (1, 64, 40)


class TestGreys:
    """Noise and contrast are drawn once for a crop, and are of its image alone."""

    STILL = replace(CROPS, contrast=0.0, brightness=0.0, speckle=0.0)

    MASK = np.random.default_rng(2).random((6, 20, 20)) < 0.4

    def seen(self, augmentation, step):
        one = sample(self.MASK, weight=self.MASK | np.roll(self.MASK, 1, 2))
        return crops([one], (6, 12, 12), augmentation=augmentation).batch(1, step, step)

    @pytest.mark.parametrize("changed", [{"contrast": 0.4}, {"brightness": 0.4}, {"speckle": 0.4}])
    def test_they_leave_mask_and_weight_and_the_place_that_is_seen_as_they_are(self, changed):
        for step in range(8):
            still, seen = self.seen(self.STILL, step), self.seen(replace(self.STILL, **changed), step)
            assert seen.target.equal(still.target)
            assert seen.weight.equal(still.weight)
            assert not seen.x.equal(still.x)
            assert np.corrcoef(seen.x.ravel(), still.x.ravel())[0, 1] > 0.7  # of another place: near 0
            assert seen.x.equal(self.seen(replace(self.STILL, **changed), step).x)

    def test_contrast_is_one_factor_and_brightness_one_offset_of_a_whole_crop(self):
        gains, offsets = [], []
        for step in range(10):
            still = self.seen(self.STILL, step).x
            gain = self.seen(replace(self.STILL, contrast=0.4), step).x / still
            offset = self.seen(replace(self.STILL, brightness=0.4), step).x - still
            assert gain.std() < 1e-4
            assert offset.std() < 1e-4
            gains.append(float(gain.mean()))
            offsets.append(float(offset.mean()))
        assert all(0.6 <= gain <= 1.4 for gain in gains)
        assert all(-0.4 <= offset <= 0.4 for offset in offsets)
        assert np.std(gains) > 0.1 < np.std(offsets)

    def test_noise_is_gaussian_and_its_strength_another_for_each_crop(self):
        strengths = []
        for step in range(10):
            noise = self.seen(replace(self.STILL, speckle=0.4), step).x - self.seen(self.STILL, step).x
            assert abs(float(noise.mean())) < 4 * float(noise.std()) / noise.numel() ** 0.5
            assert stats.kstest(noise.ravel() / noise.std(), "norm").pvalue > 1e-4
            strengths.append(float(noise.std()))
        assert all(0 < strength < 0.42 for strength in strengths)
        assert np.std(strengths) > 0.05


class TestViews:
    BOX = ((0, 3), (0, 3), (0, 3))
    CUBE = np.arange(27).reshape(3, 3, 3)

    def seen(self, turned=(), mirrored=(False, False, False), box=BOX, bent=0.0):
        return View(box, mirrored, 1.0, 0.0, 0.0, 9, turned, bent)

    def test_a_quarter_turn_of_a_plane_turns_it(self):
        seen = self.seen(turned=((1, 2, 1),)).place(self.CUBE)
        np.testing.assert_array_equal(seen[0], [[2, 5, 8], [1, 4, 7], [0, 3, 6]])

    def test_turns_are_drawn_in_planes_that_are_as_long_both_ways(self):
        turning = Augmentation(flips="", smallest_crop=1.0, turns="zyx")
        rng = np.random.default_rng(1)
        planes = {view[:2] for _ in range(5) for view in turning.draw_of(((0, 4), (0, 4), (0, 6)), rng).turned}
        assert planes == {(0, 1)}
        quarters = {turning.draw_of(self.BOX, rng).turned[0][2] for _ in range(40)}
        assert quarters == {0, 1, 2, 3}
        assert FLIPS.draw_of(self.BOX, rng).turned == ()

    @pytest.mark.parametrize(
        ("field", "value"), [("turns", "zz"), ("turns", "ab"), ("elastic", 20.0), ("elastic", -1.0)]
    )
    def test_values_that_mean_nothing_are_refused(self, field, value):
        with pytest.raises(InputError, match=field):
            Augmentation(**{field: value})

    def test_bending_takes_image_and_mask_from_the_same_places_linear_and_nearest(self):
        shape, box = (20, 22, 24), ((2, 14), (3, 19), (4, 24))
        view = self.seen(box=box, bent=1.5)
        ramps = [view.place(np.broadcast_to(r, shape).astype(np.float32)) for r in np.indices(shape)]
        corners = np.indices([end - first for first, end in box])
        moved = [ramp - (corner + first) for ramp, corner, (first, _) in zip(ramps, corners, box, strict=True)]
        assert 0.5 < np.abs(moved).mean() < 3
        assert max(np.abs(np.diff(moved[1], axis=axis)).max() for axis in range(3)) < 1  # smooth
        mask = np.random.default_rng(0).random(shape) < 0.5
        image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        places = np.stack(ramps)
        expected = ndimage.map_coordinates(image, places, order=1, mode="nearest")
        np.testing.assert_allclose(view.place(image), expected, atol=2e-4)
        bent = view.place(mask)
        assert bent.dtype == bool
        clear = (np.abs(places - np.floor(places) - 0.5) > 1e-3).all(0)
        nearest = mask[tuple(np.floor(places + 0.5).astype(int))]
        np.testing.assert_array_equal(bent[clear], nearest[clear])

    def test_an_image_is_bent_within_its_plane(self):
        array = np.random.default_rng(3).random((1, 16, 16)).astype(np.float32)
        seen = self.seen(box=((0, 1), (0, 16), (0, 16)), bent=2.0).place(array)
        assert seen.shape == (1, 16, 16)
        assert not np.array_equal(seen, array)

    def test_a_view_that_changes_nothing_gives_the_part_itself(self):
        view = STILL.draw_of(((1, 3), (0, 2), (0, 3)), np.random.default_rng(0))
        np.testing.assert_array_equal(view.place(self.CUBE), self.CUBE[1:3, :2])
