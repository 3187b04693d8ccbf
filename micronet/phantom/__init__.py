"""Phantoms: procedural yolk sacs with vessels and heart, and the OCT images that they would give."""

from micronet.phantom.anatomy import Anatomy, beating, lumen_mask
from micronet.phantom.oct import Optics, render_oct

__all__ = ["Anatomy", "Optics", "beating", "lumen_mask", "render_oct"]
