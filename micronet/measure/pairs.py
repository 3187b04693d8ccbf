"""Predictions and annotations on disk: which belong together, their masks, and their scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from micronet.core.errors import FileError, InputError, setting
from micronet.core.names import listed, name_key, read_name, same_but_for_case
from micronet.core.ram import Allowance
from micronet.core.volume import Volume, share_grid
from micronet.io import (
    VOLUME_SUFFIXES,
    Sources,
    claimed_bytes,
    files_read_with,
    is_png_path,
    is_volume_path,
    read_annotation,
    read_volume,
    volume_stem,
)
from micronet.io.checks import is_store
from micronet.io.seg_nrrd import is_pointer_file
from micronet.io.volume_names import is_result, result_name, result_record, volume_of
from micronet.measure.footprint import least_bytes, scores_bytes, vessels_bytes
from micronet.measure.scores import Scores, Scoring, score_masks
from micronet.measure.thresholds import Sweep, mask_above, threshold_sweep
from micronet.report.annotated import drawn_only_in

__all__ = [
    "Evaluation",
    "MaskPair",
    "Pair",
    "Reading",
    "check_reading",
    "check_scoring",
    "evaluate_pair",
    "files_of_pairs",
    "find_pairs",
    "read_pair",
    "with_images",
]

_SEGMENTATIONS = (".seg.nrrd", ".seg.nhdr")
# Volume that a skewed voxel may lack against a box of the same edges.
_SKEW = 1e-3


@dataclass(frozen=True)
class Pair:
    """A prediction and the annotation of the same volume, and its image where that is to be shown.

    `name` is the volume's; of several predictions of one volume it is the prediction's, and `volume` the volume's.
    """

    name: str
    prediction: Path
    annotation: Path
    image: Path | None = None
    volume: str | None = None


@dataclass(frozen=True)
class Reading:
    """How the files are to be read.

    Parameters
    ----------
    probability : bool
        Predictions are probabilities (uint8 from 0 to 255, or floating-point in [0, 1]); else masks.
    threshold : float
        Lumen is where a probability is above it.
    y_crop : int, optional
        Look only at the first voxels in depth (Y).
    segment, prediction_segment : str, optional
        Which segment of a .seg.nrrd with several.
    axes, spacing_um
        As `micronet.io.read_volume`, for files that do not say; `spacing_um` stands above what they state.
    level : int
        Which scale of predictions and annotations, which are OME-Zarr then.
    """

    probability: bool = False
    threshold: float = 0.5
    y_crop: int | None = None
    segment: str | None = None
    prediction_segment: str | None = None
    axes: str | None = None
    spacing_um: tuple[float, float, float] | None = None
    level: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise InputError(f"the threshold {setting('threshold')} must lie in [0, 1), found {self.threshold}")
        if self.y_crop is not None and self.y_crop < 1:
            raise InputError(f"the crop {setting('y_crop')} must be at least 1, found {self.y_crop}")


@dataclass(frozen=True, eq=False)
class MaskPair:
    """What is compared, on one grid.

    Parameters
    ----------
    predicted, annotated : Volume
        Arrays of bool, of one shape, after any crop. Where one file states no spacing, the other's word counts.
    probability : Volume or None
        Where the prediction was one: uint8 or floating-point.
    image : Volume or None
        Where the pair names one.
    descriptions : tuple of str
        What was read and chosen, a line for the prediction and one for the annotation.
    notes : tuple of str
        What had to be assumed while reading them, and `drawn`.
    drawn : str
        Where the annotation seems to be drawn only; empty where it seems to be whole.
    """

    name: str
    predicted: Volume
    annotated: Volume
    probability: Volume | None
    image: Volume | None
    descriptions: tuple[str, str]
    notes: tuple[str, ...] = ()
    drawn: str = ""

    @property
    def spacing_um(self) -> tuple[float, float, float] | None:
        """Voxel size along (Z, Y, X) in µm; None when neither file states it."""
        return self.annotated.spacing_um


@dataclass(frozen=True)
class Evaluation:
    """What became of one pair: its scores, and the sweep where the prediction is a probability."""

    pair: Pair
    scores: Scores
    spacing_um: tuple[float, float, float] | None
    sweep: Sweep | None = field(default=None, repr=False)


def find_pairs(
    predictions: Sequence[Path], annotations: Sequence[Path], *, probability: bool = False
) -> tuple[list[Pair], list[str]]:
    """Put predictions and annotations of the same volume together.

    One file and one file belong together whatever they are called; else the names of the volumes decide, which results
    of ours have in their records, as `micronet.core.names.same_name` compares them: however their accents are put
    together, but not whatever their case. Results of ours may be several of one volume; each is then a pair.

    Parameters
    ----------
    predictions, annotations : sequence of Path
        Files, or folders of files: their segmentations (.seg.nrrd), or where there are none their volumes, or where
        there are none of these either their PNG.
    probability : bool
        Predictions are probabilities: folders are searched for those that infer.py wrote, or where there are none for
        volumes.

    Returns
    -------
    pairs : list of Pair
        In order of the predictions.
    notes : list of str
        What has no partner, and names that differ only in case, to be shown to the person.

    Raises
    ------
    FileError
        If a folder holds no file of the kind.
    InputError
        If two files are of the same volume, or nothing belongs together.
    """
    predicted = _files(predictions, probability=probability)
    annotated = _files(annotations, probability=False)
    if len(predicted) == len(annotated) == 1:
        return [Pair(volume_of(predicted[0]), predicted[0], annotated[0])], []
    results = [path for path in dict.fromkeys(predicted) if result_record(path) is not None]
    others = _by_name([path for path in predicted if path not in results])
    named = {path: name_key(volume_of(path)) for path in (*results, *others.values())}
    by_volume = _by_name(annotated)
    ordered = sorted(named, key=predicted.index)
    partners = {path: partner for path in ordered if (partner := _partner(path, by_volume)) is not None}
    of_volume = Counter(named[path] for path in partners)
    pairs = _pairs(partners, of_volume)
    alone = [
        list(dict.fromkeys(key for path, key in named.items() if path not in partners)),
        [key for key, path in by_volume.items() if path not in partners.values()],
    ]
    cases = _cases([*named.values(), *by_volume])
    if not pairs:
        hint = f" ({cases[0]})" if cases else ""
        raise InputError(
            f"no prediction and annotation share a name: {listed(alone[0])} against {listed(alone[1])}{hint}; "
            "name files after their volume, such as a.seg.nrrd and annotation_a_iso_full.seg.nrrd"
        )
    notes = []
    for without, role, other in zip(alone, ("predictions", "annotations"), ("annotation", "prediction"), strict=True):
        if without:
            notes.append(f"{len(without)} {role} without {other}: {listed(without)}")
    return pairs, notes + _several(of_volume) + cases


def _cases(names: Sequence[str]) -> list[str]:
    return [
        f"'{one}' and '{two}' differ only in case: they count as two volumes"
        for one, two in same_but_for_case(dict.fromkeys(names))
    ]


def _several(of_volume: Mapping[str, int]) -> list[str]:
    several = [f"{key} ({count})" for key, count in of_volume.items() if count > 1]
    told = "several predictions of one volume are each scored, and count in the medians"
    return [f"{told}: {listed(several)}"] if several else []


def _pairs(partners: Mapping[Path, Path], of_volume: Mapping[str, int]) -> list[Pair]:
    """Return predictions with their annotations, each pair by a name of its own."""
    pairs = []
    for path, annotation in partners.items():
        volume = volume_of(path)
        name = volume if of_volume[name_key(volume)] == 1 else result_name(path)
        pairs.append(Pair(name, path, annotation, volume=volume))
    names = Counter(name_key(pair.name) for pair in pairs)
    if twice := [pair for pair in pairs if names[name_key(pair.name)] > 1]:
        raise InputError(f"'{twice[0].prediction}' and '{twice[1].prediction}' are both called '{twice[0].name}'")
    return pairs


def _partner(prediction: Path, annotations: Mapping[str, Path]) -> Path | None:
    """Return the annotation of a prediction: of its volume, or else the one that its record names."""
    told = (result_record(prediction) or {}).get("annotation")
    by_file = {path.name: path for path in annotations.values()} if isinstance(told, str) else {}
    return annotations.get(name_key(volume_of(prediction))) or by_file.get(read_name(str(told)))


def with_images(pairs: Sequence[Pair], images: Sequence[Path]) -> list[Pair]:
    """Return the pairs with the images of their volumes, where there are any.

    One pair and one image belong together whatever they are called; else the names of the volumes decide.
    InputError if two images are of the same volume, or none is of any.
    """
    if len(pairs) == len(images) == 1:
        return [replace(pairs[0], image=images[0])]
    named = _by_name(images)
    found = [replace(pair, image=named.get(name_key(pair.volume or pair.name))) for pair in pairs]
    if not any(pair.image for pair in found):
        raise InputError(f"no image is of a volume that is scored: {listed(list(named))}; name them after it")
    return found


def files_of_pairs(pairs: Sequence[Pair]) -> list[Path]:
    """Return every file that reading the pairs reads."""
    paths = [path for pair in pairs for path in (pair.prediction, pair.annotation, pair.image) if path is not None]
    return [file for path in dict.fromkeys(paths) for file in files_read_with(path)]


def _files(paths: Sequence[Path], *, probability: bool) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if not path.is_dir() or is_store(path):
            files.append(path)
            continue
        visible = [file for file in sorted(path.iterdir()) if not file.name.startswith(".")]
        here = [file for file in visible if file.is_file() or is_store(file)]
        volumes = [file for file in here if is_volume_path(file)]
        ours = [file for file in volumes if volume_stem(file).endswith("_probability")]
        masks = [file for file in here if file.name.lower().endswith(_SEGMENTATIONS)]
        masks = [file for file in masks if not (_is_pointer(file) or is_pointer_file(file))]
        images = [file for file in here if is_png_path(file) and not is_result(file)]
        masks = masks or [file for file in volumes if file not in ours] or images
        found = (ours or volumes) if probability else masks
        if not found:
            kinds = VOLUME_SUFFIXES if probability else (".seg.nrrd", *VOLUME_SUFFIXES, ".png")
            role = "probabilities" if probability else "masks"
            raise FileError(f"'{path}' is a folder without {role} ({', '.join(kinds)})")
        files += found
    return files


def _is_pointer(path: Path) -> bool:
    """Whether a segmentation of ours shows places to look at, and no lumen."""
    return volume_stem(path).endswith("_look")


def _by_name(files: Sequence[Path]) -> dict[str, Path]:
    """Return files by what their volumes' names have in common with equal ones."""
    named: dict[str, Path] = {}
    for file in files:
        other = named.setdefault(name_key(volume_of(file)), file)
        if other is not file:
            raise InputError(f"'{other}' and '{file}' are both of volume '{volume_of(file)}'; name one of them")
    return named


