"""Networks that were taught: what they say of a volume, what their files hold, and what infer.py makes of them."""

from collections import OrderedDict

import numpy as np
import pytest
import torch

from micronet import Volume, load_model, predict
from micronet.core.errors import FileError, InputError
from micronet.core.regrid import isotropic_shape, resampled
from micronet.core.volume import upright
from micronet.networks.kernels.boosting import Trees
from micronet.networks.models import MicroNet, MicroRNet
from micronet.networks.normalize import normalize_image
from micronet.networks.pixel import PixelNetwork
from micronet.networks.pixel_trees import PixelTrees
from micronet.networks.registry import model_for_state, network_of
from micronet.networks.taught import Member, Taught, taught_for_state
from micronet.networks.weights import save_state
from micronet.segment.refine import refine

THICK = (4.0, 1.0, 1.0)


def stump(low: float, high: float) -> PixelTrees:
    """One question, whether the value is above 0, with a logit for each answer."""
    return PixelTrees((1.0,), Trees(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32), np.array([[low, high]], np.float32), 0.0))  # fmt: skip  # noqa: E501


@pytest.fixture
def image(rng):
    return normalize_image(rng.normal(0, 1, (6, 20, 22)))


@pytest.fixture
def micro():
    torch.manual_seed(1)
    return MicroNet().eval()


def everything(micro):
    torch.manual_seed(2)
    return Taught(
        [
            Member("trees", stump(-2, 2), 0.5),
            Member("pixel", PixelNetwork((1.0, 2.0), 2, 4, torch.Generator().manual_seed(3)), 0.0),
            Member("unet", micro, 1.0, step_um=1.5),
            Member("urnet", MicroRNet().eval(), 0.25, step_um=2.0, passes=2, around_um=40.0),
        ],
        THICK,
        logarithm=True,
    )


def test_two_members_say_their_weighted_mean(image):
    taught = Taught([Member("trees", stump(-9, 9), 3.0), Member("trees", stump(0, 0), 1.0)], THICK)
    found = taught.predict(image, THICK)
    # 0.75 of nearly 0 or 1, and 0.25 of one half.
    np.testing.assert_allclose(found, np.where(image > 0, 0.875, 0.125), atol=1e-4)


def test_a_micro_net_sees_an_isotropic_grid_and_answers_on_the_volumes_own(image, micro):
    taught = Taught([Member("unet", micro, 1.0, step_um=2.0)], THICK)
    shape = isotropic_shape(image.shape, THICK, 2.0)
    assert shape == (12, 10, 11)
    small = resampled(image, shape)
    expected = resampled(refine(small, np.zeros_like(small), micro, 1), image.shape)
    np.testing.assert_allclose(taught.predict(image, THICK), expected, atol=1e-6)


def test_a_micro_r_net_starts_from_the_mean_of_the_pixel_members_even_of_no_weight(image):
    torch.manual_seed(4)
    refiner = MicroRNet().eval()
    pixels = [Member("trees", stump(-3, 3), 0.0), Member("trees", stump(-1, 1), 0.0)]
    taught = Taught([*pixels, Member("urnet", refiner, 1.0, step_um=1.0, passes=2)], (1, 1, 1))
    start = np.mean([member.network.predict(image, (1, 1, 1)) for member in pixels], axis=0)
    expected = refine(image, start, refiner, 2)
    np.testing.assert_allclose(taught.predict(image, (1, 1, 1)), expected, atol=1e-5)
    with pytest.raises(InputError, match="starts from the mean of pixel members, and there is none"):
        Taught([Member("urnet", refiner)], (1, 1, 1))


def test_a_file_brings_back_the_same_network(image, micro, tmp_path):
    taught = everything(micro)
    save_state(tmp_path / "taught.pt", taught.state_dict())
    again = load_model(tmp_path / "taught.pt")
    assert network_of(again).name == "taught"
    assert (again.spacing_um, again.logarithm) == (THICK, True)
    assert [(one.kind, one.weight, one.step_um, one.passes, one.around_um) for one in again.members] == [
        (one.kind, one.weight, one.step_um, one.passes, one.around_um) for one in taught.members
    ]
    np.testing.assert_array_equal(again.predict(image, THICK), taught.predict(image, THICK))


