"""Tiny 3-D CNNs (µ-Net, µr-Net) that segment lumens in microscopy volumes on an ordinary CPU.

Importing this package loads nothing heavy: each public name brings in its module when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from micronet.core.volume import Volume
    from micronet.io import read_annotation, read_volume, write_volume
    from micronet.measure.scores import score_masks
    from micronet.measure.surface import lumen_surface
    from micronet.measure.vessels import measure_vessels
    from micronet.networks.models import MicroNet, MicroRNet
    from micronet.networks.normalize import normalize_image, normalize_mask
    from micronet.networks.weights import bootstrap, load_model
    from micronet.segment.refine import predict
    from micronet.training.distortion.distort import distort, size_map
    from micronet.training.losses import fbeta_loss

from micronet.core.version import __version__ as __version__

__all__ = [
    "MicroNet",
    "MicroRNet",
    "Volume",
    "bootstrap",
    "distort",
    "fbeta_loss",
    "load_model",
    "lumen_surface",
    "measure_vessels",
    "normalize_image",
    "normalize_mask",
    "predict",
    "read_annotation",
    "read_volume",
    "score_masks",
    "size_map",
    "write_volume",
]

_HOME = {
    "MicroNet": "networks.models",
    "MicroRNet": "networks.models",
    "Volume": "core.volume",
    "__version__": "core.version",
    "bootstrap": "networks.weights",
    "distort": "training.distortion.distort",
    "fbeta_loss": "training.losses",
    "load_model": "networks.weights",
    "lumen_surface": "measure.surface",
    "measure_vessels": "measure.vessels",
    "normalize_image": "networks.normalize",
    "normalize_mask": "networks.normalize",
    "predict": "segment.refine",
    "read_annotation": "io",
    "read_volume": "io",
    "score_masks": "measure.scores",
    "size_map": "training.distortion.distort",
    "write_volume": "io",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'micronet' has no attribute '{name}'")
    return getattr(import_module(f"micronet.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
