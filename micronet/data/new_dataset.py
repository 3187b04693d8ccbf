"""Write the data-set file of a folder: what lies there, split so that no embryo is in two splits."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from micronet.core.errors import FileError, InputError, MicronetError
from micronet.core.names import listed
from micronet.core.ownership import Outputs, check_outputs
from micronet.core.version import __version__
from micronet.core.words import counted
from micronet.data.dataset_file import SPLITS
from micronet.data.layouts import LAYOUTS, AnnotatedVolume, Layout
from micronet.io import files_read_with
from micronet.io.formats import suffix_of
from micronet.io.seg_nrrd import segment_names

__all__ = ["embryo_of", "split_by_embryo", "write_new_dataset"]

_MADE_BY = "new_dataset.py"
_FILE, _RECORD = "dataset.toml", "dataset.json"
# A time point in a name: T46, t003, tp2, time-5, frame_10, between what separates words.
_TIME_POINT = re.compile(r"(?:^|(?<=[_. -]))(?:t|tp|time|timepoint|time_point|frame)[_-]?[0-9]+(?=$|[_. -])", re.I)
# One embryo of so many is for validation, and one for test: as in the published split, of 14.
_ONE_OF = 8
_LEAST_FOR_TEST = 3
_SEGMENTATIONS, _LEAST_CLASSES = (".nrrd", ".nhdr"), 2


def write_new_dataset(folder: Path, say: Callable[[str], None]) -> Path:
    """Write ``dataset.toml`` into a folder and say what was found; return its path.

    Raises
    ------
    FileError
        If the folder is none, holds nothing that a layout knows, or has a file of that name that is not ours.
    InputError
        If names of files cannot stand in a TOML file.
    """
    if not folder.is_dir():
        raise FileError(f"'{folder}' is no folder")
    layouts = [layout for find in LAYOUTS if (layout := find(folder)) is not None]
    taken = next((layout for layout in layouts if layout.volumes), None)
    if taken is None:
        notes = "".join(f" ({note})" for layout in layouts for note in layout.notes)
        raise FileError(
            f"'{folder}' holds no images with annotations{notes}; known are struct_iso/ with annotations/, imagesTr/ "
            "with labelsTr/, train/ with val/, images/ with masks/, and images with a .seg.nrrd of the same name "
            "beside them"
        )
    splits = split_by_embryo(taken.volumes)
    path = folder / _FILE
    text = _toml(folder, taken, splits)
    outputs = Outputs(folder, _RECORD, _MADE_BY, [_FILE], advice="rename it to keep it")
    read = [file for one in taken.volumes for path_ in (one.image, one.annotation) for file in files_read_with(path_)]
    check_outputs([outputs], read)
    with outputs.staged() as staging:
        (staging / _FILE).write_text(text, encoding="utf-8")
    outputs.finish({"micronet": __version__, "layout": taken.title})
    say(f"{taken.title}: {counted(len(taken.volumes), 'volume')} with annotation")
    for note in taken.notes:
        say(f"note: {note}")
    for other in layouts:
        if other is not taken and other.volumes:
            say(f"note: not taken, {counted(len(other.volumes), 'volume')} that lie there as {other.title}")
    for line in _told(taken.volumes, splits):
        say(line)
    say(f"wrote {path}")
    return path


def embryo_of(name: str) -> str:
    """Return what the names of all time points of an embryo have in common.

    >>> embryo_of("082616_07_T15") == embryo_of("082616_07_T40") != embryo_of("082616_08_T39")
    True
    """
    return re.sub(r"[_. -]+", "_", _TIME_POINT.sub("", name)).strip("_")


def split_by_embryo(volumes: Sequence[AnnotatedVolume]) -> list[str]:
    """Return the split of each volume; all time points of an embryo are in one.

    One embryo of eight, at least one where there are two, is for validation; as many for test where there are three.
    Those with the fewest volumes are taken, of equal ones the last. What is for test by its layout stays so.
    """
    sizes = Counter(embryo_of(one.name) for one in volumes if one.split is None)
    place = {embryo: number for number, embryo in enumerate(sizes)}
    order = sorted(sizes, key=lambda embryo: (sizes[embryo], -place[embryo]))
    each = max(1, len(order) // _ONE_OF)
    tested = each if len(order) >= _LEAST_FOR_TEST and len(volumes) == sizes.total() else 0
    validated = each if len(order) > 1 else 0
    splits = dict.fromkeys(order[:tested], "test") | dict.fromkeys(order[tested : tested + validated], "validation")
    return [one.split or splits.get(embryo_of(one.name), "train") for one in volumes]


def _told(volumes: Sequence[AnnotatedVolume], splits: Sequence[str]) -> Iterable[str]:
    """Yield what a person is to know of the split."""
    embryos: dict[str, set[str]] = {split: set() for split in SPLITS}
    for one, split in zip(volumes, splits, strict=True):
        embryos[split].add(embryo_of(one.name))
    for split in SPLITS:
        names = [one.name for one, its in zip(volumes, splits, strict=True) if its == split]
        if names:
            counts = f"{counted(len(names), 'volume')} of {counted(len(embryos[split]), 'embryo')}"
            yield f"{split}: {counts} ({listed(names)})"
    if all(one.split is not None for one in volumes):
        return  # their folders say so, and that was somebody's choice
    everyone = set().union(*embryos.values())
    if len(everyone) < len(volumes):
        yield "names that differ by a time point are one embryo, and stay together"
    if not embryos["validation"]:
        yield "note: one embryo only, so there is none to validate on: add another, or keep a part of it (key: within)"
    if both := (embryos["train"] | embryos["validation"]) & embryos["test"]:
        yield f"note: in test and in another split by their folders: {listed(sorted(both))}"


def _toml(folder: Path, layout: Layout, splits: Sequence[str]) -> str:
    """Return the data-set file; paths in it are relative to its own folder."""
    volumes = layout.volumes
    bad = [
        one.name
        for one in volumes
        for part in (one.name, *(path.relative_to(folder).as_posix() for path in (one.image, one.annotation)))
        if not part.isprintable() or "{name}" in part
    ]
    if bad:
        raise InputError(f"a data-set file cannot hold these names, rename the files: {listed(sorted(set(bad)))}")
    lines = [
        f"# Made by {_MADE_BY} of what lies here, and made anew when that runs again; once you change it, it is yours.",
        "# datasets/README.md says what the keys mean.",
        f"name = {_quoted(folder.resolve().name)}",
        *(['folder = "."   # train/, val/ and test/ lie here'] if layout.by_folder else []),
        *_several(volumes),
        "",
        "[defaults]",
        '# intensity = "log"      # for linear intensities, as of light-sheet or confocal microscopes',
        '# segment = "full seg"   # where an annotation has several',
    ]
    for one, split in zip(volumes, splits, strict=True) if not layout.by_folder else ():
        image, annotation = (path.relative_to(folder).as_posix() for path in (one.image, one.annotation))
        lines += ["", "[[volume]]", f"name = {_quoted(one.name)}", f'split = "{split}"']
        lines += [f"image = {_quoted(image)}", f"annotation = {_quoted(annotation)}"]
    return "\n".join(lines) + "\n"


def _several(volumes: Sequence[AnnotatedVolume]) -> list[str]:
    """Return a line for whoever wants to tell several segments apart that all annotations have; none without any."""
    common: list[str] | None = None
    for one in volumes:
        try:
            names = segment_names(one.annotation) if suffix_of(one.annotation) in _SEGMENTATIONS else []
        except MicronetError:  # whoever trains on it will be told
            continue
        common = names if common is None else [name for name in common if name in names]
    if common is None or len(common) < _LEAST_CLASSES or not all(name.isprintable() for name in common):
        return []
    told = ", ".join(map(_quoted, common))
    return [f"# classes = [{told}]   # all of them, where they exclude each other: train_network.py tells them apart"]


def _quoted(text: str) -> str:
    """Return a string of TOML; one of JSON is one."""
    return json.dumps(text if text.isprintable() else "", ensure_ascii=False)
