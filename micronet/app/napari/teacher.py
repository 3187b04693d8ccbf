"""The computing part of the widget "Teach": strokes in, a mask out, files where asked. It knows nothing of napari."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.app.napari.segmenter import prepare_engine
from micronet.app.napari.work import Progress, Tell
from micronet.core.errors import InputError
from micronet.core.names import file_part, write_name
from micronet.core.threads import physical_cores
from micronet.core.volume import Volume
from micronet.io import volume_stem
from micronet.io.labels import BACKGROUND, LUMEN, Labels
from micronet.io.sidecar import refuse_second_log
from micronet.networks.normalize import log_intensity
from micronet.training.teach.live import Answer, LiveImage
from micronet.training.teach.look import Place, uncertain_places
from micronet.training.teach.material import Material
from micronet.training.teach.plan import TeachJob
from micronet.training.teach.result import Found, save_found

__all__ = ["MADE_BY", "Planes", "Saving", "Seen", "Teacher", "annotation", "mask_planes", "places", "save"]

#: What the record of a result says that made it.
MADE_BY = "napari Teach"
_LEARNING = "learning from the strokes"


class Planes(NamedTuple):
    """Probability (planes, Y, X) from a plane on, as it comes."""

    first: int
    probability: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Seen:
    """What is taught on: an image layer's array with its grid, and how to look at it.

    Parameters
    ----------
    array : ndarray of shape (Z, Y, X)
    grid : Volume
    log : bool
        Take the logarithm of the intensities first.
    y_crop : int, optional
        Only depths ``[:, :y_crop, :]`` are learned from and looked at.
    source : Path, optional
        The file that the layer came from.
    """

    array: NDArray[Any]
    grid: Volume
    log: bool = False
    y_crop: int | None = None
    source: Path | None = None

    def __post_init__(self) -> None:
        if self.array.ndim != 3:
            raise InputError(f"teaching takes an image with the axes Z, Y, X; this layer has {self.array.ndim}")

    def same(self, other: Seen | None) -> bool:
        """Whether what is kept of one serves the other."""
        return (
            other is not None
            and self.array is other.array
            and (self.grid.spacing_um, self.log, self.y_crop) == (other.grid.spacing_um, other.log, other.y_crop)
        )


class Teacher:
    """Teaches on one image after the other; what does not depend on the strokes is kept as long as it is the same."""

    def __init__(self) -> None:
        self._seen: Seen | None = None
        self._live: LiveImage | None = None

    def work(self, seen: Seen, labels: NDArray[Any], *, whole: bool, around: int = 0) -> Callable[[Tell], Answer]:
        """Return what to do for some strokes, for `work.Work`.

        Parameters
        ----------
        seen : Seen
        labels : ndarray of whole numbers, of the image's shape
            0 not annotated, 1 lumen, 2 background. It is copied now.
        whole : bool
            Choose between all learners and teach those; else pixel trees alone, in about a second.
        around : int
            The plane that is answered first.

        Returns
        -------
        callable
            Tells `Progress` and `Planes`, and returns the `Answer`.
        """
        copied = np.array(labels)

        def do(tell: Tell) -> Answer:
            torch.set_num_threads(physical_cores())
            prepare_engine(["trees"], tell)
            live = self._image(seen, tell)
            lesson = live.lesson(copied)
            if whole:
                prepare_engine(["training"], tell)  # a µ-Net is tried in thick planes
                found = live.by_all(lesson, on_progress=lambda *told: tell(Progress(*told)))
                tell(Planes(0, found.probability))
                return found
            count, done = len(seen.array), 0
            tell(Progress(0, count, _LEARNING))

            def show(first: int, probability: NDArray[np.float32]) -> None:
                nonlocal done
                done += len(probability)
                if len(probability):
                    tell(Planes(first, probability))
                tell(Progress(done, count, _LEARNING))

            return live.by_trees(lesson, around=around, on_planes=show)

        return do

    def _image(self, seen: Seen, tell: Tell) -> LiveImage:
        if self._live is None or not seen.same(self._seen):
            tell(Progress(0, 0, "looking at the image"))
            if seen.log and seen.source is not None:
                refuse_second_log(seen.source)
            self._live, self._seen = None, None  # its features may fill the memory
            self._live = LiveImage(seen.grid.with_array(seen.array), log=seen.log, y_crop=seen.y_crop)
            self._seen = seen
        return self._live


def annotation(
    strokes: NDArray[Any], checked: NDArray[Any] | None = None, mask: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Return what is annotated: strokes, and where it was checked the mask as it is shown, but for strokes.

    Parameters
    ----------
    strokes : ndarray of whole numbers, of the image's shape
        0 not painted, 1 lumen, 2 background.
    checked : ndarray of the same shape, optional
        Above 0 where a person has looked at the mask, and has mended it where it was wrong.
    mask : ndarray of the same shape, optional
        Above 0 in the lumen; None where nothing is shown yet.

    Returns
    -------
    ndarray
        A copy, of the type of `strokes`.

    Raises
    ------
    InputError
        If what was checked has another shape, or there is no mask that it could be about.
    """
    labels = np.array(strokes)
    if checked is None or not np.any(checked):
        return labels
    if checked.shape != labels.shape:
        raise InputError(f"what was checked has shape {checked.shape}, the image {labels.shape}")
    if mask is None or mask.shape != labels.shape:
        raise InputError("there is no mask yet that could have been checked: paint strokes, and wait for it")
    for plane, looked_at, inside in zip(labels, checked, mask, strict=True):
        where = (looked_at > 0) & (plane == 0)
        plane[where] = np.where(inside[where] > 0, LUMEN, BACKGROUND)
    return labels


