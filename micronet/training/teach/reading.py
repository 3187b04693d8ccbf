"""What is taught from is read: the volume and its labels, on one grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import setting
from micronet.core.volume import Volume
from micronet.io import Sources, read_labels, read_volume
from micronet.io.corrections import read_corrections
from micronet.io.labels import LUMEN, Labels, read_class_labels
from micronet.io.sidecar import refuse_second_log
from micronet.networks.normalize import log_intensity
from micronet.training.teach.plan import Plan

__all__ = ["Say", "impose", "read_taught", "tell_read"]

Say = Callable[[str], None]


def read_taught(plan: Plan, sources: Sources, say: Say) -> tuple[Volume, Labels, tuple[float, float, float]]:
    """Return the volume as the network is to see it, the labels, and the voxel size to work with."""
    job, path = plan.job, plan.path
    volume = read_volume(sources.of(path), axes=job.axes, spacing_um=job.spacing_um)
    if job.classes is not None:
        volume, labels = read_class_labels(
            sources.of(job.labels),
            volume,
            str(path),
            job.classes,
            background=job.background,
            axes=job.axes,
            spacing_um=job.spacing_um,
        )
    elif job.checked is None:
        volume, labels = read_labels(
            sources.of(job.labels),
            volume,
            str(path),
            lumen=job.lumen,
            background=job.background,
            axes=job.axes,
            spacing_um=job.spacing_um,
        )
    else:
        volume, labels = read_corrections(
            sources.of(job.labels),
            volume,
            str(path),
            checked=job.checked,
            lumen=job.lumen,
            spacing_um=job.spacing_um,
        )
    tell_read(volume, labels, say)
    if job.intensity == "log":
        refuse_second_log(path)
        volume = volume.with_array(log_intensity(volume.array))
        say("  intensity   the logarithm of what is stored")
    return volume, labels, volume.spacing_um or (1.0, 1.0, 1.0)


def tell_read(volume: Volume, labels: Labels, say: Say) -> None:
    """Tell what was read, and what had to be assumed."""
    size = " x ".join(f"{length:.4g}" for length in volume.spacing_um or ())
    where = "spacing unknown" if volume.spacing_um is None else f"spacing {size} µm"
    shape = " x ".join(str(n) for n in volume.shape)
    say(f"  volume      {shape} (Z, Y, X), {volume.array.dtype}, {where}")
    say(f"  labels      {labels.description}")
    notes = [*volume.notes, *labels.notes]
    if volume.spacing_um is None:
        notes.append(f"voxel size not stated: voxels are taken for cubes of 1 µm {setting('spacing_um')}")
    for note in dict.fromkeys(notes):
        say(f"              note: {note}")


def impose(mask: NDArray[np.bool_], labels: NDArray[np.uint8], value: int = LUMEN) -> None:
    """Let a mask hold what is annotated: inside is what has this label."""
    for plane, said in zip(mask, labels, strict=True):
        np.copyto(plane, said == value, where=said > 0)
