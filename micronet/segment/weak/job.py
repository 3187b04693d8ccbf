"""One image or volume in; which classes it holds, a segmentation of each, points, counts and a record out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from micronet.core.classes import colour, rgb
from micronet.core.errors import InputError, setting
from micronet.core.names import write_name
from micronet.core.outcome import Outcome
from micronet.core.ownership import Outputs
from micronet.core.provenance import versions
from micronet.core.ram import Allowance
from micronet.core.volume import Volume
from micronet.io import Segment, Sources, nrrd, open_stack, read_volume, volume_stem, write_segmentation
from micronet.io.sidecar import refuse_second_log
from micronet.measure.pieces import clean_mask
from micronet.networks.activation import work_bytes
from micronet.networks.normalize import log_intensity, normalize_image
from micronet.report.preview import Further, Scene, write_preview
from micronet.segment.plan import input_record, is_done, volume_record
from micronet.segment.weak.found import Detection, Seen, detections, look, marked, stands_out
from micronet.segment.weak.regions import REGION_BYTES, mean_in, regions_of
from micronet.segment.weak.settings import Ensemble, WeakJob, kinds_of
from micronet.segment.weak.tables import write_classes, write_detections

__all__ = ["look_at_file"]

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class _Found:
    """Of each class its mask and its pieces, and of each image and class how many pieces lie in it."""

    masks: list[NDArray[np.bool_]]
    points: list[list[Detection]]
    pieces: NDArray[np.int64]


def look_at_file(
    path: Path,
    ensemble: Ensemble,
    job: WeakJob,
    *,
    say: Say,
    on_image: Callable[[int], None] = lambda whole: None,
    force: bool = False,
) -> Outcome:
    """Find what networks that were shown a yes or no know in an image or a volume, and write it.

    Parameters
    ----------
    path : Path
    ensemble : Ensemble
    job : WeakJob
    say : callable
        Receives what was read, found and written, a line at a time.
    on_image : callable
        Receives, each time that a network has looked at an image, how many times there will be; may raise to stop.
    force : bool
        Do it again, and replace what is there.

    Returns
    -------
    Outcome
        ``<stem>.json`` is written last, so a result with it is whole.

    Raises
    ------
    MicronetError
        For bad input, or too little memory; nothing has been written then.
    """
    began = time.perf_counter()
    stem, outputs = volume_stem(path), job.outputs(volume_stem(path), ensemble)
    with Sources() as sources:
        asked = {
            "input": input_record(sources.of(path), job.level),
            "weights": _weights_record(ensemble),
            "parameters": job.parameters(),
        }
        outputs.check()
        if not force and is_done(outputs, asked, path):
            again = f"done before ({outputs.record_path}); it can be done again {setting('force')}"
            return Outcome(path, "skipped", again)
        outputs.check_room()
        volume = _read(path, ensemble, job, sources, say)
    image = _seen_image(path, volume, job, say)
    seen = _looked(image, ensemble, on_image, path)
    found = _pieces(seen, image, ensemble, job, volume)
    _tell(seen, found, ensemble, job, say)
    files = _write(outputs, job.names(stem, ensemble), path, volume, seen, found, ensemble, job)
    counts = {name: len(points) for name, points in zip(ensemble.classes, found.points, strict=True)}
    outputs.finish(asked | _record(volume, seen, found, ensemble, files) | {"seconds": time.perf_counter() - began})
    say(f"  wrote       {job.output}/: {', '.join([*files.values(), outputs.record_path.name])}")
    return Outcome(path, "done", ", ".join(f"{name} {count}" for name, count in counts.items()))


def _looked(image: NDArray[np.float32], ensemble: Ensemble, on_image: Callable[[int], None], path: Path) -> Seen:
    times = len(ensemble.members) * (len(image) if ensemble.flat else 1)
    try:
        return look(ensemble.networks, image, lambda: on_image(times))
    except MemoryError:
        raise InputError(
            f"'{path}': memory ran out; crop it, or say how much may be taken {setting('max_ram')}"
        ) from None
    except torch.cuda.OutOfMemoryError:
        raise InputError(
            f"'{path}' does not fit into the memory of the GPU; the CPU has more {setting('device')}"
        ) from None


def _weights_record(ensemble: Ensemble) -> dict[str, Any]:
    told = [
        {"path": write_name(one.path), "sha256": one.sha256, "network": one.network.name} for one in ensemble.members
    ]
    return told[0] if len(told) == 1 else {"members": told}


def _read(path: Path, ensemble: Ensemble, job: WeakJob, sources: Sources, say: Say) -> Volume:
    """Return the volume; what does not fit into memory is refused by its header."""
    how: dict[str, Any] = {"axes": job.axes, "spacing_um": job.spacing_um, "shape": job.shape, "dtype": job.dtype}
    how |= {"flat": ensemble.flat, "level": job.level}
    source = sources.of(path)
    with open_stack(source, **how) as stack:
        shape, stored = stack.grid.shape, stack.grid.array.nbytes
    voxels, classes, several = int(np.prod(shape)), len(ensemble.classes), len(ensemble.members) > 1
    at_once = voxels // shape[0] if ensemble.flat else voxels
    held = stored + 4 * voxels * (1 + classes * (3 if several else 2)) + voxels * classes
    work = max(work_bytes(one, at_once) for one in ensemble.networks) + 8 * classes * at_once
    shown = max(24 * voxels, REGION_BYTES * at_once + 12 * voxels if job.regions else 0)
    needed = Allowance.of(job.max_ram).check(held, max(work, shown), f"'{path}'")
    volume = read_volume(source, **how)
    spacing = "unknown" if volume.spacing_um is None else " x ".join(f"{um:.4g}" for um in volume.spacing_um) + " µm"
    say(f"  volume      {' x '.join(map(str, volume.shape))} (Z, Y, X), {volume.array.dtype}, spacing {spacing}")
    say(f"  memory      about {needed / 1e9:.2g} GB at most")
    for note in volume.notes:
        say(f"              note: {note}")
    return volume


def _seen_image(path: Path, volume: Volume, job: WeakJob, say: Say) -> NDArray[np.float32]:
    if job.clean is not None and job.clean.below_um3 is not None and volume.voxel_um3 is None:
        raise InputError(
            f"'{path}' does not state its voxel size {setting('spacing_um')}, which a smallest volume needs "
            f"{setting('clean')}"
        )
    array = volume.array
    if job.intensity == "log":
        refuse_second_log(path)
        array = log_intensity(array)
        say("  intensity   the logarithm of what is stored")
    try:
        return normalize_image(array)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error


def _pieces(seen: Seen, image: NDArray[np.float32], ensemble: Ensemble, job: WeakJob, volume: Volume) -> _Found:
    masks, points = [], []
    pieces = np.zeros(seen.probability.shape, np.int64)
    regions = regions_of(image, flat=ensemble.flat) if job.regions else None
    for number, (coarse, precise) in enumerate(zip(seen.coarse, seen.precise, strict=True)):
        said = seen.probability[:, number]
        found = marked(coarse, precise, flat=ensemble.flat) if regions is None else np.maximum(coarse, 0)
        cut = found if regions is None else mean_in(regions, found)
        mask = stands_out(cut, (said > job.threshold).tolist(), job.threshold_method)
        if job.clean is not None:
            clean_mask(mask, job.clean, volume.voxel_um3)
        masks.append(mask)
        points.append(detections(number, found, mask, said.tolist()))
        pieces[:, number] = _counted(mask, len(said))
    return _Found(masks, points, pieces)


def _counted(mask: NDArray[np.bool_], images: int) -> list[int]:
    parts = mask[:, None] if images > 1 else mask[None]
    whole = np.ones((3, 3, 3), bool)
    return [int(ndimage.label(part, whole)[1]) for part in parts]


def _tell(seen: Seen, found: _Found, ensemble: Ensemble, job: WeakJob, say: Say) -> None:
    for number, name in enumerate(ensemble.classes):
        said = seen.probability[:, number]
        holds = int((said > job.threshold).sum())
        where = f"in {holds:,} of {len(said):,} planes" if len(said) > 1 else "there" if holds else "not there"
        pieces = len(found.points[number])
        word = "piece" if pieces == 1 else "pieces"
        say(f"  {name:<11} {where} (probability {float(said.max()):.3f}), {pieces:,} {word}")


def _write(
    outputs: Outputs,
    names: Mapping[str, str],
    path: Path,
    volume: Volume,
    seen: Seen,
    found: _Found,
    ensemble: Ensemble,
    job: WeakJob,
) -> dict[str, str]:
    """Write the files of a result; return their names by kind."""
    image, classes = path.name, ensemble.classes
    segments = [
        (Segment(name=name, color=rgb(colour(number))), mask)
        for number, (name, mask) in enumerate(zip(classes, found.masks, strict=True), 1)
    ]
    points = [one for several in found.points for one in several]
    with outputs.staged() as folder:
        write_segmentation(folder / names["segmentation"], segments, volume)
        further = [Further(name, mask) for name, mask in zip(classes[1:], found.masks[1:], strict=True)]
        scene = Scene(volume.array, found.masks[0], volume.spacing_um, mask_name=classes[0], further=further)
        write_preview(folder / names["preview"], scene, write_name(volume_stem(path)))
        write_classes(
            folder / names["classes"],
            image,
            classes,
            seen.probability,
            found.pieces,
            [len(several) for several in found.points],
            job.threshold,
        )
        write_detections(folder / names["detections"], image, classes, points, volume.spacing_um)
        if job.maps:
            for number in range(len(classes)):
                for kind in kinds_of(ensemble):
                    array = getattr(seen, kind)[number]
                    nrrd.write(folder / names[f"{kind} {number}"], volume.with_array(array))
    return dict(names)


def _record(volume: Volume, seen: Seen, found: _Found, ensemble: Ensemble, files: Mapping[str, str]) -> dict[str, Any]:
    """Return what the record says beside what was asked."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "volume": volume_record(volume, volume.notes),
        "classes": {
            name: {
                "probability": float(seen.probability[:, number].max()),
                "pieces": len(found.points[number]),
                "voxels": int(found.masks[number].sum()),
            }
            for number, name in enumerate(ensemble.classes)
        },
        "files": {kind: write_name(name) for kind, name in files.items()},
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
