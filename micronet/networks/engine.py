"""The numba engine (kernels/) as part of PyTorch's graph.

One rule decides who computes: the engine does where numba is installed, the network is as it was built, image, mask
and parameters are float32 on the CPU, no gradient with respect to image or mask is asked for, and nothing looks on at
what PyTorch does (tracing, a transform); PyTorch does everything else. The numbers are the same up to float32 rounding,
and gradients are nearer to float64's than PyTorch's own.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from micronet.core.errors import InputError, setting

__all__ = [
    "TILE_HALO",
    "Engine",
    "TileSizes",
    "Work",
    "available",
    "choose",
    "forget_memory",
    "forward",
    "is_ready",
    "kept_array",
    "make_ready",
    "pass_bytes",
    "refiner",
    "serves",
    "slab_refiner",
    "tile_sizes",
    "tile_steps",
    "tile_store_shapes",
    "tile_stores",
    "tiles_of",
    "unkept",
]

Engine = Literal["auto", "numba", "torch"]
#: What is compiled at a time: `micronet.networks.kernels.warm`.
Work = Literal["forward", "training", "trees", "perceptrons"]
#: ``read(z0, z1)`` returns planes z0 .. z1 - 1, float32 (z1 - z0, Y, X).
Planes = Callable[[int, int], NDArray[np.float32]]

#: Voxels that are read around a tile.
TILE_HALO = 8

_choice: dict[str, Engine] = {"engine": "auto"}


@functools.cache
def available() -> bool:
    """Return whether numba is installed and ``MICRONET_ENGINE=torch`` does not forbid its use."""
    return os.environ.get("MICRONET_ENGINE") != "torch" and importlib.util.find_spec("numba") is not None


def choose(engine: Engine) -> None:
    """Choose who computes, for this process: ``auto`` (the rule above), ``numba`` (or an error) or ``torch``."""
    if engine not in ("auto", "numba", "torch"):
        raise InputError(f"engine '{engine}' is unknown; choose auto, numba or torch")
    if engine == "numba" and not available():
        raise InputError(f"the numba engine needs numba; install it, or choose auto {setting('engine')}")
    _choice["engine"] = engine


def is_ready(work: Work) -> bool:
    """Return whether nothing has to be compiled before work of a kind on this machine."""
    if work in ("forward", "training") and (_choice["engine"] == "torch" or not available()):
        return True
    from micronet.networks.kernels.warm import is_compiled

    return is_compiled(work)


def make_ready(work: Work, progress: Callable[[float], None] | None = None) -> None:
    """Compile what work of a kind needs, once for this machine and version; `progress` gets the fraction done."""
    from micronet.networks.kernels.warm import warm_up

    warm_up(work, progress)


def unkept() -> str:
    """Return why what was compiled is not kept for the next time, empty where it is."""
    from micronet.networks.kernels import jit

    return jit.unkept()


def kept_array(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an array of any content in memory that passes and training steps leave to each other."""
    from micronet.networks.kernels import kept

    return kept.kept_array(shape)


def forget_memory() -> None:
    """Give back the memory that passes and training steps leave to each other; for when there is no next one soon."""
    from micronet.networks.kernels.kept import forget

    forget()


def serves(x: Tensor, parameters: Mapping[str, Tensor]) -> bool:
    """Return whether the engine computes this forward pass; InputError if it is demanded but cannot.

    Parameters
    ----------
    x : Tensor
        What is looked at, of any shape.
    parameters : mapping of str to Tensor
        Those of a network that is as it was built (`micronet.networks.unchanged`); empty for any other.
    """
    if _choice["engine"] == "torch" or not available():
        return False
    tensors = [x, *parameters.values()]
    fits = (
        len(parameters) > 0
        and all(
            type(t) in (Tensor, torch.nn.Parameter)
            and t.dtype == torch.float32
            and t.is_cpu
            and t.layout == torch.strided
            and not t.is_neg()
            for t in tensors
        )
        and not (x.requires_grad and torch.is_grad_enabled())
        and not torch.is_autocast_enabled("cpu")
        and not _watched()
    )
    if not fits and _choice["engine"] == "numba":
        raise InputError(
            "the numba engine computes float32 on the CPU, without gradients of the image or mask, "
            "with the layers of a µ-Net or µr-Net as they were built"
        )
    return fits


