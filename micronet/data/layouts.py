"""How laboratories lay out images and annotations in a folder: one function a layout, all of them in `LAYOUTS`.

A layout is a function that looks through a folder and returns what it finds there, None where the folder is not laid
out so. It opens no volume, follows no link out of the folder and needs no settings; who adds one adds a line below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from micronet.core.errors import InputError
from micronet.core.names import listed, name_key
from micronet.data.folders import folder_tables, image_files
from micronet.io import is_volume_path, volume_stem
from micronet.io.bscans import natural_order
from micronet.io.volume_names import is_result, volume_name

__all__ = ["LAYOUTS", "AnnotatedVolume", "Layout"]

_SEGMENTATIONS = (".seg.nrrd", ".seg.nhdr")
# The number of the channel at the end of the names in imagesTr.
_CHANNEL = re.compile(r"(?P<name>.+)_(?P<channel>[0-9]{4})")


@dataclass(frozen=True)
class AnnotatedVolume:
    """An image with its annotation; `split` where the layout itself says which it belongs to."""

    name: str
    image: Path
    annotation: Path
    split: str | None = None


@dataclass(frozen=True)
class Layout:
    """What was found of one layout, and lines on what was found but not taken.

    `by_folder`: a data-set file names the folder, and training looks for the volumes itself.
    """

    title: str
    volumes: Sequence[AnnotatedVolume]
    notes: Sequence[str] = ()
    by_folder: bool = False


def _published(folder: Path) -> Layout | None:
    """Return the images of struct_iso/ with the masks of annotations/, as the published data lie."""
    images, annotations = folder / "struct_iso", folder / "annotations"
    if not images.is_dir() or not annotations.is_dir():
        return None
    masks = [path for path in _files(annotations) if _is_segmentation(path) or is_volume_path(path)]
    by_name = {name: _named(files, volume_name) for name, files in {"i": _images(images), "a": masks}.items()}
    return _paired("struct_iso/ and annotations/", by_name["i"], by_name["a"])


def _beside(folder: Path) -> Layout | None:
    """Return images with a .seg.nrrd of the same name beside them, in the folder or in folders below it."""
    folders = [folder, *sorted((path for path in folder.rglob("*") if _is_open(path, folder)), key=natural_order)]
    found: list[AnnotatedVolume] = []
    notes: list[str] = []
    for place in folders:
        masks = [path for path in _files(place) if _is_segmentation(path) and not is_result(path)]
        if not masks:
            continue
        layout = _paired("", _named(_images(place), volume_name), _named(masks, volume_name))
        found += layout.volumes
        notes += layout.notes
    if not found:
        return None
    once = [one.name for one in found]
    volumes = [
        one if once.count(one.name) == 1 else AnnotatedVolume(_with_folders(one, folder), *_paths(one)) for one in found
    ]
    return Layout("images with a .seg.nrrd beside them", volumes, notes)


def _decathlon(folder: Path) -> Layout | None:
    """Return imagesTr/ with labelsTr/, and imagesTs/ with labelsTs/ for test, as in the decathlon."""
    found: list[AnnotatedVolume] = []
    notes: list[str] = []
    for end, split in (("Tr", None), ("Ts", "test")):
        images, labels = folder / f"images{end}", folder / f"labels{end}"
        if not images.is_dir() or not labels.is_dir():
            continue
        by_name: dict[str, list[Path]] = {}
        for path in _images(images):
            match = _CHANNEL.fullmatch(volume_stem(path))
            by_name.setdefault(name_key(match["name"] if match else volume_stem(path)), []).append(path)
        several = [name for name, files in by_name.items() if len(files) > 1]
        if several:
            notes.append(f"several channels of {listed(several)}: the first is taken")
        masks = [path for path in _files(labels) if _is_segmentation(path) or is_volume_path(path)]
        layout = _paired("", {name: files[:1] for name, files in by_name.items()}, _named(masks, volume_stem))
        found += [AnnotatedVolume(one.name, *_paths(one), split) for one in layout.volumes]
        notes += layout.notes
    return Layout("imagesTr/ and labelsTr/", found, notes) if found or notes else None


def _in_splits(folder: Path) -> Layout | None:
    """Return what lies in train/, val/ and test/, as a data set with ``folder`` finds it."""
    if not (folder / "train").is_dir():
        return None
    title = "train/ and val/"
    try:
        tables = folder_tables(folder, ".")
    except InputError as error:
        return Layout(title, (), [str(error)])
    found = [
        AnnotatedVolume(one["name"], folder / one["image"], folder / one["annotation"], one["split"]) for one in tables
    ]
    return Layout(title, found, by_folder=True)


def _in_two_folders(folder: Path) -> Layout | None:
    """Return images/ with masks/ of the same names; images of one plane (PNG) among them."""
    images, masks = (image_files(folder / name) for name in ("images", "masks"))
    if not images or not masks:
        return None
    return _paired("images/ and masks/", _named(images, volume_stem), _named(masks, volume_stem))


#: In the order in which they are tried; the first that finds volumes is taken.
LAYOUTS: tuple[Callable[[Path], Layout | None], ...] = (_published, _decathlon, _in_splits, _in_two_folders, _beside)


def _with_folders(volume: AnnotatedVolume, folder: Path) -> str:
    """Return the name of a volume with those of the folders that it lies in."""
    return "_".join([*volume.image.parent.relative_to(folder).parts, volume.name])


def _paths(volume: AnnotatedVolume) -> tuple[Path, Path]:
    return volume.image, volume.annotation


def _is_open(path: Path, folder: Path) -> bool:
    """Whether a path below a folder is a folder itself, none of it hidden or a link."""
    if not path.is_dir() or path.is_symlink():
        return False
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _files(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.is_file() and path.name[0] != "."), key=natural_order)


def _images(folder: Path) -> list[Path]:
    return [path for path in _files(folder) if is_volume_path(path) and not is_result(path)]


def _is_segmentation(path: Path) -> bool:
    return path.name.lower().endswith(_SEGMENTATIONS)


def _named(files: Sequence[Path], name_of: Callable[[Path], str]) -> dict[str, list[Path]]:
    named: dict[str, list[Path]] = {}
    for path in files:
        named.setdefault(name_key(name_of(path)), []).append(path)
    return named


def _paired(title: str, images: Mapping[str, Sequence[Path]], masks: Mapping[str, Sequence[Path]]) -> Layout:
    """Put images and masks of one name together; what has no partner, or more than one, is not taken, and told."""
    both = [name for name in images if name in masks]
    clear = [name for name in both if len(images[name]) == len(masks[name]) == 1]
    notes = []
    if unclear := [name for name in both if name not in clear]:
        notes.append(f"several images or annotations of one name, not taken: {listed(unclear)}")
    if alone := [name for name in images if name not in masks]:
        notes.append(f"images without annotation: {listed(alone)}")
    if alone := [name for name in masks if name not in images]:
        notes.append(f"annotations without image: {listed(alone)}")
    return Layout(title, [AnnotatedVolume(name, images[name][0], masks[name][0]) for name in clear], notes)
