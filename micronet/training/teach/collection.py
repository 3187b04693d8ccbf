"""All labels that a network was taught with: a data set beside its weights that only grows.

``taught_NAME_labels/`` holds ``labels.toml`` (the format of `micronet.data.dataset`, sparse labels), a copy of every
label file (whatever is edited in place later, no label is lost) and ``labels.json``, which says that they are ours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, setting
from micronet.core.names import file_part, name_key, recording_of
from micronet.core.ownership import Outputs
from micronet.core.provenance import versions
from micronet.core.volume import Volume, share_grid
from micronet.data.dataset import Entry, read_dataset
from micronet.io import Segment, open_stack, read_volume, volume_stem, write_label_planes
from micronet.io.labels import placed_on

__all__ = ["Collection", "Known", "collection_of"]

_MADE_BY = "teach.py labels"
_TABLE, _RECORD = "labels.toml", "labels.json"
_BACKGROUND = (0.35, 0.55, 0.85)


@dataclass(frozen=True)
class Known:
    """Labels of a volume: where they are, and the SHA-256 of the image, by which it is known wherever it lies."""

    entry: Entry
    image_sha256: str

    def labels_on(self, image: Volume) -> NDArray[np.uint8]:
        """Read the labels: 0 not annotated, 1 lumen, 2 background; MicronetError where they do not fit the image."""
        found = read_volume(self.entry.annotation, spacing_um=self.entry.spacing_um)
        found = placed_on(image, found)  # where a box of it was learned from, they are of that
        share_grid(image, found, str(self.entry.image), str(self.entry.annotation))
        if found.array.dtype != np.uint8 or found.array.max(initial=0) > 2:
            raise FileError(f"'{self.entry.annotation}' holds no labels (0, 1 and 2)")
        return np.asarray(found.array)

    def holds(self, labels: NDArray[np.uint8], grid: Volume) -> bool:
        """Whether these are the labels, on this grid: that of the image, or of a box of it."""
        with open_stack(self.entry.annotation, spacing_um=self.entry.spacing_um) as stack:
            if stack.grid.shape != labels.shape or not np.allclose(stack.grid.origin, grid.origin):
                return False
        return np.array_equal(read_volume(self.entry.annotation).array, labels)

    def image(self) -> Volume:
        """Read the image; FileError that says what to do where it is no longer there."""
        entry = self.entry
        if not entry.image.exists():
            raise FileError(
                f"'{entry.image}' is not there, and labels of it ('{entry.annotation.name}') are to be learned from "
                f"too; put it back, or begin anew with weights of another name {setting('name')}"
            )
        return read_volume(entry.image, axes=entry.axes, spacing_um=entry.spacing_um)


@dataclass(frozen=True)
class Collection:
    """What is known so far; `folder` need not exist yet."""

    folder: Path
    known: tuple[Known, ...] = ()

    def named(self, stem: str) -> str:
        """Return a name for further labels of a volume; none is ever given twice, nor one of a file that is there."""
        taken = {name_key(one.entry.name).casefold() for one in self.known}
        number, name = 1, stem
        while name_key(name).casefold() in taken or os.path.lexists(self._file(name)):
            number += 1
            name = f"{stem}_{number}"
        return name

    def split_of(self, stem: str) -> str:
        """Return the split of a volume's labels: that of the other time points of the embryo, else train."""
        mine = name_key(recording_of(stem))
        found = [one for one in self.known if name_key(recording_of(volume_stem(one.entry.image))) == mine]
        return found[0].entry.split if found else "train"

    def outputs(self, new: Sequence[Known]) -> Outputs:
        """Return what is written where `new` are the labels in the end; FileError where it would replace something."""
        names = [_TABLE, *(self._file(one.entry.name).name for one in new)]
        advice = f"give the weights another name {setting('name')}"
        return Outputs(self.folder, _RECORD, _MADE_BY, names, advice=advice, lasting=True)

    def _file(self, name: str) -> Path:
        return self.folder / f"{file_part(name)}.seg.nrrd"

    def with_labels(self, entry: Entry, image_sha256: str) -> Collection:
        """Return it with further labels, which `write` puts into the folder."""
        return replace(
            self, known=(*self.known, Known(replace(entry, annotation=self._file(entry.name)), image_sha256))
        )

    def copied_to(self, folder: Path) -> Collection:
        """Return the same labels as those of another folder's weights; names that are taken there are not used."""
        if folder.absolute() == self.folder.absolute():
            return self
        there = Collection(folder)
        for one in self.known:
            name = there.named(one.entry.name)
            there = there.with_labels(replace(one.entry, name=name), one.image_sha256)
        return there

    def text(self, name: str) -> str:
        """Return the data set; InputError where a path cannot be written into one."""
        blocks = [f"# Written by teach.py, which adds to it; the labels are its own copies.\nname = {_quoted(name)}\n"]
        for one in self.known:
            entry = one.entry
            lines: dict[str, Any] = {
                "name": entry.name,
                "split": entry.split,
                "image": _relative(entry.image, self.folder),
            }
            lines |= {"annotation": entry.annotation.name, "labels": "sparse"}
            if entry.intensity != "as stored":
                lines["intensity"] = entry.intensity
            if entry.axes is not None:
                lines["axes"] = entry.axes
            if entry.spacing_um is not None:
                lines["spacing_um"] = list(entry.spacing_um)
            blocks.append("\n[[volume]]\n" + "".join(f"{key} = {_quoted(value)}\n" for key, value in lines.items()))
        return "".join(blocks)

    def write(self, name: str, files: Sequence[tuple[str, NDArray[np.uint8], Volume]]) -> None:
        """Write the data set, and label files by name of the volume, labels and grid.

        Nothing that is there is changed but the list, which grows.
        """
        new = [one for one in self.known if one.entry.name in {volume for volume, _, _ in files}]
        outputs = self.outputs(new)
        segments = [Segment(name="lumen"), Segment(name="background", color=_BACKGROUND)]
        with outputs.staged() as folder:
            for volume, labels, grid in files:
                write_label_planes(folder / self._file(volume).name, segments, iter(labels), grid)
            (folder / _TABLE).write_text(self.text(name), encoding="utf-8")
        volumes = [{"name": one.entry.name, "image_sha256": one.image_sha256} for one in self.known]
        outputs.finish({"volumes": volumes, "versions": versions()})


def collection_of(weights: Path) -> Collection:
    """Return the labels that are kept beside weights; none where there is no such folder.

    FileError where the list is not as teach.py left it.
    """
    folder = weights.with_name(f"{weights.stem}_labels")
    outputs = Outputs(folder, _RECORD, _MADE_BY, [_TABLE], advice=f"give the weights another name {setting('name')}")
    outputs.check()
    record = outputs.read()
    if record is None:
        return Collection(folder)
    # What we wrote ourselves may name images anywhere: the person gave them.
    table = folder / _TABLE
    entries = read_dataset(table, also_in=[Path(table.resolve().anchor)]).entries
    told = record.get("volumes")
    hashes = {
        str(one.get("name")): str(one.get("image_sha256"))
        for one in (told if isinstance(told, list) else [])
        if isinstance(one, dict)
    }
    return Collection(folder, tuple(Known(entry, hashes.get(entry.name, "")) for entry in entries))


def _relative(path: Path, folder: Path) -> str:
    """Return how a data set names a file: relative to it where that can be."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()


def _quoted(value: Any) -> str:
    """Return a text or a list of numbers as TOML has it; InputError for a name that is no text."""
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"'{value}' is no text, and no list of labels could name it; rename it") from None
    return text
