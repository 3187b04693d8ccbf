"""Taught networks of every kind of member, with weights that are drawn."""

from dataclasses import replace

import numpy as np
import torch

from micronet.networks.kernels.boosting import Trees
from micronet.networks.models import MicroNet, MicroRNet
from micronet.networks.pixel import PixelNetwork
from micronet.networks.pixel_trees import PixelTrees
from micronet.networks.taught import Member, Taught
from micronet.networks.weights import save_state
from micronet.segment.job import Weights

CUBES, THICK = (2.0, 2.0, 2.0), (10.0, 2.0, 2.0)
SCALES = (1.4, 3.0)


def trees(rng, around_um=0.0):
    """Trees that ask for all kinds of features: a change of one bit of a feature may change a leaf."""
    feature = np.arange(22, dtype=np.int32).reshape(11, 2) % 11
    threshold = rng.normal(0, 0.3, (11, 2)).astype(np.float32)
    return PixelTrees(SCALES, Trees(feature, threshold, rng.normal(0, 1, (11, 4)).astype(np.float32), 0.0), around_um)


def pixels():
    network = PixelNetwork(SCALES, 2, 8, torch.Generator().manual_seed(3))
    network.feature_sd[:] = 2.0
    return network.eval()


def taught(rng, spacing_um, logarithm=False):
    members = [
        Member("trees", trees(rng)),
        Member("trees", trees(rng, 24.0), 0.5),
        Member("pixel", pixels(), 0.25),
        Member("trees", trees(rng, 12.0), 0.5),
    ]
    return Taught(members, spacing_um, logarithm=logarithm).eval()


def weights_of(model, folder, name):
    path = folder / f"{name}.pt"
    save_state(path, model.state_dict())
    return Weights.load(path)


def with_grids(rng, spacing_um, step_um):
    """A taught network as teach.py makes it of thick planes, with a µ-Net that sees the image as it is and a µr-Net."""
    torch.manual_seed(0)
    members = [
        Member("trees", trees(rng)),
        Member("unet", MicroNet().eval(), 0.5, step_um, around_um=24.0),
        Member("trees", trees(rng, 24.0), 0.5),
        Member("urnet", MicroRNet().eval(), 0.3, 1.2 * step_um, passes=2),
        Member("unet", MicroNet().eval(), 0.2, step_um),
    ]
    return Taught(members, spacing_um).eval()


def in_small_parts(plan):
    """The same plan with boxes and tiles that cut every axis which may be cut."""

    def tiles(one):
        return replace(one, sides=(32, 32, 32), coarse_sides=(8, 8, 8), coarse_on_disk=True)

    grids = tuple(replace(grid, sides=(7, 24, 16), tiles=tiles(grid.tiles)) for grid in plan.grids)
    return replace(plan, sides=(5, 16, plan.size[2]), rows=7, grids=grids)
