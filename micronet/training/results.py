"""What `val` and `test` leave of a volume: probability, segmentation and preview on its own grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from micronet.core.classes import colour, rgb
from micronet.core.names import file_part, write_name
from micronet.core.ownership import Outputs
from micronet.core.planes import Planes
from micronet.core.volume import Volume
from micronet.data.dataset import Sample
from micronet.io import Segment, nrrd, write_segmentation
from micronet.report.preview import Further, Scene, write_preview
from micronet.segment.outputs import levels, write_result
from micronet.segment.window_plan import Windows
from micronet.training.run_files import Run
from micronet.training.scoring import Scored, classes_record, compared, found_in

__all__ = ["planned_result", "write_sample"]

_Scalar = TypeVar("_Scalar", bound=np.generic)


def planned_result(run: Run, step: int, sample: Sample, passes: int | None) -> Outputs:
    """Return the files that the result of one volume consists of; `passes` of a network that refines."""
    suffix = "" if passes is None else f"_{passes}"
    stem = f"{run.name}_{step}_{file_part(sample.entry.name)}{suffix}"
    names = [*_probabilities(stem, sample), f"{stem}.seg.nrrd", f"{stem}_preview.png"]
    return Outputs(run.places.predictions, f"{stem}.json", "training", names)


def _probabilities(stem: str, sample: Sample) -> list[str]:
    """Return the files of the probability of the lumen, or of each of several classes."""
    if sample.classes is None:
        return [f"{stem}_probability.nrrd"]
    return [f"{stem}_{file_part(name)}_probability.nrrd" for name in sample.entry.classes]


def write_sample(
    outputs: Outputs,
    sample: Sample,
    probability: Sequence[Planes],
    windows: Windows | None,
    threshold: float,
    run: str,
    step: int,
) -> Scored:
    """Write one result, zero below the crop, and return its score.

    Parameters
    ----------
    outputs : Outputs
        As `planned_result` gives them.
    sample : Sample
    probability : sequence of Planes, each of shape (Z, Y, X), float32
        Of the lumen, or of each class, on the cropped volume.
    windows : Windows, optional
        In which it was found.
    threshold : float
        What lies above it is lumen; of several classes a voxel is the most probable.
    run, step : str, int
        Whose weights they are.
    """
    found = found_in(probability, threshold)
    scores = compared(found, sample.target, sample.weight, sample.names)
    stem = outputs.record_path.stem
    with outputs.staged() as folder:
        if sample.classes is None:
            scene = _scene(sample, [found], [sample.mask])
            whole = _deeper(sample, probability[0])
            write_result(folder, stem, sample.volume, whole, scene, probability_name=f"{stem}_probability.nrrd")
        else:
            _write_classes(folder, stem, sample, probability, found)
    entry = sample.entry
    files = {"image": write_name(entry.image.name), "annotation": write_name(entry.annotation.name)}
    classes = {"classes": [*entry.classes]} if entry.classes else {}
    how = {} if windows is None else {"windows": windows.record}
    outputs.finish(
        {"volume": entry.name, "run": run, "step": step, **files, **how, **classes, **classes_record(scores)}
    )
    return scores


def _write_classes(
    folder: Path, stem: str, sample: Sample, probability: Sequence[Planes], found: NDArray[np.uint8]
) -> None:
    """Write the probability of each class, a segmentation with a segment each, and the preview."""
    names, volume = sample.entry.classes, sample.volume
    blank: Volume = volume.with_array(np.broadcast_to(np.uint8(0), volume.shape))
    for file, one in zip(_probabilities(stem, sample), probability, strict=True):
        nrrd.write(folder / file, blank, levels(_deeper(sample, one)))
    numbers = range(1, len(names) + 1)
    masks = [found == number for number in numbers]
    scene = _scene(sample, masks, [sample.target == number for number in numbers])
    segments = [Segment(name=name, color=rgb(colour(number))) for number, name in zip(numbers, names, strict=True)]
    drawn = [_whole(sample, mask) for mask in masks]
    write_segmentation(folder / f"{stem}.seg.nrrd", list(zip(segments, drawn, strict=True)), volume)
    write_preview(folder / f"{stem}_preview.png", scene, write_name(stem))


def _scene(sample: Sample, masks: Sequence[NDArray[np.bool_]], annotations: Sequence[NDArray[np.bool_]]) -> Scene:
    """Return what a preview shows: a mask and its annotation, or those of each class, on the cropped volume."""
    names = sample.names[1:]
    further = [
        Further(name, _whole(sample, mask), _whole(sample, annotation))
        for name, mask, annotation in zip(names[1:], masks[1:], annotations[1:], strict=True)
    ]
    return Scene(
        sample.volume.array,
        _whole(sample, masks[0]),
        sample.volume.spacing_um,
        _whole(sample, annotations[0]),
        None if sample.weight is None else _whole(sample, sample.weight),
        sample.image.shape[1],
        mask_name=names[0] if further else "segmentation",
        further=further,
    )


def _deeper(sample: Sample, cropped: Planes) -> Iterator[NDArray[np.float32]]:
    """Yield the planes of what is of the cropped volume, zero below the crop."""
    deeper = sample.volume.shape[1] - cropped.shape[1]
    return (np.pad(plane, ((0, deeper), (0, 0))) for plane in cropped)


def _whole(sample: Sample, cropped: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """Return what is of the cropped volume on that of the file, zero below the crop."""
    whole = np.zeros(sample.volume.shape, cropped.dtype)
    whole[:, : cropped.shape[1]] = cropped
    return whole
