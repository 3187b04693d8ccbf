"""What a person asks of networks that say what an image holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from micronet.core.errors import InputError, setting
from micronet.core.names import file_part, valid
from micronet.core.ownership import Outputs, check_outputs
from micronet.io import files_read_with, volume_stem
from micronet.io.hdf5_tensors import zoo_file
from micronet.measure.cleaning import Cleaning
from micronet.measure.cutting import OTSU, Cut
from micronet.networks.card import card_path
from micronet.networks.micranet import MicraNet
from micronet.segment.settings import MADE_BY, Job, Weights

__all__ = ["Ensemble", "WeakJob", "check_weak_results", "kinds_of"]

#: By what a network finds, how its file ends.
_FILES = {
    "segmentation": ".seg.nrrd",
    "preview": "_preview.png",
    "classes": "_classes.csv",
    "detections": "_detections.csv",
}
_MAPS = ("coarse", "precise", "spread")


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Networks of the same kind and classes whose maps are averaged; one alone is an ensemble too.

    Raises
    ------
    InputError
        If they are no MICRA-Nets, or of other dimensions or classes.
    """

    members: tuple[Weights, ...]

    def __post_init__(self) -> None:
        first = self.members[0]
        for one in self.members:
            if not one.network.of_images:
                raise InputError(
                    f"'{one.path.name}' is a {one.network.title}: only networks that say what an image holds are "
                    f"averaged, give one {setting('model')}"
                )
        for one in self.members[1:]:
            for what in ("dimensions", "classes"):
                here, there = getattr(first.model, what), getattr(one.model, what)
                if here != there:
                    raise InputError(
                        f"networks of other {what} cannot be averaged: '{first.path.name}' has {_told(here)}, "
                        f"'{one.path.name}' {_told(there)}"
                    )

    @property
    def networks(self) -> list[MicraNet]:
        """The networks themselves."""
        return [cast(MicraNet, one.model) for one in self.members]

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.networks[0].classes

    @property
    def flat(self) -> bool:
        """Whether they look at planes, each an image of its own."""
        return self.networks[0].dimensions == 2


def _told(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True)
class WeakJob:
    """How images are to be read and what is to be written; as `micronet.segment.settings.Job` where names agree.

    An image holds a class where its probability is above `threshold`; `threshold_method` cuts the map there. `maps`
    asks for the maps themselves; `regions` takes what lies in regions of the image where the coarse map is.
    """

    output: Path = Path("predictions")
    threshold: float = 0.5
    threshold_method: Cut = OTSU
    maps: bool = False
    regions: bool = False
    intensity: Literal["as stored", "log"] = "as stored"
    axes: str | None = None
    spacing_um: tuple[float, float, float] | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    level: int = 0
    clean: Cleaning | None = None
    max_ram: int | None = None

    def names(self, stem: str, ensemble: Ensemble) -> dict[str, str]:
        """Return the names of the files by kind; of maps the kind is theirs and the number of the class."""
        found = {kind: f"{stem}{end}" for kind, end in _FILES.items()}
        return found | (_map_names(stem, ensemble) if self.maps else {})

    def outputs(self, stem: str, ensemble: Ensemble) -> Outputs:
        """Return the files of a result, and those that other settings and networks would have written too."""
        names = list(self.names(stem, ensemble).values())
        other = Job(output=self.output).outputs(stem)
        possible = {*_map_names(stem, ensemble).values(), *(other.names or ()), *other.outdated}
        return Outputs(self.output, f"{stem}.json", MADE_BY, names, outdated=sorted(possible - set(names)))

    def parameters(self) -> dict[str, Any]:
        """Return what the numbers of a result depend on, as JSON has it."""
        regions = {"regions": True} if self.regions else {}  # results of before there was such a setting stay those
        return regions | {
            "threshold": self.threshold,
            "threshold_method": str(self.threshold_method),
            "intensity": self.intensity,
            "axes": None if self.axes is None else valid(self.axes),
            "spacing_um": None if self.spacing_um is None else list(self.spacing_um),
            "shape": None if self.shape is None else list(self.shape),
            "dtype": self.dtype,
            "level": self.level,
            "clean": None if self.clean is None else str(self.clean),
        }


def kinds_of(ensemble: Ensemble) -> tuple[str, ...]:
    """Return the maps that there are: their spread of several networks only."""
    return _MAPS if len(ensemble.members) > 1 else _MAPS[:2]


def _map_names(stem: str, ensemble: Ensemble) -> dict[str, str]:
    return {
        f"{kind} {number}": f"{stem}_{file_part(name)}_{kind}.nrrd"
        for number, name in enumerate(ensemble.classes)
        for kind in kinds_of(ensemble)
    }


def check_weak_results(paths: Sequence[Path], ensemble: Ensemble, job: WeakJob) -> None:
    """Raise MicronetError where results would take the place of anything but earlier ones, before any is computed."""
    read = [file for path in paths for file in files_read_with(path)]
    weights = [file for one in ensemble.members for file in (zoo_file(one.path), card_path(one.path))]
    check_outputs([job.outputs(volume_stem(path), ensemble) for path in paths], [*read, *weights])
