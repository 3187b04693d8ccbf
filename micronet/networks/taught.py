"""What was taught on one volume: a weighted mean of pixel trees, pixel networks, µ-Nets and µr-Nets, all in µm.

Unlike a µ-Net by itself it needs the voxel size and takes any: the pixel members' scales are lengths, and for a µ-Net
the volume is resampled to the isotropic step of its weights, and what it finds comes back to the volume's own grid. A
µr-Net starts from the mean of the pixel members.

The state dict is all there is, plain float32 tensors: ``weight`` (members,), not negative; ``spacing_um`` (3,) of the
volume taught on; ``logarithm`` (1,), 1 where the members were taught on the logarithm of linear intensities; and of
member N ``trees.N.*`` (see pixel_trees.py), ``pixel.N.*`` (pixel.py), ``unet.N.*`` or ``urnet.N.*`` (models.py), the
last two with ``step_um`` (1,) and, where they look at the evened image, ``around_um`` (1,), a µr-Net with ``passes``
(1,), its refinements.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from micronet.core.errors import InputError, setting
from micronet.core.regrid import isotropic_shape, resampled
from micronet.networks import engine
from micronet.networks.evening import Seen
from micronet.networks.models import MicroNet, MicroRNet, check_values
from micronet.networks.normalize import normalize_mask
from micronet.networks.padding import Padding

__all__ = ["Member", "Taught", "is_taught", "taught_for_state"]

Array = NDArray[np.float32]
Kind = Literal["trees", "pixel", "unet", "urnet"]

_KINDS: tuple[Kind, ...] = get_args(Kind)
_WORK: dict[Kind, engine.Work] = {"trees": "trees", "pixel": "perceptrons", "unet": "forward", "urnet": "forward"}
_KEY = re.compile(rf"({'|'.join(_KINDS)})\.([0-9]{{1,2}})\.(.+)")
#: More than any of these is nothing we taught; a file may hold anything.
_MOST_MEMBERS, _MOST_PASSES = 16, 100
_LENGTHS_UM = (1e-6, 1e6)
#: A volume of voxels so many times as long, or as short, is another kind of image.
_MOST_APART = 3.0
#: Voxels that differ by less than this are the same.
_SAME = 0.02


@dataclass(frozen=True, eq=False)
class Member:
    """One of the networks whose mean is taken.

    Parameters
    ----------
    kind : {"trees", "pixel", "unet", "urnet"}
    network : PixelTrees, PixelNetwork, MicroNet or MicroRNet
        As the kind says.
    weight : float
        In the mean; 0 for a pixel member from which a µr-Net starts and that has no other part.
    step_um : float
        Of the isotropic grid that a µ-Net or µr-Net looks at.
    passes : int
        Refinements of a µr-Net.
    around_um : float
        Surroundings that the image is evened by, and normalised again, before a µ-Net or µr-Net sees it; 0: it is not.
        Pixel members hold their own.
    """

    kind: Kind
    network: Any
    weight: float = 1.0
    step_um: float = 1.0
    passes: int = 1
    around_um: float = 0.0

    @property
    def by_voxel(self) -> bool:
        """Whether it looks at the features of a voxel, not at a grid."""
        return self.kind in ("trees", "pixel")

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield its tensors, by their names within the member."""
        yield from self.network.state_dict().items()
        if not self.by_voxel:
            yield "step_um", torch.tensor([self.step_um])
            if self.around_um:
                yield "around_um", torch.tensor([self.around_um])
        if self.kind == "urnet":
            yield "passes", torch.tensor([float(self.passes)])


