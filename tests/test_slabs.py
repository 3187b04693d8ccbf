"""A volume in slabs gives what the whole volume gives, bit for bit."""

import numpy as np
import pytest
import torch

from micronet.core.errors import InputError
from micronet.networks.kernels.network import Refiner
from micronet.networks.kernels.slabs import SlabRefiner
from micronet.networks.models import MicroNet, MicroRNet


def arrays_of(network):
    torch.manual_seed(4)
    return {name: parameter.detach().numpy() for name, parameter in network().named_parameters()}


@pytest.mark.parametrize("planes", [4, 12, 64])
@pytest.mark.parametrize("shape", [(32, 33, 35), (61, 40, 34), (83, 32, 47)], ids=str)
@pytest.mark.parametrize("network", [MicroNet, MicroRNet])
def test_every_refinement_is_the_untiled_one(network, shape, planes, rng):
    parameters = arrays_of(network)
    image = rng.standard_normal(shape, dtype=np.float32)
    whole = Refiner(parameters, image)
    slabs = SlabRefiner(parameters, shape, lambda a, b: image[a:b], planes)
    expected = found = np.zeros(shape, np.float32)
    for _ in range(3 if network is MicroRNet else 1):
        masks = [probability * np.float32(4.5) - np.float32(0.05) for probability in (expected, found)]
        result = np.full(shape, np.nan, np.float32)

        def write(first, part, result=result):
            result[first : first + len(part)] = part

        if network is MicroRNet:
            expected = whole(masks[0])
            slabs(lambda a, b, mask=masks[1]: mask[a:b], write)
        else:
            expected = whole()
            slabs(None, write)
        found = result
        np.testing.assert_array_equal(found, expected)


def test_wrong_input_is_refused(rng):
    image = rng.standard_normal((32, 32, 32), dtype=np.float32)
    with pytest.raises(InputError, match="slabs of 6 planes"):
        SlabRefiner(arrays_of(MicroNet), image.shape, lambda a, b: image[a:b], 6)
    slabs = SlabRefiner(arrays_of(MicroRNet), image.shape, lambda a, b: image[a:b], 8)
    with pytest.raises(InputError, match=r"a ur-net takes 1 mask\(s\), 0 given"):
        slabs(None, lambda first, part: None)
