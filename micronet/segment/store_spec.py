"""What a process has to know of a segmentation of an OME-Zarr, as it goes through JSON to others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from micronet.segment.box_plan import BoxPlan
from micronet.segment.tile_plan import TilePlan
from micronet.segment.window_plan import WindowsPlan

__all__ = ["BoxSpec", "FilesSpec", "StorePlan", "StoreSpec", "TileSpec", "WindowSpec", "spec_of", "spec_told"]

StorePlan = TilePlan | BoxPlan | WindowsPlan


@dataclass(frozen=True)
class FilesSpec:
    """What a process has to know to read a store and write a result.

    Parameters
    ----------
    path, level
        The store, absolute, and which scale of it.
    logarithm : bool
        It is taken of the voxels.
    threshold : float
    depth : int
        Voxels of Y that are looked at.
    annotated : bool
        There is an annotation.
    """

    path: str
    level: int
    logarithm: bool
    threshold: float
    depth: int
    annotated: bool


@dataclass(frozen=True)
class TileSpec(FilesSpec):
    """Of a µ-Net or µr-Net, in exact tiles.

    Parameters
    ----------
    refines, starts : bool
        The network takes a mask; there is one to start from.
    plan : TilePlan
    """

    refines: bool
    starts: bool
    plan: TilePlan


@dataclass(frozen=True)
class BoxSpec(FilesSpec):
    """Of what was taught, in boxes; `spacing_um` is (z, y, x)."""

    spacing_um: tuple[float, float, float]
    plan: BoxPlan


@dataclass(frozen=True)
class WindowSpec(FilesSpec):
    """Of a larger network, in windows."""

    plan: WindowsPlan


StoreSpec = TileSpec | BoxSpec | WindowSpec


def spec_told(spec: StoreSpec) -> dict[str, Any]:
    """Return it as JSON has it."""
    return {"kind": type(spec).__name__} | asdict(spec)


def spec_of(told: Mapping[str, Any]) -> StoreSpec:
    """Return what `spec_told` told."""
    read = {name: value for name, value in told.items() if name not in ("kind", "plan")}
    if told["kind"] == BoxSpec.__name__:
        return BoxSpec(**read | {"spacing_um": tuple(told["spacing_um"]), "plan": BoxPlan.of(told["plan"])})
    if told["kind"] == WindowSpec.__name__:
        return WindowSpec(**read, plan=WindowsPlan.of(told["plan"]))
    return TileSpec(**read, plan=TilePlan.of(told["plan"]))
