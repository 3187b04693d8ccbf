"""What `val` and `test` leave of a volume: probability, segmentation and preview on its own grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micronet.core.names import file_part, write_name
from micronet.core.ownership import Outputs
from micronet.data.dataset import Sample
from micronet.measure.overlap import Overlap, overlap
from micronet.report.preview import Scene
from micronet.segment.outputs import above, write_result
from micronet.training.run_files import Run

__all__ = ["planned_result", "write_sample"]


def planned_result(run: Run, step: int, sample: Sample, passes: int | None) -> Outputs:
    """Return the files that the result of one volume consists of; `passes` of a network that refines."""
    suffix = "" if passes is None else f"_{passes}"
    stem = f"{run.name}_{step}_{file_part(sample.entry.name)}{suffix}"
    names = [f"{stem}_probability.nrrd", f"{stem}.seg.nrrd", f"{stem}_preview.png"]
    return Outputs(run.places.predictions, f"{stem}.json", "training", names)


def write_sample(
    outputs: Outputs, sample: Sample, probability: NDArray[np.float32], threshold: float, run: str, step: int
) -> Overlap:
    """Write one result, zero below the crop, and return its score.

    Parameters
    ----------
    outputs : Outputs
        As `planned_result` gives them.
    sample : Sample
    probability : ndarray of shape (Z, Y, X), float32
        On the cropped volume.
    threshold : float
        What lies above it is lumen.
    run, step : str, int
        Whose weights they are.
    """
    scores = overlap(probability > threshold, sample.mask, sample.weight)
    whole = np.zeros(sample.volume.shape, np.float32)
    annotation = np.zeros(sample.volume.shape, bool)
    depth = slice(None, probability.shape[1])
    whole[:, depth], annotation[:, depth] = probability, sample.mask
    known = None
    if sample.weight is not None:
        known = np.zeros(sample.volume.shape, bool)
        known[:, depth] = sample.weight
    scene = Scene(
        sample.volume.array,
        above(whole, threshold),
        sample.volume.spacing_um,
        annotation,
        known,
        probability.shape[1],
    )
    stem = outputs.record_path.stem
    with outputs.staged() as folder:
        write_result(folder, stem, sample.volume, whole, scene, probability_name=f"{stem}_probability.nrrd")
    entry = sample.entry
    files = {"image": write_name(entry.image.name), "annotation": write_name(entry.annotation.name)}
    outputs.finish({"volume": entry.name, "run": run, "step": step, **files})
    return scores