class Taught(nn.Module):
    """A volume and its voxel size in, lumen probability out.

    Parameters
    ----------
    members : sequence of Member
        At least one; at least one weight is above 0, and they need not sum to 1.
    spacing_um : (z, y, x)
        Of the volume it was taught on.
    logarithm : bool
        Whether it was taught on the logarithm of linear intensities, and is to be shown that.

    Raises
    ------
    InputError
        If members, weights, steps or spacing are out of range, or a µr-Net has nothing to start from.
    """

    def __init__(self, members: Sequence[Member], spacing_um: Sequence[float], *, logarithm: bool = False) -> None:
        super().__init__()
        if not 0 < len(members) <= _MOST_MEMBERS:
            raise InputError(f"{len(members)} members; 1 to {_MOST_MEMBERS} expected")
        weights = [member.weight for member in members]
        if not all(0 <= weight < math.inf for weight in weights) or not sum(weights) > 0:
            raise InputError(f"weights are 0 or more and not all 0, found {weights}")
        for length in (*spacing_um, *(member.step_um for member in members)):
            if not _LENGTHS_UM[0] <= length <= _LENGTHS_UM[1]:
                raise InputError(f"a length of {length:g} µm; {_LENGTHS_UM[0]:g} to {_LENGTHS_UM[1]:g} expected")
        if any(not 0 <= member.around_um <= _LENGTHS_UM[1] for member in members):
            raise InputError(f"surroundings of 0 to {_LENGTHS_UM[1]:g} µm expected")
        if any(not 1 <= member.passes <= _MOST_PASSES for member in members):
            raise InputError(f"a µr-Net refines 1 to {_MOST_PASSES} times")
        if {"urnet"} & {member.kind for member in members} and not any(member.by_voxel for member in members):
            raise InputError("a µr-Net starts from the mean of pixel members, and there is none")
        self.members = tuple(members)
        self.weight = nn.Parameter(torch.tensor(weights, dtype=torch.float32), requires_grad=False)
        self.spacing_um = cast(tuple[float, float, float], tuple(map(float, spacing_um)))
        self.logarithm = logarithm

    @property
    def work(self) -> frozenset[engine.Work]:
        """What the numba engine has to be ready for."""
        return frozenset(_WORK[member.kind] for member in self.members)

    def state_dict(self, *_: Any, **__: Any) -> OrderedDict[str, Tensor]:  # type: ignore[override]
        """Return plain float32 tensors, from which `taught_for_state` builds the same."""
        state = OrderedDict(
            weight=self.weight.detach().clone(),
            spacing_um=torch.tensor(self.spacing_um, dtype=torch.float32),
            logarithm=torch.tensor([float(self.logarithm)]),
        )
        for number, member in enumerate(self.members):
            state.update({f"{member.kind}.{number}.{name}": tensor for name, tensor in member.state()})
        return state

    def checked_spacing(self, spacing_um: Sequence[float] | None) -> tuple[float, float, float]:
        """Return the voxel size to work with: without one, that of the volume taught on.

        InputError where voxels are more than three times as long, or as short, as that.
        """
        if spacing_um is None:
            return self.spacing_um
        if max(abs(math.log(a / b)) for a, b in zip(spacing_um, self.spacing_um, strict=True)) > math.log(_MOST_APART):
            raise InputError(
                f"voxels of {_by(spacing_um)} µm, and the weights were taught on {_by(self.spacing_um)}: more than "
                f"{_MOST_APART:g} times apart; teach on this volume, resample it, or give its spacing "
                f"{setting('spacing_um')}"
            )
        z, y, x = map(float, spacing_um)
        return z, y, x

    def told_spacing(self, spacing_um: Sequence[float] | None) -> str | None:
        """Return a line for the person where the voxels of a volume are not those taught on."""
        if spacing_um is None:
            return f"voxel size not stated: taken as on the volume taught on, {_by(self.spacing_um)} µm"
        if all(abs(a / b - 1) <= _SAME for a, b in zip(spacing_um, self.spacing_um, strict=True)):
            return None
        return f"voxels of {_by(spacing_um)} µm, taught on {_by(self.spacing_um)}: scales are kept in µm"

    def each(self, seen: Seen, threads: int | None = None) -> Iterator[tuple[Member, Array]]:
        """Yield every member with its probability (Z, Y, X), which the caller may change; `threads` as `predict`."""
        threads = threads or torch.get_num_threads()
        pixels = [member for member in self.members if member.by_voxel]
        starts = any(member.kind == "urnet" for member in self.members)
        start = np.zeros(seen.image.shape, np.float32) if starts else None
        for member in pixels:
            found = member.network.look(seen.evened(member.network.around_um), seen.spacing_um, threads=threads)
            if start is not None:
                for total, plane in zip(start, found, strict=True):
                    total += plane / np.float32(len(pixels))
            yield member, found
        for member in self.members:
            if not member.by_voxel:
                yield member, _on_isotropic_grid(member, seen, start)

    def predict(
        self,
        image: Array,
        spacing_um: Sequence[float],
        out: Array | None = None,
        threads: int | None = None,
    ) -> Array:
        """Return the lumen probability of every voxel.

        Parameters
        ----------
        image : ndarray of shape (Z, Y, X), float32
            Normalised, as `micronet.normalize_image` gives it; of its logarithm where `logarithm` says so. Axes of any
            length.
        spacing_um : (z, y, x)
        out : ndarray of the same shape, float32, optional
            Written to and returned.
        threads : int, optional
            Of the pixel members; default: PyTorch's. It does not change their result.
        """
        result = np.empty(image.shape, np.float32) if out is None else out
        result[...] = 0
        whole = sum(member.weight for member in self.members)
        for member, found in self.each(Seen(np.ascontiguousarray(image), spacing_um), threads):
            share = np.float32(member.weight / whole)
            for total, plane in zip(result, found, strict=True):
                total += share * plane
        return result

    def pass_bytes(self, shape: Sequence[int], spacing_um: Sequence[float] | None) -> int:
        """Return about how many bytes `predict` takes beside image and result."""
        voxels, most = math.prod(shape), 0
        for member in self.members:
            if member.by_voxel:
                most = max(most, 4 * voxels * (2 if getattr(member.network, "around_um", 0) else 1))  # an evened copy
                continue
            small = isotropic_shape(shape, spacing_um or self.spacing_um, member.step_um)
            # Resampling holds its input, two samples and their sum, axis by axis.
            regrid = 20 * max(voxels, math.prod(small)) + 4 * voxels * bool(member.around_um)
            most = max(most, regrid + engine.pass_bytes(Padding(small).shape) + 16 * math.prod(small))
        return most + 4 * voxels * any(member.kind == "urnet" for member in self.members)


