"""What a person asks for: a network, how volumes are to be read and segmented, which files are wished."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn

from micronet.core.errors import InputError, setting
from micronet.core.names import check_apart, valid, write_name
from micronet.core.ownership import Outputs, check_outputs
from micronet.io import files_read_with, volume_stem
from micronet.io.checks import is_store
from micronet.io.hdf5_tensors import weights_sha256
from micronet.io.mesh import MESH_FORMATS
from micronet.measure.cleaning import Cleaning
from micronet.measure.lumen_files import surface_path, vessel_paths
from micronet.networks.card import card_path
from micronet.networks.engine import Work
from micronet.networks.registry import Network, classes_of, dimensions_of, network_of
from micronet.networks.weights import load_model
from micronet.report.wish import FigureWish
from micronet.segment.window_plan import Blend, WindowWish

__all__ = ["MADE_BY", "Job", "Weights", "check_results", "check_stems", "read_beside"]

#: What the record of a result says that made it.
MADE_BY = "infer.py"
#: Most refinements when asked to go on until the output is stable.
MOST_ITERATIONS = 100


@dataclass(frozen=True)
class Weights:
    """A network with where it came from; `make_ready` is called before it computes, which may never be."""

    path: Path
    sha256: str
    model: nn.Module
    make_ready: Callable[[], None] = lambda: None

    @classmethod
    def load(cls, path: Path, device: str = "cpu", say: Callable[[str], None] | None = None) -> Weights:
        """Read the network onto a device; `say` and FileError as `micronet.networks.weights.load_model`."""
        model = load_model(path, say)
        if network_of(model).in_um and device != "cpu":
            raise InputError(f"'{path}': a taught network is computed by the CPU {setting('device')}")
        return cls(path, weights_sha256(path), model.to(device))

    @property
    def network(self) -> Network:
        """What the registry knows of it."""
        return network_of(self.model)

    @property
    def classes(self) -> tuple[str, ...]:
        """What its output channels are the probability of."""
        return classes_of(self.model)

    @property
    def exclusive(self) -> bool:
        """Whether it tells classes apart, of which a voxel is the most probable; else what it finds is thresholded."""
        return self.classes != self.network.classes

    @property
    def flat(self) -> bool:
        """Whether the network looks at slices, and so at images too."""
        return dimensions_of(self.model) == 2

    @property
    def taught_on_log(self) -> bool:
        """Whether the network wants the logarithm of linear intensities, by its own word."""
        return self.network.in_um and bool(cast(Any, self.model).logarithm)

    @property
    def work(self) -> frozenset[Work]:
        """What the numba engine has to be ready for."""
        if self.network.in_um:
            return cast(Any, self.model).work  # type: ignore[no-any-return]
        return frozenset({"forward"} if self.network.tiling == "slabs" else ())

    def passes(self, job: Job) -> int:
        """Return how often this network looks at a volume, at most."""
        return self.network.passes(job.passes)


@dataclass(frozen=True)
class Job:
    """How volumes are to be read and segmented; None stands for "as the file says" or the network's default.

    `intensity` ``"log"`` takes the logarithm of linear intensities first, as a data set's key of that name does.
    `axes`, `spacing_um`, `shape` and `dtype` describe files that do not describe themselves; `segment` names the
    segment of `initial_mask` and `annotation` where these are .seg.nrrd files with several. `keep` is an edited
    mask whose voxels stay as they are inside its segment `checked`. `report` asks for an HTML page too, `mesh` for
    the lumen's surface in that format, `measures` for tables of the vessels, `label_tiff` for the mask as a TIFF
    that Fiji opens, `figure` for pictures to be put into a paper. `clean` says which pieces of the mask are removed
    and what is filled; the probability stays as it is. `resample_um` brings the volume to voxels of that length for
    the network, and what it finds back to the volume's grid. `max_ram` is how many bytes of memory may be taken; no
    number of a result depends on it but where a larger network goes through windows. `level` is which scale of an
    OME-Zarr is segmented, `cluster` who does that: so many processes, or the workers of a scheduler (its address or
    file). `window`, `overlap`, `blend` and `border` are those of `WindowWish`.
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
    keep: Path | None = None
    checked: str | None = None
    report: bool = False
    max_ram: int | None = None
    mesh: str | None = None
    measures: bool = False
    label_tiff: bool = False
    figure: FigureWish | None = None
    clean: Cleaning | None = None
    resample_um: float | None = None
    level: int = 0
    cluster: str | None = None
    window: int | None = None
    overlap: float | None = None
    blend: Blend | None = None
    border: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise InputError(f"the threshold must lie in [0, 1), found {self.threshold} {setting('threshold')}")
        if self.resample_um is not None and not 0 < self.resample_um < math.inf:
            raise InputError(f"a voxel size is positive, found {self.resample_um} µm {setting('resample_um')}")
        if self.iterations is not None and self.iterations < 1:
            raise InputError(f"there must be at least 1 iteration, found {self.iterations} {setting('iterations')}")
        if self.checked is not None and self.keep is None:
            raise InputError(f"a segment was named of no mask to keep {setting('checked', 'keep')}")
        _ = self.window_wish  # refuses what makes no sense

    @property
    def window_wish(self) -> WindowWish:
        """What is asked of windows."""
        return WindowWish(self.window, self.overlap, self.blend, self.border)

    @property
    def passes(self) -> int:
        """Refinements at most."""
        return self.iterations or (MOST_ITERATIONS if self.until_stable else 10)

    @property
    def wishes(self) -> set[str]:
        """The settings that ask for more than the usual files, and take memory."""
        wished = {"report": self.report, "mesh": self.mesh, "measures": self.measures, "clean": self.clean}
        return {name for name, value in wished.items() if value}

    def files_on_request(self, stem: str) -> dict[str, Path]:
        """Return the files, by kind, that are written only when asked for, and are."""
        files = {"report": self.output / f"{stem}_report.html"} if self.report else {}
        if self.mesh is not None:
            files["mesh"] = surface_path(self.output, stem, self.mesh)
        if self.label_tiff:
            files["labels"] = self.output / f"{stem}_labels.tif"
        if self.figure is not None:
            files["figure"] = self.output / self.figure.name
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
        for name in ("output", "report", "max_ram", "mesh", "measures", "label_tiff", "figure", "clean", "cluster"):
            del settings[name]
        # Where they are not asked for, the record is that of a version which did not know them.
        if self.clean is not None:
            settings["clean"] = str(self.clean)
        if self.resample_um is None:
            del settings["resample_um"]
        if self.keep is None:  # results of before there was such a setting are those of now
            del settings["keep"], settings["checked"]
        if not self.level:
            del settings["level"]
        for name in ("window", "overlap", "blend", "border"):
            if settings[name] is None:
                del settings[name]
        return {key: _plain(value) for key, value in settings.items()} | {"iterations": self.passes}