def mask_planes(planes: Planes, labels: NDArray[Any], threshold: float, out: NDArray[np.uint8]) -> None:
    """Write the mask of some planes: lumen above the threshold, and what is painted as it is painted.

    Parameters
    ----------
    planes : Planes
        Which may be cut off in Y; nothing is found beyond.
    labels : ndarray of the volume's shape
        1 lumen, 2 background.
    threshold : float
    out : ndarray of the volume's shape, uint8
    """
    depth = planes.probability.shape[1]
    here = slice(planes.first, planes.first + len(planes.probability))
    for found, painted, mask in zip(planes.probability, labels[here], out[here], strict=True):
        mask[:depth] = found > threshold
        mask[depth:] = 0
        np.copyto(mask[:depth], painted[:depth] == LUMEN, where=painted[:depth] > 0)


def places(answer: Answer) -> list[Place]:
    """Return where a further stroke would help most, as ``_look.csv`` has it."""
    lesson = answer.lesson
    return uncertain_places(answer.probability, answer.spread, lesson.labels, lesson.spacing_um)[0]


@dataclass(frozen=True)
class Saving:
    """Where files go: all into one folder, with this name; and at which threshold the mask is."""

    folder: Path
    name: str
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InputError("give the files a name")


def save(answer: Answer, seen: Seen, saving: Saving) -> list[Path]:
    """Write the mask (.seg.nrrd), probability, preview, places to look at, strokes and weights; return the files.

    They are those of ``teach.py``, and ``strokes/NAME.seg.nrrd``. What was saved so before is replaced where it is as
    it was written; nothing else ever is.

    Raises
    ------
    MicronetError
        If something else is in the way, or a file cannot be written.
    """
    depth = answer.probability.shape[1]
    stem = volume_stem(f"{file_part(saving.name.strip())}.nrrd")
    labels = np.zeros(seen.array.shape, np.uint8)
    labels[:, :depth] = answer.lesson.labels
    mask = np.zeros(labels.shape, np.uint8)
    mask_planes(Planes(0, answer.probability), labels, saving.threshold, mask)
    volume = seen.grid.with_array(seen.array)
    if seen.log:
        volume = volume.with_array(log_intensity(seen.array))
    found = Found(
        volume,
        Labels(volume.with_array(labels), "strokes"),
        Material(labels, np.zeros_like(labels), changed=True, pending=False, others=()),
        answer.lesson,
        answer.course,
        _whole(answer.probability, labels.shape),
        None if answer.spread is None else _whole(answer.spread, labels.shape),
        mask > 0,
        y_crop=seen.y_crop,
    )
    job = TeachJob(
        Path("strokes") / f"{stem}.seg.nrrd",
        output=saving.folder,
        weights_folder=saving.folder,
        name=stem,
        intensity="log" if seen.log else "as stored",
        threshold=saving.threshold,
    )
    about = {"input": {"layer": saving.name, "path": None if seen.source is None else write_name(seen.source)}}
    source = seen.source if seen.source is not None and seen.source.is_file() else None
    return save_found(found, job, stem, about, made_by=MADE_BY, source=source, say=lambda line: None)


def _whole(found: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an array of the volume's shape, 0 where nothing was looked at."""
    if found.shape == shape:
        return found
    whole = np.zeros(shape, np.float32)
    whole[:, : found.shape[1]] = found
    return whole
