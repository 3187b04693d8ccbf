"""The computing part of the widget "Segment": masks, one after each refinement. It knows nothing of napari."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from micronet.app.napari.work import Progress, Tell
from micronet.core.errors import InputError
from micronet.core.provenance import sha256_of
from micronet.core.volume import Volume
from micronet.networks import engine
from micronet.networks.card import card_line
from micronet.networks.normalize import log_intensity, normalize_image
from micronet.networks.registry import network_of
from micronet.networks.weights import load_model
from micronet.segment.refine import Refinement, checked_depth, refine
from micronet.segment.settings import Weights
from micronet.segment.time_lapse import FIRST_ITERATIONS

__all__ = [
    "Segmenting",
    "Step",
    "default_weights",
    "prepare_engine",
    "segment",
    "trained_folder",
    "warning",
]


@dataclass(frozen=True, eq=False)
class Step:
    """A mask on its way: of which time point, after which refinement, of how many; and the voxels inside."""

    time_point: int
    iteration: int
    of: int
    mask: NDArray[np.bool_]
    voxels: int


@dataclass(frozen=True, eq=False)
class Segmenting:
    """How a layer is segmented.

    Parameters
    ----------
    weights : Path
        Of a µr-Net; or of a µ-Net or of what was taught, which look once.
    iterations : int
        Refinements of a time point; `FIRST_ITERATIONS` at least of the first of several that starts from nothing.
    threshold : float
        Lumen is above it, in [0, 1).
    start : ndarray of shape (Z, Y, X), optional
        Labels; where they are not 0 the first refinement starts from 1. µr-Net only.
    log : bool
        Take the logarithm of the intensities first; what was taught so takes it by itself.
    y_crop : int, optional
        Only depths ``[:, :y_crop, :]`` are looked at; the whole volume is normalised.
    """

    weights: Path
    iterations: int = 10
    threshold: float = 0.5
    start: NDArray[Any] | None = None
    log: bool = False
    y_crop: int | None = None


_COMPILING = "compiling for this machine, once; this takes about half a minute"


def trained_folder() -> Path:
    """Return where the weights lie that come with micronet: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    inside = package / "trained_models"
    return inside if inside.is_dir() else package.parent / "trained_models"


def default_weights() -> Path:
    """Return the weight file that the widget begins with."""
    return trained_folder() / "ur-net_phantom.pt"


def prepare_engine(work: Iterable[engine.Work], tell: Tell) -> None:
    """Compile what some work needs, where this machine has not done so yet."""
    for kind in sorted(work):
        if not engine.is_ready(kind):
            engine.make_ready(kind, lambda fraction: tell(Progress(round(100 * fraction), 100, _COMPILING)))


def segment(array: NDArray[Any], grid: Volume, how: Segmenting, tell: Tell) -> None:
    """Tell the mask after every refinement.

    Parameters
    ----------
    array : ndarray of shape (Z, Y, X) or (T, Z, Y, X)
        Intensities; each volume is normalised once. A time point starts from the probability found at the one before.
    grid : Volume
        Of a time point; what was taught looks at its voxel size.
    how : Segmenting
    tell : callable
        Receives a `Step` after each refinement, and `Progress` while something is compiled.

    Raises
    ------
    MicronetError
        If the array, the weights or a setting cannot be used.
    """
    if array.ndim not in (3, 4):
        raise InputError(f"the layer must have the axes Z, Y, X, and T before them, this one has {array.ndim}")
    if not 0 <= how.threshold < 1:
        raise InputError(f"the threshold must lie in [0, 1), found {how.threshold}")
    model = _model(how.weights, how.weights.stat().st_mtime_ns if how.weights.is_file() else 0)
    network = network_of(model)
    probability = None
    if how.start is not None:
        if not network.refines:
            raise InputError(f"{network.title} looks once and starts from nothing; choose a µr-Net or no start")
        if how.start.shape != array.shape[-3:]:
            raise InputError(f"the labels to start from have shape {how.start.shape}, the image {array.shape[-3:]}")
        probability = (how.start != 0).astype(np.float32)
    prepare_engine(Weights(how.weights, "", model).work, tell)
    for time_point, volume in enumerate(array if array.ndim == 4 else array[None]):
        count = network.passes(how.iterations)
        if network.refines and array.ndim == 4 and probability is None:  # the others start from what is found here
            count = max(count, FIRST_ITERATIONS)
        probability = _Look(model, how, grid.spacing_um, tell).at(np.asarray(volume), time_point, count, probability)


@dataclass(frozen=True, eq=False)
class _Look:
    """One volume on its way through a network."""

    model: nn.Module
    how: Segmenting
    spacing_um: tuple[float, float, float] | None
    tell: Tell

    def at(
        self, array: NDArray[Any], time_point: int, count: int, start: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Return the probability (Z, Y, X), which is told after every refinement."""
        depth = checked_depth(array, self.model, Refinement(count, y_crop=self.how.y_crop))
        model, in_um = cast(Any, self.model), network_of(self.model).in_um
        log = self.how.log or (in_um and model.logarithm)
        image = np.ascontiguousarray(normalize_image(log_intensity(array) if log else array)[:, :depth])
        whole, numbers = np.zeros(array.shape, np.float32), iter(range(1, count + 1))

        def show(found: NDArray[np.float32]) -> None:
            whole[:, :depth] = found
            mask = whole > self.how.threshold
            self.tell(Step(time_point, next(numbers), count, mask, int(np.count_nonzero(mask))))

        if in_um:
            show(model.predict(image, model.checked_spacing(self.spacing_um)))
        else:
            blank = np.zeros(image.shape, np.float32)
            before = blank if start is None else np.ascontiguousarray(start[:, :depth])
            refine(image, before, self.model, count, on_probability=show)
        return whole


def warning(grid: Volume, array: NDArray[Any], weights: Path, *, log: bool = False) -> str | None:
    """Say where a layer lies outside of what the weights were trained on, None where it does not; as `infer.py`."""
    if array.ndim not in (3, 4) or not weights.is_file():
        return None
    first = np.asarray(array if array.ndim == 3 else array[0])
    volume = grid.with_array(log_intensity(first) if log else first)
    return card_line(weights, sha256_of(weights), Path("layer"), volume, log_taken=log)


@lru_cache(maxsize=2)
def _model(weights: Path, _changed: int) -> nn.Module:
    return load_model(weights)