def check_stems(inputs: Sequence[Path]) -> list[str]:
    """Raise InputError when two inputs would write the same files; return what is nearly so, for the person."""
    return check_apart((volume_stem(path), path) for path in inputs)


def read_beside(job: Job, weights: Path) -> list[Path]:
    """Return the files that are read for every volume: masks, weights, the card of these."""
    masks = dict.fromkeys(mask for mask in (job.initial_mask, job.annotation, job.keep) if mask is not None)
    return [*(file for mask in masks for file in files_read_with(mask)), weights, card_path(weights)]


def check_results(
    inputs: Sequence[Path],
    weights: Path,
    job: Job,
    beside: Sequence[Outputs] = (),
    *,
    these: Sequence[Path] | None = None,
) -> None:
    """Raise MicronetError where results would take the place of anything but earlier ones, before any is computed.

    Parameters
    ----------
    inputs : sequence of Path
        What is read.
    weights : Path
    job : Job
    beside : sequence of Outputs
        What is written beside the results of the volumes.
    these : sequence of Path, optional
        Those of the inputs that are segmented, where another process sees to the others at the same time.
    """
    read = [file for path in inputs for file in files_read_with(path)]
    done = inputs if these is None else these
    ours = (job.outputs(volume_stem(path), store=is_store(path)) for path in done)
    check_outputs([*ours, *beside], [*read, *read_beside(job, weights)])


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return valid(value)
    return write_name(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
