"""What is learned from: the labels at hand together with all earlier ones, and the weights that know those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError, setting
from micronet.core.names import read_name
from micronet.core.provenance import read_sealed, sha256_of
from micronet.core.volume import Volume
from micronet.io import open_stack, read_volume, volume_stem
from micronet.io.labels import BACKGROUND, LUMEN
from micronet.networks.card import read_card
from micronet.networks.normalize import log_intensity, normalize_image
from micronet.networks.taught import Taught
from micronet.networks.weights import load_model
from micronet.segment.outputs import above
from micronet.training.teach.collection import Known, collection_of
from micronet.training.teach.lesson import Lesson

__all__ = ["Edits", "Material", "Start", "edits", "find_start", "gather", "held_bytes", "mask_beside"]

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Start:
    """Weights that were taught before, and the names that the labels which they know have in the list beside them."""

    path: Path
    sha256: str
    network: Taught
    volumes: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Start:
        """Read weights and their card; MicronetError where they were not taught."""
        model = load_model(path)
        if not isinstance(model, Taught):
            raise InputError(f"'{path}' was not taught; teaching starts from what teach.py wrote {setting('start')}")
        card, digest = read_card(path), sha256_of(path)
        told = card.record.get("volumes") if card is not None and card.sha256 == digest else None
        return cls(path, digest, model, frozenset(map(str, told)) if isinstance(told, list) else frozenset())

    def look(self, lesson: Lesson) -> NDArray[np.float32]:
        """Return what they say of a volume; InputError where its voxels are of quite another size."""
        try:
            spacing_um = self.network.checked_spacing(lesson.spacing_um)
        except InputError as error:
            raise InputError(f"the weights to start from: {error}") from error
        return self.network.predict(lesson.image, spacing_um)


def find_start(
    image: Path, labels: Path, weights: Path, usual: Path, image_sha256: str, lumen: str | None = None
) -> tuple[Path, str] | None:
    """Return the weights that edited labels are corrections of, and how that is known.

    Parameters
    ----------
    image, labels : Path
    weights : Path
        Where those that are taught now will lie.
    usual : Path
        Where those of this image lie if none was given a name.
    image_sha256 : str
    lumen : str, optional
        The segment of the labels that was edited: of several that were taught, each has weights of its own.

    Returns
    -------
    (path, words) or None
        Those that the record beside the labels names, if that is of a taught network that is still there; else
        `weights`, if they are there; else `usual`, if these were taught labels of this image.
    """
    record_path = labels.parent / f"{volume_stem(image)}.json"
    told = _weights_told(read_sealed(record_path) or {}, lumen)
    if isinstance(told, dict) and told.get("network") == "taught" and isinstance(told.get("path"), str):
        path = Path(read_name(told["path"]))
        if path.is_file():
            return path, f"as '{record_path}' says"
    if weights.is_file():
        return weights, "as they have that name"
    if usual.is_file() and any(one.image_sha256 == image_sha256 for one in collection_of(usual).known):
        return usual, "as they know labels of this volume"
    return None


def _weights_told(record: Mapping[str, Any], lumen: str | None) -> Any:
    """Return what the record of a result says of its weights, or of those of one of its segments."""
    segments = record.get("segments")
    if lumen is None or not isinstance(segments, list):
        return record.get("weights")
    found = [one.get("weights") for one in segments if isinstance(one, dict) and one.get("name") == lumen]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True, eq=False)
class Material:
    """All labels, merged: of one voxel the last one counts.

    Parameters
    ----------
    labels : ndarray of uint8 (Z, Y, X)
        Of the volume at hand: 0 not annotated, 1 lumen, 2 background.
    known : ndarray of uint8 (Z, Y, X)
        Those of them that the weights to start from were taught, as they were then.
    changed, pending : bool
        Whether the labels at hand say anything that no earlier ones do; whether there are earlier ones that the weights
        to start from were not taught, since they stayed as they were.
    others : tuple of Lesson
        The other volumes.
    """

    labels: Labels
    known: Labels
    changed: bool
    pending: bool
    others: tuple[Lesson, ...]

    def lesson(self, image: NDArray[np.float32], spacing_um: tuple[float, float, float]) -> Lesson:
        """Return the lesson on a volume, normalised."""
        return Lesson(image, self.labels, spacing_um, self.others)

    def check(self, path: Path, least: int = 10) -> None:
        """Raise InputError where a class has too few voxels, in all volumes together."""
        for value, name in ((LUMEN, "lumen"), (BACKGROUND, "background")):
            count = sum(int(np.count_nonzero(one == value)) for one in (self.labels, *(o.labels for o in self.others)))
            if count < least:
                raise InputError(
                    f"'{path}': {count} voxels were checked that are {name}, at least {least} are needed; check more"
                )


def gather(image: Volume, labels: Labels, known: Sequence[Known], start: Start | None, image_sha256: str) -> Material:
    """Merge labels of a volume with earlier ones of it, and read those of other volumes with their images.

    MicronetError where an image is gone, or labels do not fit.
    """
    volumes = frozenset() if start is None else start.volumes
    merged, taught = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    elsewhere: dict[str, list[Known]] = {}
    for one in known:
        if one.image_sha256 != image_sha256:
            elsewhere.setdefault(one.image_sha256, []).append(one)
            continue
        earlier = one.labels_on(image)
        _put(merged, earlier)
        if one.entry.name in volumes:
            _put(taught, earlier)
    changed = any(bool(((new > 0) & (new != old)).any()) for new, old in zip(labels, merged, strict=True))
    _put(merged, labels)
    others = tuple(_other(several) for several in elsewhere.values())
    pending = any(one.entry.name not in volumes for one in known)
    return Material(merged, taught, changed, pending, others)


def _put(merged: Labels, labels: Labels) -> None:
    for into, plane in zip(merged, labels, strict=True):
        np.copyto(into, plane, where=plane > 0)


def _other(several: Sequence[Known]) -> Lesson:
    """Return the lesson on a volume that was annotated before."""
    volume = several[0].image()
    labels = np.zeros(volume.shape, np.uint8)
    for one in several:
        _put(labels, one.labels_on(volume))
    array = log_intensity(volume.array) if several[0].entry.intensity == "log" else volume.array
    return Lesson(normalize_image(array), labels, volume.spacing_um or (1.0, 1.0, 1.0))


def held_bytes(known: Sequence[Known], image_sha256: str) -> int:
    """Return about how many bytes other volumes take while they are learned from, by their headers."""
    images = {one.image_sha256: one for one in known if one.image_sha256 != image_sha256}
    held = 0
    for one in images.values():
        if one.entry.image.exists():  # else reading says so
            with open_stack(one.entry.image, axes=one.entry.axes, spacing_um=one.entry.spacing_um) as stack:
                held += stack.grid.array.size * (4 + 1)
    return held


@dataclass(frozen=True)
class Edits:
    """Voxels that a person has added to a mask and removed from it, and which mask that was."""

    added: int
    removed: int
    of: str

    def told(self) -> str:
        """Return the line that says so."""
        return f"{self.added:,} voxels added, {self.removed:,} removed, against {self.of}"


def edits(labels: Labels, mask: Mask, of: str) -> Edits:
    """Count where labels differ from a mask."""
    added = removed = 0
    for plane, before in zip(labels, mask, strict=True):
        added += int(np.count_nonzero((plane == LUMEN) & ~before))
        removed += int(np.count_nonzero((plane == BACKGROUND) & before))
    return Edits(added, removed, of)


def mask_beside(image: Path, labels: Path, shape: Sequence[int]) -> tuple[Mask, str] | None:
    """Return the mask of the result beside labels, by its probability, and its name; None where there is none."""
    folder, stem = labels.parent, volume_stem(image)
    record, path = read_sealed(folder / f"{stem}.json"), folder / f"{stem}_probability.nrrd"
    parameters = (record or {}).get("parameters")
    threshold = parameters.get("threshold") if isinstance(parameters, dict) else None
    if not isinstance(threshold, float | int) or not path.is_file():
        return None
    levels = read_volume(path).array
    if levels.shape != tuple(shape) or levels.dtype != np.uint8:
        return None
    return above(levels, 255 * threshold), f"'{path}'"