def check_reading(pair: Pair, reading: Reading, sources: Sources, allowance: Allowance) -> int:
    """Return about how many bytes reading a pair takes, by the headers alone; MemoryLimitError where it is too much.

    InputError where a scale is asked for of what has none.
    """
    for path in (pair.prediction, pair.annotation, *([] if pair.image is None else [pair.image])):
        if reading.level and not is_store(path):
            raise InputError(f"'{path}' is no OME-Zarr and has one scale only {setting('level')}")
    annotation, prediction, image = (
        0 if path is None else claimed_bytes(sources.of(path), axes=reading.axes, flat=True, level=reading.level)
        for path in (pair.annotation, pair.prediction, pair.image)
    )
    # A file is read and turned, the mask is chosen from it, and the last one stays.
    kept = prediction if reading.probability else 0
    held = annotation + prediction + kept + image
    return allowance.check(held, max(2 * annotation, 2 * prediction, 2 * image), f"'{pair.prediction}'")


def check_scoring(
    pair: Pair, masks: MaskPair, allowance: Allowance, *, measures: bool = False, report: bool = False
) -> int:
    """Return about how many bytes the scores of a pair take, and what else is asked for; MemoryLimitError as above."""
    arrays = masks.predicted.array, masks.annotated.array
    others = [volume.array for volume in (masks.probability, masks.image) if volume is not None]
    held = sum(array.nbytes for array in (*arrays, *others))
    works = {"scoring": scores_bytes(*arrays)}
    if measures:
        works[f"the table of vessels {setting('measures')}"] = max(
            vessels_bytes(array, masks.spacing_um or (1, 1, 1)) for array in arrays
        )
    if report:
        # Kinds of voxels, as masks, beside what a page takes.
        works[f"the page {setting('report')}"] = least_bytes(arrays[0].size)["report"] + 4 * arrays[0].size
    return max(allowance.check(held, work, f"'{pair.prediction}': {what}") for what, work in works.items())


