"""Folders of images and masks as data sets: train/, val/ and test/, each with pairs of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from micronet.core.errors import InputError
from micronet.io import is_png_path, is_volume_path, volume_stem
from micronet.io.bscans import natural_order

__all__ = ["folder_tables", "image_files"]

# What a folder may be called, and its split.
_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_IMAGE, _MASK = "data_", "mask_"
_EXPECTED = (
    "expected train/ and val/, each with data_X.npy and mask_X.npy, or with images/ and masks/ whose files have the "
    "same names"
)


def folder_tables(beside: Path, folder: str) -> list[dict[str, Any]]:
    """Return the tables of a data-set file, one a volume, for what lies in a folder.

    Parameters
    ----------
    beside : Path
        Where the data-set file lies.
    folder : str
        As it names the folder; holds ``train/`` and, if there are any, ``val/`` (or ``validation/``) and ``test/``.
        Each of these has ``data_X.npy`` beside ``mask_X.npy``, or ``images/`` and ``masks/``.

    Raises
    ------
    InputError
        If there is no train/, a folder has neither, or an image has no mask or a mask no image.
    """
    tables: list[dict[str, Any]] = []
    for name, split in _SPLITS.items():
        place = beside / folder / name
        if place.is_dir():
            pairs = _beside_each_other(place) or _in_two_folders(place)
            if not pairs:
                raise InputError(f"folder '{place}' holds no images with masks; {_EXPECTED}")
            for stem, image, mask in pairs:
                paths = {"image": str(image.relative_to(beside)), "annotation": str(mask.relative_to(beside))}
                tables.append({"name": stem, "split": split, **paths} | _axes(image))
    if not any(table["split"] == "train" for table in tables):
        raise InputError(f"folder '{beside / folder}' has no train/; {_EXPECTED}")
    return tables


def _axes(image: Path) -> dict[str, str]:
    return {"axes": "ZYX"} if image.suffix.lower() == ".npy" else {}


def _beside_each_other(place: Path) -> list[tuple[str, Path, Path]]:
    files = image_files(place)
    images = {path.stem.removeprefix(_IMAGE): path for path in files if path.name.startswith(_IMAGE)}
    masks = {path.stem.removeprefix(_MASK): path for path in files if path.name.startswith(_MASK)}
    return _paired(place, images, masks)


def _in_two_folders(place: Path) -> list[tuple[str, Path, Path]]:
    images = {volume_stem(path): path for path in image_files(place / "images")}
    masks = {volume_stem(path): path for path in image_files(place / "masks")}
    return _paired(place, images, masks)


def _paired(place: Path, images: dict[str, Path], masks: dict[str, Path]) -> list[tuple[str, Path, Path]]:
    alone = sorted(images.keys() ^ masks.keys())
    if alone:
        name = alone[0]
        what, path = ("mask", images[name]) if name in images else ("image", masks[name])
        more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
        raise InputError(f"folder '{place}': '{path.name}' has no {what}{more}")
    return [(name, image, masks[name]) for name, image in images.items()]


def image_files(place: Path) -> list[Path]:
    """Return the volumes and PNG in a folder, in the order of the numbers in their names; none where there is none."""
    if not place.is_dir():
        return []
    return [path for path in sorted(place.iterdir(), key=natural_order) if is_volume_path(path) or is_png_path(path)]
