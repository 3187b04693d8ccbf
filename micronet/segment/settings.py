"""What a person asks for: a network, how volumes are to be read and segmented, which files are wished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from micronet.core.errors import InputError, setting
from micronet.core.names import check_apart, valid, write_name
from micronet.core.ownership import Outputs, check_outputs
from micronet.core.provenance import sha256_of
from micronet.io import files_read_with, volume_stem
from micronet.io.checks import is_store
from micronet.io.mesh import MESH_FORMATS
from micronet.measure.lumen_files import surface_path, vessel_paths
from micronet.networks.card import card_path
from micronet.networks.registry import Network, network_of
from micronet.networks.weights import load_model

__all__ = ["MADE_BY", "Job", "Weights", "check_results", "check_stems", "read_beside"]

#: What the record of a result says that made it.
MADE_BY = "infer.py"
#: Most refinements when asked to go on until the output is stable.
MOST_ITERATIONS = 100


@dataclass(frozen=True)
class Weights:
    """A network with where it came from."""

    path: Path
    sha256: str
    model: nn.Module

    @classmethod
    def load(cls, path: Path, device: str = "cpu", say: Callable[[str], None] | None = None) -> Weights:
        """Read the network onto a device; `say` and FileError as `micronet.networks.weights.load_model`."""
        return cls(path, sha256_of(path), load_model(path, say).to(device))

    @property
    def network(self) -> Network:
        """What the registry knows of it."""
        return network_of(self.model)

    def passes(self, job: Job) -> int:
        """Return how often this network looks at a volume, at most."""
        return self.network.passes(job.passes)


@dataclass(frozen=True)
class Job:
    """How volumes are to be read and segmented; None stands for "as the file says" or the network's default.

    `intensity` ``"log"`` takes the logarithm of linear intensities first, as a data set's key of that name does.
    `axes`, `spacing_um`, `shape` and `dtype` describe files that do not describe themselves; `segment` names
    the segment of `initial_mask` and `annotation` where these are .seg.nrrd files with several. `report` asks for
    an HTML page too, `mesh` for the lumen's surface in that format, `measures` for tables of the vessels, `label_tiff`
    for the mask as a TIFF that Fiji opens. `max_ram` is how many bytes of memory may be taken; no number of a result
    depends on it. `level` is which scale of an OME-Zarr is segmented.
    """

    output: Path = Path("predictions")
    iterations: int | None = None
    until_stable: bool = False
    threshold: float = 0.5
    y_crop: int | None = None
    intensity: Literal["as stored", "log"] = "as stored"
    axes: str | None = None
    spacing_um: tuple[float, float, float] | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    segment: str | None = None
    initial_mask: Path | None = None
    annotation: Path | None = None
    report: bool = False
    max_ram: int | None = None
    mesh: str | None = None
    measures: bool = False
    label_tiff: bool = False
    level: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise InputError(f"the threshold must lie in [0, 1), found {self.threshold} {setting('threshold')}")
        if self.iterations is not None and self.iterations < 1:
            raise InputError(f"there must be at least 1 iteration, found {self.iterations} {setting('iterations')}")

    @property
    def passes(self) -> int:
        """Refinements at most."""
        return self.iterations or (MOST_ITERATIONS if self.until_stable else 10)

    @property
    def wishes(self) -> set[str]:
        """The settings that ask for more than the usual files, and take memory."""
        wished = {"report": self.report, "mesh": self.mesh, "measures": self.measures}
        return {name for name, value in wished.items() if value}

    def files_on_request(self, stem: str) -> dict[str, Path]:
        """Return the files, by kind, that are written only when asked for, and are."""
        files = {"report": self.output / f"{stem}_report.html"} if self.report else {}
        if self.mesh is not None:
            files["mesh"] = surface_path(self.output, stem, self.mesh)
        if self.label_tiff:
            files["labels"] = self.output / f"{stem}_labels.tif"
        return files | (vessel_paths(self.output, stem) if self.measures else {})

    def outputs(self, stem: str, *, store: bool = False) -> Outputs:
        """Return the files that the results of a volume consist of, and those that other settings would write too.

        Those of an OME-Zarr, `store`, are one, with the mask as its labels, and a preview.
        """
        everything = [replace(self, report=True, measures=True, label_tiff=True, mesh=mesh) for mesh in MESH_FORMATS]
        possible = {file.name for job in everything for file in job.files_on_request(stem).values()}
        one, other = [f"{stem}_probability.ome.zarr"], [f"{stem}_probability.nrrd", f"{stem}.seg.nrrd"]
        names = [*(one if store else other), f"{stem}_preview.png"]
        possible |= {*one, *other}
        names += [file.name for file in self.files_on_request(stem).values()]
        return Outputs(self.output, f"{stem}.json", MADE_BY, names, outdated=sorted(possible - set(names)))

    def parameters(self) -> dict[str, Any]:
        """Return what the numbers of a result depend on, as JSON has it."""
        settings = asdict(self)
        for name in ("output", "report", "max_ram", "mesh", "measures", "label_tiff"):
            del settings[name]
        if not self.level:  # records that are older than this setting
            del settings["level"]
        return {key: _plain(value) for key, value in settings.items()} | {"iterations": self.passes}


def check_stems(inputs: Sequence[Path]) -> list[str]:
    """Raise InputError when two inputs would write the same files; return what is nearly so, for the person."""
    return check_apart((volume_stem(path), path) for path in inputs)


def read_beside(job: Job, weights: Path) -> list[Path]:
    """Return the files that are read for every volume: masks, weights, the card of these."""
    masks = dict.fromkeys(mask for mask in (job.initial_mask, job.annotation) if mask is not None)
    return [*(file for mask in masks for file in files_read_with(mask)), weights, card_path(weights)]


def check_results(inputs: Sequence[Path], weights: Path, job: Job) -> None:
    """Raise MicronetError where results would take the place of anything but earlier ones, before any is computed."""
    read = [file for path in inputs for file in files_read_with(path)]
    check_outputs(
        [job.outputs(volume_stem(path), store=is_store(path)) for path in inputs], [*read, *read_beside(job, weights)]
    )


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return valid(value)
    return write_name(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