def _on_isotropic_grid(member: Member, seen: Seen, start: Array | None) -> Array:
    """Return what a µ-Net, or a µr-Net from a probability, says of a volume, on the volume's grid."""
    shape = isotropic_shape(seen.image.shape, seen.spacing_um, member.step_um)
    padding = Padding(shape)
    x = torch.empty((1, 2 if member.kind == "urnet" else 1, *padding.shape))
    x[0, 0] = torch.from_numpy(padding.pad(resampled(seen.normalized(member.around_um), shape)))
    now = np.zeros(shape, np.float32) if start is None else resampled(start, shape)
    with torch.inference_mode():
        for _ in range(member.passes):
            if member.kind == "urnet":
                x[0, 1] = torch.from_numpy(normalize_mask(padding.pad(now)))
            now = padding.unpad(member.network(x)[0, 0].numpy())
    return resampled(now, seen.image.shape)


def is_taught(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is, or means to be, what was taught, by the names of its tensors."""
    return "weight" in state and any(_KEY.fullmatch(key) for key in state)


def taught_for_state(state: Mapping[str, Tensor]) -> Taught:
    """Build what a state dict belongs to, decided from its tensors alone.

    Raises
    ------
    InputError
        If tensors are missing, extra, of shapes that do not fit each other, not finite or out of range.
    """
    check_values(state)
    weight, spacing, logarithm = (_vector(state, name) for name in ("weight", "spacing_um", "logarithm"))
    if not 0 < len(weight) <= _MOST_MEMBERS or len(spacing) != 3 or len(logarithm) != 1:
        raise InputError(
            f"{len(weight)} members, {len(spacing)} spacings and {len(logarithm)} 'logarithm'; "
            f"1 to {_MOST_MEMBERS}, 3 and 1 expected"
        )
    parts: dict[tuple[Kind, int], dict[str, Tensor]] = {}
    for key, tensor in state.items():
        if key not in ("weight", "spacing_um", "logarithm"):
            found = _KEY.fullmatch(key)
            if found is None:
                raise InputError(f"'{key}' is nothing that was taught; expected names such as trees.0.scales_um")
            parts.setdefault((cast(Kind, found[1]), int(found[2])), {})[found[3]] = tensor
    if sorted(number for _, number in parts) != list(range(len(weight))):
        listed = ", ".join(f"{kind}.{number}" for kind, number in parts)
        raise InputError(f"members 0 to {len(weight) - 1} expected, as there are weights; found {listed}")
    ordered = sorted(parts.items(), key=lambda part: part[0][1])
    members = [_member(kind, number, tensors, weight[number]) for (kind, number), tensors in ordered]
    return Taught(members, spacing, logarithm=logarithm[0] > 0.5).eval()


def _vector(state: Mapping[str, Tensor], name: str) -> list[float]:
    tensor = state.get(name)
    if tensor is None or tensor.ndim != 1 or len(tensor) > 99:
        found = "nothing" if tensor is None else f"shape {tuple(tensor.shape)}"
        raise InputError(f"'{name}' is a list of numbers, found {found}")
    return [float(value) for value in tensor]


def _member(kind: Kind, number: int, tensors: dict[str, Tensor], weight: float) -> Member:
    """Build one member; InputError that names it where its tensors do not fit."""
    # Both import numba, which takes a second, and only who has such weights waits for it.
    from micronet.networks.pixel import pixel_network_for_state
    from micronet.networks.pixel_trees import pixel_trees_for_state

    try:
        if kind == "trees":
            return Member(kind, pixel_trees_for_state(tensors), weight)
        if kind == "pixel":
            return Member(kind, pixel_network_for_state(tensors), weight)
        step, passes = tensors.pop("step_um", None), tensors.pop("passes", torch.ones(1))
        around = tensors.pop("around_um", torch.zeros(1))
        if step is None or {step.shape, passes.shape, around.shape} != {(1,)} or float(passes) != round(float(passes)):
            raise InputError("'step_um' (1,), and of a µr-Net a whole number 'passes' (1,), expected")
        network = _micro(MicroRNet if kind == "urnet" else MicroNet, tensors)
        return Member(kind, network, weight, float(step), int(passes), float(around))
    except InputError as error:
        raise InputError(f"member {kind}.{number}: {error}") from error


def _micro(module: type[MicroNet] | type[MicroRNet], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a µ-Net or µr-Net with these weights."""
    with torch.random.fork_rng(devices=[]):  # building draws initial weights; leave the caller's stream alone
        network = module()
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if found != expected:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise InputError(
            f"'{wrong[0]}' is {found.get(wrong[0], 'missing')}, {expected.get(wrong[0], 'nothing')} expected"
        )
    network.load_state_dict(dict(tensors))
    return network.eval()


def _by(spacing_um: Sequence[float]) -> str:
    return " x ".join(f"{length:.4g}" for length in spacing_um)
