"""What networks that were shown a yes or no find in an image: which classes, where, and how many pieces of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micronet.measure.cutting import Cut, cut_at
from micronet.measure.topology import components
from micronet.networks.activation import maps_of_image
from micronet.networks.micranet import MicraNet

__all__ = ["Detection", "Seen", "detections", "look", "marked", "stands_out"]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Standard deviation of the Gaussian that a map is smoothed with before it is cut, in voxels.
_SMOOTHING = 1.0


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen in a volume; an ensemble's is the mean of its networks.

    Parameters
    ----------
    probability : ndarray of shape (images, classes), float32
        Of a 2-D network each plane is an image, of a 3-D one the volume is.
    coarse, precise : ndarray of shape (classes, Z, Y, X), float32
        Signed maps of each class; the coarse one in units of its largest value, the precise one of its deviation.
    spread : ndarray of shape (classes, Z, Y, X), float32, optional
        Standard deviation of the precise maps between the networks; None where there is one.
    """

    probability: Array
    coarse: Array
    precise: Array
    spread: Array | None


@dataclass(frozen=True)
class Detection:
    """A piece: the class by its number from 0, the voxel of its maximum, a score in [0, 1], and its size."""

    of_class: int
    voxel: tuple[int, int, int]
    score: float
    voxels: int


def look(networks: Sequence[MicraNet], image: Array, on_image: Callable[[], None] = lambda: None) -> Seen:
    """Return what networks of the same classes see in a volume.

    Parameters
    ----------
    networks : sequence of MicraNet
        At least one, all 2-D or all 3-D.
    image : ndarray of shape (Z, Y, X), float32
        Normalised.
    on_image : callable
        Called when a network has looked at an image; may raise to stop.
    """
    flat, classes = networks[0].dimensions == 2, len(networks[0].classes)
    parts = [slice(z, z + 1) for z in range(len(image))] if flat else [slice(0, len(image))]
    probability = np.zeros((len(parts), classes), np.float32)
    sums = np.zeros((2, classes, *image.shape), np.float32)
    squares = np.zeros((classes, *image.shape), np.float32) if len(networks) > 1 else None
    for network in networks:
        for number, part in enumerate(parts):
            said, maps = maps_of_image(network, np.ascontiguousarray(image[part]))
            probability[number] += said / len(networks)
            for of_class, (coarse, precise) in enumerate(maps):
                sums[0, of_class, part] += _scaled(coarse, float(np.abs(coarse).max())) / len(networks)
                precise = _scaled(precise, float(precise.std(dtype=np.float64)))
                sums[1, of_class, part] += precise / len(networks)
                if squares is not None:
                    squares[of_class, part] += precise**2 / len(networks)
            on_image()
    if squares is not None:
        squares -= sums[1] ** 2
        np.sqrt(np.maximum(squares, 0, out=squares), out=squares)
    return Seen(probability, sums[0], sums[1], squares)


def _scaled(array: Array, by: float) -> Array:
    return array / np.float32(by) if by > 0 else array


def marked(coarse: Array, precise: Array, *, flat: bool) -> Array:
    """Return the map of a class that is cut: the product of what is positive in the coarse and in the precise one.

    The precise map is smoothed before, within its planes where each is an image of its own. Earlier layers outline
    everything that is told from anything, whatever its class; where the class is, the last layer says.
    """
    found: Array = ndimage.gaussian_filter(precise, (0.0 if flat else _SMOOTHING, _SMOOTHING, _SMOOTHING))
    np.maximum(found, 0, out=found)
    found *= np.maximum(coarse, 0)
    return found


def stands_out(found: Array, there: Sequence[bool], cut: Cut) -> Mask:
    """Return where a class is: above the threshold of the map, in the images that hold it.

    Parameters
    ----------
    found : ndarray of shape (Z, Y, X), float32
        As `marked` gives it.
    there : sequence of bool
        Of each image; several are the planes.
    cut : Cut
    """
    mask = np.zeros(found.shape, bool)
    parts = [slice(z, z + 1) for z in range(len(found))] if len(there) > 1 else [slice(0, len(found))]
    for part, holds in zip(parts, there, strict=True):
        if holds:
            mask[part] = found[part] > max(cut_at(found[part], cut), 0.0)
    return mask


def detections(of_class: int, found: Array, mask: Mask, probability: Sequence[float]) -> list[Detection]:
    """Return one point a piece, where the map is largest in it, the highest score first.

    A score is the map at the point as a share of the largest in the volume, times the probability that the image there
    holds the class.
    """
    labels, count = components(mask)
    if not count:
        return []
    numbers = np.arange(1, count + 1)
    places = ndimage.maximum_position(found, labels, numbers)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    largest = max(float(found[place]) for place in places)
    pieces = []
    for place, size in zip(places, sizes, strict=True):
        z, y, x = (int(at) for at in place)
        said = float(probability[z if len(probability) > 1 else 0])
        pieces.append(Detection(of_class, (z, y, x), said * float(found[z, y, x]) / largest, int(size)))
    return sorted(pieces, key=lambda piece: (-piece.score, piece.voxel))
