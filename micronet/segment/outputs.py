"""What is made of a probability: the files that a person opens, the size of the lumen and its scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import setting
from micronet.core.names import write_name
from micronet.core.planes import Planes
from micronet.core.volume import Volume, bounding_box
from micronet.io import Segment, nrrd, write_mask_planes
from micronet.measure.overlap import Overlap
from micronet.report.preview import Scene, write_preview

__all__ = ["above", "levels", "measure", "measure_counts", "score_line", "scores_record", "write_result"]

# A lumen that fills nearly the whole volume is a wrong normalisation or a wrong domain, not an embryo.
_NEARLY_FULL = 0.9


def write_result(
    folder: Path,
    stem: str,
    volume: Volume,
    probability: Iterable[NDArray[np.float32]],
    scene: Scene,
    *,
    probability_name: str,
) -> dict[str, Path]:
    """Write a probability as uint8 (255·p, rounded), the segmentation, and the preview.

    Parameters
    ----------
    folder : Path
        Exists.
    stem : str
        The segmentation is ``<stem>.seg.nrrd``, the preview ``<stem>_preview.png`` with the stem as its title.
    volume : Volume
        What was segmented; its grid is that of the files.
    probability : iterable of ndarray of shape (Y, X), float32 in [0, 1]
        Its planes: of an array of the volume's shape, or of a scratch file that holds one.
    scene : Scene
        What the preview shows; its mask, bool, is the segmentation, as `above` gives it.
    probability_name : str
        Name of the probability's file.

    Returns
    -------
    dict of str to Path
        The files: ``probability``, ``segmentation``, ``preview``.
    """
    files = {
        "probability": folder / probability_name,
        "segmentation": folder / f"{stem}.seg.nrrd",
        "preview": folder / f"{stem}_preview.png",
    }
    blank = volume.with_array(np.broadcast_to(np.uint8(0), volume.shape))
    nrrd.write(files["probability"], blank, levels(probability))
    write_mask_planes(files["segmentation"], Segment(name="lumen"), iter(scene.mask), volume, bounding_box(scene.mask))
    write_preview(files["preview"], scene, write_name(stem))
    return files


def levels(probability: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.uint8]]:
    """Yield the planes of a probability as the files have them: 255·p, rounded."""
    return (np.rint(plane * 255).astype(np.uint8) for plane in probability)


def above(probability: Planes, threshold: float) -> NDArray[np.bool_]:
    """Return where a probability, in memory or in a scratch file, lies above a threshold."""
    mask = np.empty(probability.shape, bool)
    for plane, inside in zip(probability, mask, strict=True):
        np.greater(plane, threshold, out=inside)
    return mask


def measure(
    mask: NDArray[np.bool_], volume: Volume, threshold: float | None, y_crop: int | None, segment: str = "lumen"
) -> tuple[dict[str, Any], list[str]]:
    """Return what a mask amounts to, as the record has it, and what is suspicious about it.

    `threshold` is None where a voxel belongs to the most probable class; `segment` is what the mask is called.
    """
    return measure_counts(int(np.count_nonzero(mask)), mask[:, :y_crop].size, volume, threshold, segment)


def measure_counts(
    voxels: int, looked_at: int, volume: Volume, threshold: float | None, segment: str = "lumen"
) -> tuple[dict[str, Any], list[str]]:
    """Return what so many voxels of a segment amount to, as `measure` does of a mask."""
    warnings = []
    if voxels == 0 and threshold is None:
        warnings.append(
            f"no voxel is {segment}: are these log intensities at the network's scale? another network may help "
            f"{setting('model')}"
        )
    elif voxels == 0:
        warnings.append(
            f"nothing was found above {threshold}: are these log intensities at the network's scale? "
            f"a lower threshold or another network may help {setting('threshold', 'model')}"
        )
    elif voxels > _NEARLY_FULL * looked_at:
        warnings.append(f"{100 * voxels / looked_at:.0f} % of the volume was called {segment}: this cannot be right")
    um3 = None if volume.voxel_um3 is None else voxels * volume.voxel_um3
    return {"voxels": voxels, "fraction": voxels / looked_at, "um3": um3}, warnings


def scores_record(counts: Overlap, outside: int) -> dict[str, Any]:
    """Return the scores as the record has them; `outside` counts the annotated voxels that were not looked at."""
    return {
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f_score(),
        **asdict(counts),
        "annotated_outside_y_crop": outside,
    }


def score_line(scores: Overlap) -> str:
    """Return the scores as every script prints them."""
    return f"F {scores.f_score():.4f}  precision {scores.precision:.4f}  recall {scores.recall:.4f} (voxels, F is Dice)"
