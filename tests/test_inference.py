"""predict: iterations, start, crop, fixed point, refusals."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from micronet import MicroNet, MicroRNet, Volume, normalize_image, normalize_mask, predict
from micronet.core.errors import InputError
from micronet.core.volume import upright
from micronet.networks.registry import model_for_state
from micronet.networks.weights import bootstrap
from micronet.segment.refine import Iteration, has_settled


@pytest.fixture
def image(rng):
    return rng.integers(0, 255, (33, 40, 36), dtype=np.uint8)


@pytest.fixture
def micro():
    torch.manual_seed(3)
    return MicroNet()


@pytest.fixture
def refiner():
    torch.manual_seed(4)
    return MicroRNet()


def _passes(refiner, image, mask, number):
    """The definition, written out: normalise the mask, look, feed the probability back."""
    x = torch.from_numpy(normalize_image(image))
    for _ in range(number):
        with torch.no_grad():
            mask = refiner(torch.stack((x, torch.from_numpy(normalize_mask(mask))))[None])[0, 0].numpy()
    return mask


def test_micro_net_looks_once(image, micro):
    seen = []
    probability = predict(image, micro, iterations=7, on_iteration=seen.append)

    with torch.no_grad():
        expected = micro(torch.from_numpy(normalize_image(image))[None, None])[0, 0].numpy()
    assert np.array_equal(probability, expected)
    assert probability.dtype == np.float32
    assert len(seen) == 1


def test_refinement_starts_blank_and_feeds_the_probability_back(image, refiner):
    expected = _passes(refiner, image, np.zeros(image.shape, np.float32), 3)

    assert np.abs(predict(image, refiner, 3) - expected).max() < 1e-6


def test_refinement_starts_from_a_given_mask(image, refiner, rng):
    mask = rng.random(image.shape) > 0.8

    probability = predict(Volume(image), refiner, 2, initial_mask=Volume(mask))

    assert np.abs(probability - _passes(refiner, image, mask, 2)).max() < 1e-6


def test_continuing_equals_going_on(image, refiner):
    halfway = predict(image, refiner, 2)

    assert np.array_equal(predict(image, refiner, 3, initial_mask=halfway), predict(image, refiner, 5))


def test_each_pass_hands_out_its_probability(image, refiner):
    seen = []
    last = predict(image, refiner, 2, y_crop=34, on_probability=lambda probability: seen.append(probability.copy()))

    assert np.array_equal(seen[0], predict(image, refiner, 1, y_crop=34)[:, :34])
    assert np.array_equal(seen[1], last[:, :34])
    assert len(seen) == 2


def test_each_iteration_reports_its_change(image, refiner):
    seen = []
    predict(image, refiner, 3, on_iteration=seen.append)
    one, two = predict(image, refiner, 1), predict(image, refiner, 2)

    assert [iteration.number for iteration in seen] == [1, 2, 3]
    assert seen[0].largest_change == one.max()
    assert seen[1].largest_change == np.abs(two - one).max()
    assert seen[1].mean_change == pytest.approx(np.abs(two - one).mean(), rel=1e-5)
    assert seen[1].flipped == np.count_nonzero((two > 0.5) != (one > 0.5))
    assert seen[1].foreground == np.count_nonzero(two > 0.5)


def test_until_stable_stops_after_three_passes_that_change_nothing(image, micro):
    ignores_its_mask = model_for_state(bootstrap(micro.state_dict()))
    seen = []

    predict(image, ignores_its_mask, 10, on_iteration=seen.append, until_stable=True)

    assert [iteration.flipped > 0 for iteration in seen] == [True, False, False, False]


def passes(*flipped, foreground=1000):
    return [Iteration(number, 1.0, 0.0, n, foreground, 0.0) for number, n in enumerate(flipped, 1)]


@pytest.mark.parametrize(
    ("flipped", "settled"),
    [
        ((1000, 4, 4, 4), True),
        ((1000, 4, 4), False),  # two passes only
        ((4, 4, 5, 4, 4), False),  # 5 of 1,000 are not fewer than 0.5 %
        ((4, 4, 4, 5), False),  # it was, and is no longer
        ((0, 0, 0), True),
    ],
)
def test_settled_is_fewer_than_one_voxel_of_200_in_each_of_three_passes_running(flipped, settled):
    assert has_settled(passes(*flipped)) == settled


def test_an_empty_lumen_settles_when_nothing_flips():
    assert has_settled(passes(0, 0, 0, foreground=0))
    assert not has_settled(passes(0, 1, 0, foreground=0))


def test_crop_is_taken_after_normalising_the_whole_and_lands_on_the_input_grid(image, micro):
    image[:, 35:] = 255

    probability = predict(image, micro, y_crop=34)

    with torch.no_grad():
        x = torch.from_numpy(normalize_image(image)[:, :34])
        expected = micro(x[None, None])[0, 0].numpy()
    assert probability.shape == image.shape
    assert np.array_equal(probability[:, :34], expected)
    assert not probability[:, 34:].any()


def test_the_input_is_not_changed_and_no_gradient_is_kept(image, refiner):
    before = image.copy()
    predict(image, refiner, 2)

    assert np.array_equal(image, before)
    assert all(parameter.grad is None for parameter in refiner.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1, found 0"),
        ({"y_crop": 0}, r"y-crop must lie in 1..40 \(the Y axis\), found 0"),
        ({"y_crop": 41}, "found 41"),
        (
            {"initial_mask": np.zeros((33, 40, 35))},
            r"initial mask has shape \(33, 40, 35\), the volume \(33, 40, 36\)",
        ),
        ({"initial_mask": np.full((33, 40, 36), 255)}, "holds values from 0 to 1, found 255 to 255"),
        ({"initial_mask": np.full((33, 40, 36), np.nan)}, "holds values from 0 to 1, found nan to nan"),
    ],
)
def test_bad_options_are_refused(image, refiner, arguments, message):
    with pytest.raises(InputError, match=message):
        predict(image, refiner, **arguments)


def test_micro_net_refuses_a_mask_and_a_flat_image_is_refused(image, micro):
    with pytest.raises(InputError, match="µ-Net takes no initial mask"):
        predict(image, micro, initial_mask=image > 200)
    with pytest.raises(InputError, match=r"a volume has three axes \(Z, Y, X\), this array has shape \(40, 36\)"):
        predict(image[0], micro)
    with pytest.raises(InputError, match="the image is constant"):
        predict(np.ones((32, 32, 32)), micro)


def test_a_mask_on_another_grid_is_refused(image, refiner):
    mask = Volume(image > 200, directions=upright(2), units="um")
    with pytest.raises(InputError, match="'initial mask' lies on another grid than 'volume'"):
        predict(Volume(image, directions=upright(1), units="um"), refiner, initial_mask=mask)


PEAK = """
import resource, sys, numpy as np, torch
from micronet import MicroRNet, predict
torch.manual_seed(0)
image = np.random.default_rng(0).integers(0, 255, (96, 96, 96), dtype=np.uint8)
predict(image, MicroRNet(), int(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_ten_refinements_take_no_more_memory_than_one():
    peaks = [
        int(subprocess.run([sys.executable, "-c", PEAK, n], capture_output=True, text=True, check=True).stdout)
        for n in ("1", "10")
    ]
    assert peaks[1] < 1.1 * peaks[0]
