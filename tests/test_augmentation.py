"""Augmented views: image, mask and weight move together, and nothing else changes."""

import numpy as np

from micronet.data.augmentation import Augmentation, View

SHAPE = (40, 50, 60)


def test_the_whole_view_changes_nothing(rng):
    image = rng.standard_normal(SHAPE).astype(np.float32)
    view = View.whole(SHAPE)

    seen = view.place(image).copy()
    view.tone(seen)

    assert np.array_equal(seen, image)


def test_a_view_crops_and_mirrors_by_hand():
    array = np.arange(24).reshape(2, 3, 4)
    view = View(((0, 1), (1, 3), (0, 3)), (False, False, True), 1.0, 0.0, 0.0, 0)

    assert view.place(array).tolist() == [[[6, 5, 4], [10, 9, 8]]]


def test_gain_offset_and_speckle_act_on_the_intensities_only():
    toned, speckled = (np.ones((32, 32, 32), np.float32) for _ in range(2))
    View(((0, 32),) * 3, (False,) * 3, 2.0, 0.5, 0.0, 0).tone(toned)
    View(((0, 32),) * 3, (False,) * 3, 1.0, 0.0, 0.3, 7).tone(speckled)

    assert np.all(toned == 2.5)
    assert abs(speckled.mean() - 1) < 0.01
    assert abs(speckled.std() - 0.3) < 0.01


def test_crops_stay_inside_are_long_enough_and_fall_everywhere(rng):
    augmentation = Augmentation(smallest_crop=0.5, shortest_axis=32)
    views = [augmentation.draw(SHAPE, rng) for _ in range(300)]

    for axis, length in enumerate(SHAPE):
        boxes = [view.box[axis] for view in views]
        assert min(first for first, _ in boxes) == 0
        assert max(end for _, end in boxes) == length
        sizes = {end - first for first, end in boxes}
        assert min(sizes) == max(32, length // 2)
        assert max(sizes) == length
        assert len({first % 16 for first, _ in boxes}) > 6


def test_depth_is_never_mirrored_and_the_other_axes_half_the_time(rng):
    mirrored = np.array([Augmentation().draw(SHAPE, rng).mirrored for _ in range(400)])

    assert not mirrored[:, 1].any()
    assert np.all(abs(mirrored[:, [0, 2]].mean(axis=0) - 0.5) < 0.1)


def test_the_same_draw_gives_the_same_view_and_the_same_noise():
    one, two = (Augmentation().draw(SHAPE, np.random.default_rng(5)) for _ in range(2))
    images = [view.place(np.zeros(SHAPE, np.float32)) for view in (one, two)]
    for view, image in zip((one, two), images, strict=True):
        view.tone(image)

    assert one == two
    assert images[0].any()
    assert np.array_equal(*images)


def test_an_axis_of_32_is_never_cropped(rng):
    assert all(Augmentation(smallest_crop=0.1).draw((32, 32, 32), rng).box == ((0, 32),) * 3 for _ in range(20))