def _watched() -> bool:
    """Return whether something must see PyTorch's own operations: compiling, tracing, a transform, a mode."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.autograd.forward_ad._current_level >= 0
    )


def forward(x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the probability (N, 1, D, H, W) for input (N, 1 or 2, D, H, W); differentiable in the parameters.

    The thread count is PyTorch's (``torch.set_num_threads``).
    """
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters.values()):
        result: Tensor = _Network.apply(x, tuple(parameters), *parameters.values())  # type: ignore[no-untyped-call]
        return result
    from micronet.networks.kernels.network import forward as compute

    arrays = {name: parameter.detach().numpy() for name, parameter in parameters.items()}
    found = [
        compute(arrays, sample[0], sample[1] if len(sample) > 1 else None, torch.get_num_threads())
        for sample in x.detach().numpy()
    ]
    return _batch(found)


def _batch(found: list[NDArray[np.float32]]) -> Tensor:
    """Return probabilities (Z, Y, X) as one tensor (N, 1, D, H, W), without a copy when there is one."""
    return torch.from_numpy(found[0] if len(found) == 1 else np.stack(found)).view(len(found), 1, *found[0].shape)


def refiner(parameters: Mapping[str, Tensor], image: NDArray[np.float32]) -> Callable[..., NDArray[np.float32]]:
    """Return a function from a mask (none for a µ-Net) to the probability, all (Z, Y, X) float32.

    Its second argument, (scale, offset), normalises the mask: ``scale * mask - offset``. What depends on the image
    alone is computed here, once. No gradients. The thread count is PyTorch's.
    """
    from micronet.networks.kernels.network import Refiner

    arrays = {name: value.detach().numpy() for name, value in parameters.items()}
    return Refiner(arrays, image, torch.get_num_threads())


def slab_refiner(
    parameters: Mapping[str, Tensor], size: tuple[int, int, int], image: Planes, planes: int
) -> Callable[..., None]:
    """Return a function from a reader of the mask (None for a µ-Net) and a writer, which gets the slabs.

    Its third argument normalises the mask, as the second of `refiner`. As `networks.kernels.slabs.SlabRefiner`: the
    numbers are those of `refiner` to the bit.
    """
    from micronet.networks.kernels.slabs import SlabRefiner

    arrays = {name: value.detach().numpy() for name, value in parameters.items()}
    return SlabRefiner(arrays, size, image, planes, torch.get_num_threads())


def tile_steps(parameters: Mapping[str, Tensor], size: tuple[int, int, int], image: Any, stores: Any) -> Any:
    """Return the `networks.kernels.tiles.TileSteps` of a network; the thread count is PyTorch's."""
    from micronet.networks.kernels.tiles import TileSteps

    arrays = {name: value.detach().numpy() for name, value in parameters.items()}
    return TileSteps(arrays, size, image, stores, torch.get_num_threads())


def tiles_of(
    size: tuple[int, int, int], sides: tuple[int, int, int], coarse_sides: tuple[int, int, int]
) -> tuple[list[Any], list[Any]]:
    """Return the tiles (`networks.kernels.tiles.Tile`) of a volume, and those of its quarter scale."""
    from micronet.networks.kernels.sizes import coarser
    from micronet.networks.kernels.tiles import tiles

    return list(tiles(size, sides)), list(tiles(coarser(size), coarse_sides))


