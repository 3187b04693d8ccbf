"""Where a network looked to say that an image holds a class: class activation maps of all of its layers.

The map of a layer is the sum of its channels, each weighed by the mean of the gradient of the class's logit over it
(Selvaraju et al. 2017); it is signed, no part of it is set to 0. One backward pass gives those of all layers. The last
layer tells where a class is, coarsely; what the earlier ones have in common, their first principal component, tells the
same precisely but for its sign, which the coarse map decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from micronet.networks.micranet import MicraNet

__all__ = ["coarse_and_precise", "layer_maps", "maps_of_image", "work_bytes"]

Array = NDArray[np.float32]


def layer_maps(network: MicraNet, image: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
    """Return the logits of an image, and of each class the maps of all layers.

    Parameters
    ----------
    network : MicraNet
        In evaluation mode.
    image : Tensor of shape (1, 1, D, H, W)
        Normalised; D = 1 for a 2-D network.

    Returns
    -------
    logits : Tensor of shape (classes,)
    maps : list of list of Tensor
        By class, by layer: (1, 1, [D,] H, W), of the layer's own size; as ``LayerGradCam`` of Captum gives them one
        layer at a time.
    """
    with torch.enable_grad():
        features = network.features(image)
        logits = network.scores_of(features[-1])[0]
        maps = []
        for number, logit in enumerate(logits):
            more = number + 1 < len(logits)
            gradients = torch.autograd.grad(logit, features, retain_graph=more)
            maps.append([_weighed(one, by) for one, by in zip(features, gradients, strict=True)])
    return logits.detach(), maps


def _weighed(features: Tensor, gradient: Tensor) -> Tensor:
    weight = gradient.mean(tuple(range(2, gradient.ndim)), keepdim=True)
    return (weight * features.detach()).sum(1, keepdim=True)


def maps_of_image(network: MicraNet, image: Array) -> tuple[Array, Array]:
    """Return what a network says of an image, and where it looked.

    Parameters
    ----------
    network : MicraNet
        In evaluation mode.
    image : ndarray of shape (D, H, W), float32
        Normalised; D = 1 for a 2-D network.

    Returns
    -------
    probability : ndarray of shape (classes,), float32
    maps : ndarray of shape (classes, 2, D, H, W), float32
        Of each class the coarse and the precise map.
    """
    place = next(network.parameters()).device
    logits, layers = layer_maps(network, torch.from_numpy(image)[None, None].to(place))
    found = np.empty((len(layers), 2, *image.shape), np.float32)
    for one, of_class in zip(found, layers, strict=True):
        sized = [_as_large(each, image.shape, network.dimensions) for each in of_class]
        one[0], one[1] = coarse_and_precise(sized)
    return torch.sigmoid(logits).cpu().numpy(), found


def _as_large(found: Tensor, shape: Sequence[int], dimensions: int) -> Array:
    """Return a map brought to the size of its image: an element of a layer covers 1, 2, 4 or 8 voxels, from the first.

    What the last ones cover beyond the image is cut away.
    """
    lengths = tuple(shape)[-dimensions:]
    edge = 1
    while any(have * edge < length for have, length in zip(found.shape[2:], lengths, strict=True)):
        edge *= 2
    if edge > 1:
        mode = "bilinear" if dimensions == 2 else "trilinear"
        found = nn.functional.interpolate(found, scale_factor=float(edge), mode=mode, align_corners=False)
    box = tuple(slice(0, length) for length in lengths)
    return np.ascontiguousarray(found[0, 0][box].cpu().numpy()).reshape(shape)


def coarse_and_precise(maps: Sequence[Array]) -> tuple[Array, Array]:
    """Return the map of the last layer, and the first principal component of the earlier ones.

    Parameters
    ----------
    maps : sequence of ndarray
        Of the layers, the first first, all of one shape; at least two.

    Returns
    -------
    coarse, precise : ndarray of that shape, float32
        The precise one has mean 0; each earlier map counts in units of its standard deviation, so that the scale of
        its layer does not matter, and one that is constant does not count. Its sign is that with which it goes with
        the coarse map, or where it goes with neither, that of most of the earlier maps. 0 where nothing varies.
    """
    coarse = maps[-1]
    varying = [one for one in maps[:-1] if float(one.std(dtype=np.float64)) > 0]
    if not varying:
        return coarse, np.zeros_like(coarse)
    rows = np.stack([one.ravel() for one in varying])
    rows -= rows.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
    rows /= rows.std(1, keepdims=True, dtype=np.float64).astype(np.float32)
    # Of the layers' correlations, at most 7 x 7: exact, and the same each time; nothing is drawn.
    together = np.array([[float(np.dot(one, other)) for other in rows] for one in rows]) / rows.shape[1]
    weights = np.linalg.eigh(together)[1][:, -1].astype(np.float32)
    precise = weights @ rows
    last = coarse.ravel() - coarse.mean(dtype=np.float64)
    along = float(np.dot(precise.astype(np.float64), last))
    if along == 0:
        along = float(weights.sum())
    if along < 0:
        np.negative(precise, out=precise)
    return coarse, precise.reshape(coarse.shape)


def work_bytes(network: MicraNet, voxels: int) -> int:
    """Return about how many bytes the maps of an image of so many voxels take beside the image and what is returned."""
    gradients = 2 * network.voxel_bytes * voxels
    sized = 4 * 3 * len(network.layers) * voxels  # as large as the image, stacked, and one in the making
    return max(gradients, sized) + network.voxel_bytes * voxels
