"""The networks that micronet knows: one entry each, and whoever needs to know something of a network asks it here.

A network comes in with one call of `register`; inference, training, memory, file names and the prompt then know it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from micronet.core.errors import InputError
from micronet.core.names import listed
from micronet.networks import library
from micronet.networks.micranet import MicraNet, is_micranet, micranet_for_state
from micronet.networks.models import MINIMUM_AXIS, MicroNet, MicroRNet, check_values
from micronet.networks.taught import Taught, is_taught, taught_for_state

__all__ = [
    "Network",
    "classes_of",
    "dimensions_of",
    "engine_parameters",
    "entries",
    "model_for_state",
    "network_named",
    "network_of",
    "register",
    "registered",
]


@dataclass(frozen=True)
class Network:
    """One entry.

    Parameters
    ----------
    name : str
        Of its files and sessions: ``<name>_<version>.pt``.
    title : str
        What people call it.
    module : type of torch.nn.Module
        What the network is an instance of; takes (N, 1 + masks, D, H, W), normalised, and returns the probability
        (N, classes, D, H, W).
    build : callable
        Returns one with fresh weights, drawn from torch's global generator; what is taught has none.
    refines : bool
        Whether channel 1 of its input is a mask, which it gives back refined.
    classes : tuple of str
        What its output channels are the probability of; `classes_of` knows it of one that was built for others.
    smallest_axis : int
        Voxels; shorter axes are padded.
    receptive_field : int or None
        An output voxel sees at most so many voxels to each side; None where it sees the whole volume.
    tiling : {"whole", "slabs", "windows"}
        What it can do with a volume that does not fit into memory: nothing; compute it slab by slab to the bit, as the
        numba engine does; or look at it in windows, which gives other numbers (`micronet.segment.windows`).
    of_images : bool
        Whether it says what an image holds instead of where: its module returns (N, classes) and names the classes
        itself, as `micronet.networks.micranet.MicraNet`.
    in_um : bool
        Whether it needs the voxel size and takes any: its module has ``predict(image, spacing_um)``, as
        `micronet.networks.taught.Taught`, pads for itself and says itself what memory it takes (`pass_bytes`).
    torch_bytes : int
        Bytes a voxel that PyTorch takes for one pass, beside what the caller holds; measured.
    recipe : str
        Name of the recipe that trains it where nobody asks for another.
    script : str
        The script whose prompt trains it.
    made_from : str, optional
        Name of the network whose weights it can be started from (`bootstrap` at the prompt of that one).
    sized : bool
        Whether it comes in sizes, which its weights state (`networks.library`); `build` then gives the usual one.
    """

    name: str
    title: str
    module: type[nn.Module]
    build: Callable[..., nn.Module]
    refines: bool
    smallest_axis: int
    receptive_field: int | None
    tiling: Literal["whole", "slabs", "windows"]
    torch_bytes: int
    recipe: str
    script: str
    classes: tuple[str, ...] = ("lumen",)
    made_from: str | None = field(default=None)
    sized: bool = False
    in_um: bool = False
    of_images: bool = False

    def passes(self, iterations: int) -> int:
        """Return how often it looks at a volume when that many refinements are asked for."""
        return iterations if self.refines else 1

    def pass_bytes(self, model: nn.Module, size: Sequence[int]) -> int:
        """Return the bytes that PyTorch takes for one pass of a network of this entry over so many voxels (Z, Y, X)."""
        if isinstance(model, library.LibraryNetwork):
            return model.pass_bytes(size)
        return math.prod(size) * int(getattr(model, "voxel_bytes", self.torch_bytes))


def _only_by_teaching() -> nn.Module:
    raise InputError("a taught network has no weights to start from: teach.py makes it of a volume and its labels")


def _of_library(kind: type[library.LibraryNetwork]) -> Network:
    return Network(
        name=kind.name,
        title=kind.title,
        module=kind,
        build=kind,
        refines=False,
        smallest_axis=1,
        receptive_field=None,
        tiling="windows",
        torch_bytes=0,  # a network of its size knows
        recipe="network",
        script="train_network.py",
        sized=True,
    )


# µ-Net and µr-Net see at most 109 voxels to each side: reference of the published method.
_ENTRIES: dict[str, Network] = {
    entry.name: entry
    for entry in (
        Network(
            name="u-net",
            title="µ-Net",
            module=MicroNet,
            build=MicroNet,
            refines=False,
            smallest_axis=MINIMUM_AXIS,
            receptive_field=109,
            tiling="slabs",
            torch_bytes=200,
            recipe="default",
            script="train_micronet.py",
        ),
        Network(
            name="ur-net",
            title="µr-Net",
            module=MicroRNet,
            build=MicroRNet,
            refines=True,
            smallest_axis=MINIMUM_AXIS,
            receptive_field=109,
            tiling="slabs",
            torch_bytes=240,
            recipe="default",
            script="train_micrornet.py",
            made_from="u-net",
        ),
        Network(
            name="taught",
            title="taught network",
            module=Taught,
            build=_only_by_teaching,
            refines=False,
            smallest_axis=1,
            receptive_field=None,
            tiling="whole",
            torch_bytes=0,
            recipe="",
            script="teach.py",
            in_um=True,
        ),
        *map(_of_library, library.LIBRARY.values()),
        Network(
            name=MicraNet.name,
            title=MicraNet.title,
            module=MicraNet,
            build=MicraNet,
            refines=False,
            smallest_axis=1,
            receptive_field=None,
            tiling="whole",
            torch_bytes=0,  # a network of its size knows
            recipe="network",
            script="train_network.py",
            classes=(),
            sized=True,
            of_images=True,
        ),
    )
}


def entries() -> tuple[Network, ...]:
    """Return every network that is known, in the order in which they came."""
    return tuple(_ENTRIES.values())


def register(entry: Network) -> None:
    """Make a network known; InputError when its name or its module is taken."""
    for other in _ENTRIES.values():
        if other.name == entry.name or other.module is entry.module:
            raise InputError(f"there is a network '{other.name}' of {other.module.__name__} already")
    _ENTRIES[entry.name] = entry


@contextmanager
def registered(entry: Network) -> Iterator[Network]:
    """Make a network known while a block lasts."""
    register(entry)
    try:
        yield entry
    finally:
        del _ENTRIES[entry.name]


def network_named(name: str) -> Network:
    """Return the entry of a name; InputError with the known names when there is none."""
    if name not in _ENTRIES:
        raise InputError(f"no network '{name}'; known are {', '.join(_ENTRIES)}")
    return _ENTRIES[name]


def network_of(model: nn.Module) -> Network:
    """Return the entry of a network, or of what it was derived from; InputError when it is none of ours."""
    for kind in type(model).__mro__:
        for entry in _ENTRIES.values():
            if entry.module is kind:
                return entry
    raise InputError(f"{type(model).__name__} is no network that micronet knows; known are {', '.join(_ENTRIES)}")


def _misfits(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, list[str]]:
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    return {
        "missing": [key for key in expected if key not in state],
        "extra": [key for key in state if key not in expected],
        "misshaped": [
            f"{key} {tuple(state[key].shape)} instead of {shape}"
            for key, shape in expected.items()
            if key in state and tuple(state[key].shape) != shape
        ],
    }


def model_for_state(state: Mapping[str, Tensor]) -> nn.Module:
    """Build the network that a state dict belongs to, decided from its tensors alone.

    Parameters
    ----------
    state : mapping of str to Tensor
        The tensors of a network that is known.

    Returns
    -------
    torch.nn.Module
        With these weights, float32, on the CPU; `network_of` tells which it is.

    Raises
    ------
    InputError
        If the tensors fit no network (it says which are missing, extra or misshaped against the nearest one)
        or hold values that are not finite.
    """
    if is_taught(state):
        return taught_for_state(state)
    # Building draws initial weights; leave the caller's stream alone. (On the meta device, which has no memory, a draw
    # imports PyTorch's compiler, 2 s.)
    with torch.random.fork_rng(devices=[]):
        candidates: dict[str, nn.Module]
        if is_micranet(state):
            candidates = {MicraNet.name: micranet_for_state(state)}
        elif library.states_settings(state):
            model = library.built_from(state)
            candidates = {model.name: model}
        else:
            candidates = {name: entry.build() for name, entry in _ENTRIES.items() if not (entry.sized or entry.in_um)}
    misfits = {name: _misfits(state, model) for name, model in candidates.items()}
    nearest = min(candidates, key=lambda name: sum(map(len, misfits[name].values())))
    if any(misfits[nearest].values()):
        problems = [f"{kind}: {listed(names, 6)}" for kind, names in misfits[nearest].items() if names]
        titles = " nor a ".join(_ENTRIES[name].title for name in candidates)
        neither = f"not a {network_named(nearest).title}" if _ENTRIES[nearest].sized else f"neither a {titles}"
        raise InputError(f"{neither}; against {nearest}: {'; '.join(problems)}")
    check_values(state)
    candidates[nearest].load_state_dict(state)
    return candidates[nearest]


def dimensions_of(model: nn.Module) -> int:
    """Return 2 for a network that looks at every (Y, X) slice by itself, else 3."""
    if isinstance(model, MicraNet):
        return model.dimensions
    return model.build.dimensions if isinstance(model, library.LibraryNetwork) else 3


def classes_of(model: nn.Module) -> tuple[str, ...]:
    """Return what the output channels of a network are the probability of: the lumen, or several exclusive classes."""
    return model.classes if isinstance(model, library.LibraryNetwork | MicraNet) else network_of(model).classes


def engine_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters with which the numba engine computes a network; empty where only PyTorch can."""
    found = getattr(model, "engine_parameters", None)
    return found() if network_of(model).tiling == "slabs" and found is not None else {}