def tile_store_shapes(size: tuple[int, int, int]) -> dict[str, tuple[int, int, int, int]]:
    """Return the shapes (Z, channels, Y, X) of the `networks.kernels.tiles.Stores` of a volume, by name."""
    from micronet.networks.kernels.tiles import Stores

    return Stores.shapes(size)


def tile_stores(size: tuple[int, int, int], refines: bool, opened: Callable[[str], Any]) -> Any:
    """Return the `networks.kernels.tiles.Stores` of a volume; ``opened(name)`` gives one of `tile_store_shapes`."""
    from micronet.networks.kernels.tiles import Stores

    names = Stores.shapes(size)
    found: dict[str, Any] = {name: opened(name) if refines or name != "mask" else None for name in names}
    return Stores(**found)


@dataclass(frozen=True)
class TileSizes:
    """About how many bytes passes in tiles take.

    `fine` and `coarse` tell it of a tile with given sides, at full and at a quarter of the scale; `stores` is what the
    quarter scale takes wherever it lies, `lowest` what the lowest level takes in memory.
    """

    fine: Callable[[tuple[int, int, int]], int]
    coarse: Callable[[tuple[int, int, int]], int]
    stores: int
    lowest: int


def tile_sizes(size: tuple[int, int, int], refines: bool) -> TileSizes:
    """Return what passes over a volume of this size take in tiles."""
    from micronet.networks.kernels import tiles

    threads = torch.get_num_threads()
    return TileSizes(
        lambda sides: tiles.tile_bytes(size, sides, threads),
        lambda sides: tiles.coarse_tile_bytes(size, sides),
        tiles.store_bytes(size, 2 * int(refines)),  # the masks before and after a pass
        tiles.lowest_bytes(size),
    )


def pass_bytes(size: tuple[int, int, int], planes: int | None = None) -> int:
    """Return about how many bytes a pass takes beside what the caller holds: whole, or in slabs of some planes."""
    from micronet.networks.kernels import slabs

    threads = torch.get_num_threads()
    return slabs.whole_bytes(size, threads) if planes is None else slabs.slab_bytes(size, planes, threads)


class _Network(torch.autograd.Function):
    """Forward and backward of a whole network, sample by sample.

    All that is large is handed to PyTorch to keep, which frees it after the backward pass. It notices when the input,
    the output or a weight was changed in between; a bias may be, as in PyTorch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, names: tuple[str, ...], *values: Tensor) -> Tensor:
        from micronet.networks.kernels.gradient import forward_saving

        parameters = {name: value.detach().numpy() for name, value in zip(names, values, strict=True)}
        threads = torch.get_num_threads()
        found: list[NDArray[np.float32]] = []
        kept: list[Tensor] = []
        ctx.samples, ctx.names = [], names
        for sample in x.detach().numpy():
            mask = sample[1] if len(sample) > 1 else None
            probability, saved = forward_saving(parameters, sample[0], mask, threads)
            found.append(probability)
            _, *large = saved.large()
            kept += [torch.from_numpy(array) for array in large]
            ctx.samples.append((saved.with_large([np.empty((0, 0, 0), np.float32)] * (len(large) + 1)), len(large)))
        result = _batch(found)
        weights = [value for value in values if value.ndim > 1]
        ctx.weights = len(weights)
        ctx.save_for_backward(x, result, *weights, *kept)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from micronet.networks.kernels.gradient import backward

        _, result, *kept = ctx.saved_tensors
        kept = kept[ctx.weights :]
        totals: list[Tensor] = []
        for n, (saved, count) in enumerate(ctx.samples):
            arrays = [result[n, 0].numpy(), *(tensor.numpy() for tensor in kept[:count])]
            kept = kept[count:]
            found = backward(saved.with_large(arrays), gradient[n, 0].numpy())
            tensors = [torch.from_numpy(found[name]) for name in ctx.names]
            totals = [a + b for a, b in zip(totals, tensors, strict=True)] if totals else tensors
        return (None, None, *totals)