def read_pair(pair: Pair, reading: Reading, sources: Sources) -> MaskPair:
    """Read the masks of a pair from its files, which may be open already; a 2-D image is a volume of one plane.

    Raises
    ------
    FileError
        If a file cannot be read.
    InputError
        If a file holds no mask (or probability), an option does not fit, or the two lie on different grids.
    """
    how: dict[str, Any] = {"axes": reading.axes, "spacing_um": reading.spacing_um, "level": reading.level, "flat": True}
    annotation = read_annotation(sources.of(pair.annotation), segment=reading.segment, **how)
    annotated = annotation.mask
    probability = None
    if reading.probability:
        probability = read_volume(sources.of(pair.prediction), **how)
        try:
            predicted = probability.with_array(mask_above(probability.array, reading.threshold))
        except InputError as error:
            raise InputError(f"'{pair.prediction}' holds {error}") from error
        description = f"'{pair.prediction.name}' above {reading.threshold:g}"
    else:
        prediction = read_annotation(sources.of(pair.prediction), segment=reading.prediction_segment, **how)
        predicted, description = prediction.mask, prediction.description
    annotated, predicted, _ = share_grid(annotated, predicted, str(pair.annotation), str(pair.prediction))
    if predicted.spacing_um is None:
        predicted = annotated.with_array(predicted.array)
    elif annotated.spacing_um is None:
        annotated = predicted.with_array(annotated.array)
    _check_axes(annotated, pair.annotation)
    image = None
    if pair.image is not None:
        image = read_volume(sources.of(pair.image), **how)
        annotated, image, _ = share_grid(annotated, image, str(pair.annotation), str(pair.image))
    looked_at = _cropped(annotated, reading.y_crop)
    drawn = drawn_only_in(looked_at.array)
    notes = [*annotated.notes, *predicted.notes, drawn]
    return MaskPair(
        pair.name,
        _cropped(predicted, reading.y_crop),
        looked_at,
        None if probability is None else _cropped(probability, reading.y_crop),
        None if image is None else _cropped(image, reading.y_crop),
        (description, annotation.description),
        tuple(filter(None, dict.fromkeys(notes))),
        drawn,
    )


def _cropped(volume: Volume, y_crop: int | None) -> Volume:
    return replace(volume, array=volume.array[:, :y_crop])


def _check_axes(volume: Volume, path: Path) -> None:
    """Raise InputError where the axes of a grid are not at right angles: distances would be wrong."""
    box = 1.0 if volume.spacing_um is None else math.prod(volume.spacing_um)
    if volume.voxel_um3 is not None and volume.voxel_um3 < (1 - _SKEW) * box:
        raise InputError(f"'{path}': its axes are not at right angles, distances in µm would be wrong; resample it")


def evaluate_pair(masks: MaskPair, pair: Pair, scoring: Scoring | None = None) -> Evaluation:
    """Score the masks of a pair, and sweep the threshold where the prediction is a probability."""
    annotated = masks.annotated.array
    scores = score_masks(masks.predicted.array, annotated, masks.spacing_um, scoring)
    sweep = None if masks.probability is None else threshold_sweep(masks.probability.array, annotated)
    return Evaluation(pair, scores, masks.spacing_um, sweep)
