"""Phantoms: procedural yolk sacs with vessels and heart, and the OCT images that they would give."""

from micronet.data.phantom.anatomy import beating, lumen_mask
from micronet.data.phantom.decoys import ALL_DECOYS, DECOYS, Decoys, only
from micronet.data.phantom.oct import render_oct
from micronet.data.phantom.optics import PRESETS, VARIATION, Optics, varied
from micronet.data.phantom.seeds import mask_of_seed, optics_of_seed, phantom_of_seed, speckle_of_seed
from micronet.data.phantom.sizes import Anatomy

__all__ = [
    "ALL_DECOYS",
    "DECOYS",
    "PRESETS",
    "VARIATION",
    "Anatomy",
    "Decoys",
    "Optics",
    "beating",
    "lumen_mask",
    "mask_of_seed",
    "only",
    "optics_of_seed",
    "phantom_of_seed",
    "render_oct",
    "speckle_of_seed",
    "varied",
]
