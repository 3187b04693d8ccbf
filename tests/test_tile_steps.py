"""A volume in tiles gives what the whole volume gives, bit for bit."""

import numpy as np
import pytest
import torch

from micronet.core.errors import InputError
from micronet.networks.kernels.network import Refiner
from micronet.networks.kernels.sizes import coarser
from micronet.networks.kernels.tiles import Stores, TileSteps, tiles
from micronet.networks.models import MicroNet, MicroRNet

# Every remainder of 4 and of 16, tiles of one voxel beyond the last multiple of 4, a lowest level of two voxels.
SHAPES = [
    (32, 32, 32), (33, 34, 35), (36, 47, 48), (49, 63, 64), (65, 32, 79), (32, 97, 33), (37, 41, 113),
    (61, 40, 34), (83, 32, 47), (50, 51, 52), (64, 64, 64), (63, 65, 66), (32, 129, 38), (101, 35, 36),
    (34, 32, 130), (70, 69, 37), (45, 81, 43), (71, 39, 72), (128, 33, 32), (47, 59, 61),
]  # fmt: skip


def arrays_of(network):
    torch.manual_seed(4)
    return {name: parameter.detach().numpy() for name, parameter in network().named_parameters()}


def stores_for(size, mask):
    made = {name: np.full(shape, np.nan, np.float32) for name, shape in Stores.shapes(size).items()}
    return Stores(**made | ({} if mask else {"mask": None}))


def one_pass(steps, size, sides, coarse_sides, mask):
    line = (1.0, 0.0)
    read = None if mask is None else mask.__getitem__
    if read is not None:
        for tile in tiles(size, sides):
            steps.pool(tile, read, line)
    quarter = list(tiles(coarser(size), coarse_sides))
    for tile in quarter:
        steps.down(tile)
    steps.bottom()
    for tile in quarter:
        steps.up(tile)
    found = np.full(size, np.nan, np.float32)
    for tile in tiles(size, sides):
        found[tile.core] = steps.decode(tile, read, line)
    return found


@pytest.mark.parametrize("number", range(20))
@pytest.mark.parametrize("network", [MicroNet, MicroRNet])
def test_every_refinement_in_tiles_is_the_whole_one(network, number, rng):
    size = SHAPES[number]
    sides = [(16, 20, 24), (32, 16, 40), (12, 32, 32), (48, 48, 16)][number % 4]
    coarse_sides = [(4, 8, 4), (8, 4, 8), (1000, 1000, 1000)][number % 3]
    parameters = arrays_of(network)
    image = rng.standard_normal(size, dtype=np.float32)
    refines = network is MicroRNet
    whole = Refiner(parameters, image)
    steps = TileSteps(parameters, size, image.__getitem__, stores_for(size, refines))
    for tile in tiles(size, sides):
        steps.encode(tile)
    mask = rng.random(size, dtype=np.float32) if refines else None
    for _ in range(2 if refines else 1):
        expected = whole(mask) if refines else whole()
        np.testing.assert_array_equal(one_pass(steps, size, sides, coarse_sides, mask), expected)
        mask = expected


def test_tiles_cover_every_voxel_once():
    seen = np.zeros((33, 20, 47), int)
    for tile in tiles(seen.shape, (8, 12, 16)):
        seen[tile.core] += 1
        assert all(part.start % 4 == 0 for part in tile.window)
        np.testing.assert_array_equal(seen[tile.window][tile.inside], seen[tile.core])
    assert (seen == 1).all()


def test_wrong_input_is_refused(rng):
    with pytest.raises(InputError, match=r"tiles of \(8, 6, 8\) voxels; positive multiples of 4"):
        list(tiles((32, 32, 32), (8, 6, 8)))
    image = rng.standard_normal((32, 32, 32), dtype=np.float32)
    with pytest.raises(InputError, match=r"a u-net takes 0 mask\(s\)"):
        TileSteps(arrays_of(MicroNet), image.shape, image.__getitem__, stores_for(image.shape, True))