CROOKED = [
    ({"weight": torch.tensor([1.0, -1, 1, 1])}, "weights are 0 or more"),
    ({"weight": torch.zeros(4)}, "not all 0"),
    ({"weight": torch.ones(3)}, "members 0 to 2 expected"),
    ({"weight": torch.ones(10_000)}, "'weight' is a list of numbers"),
    ({"spacing_um": torch.tensor([1.0, 1.0])}, "2 spacings"),
    ({"spacing_um": torch.tensor([1.0, 1.0, 0.0])}, "a length of 0 µm"),
    ({"logarithm": None}, "'logarithm' is a list of numbers, found nothing"),
    ({"unet.2.step_um": torch.tensor([1e-30])}, "a length of 1e-30 µm"),
    ({"unet.2.step_um": None}, "member unet.2: 'step_um'"),
    ({"unet.2.down0.0.weight": torch.zeros(4, 1, 3, 3)}, r"member unet.2: 'down0.0.weight' is \(4, 1, 3, 3\)"),
    ({"unet.2.around_um": torch.tensor([-1.0])}, "surroundings of 0 to 1e\\+06 µm"),
    ({"unet.2.around_um": torch.ones(2)}, "member unet.2: 'step_um'"),
    ({"urnet.3.passes": torch.tensor([1e9])}, "refines 1 to 100 times"),
    ({"urnet.3.passes": torch.tensor([1.5])}, "whole number 'passes'"),
    ({"trees.0.trees.feature": torch.full((1, 1), 99.0)}, "member trees.0: .* features that are not among the 12"),
    ({"pixel.1.feature_sd": torch.zeros(11)}, "member pixel.1: "),
    ({"trees.0.scales_um": torch.tensor([float("nan")])}, "not finite, first in 'trees.0.scales_um'"),
    ({"surprise": torch.ones(1)}, "'surprise' is nothing that was taught"),
    ({"trees.7.scales_um": torch.ones(1)}, "members 0 to 3 expected"),
]


@pytest.mark.parametrize(("changes", "why"), CROOKED)
def test_a_crooked_file_is_refused_with_the_reason(micro, changes, why, tmp_path):
    state = OrderedDict(everything(micro).state_dict())
    for name, tensor in changes.items():
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    with pytest.raises(InputError, match=why):
        taught_for_state(state)
    save_state(tmp_path / "crooked.pt", state)
    with pytest.raises(FileError, match=f"crooked.pt': .*{why}"):
        load_model(tmp_path / "crooked.pt")


def test_micro_nets_are_still_told_from_what_is_taught(micro):
    assert network_of(model_for_state(micro.state_dict())).name == "u-net"


def test_predict_takes_the_voxel_size_from_the_volume_and_without_one_that_taught_on(rng):
    tree = Trees(np.full((1, 1), 1, np.int32), np.zeros((1, 1), np.float32), np.array([[-1, 1]], np.float32), 0.0)
    taught = Taught([Member("trees", PixelTrees((3.0,), tree))], (1, 1, 1))  # asks for the Gaussian of 3 µm
    array = rng.normal(0, 1, (9, 20, 20)).astype(np.float32)
    fine, coarse = (Volume(array, upright(step), units="um") for step in ((1, 1, 1), (2, 2, 2)))
    np.testing.assert_array_equal(predict(array, taught), predict(fine, taught))
    assert not np.array_equal(predict(coarse, taught), predict(fine, taught))
    with pytest.raises(InputError, match=r"voxels of 4 x 4 x 4 µm.*taught on 1 x 1 x 1: more than 3 times apart"):
        predict(Volume(array, upright((4, 4, 4)), units="um"), taught)


def test_a_crop_in_depth_is_looked_at_alone(rng):
    taught = Taught([Member("trees", stump(-3, 3))], (1, 1, 1))
    told = []
    array = rng.normal(0, 1, (5, 12, 6))
    found = predict(array, taught, y_crop=8, on_iteration=told.append)
    assert (found[:, 8:] == 0).all()
    assert ((found[:, :8] > 0.5) == (array > array.mean())[:, :8]).all()
    assert [one.number for one in told] == [1]
