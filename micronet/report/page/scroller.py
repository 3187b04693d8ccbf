"""What a page shows of a volume, small enough for it: a coarse image as one JPEG, masks as compressed bits."""

from __future__ import annotations

import base64
import io
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from micronet.core.classes import colour
from micronet.core.errors import InputError
from micronet.core.planes import Planes
from micronet.report.annotated import planes_annotated
from micronet.report.page.grid import Grid
from micronet.report.panels import grey_range, sampled

__all__ = ["AGREED_COLOUR", "Movie", "Outlined", "Shown"]

#: What both contours enclose, of a mask and its annotation.
AGREED_COLOUR = colour(2)

# JPEG works in blocks of 8 x 8: planes begin on one, so that none leaks into the next.
_JPEG_BLOCK = 8
_QUALITIES = (85, 75, 65, 55, 45, 35, 25, 15, 8)
_PROJECTION_QUALITY = 85


class Movie:
    """Masks one after the other, such as those after each iteration.

    Each is kept compressed, so that a hundred of a large volume take little memory.

    Parameters
    ----------
    grid : Grid
        What the masks are shown on.
    colour : str, optional
        ``#RRGGBB``.
    """

    def __init__(self, grid: Grid, colour: str | None = None) -> None:
        self.grid, self.colour = grid, colour
        self._frames: list[tuple[str, bytes]] = []

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, array: Planes, label: str, threshold: float = 0.5) -> None:
        """Append a mask, or a probability and its threshold, with the words to show beside it."""
        self._frames.append((label, zlib.compress(self.grid.bits(array, threshold), 1)))

    @property
    def last(self) -> bytes:
        """The bits of the last mask, as `Grid.bits` gives them."""
        return zlib.decompress(self._frames[-1][1])

    def encoded(self, before: Sequence[bytes], most_bytes: int) -> tuple[list[str], str]:
        """Return the labels of the masks that fit, the last always among them, and these masks with those before.

        The second is base64 of a zlib stream in which each mask is told as its difference (exclusive or) from the
        one before.
        """
        count = len(self._frames)
        kept = count
        while True:
            chosen = sorted({count - 1 - round(number * (count - 1) / max(1, kept - 1)) for number in range(kept)})
            text = self._stream([*before, *(zlib.decompress(self._frames[number][1]) for number in chosen)])
            if len(text) <= most_bytes or kept <= 1:
                return [self._frames[number][0] for number in chosen], text
            kept = min(kept - 1, max(1, kept * most_bytes // len(text)))

    @staticmethod
    def _stream(masks: Sequence[bytes]) -> str:
        packer = zlib.compressobj(9)
        parts = []
        before: NDArray[np.uint8] | None = None
        for bits in masks:
            now = np.frombuffer(bits, np.uint8)
            parts.append(packer.compress((now if before is None else now ^ before).tobytes()))
            before = now
        parts.append(packer.flush())
        return base64.b64encode(b"".join(parts)).decode("ascii")


@dataclass(frozen=True, eq=False)
class Outlined:
    """A segment that is shown beside the first: its name, its colour (``#RRGGBB``) and its mask (Z, Y, X).

    `known` are the planes along Z, Y and X in which anything is known of it, as `planes_annotated` has them; beyond
    them it has no outline. None is all.
    """

    name: str
    colour: str
    mask: Planes
    known: Sequence[NDArray[np.bool_]] | None = None


class Shown:
    """One volume on a page.

    What is shown of the arrays is taken when it is made; they are not kept.

    Parameters
    ----------
    name : str
        What the person calls it.
    movie : Movie
        At least one mask; the last is the result.
    image : ndarray of shape (Z, Y, X), optional
        Intensities; without them the masks are shown on plain grey. Read plane by plane.
    annotation : ndarray of shape (Z, Y, X), bool, optional
        Where it was plainly drawn in some planes only, it has no outline beyond them.
    mask_name, annotation_name : str
        What the contours are called.
    y_crop : int, optional
        How deep (Y) was looked.
    further : sequence of Outlined
        Other segments.

    Raises
    ------
    InputError
        If there is no mask, or the image or annotation has another shape.
    """

    def __init__(
        self,
        name: str,
        movie: Movie,
        image: NDArray[Any] | None = None,
        annotation: NDArray[Any] | None = None,
        *,
        mask_name: str = "segmentation",
        annotation_name: str = "annotation",
        y_crop: int | None = None,
        further: Sequence[Outlined] = (),
    ) -> None:
        if not len(movie):
            raise InputError("a report needs at least one mask")
        for what, array in (("image", image), ("annotation", annotation)):
            if array is not None and array.shape != movie.grid.shape:
                raise InputError(f"{what} of shape {array.shape} differs from the masks: {movie.grid.shape}")
        self.name, self._movie, self._y_crop = name, movie, y_crop
        self._names = {"maskName": mask_name, "annotationName": annotation_name}
        self._colours = {} if movie.colour is None else {"mask": movie.colour, "agreed": _agreed(movie.colour)}
        grid = movie.grid
        self._further = [
            ({"name": one.name, "colour": one.colour, "known": _told(one.known)}, zlib.compress(grid.bits(one.mask), 1))
            for one in further
        ]
        self._annotation = None if annotation is None else zlib.compress(grid.bits(annotation), 1)
        self._annotated_planes = _told(None if annotation is None else planes_annotated(annotation))
        self._image = None if image is None else _grey(grid.coarse(image))
        projections = [] if image is None else grid.projections(image)
        self._projections = [_jpeg(_grey(flat, projection=True), _PROJECTION_QUALITY) for flat in projections]

    def encoded(self, most_bytes: int) -> dict[str, Any]:
        """Return what the page's script needs, as JSON has it, in about so many bytes.

        Masks come first; what they leave is for the image, whose quality is lowered until it fits.
        """
        grid = self._movie.grid
        left = most_bytes - sum(len(projection) for projection in self._projections)
        annotation = None if self._annotation is None else zlib.decompress(self._annotation)
        further = [zlib.decompress(mask) for _, mask in self._further]
        labels, masks = self._movie.encoded([*([] if annotation is None else [annotation]), *further], left // 2)
        bits = np.frombuffer(self._movie.last, np.uint8)
        for other in (annotation, *further):
            bits = bits if other is None else bits | np.frombuffer(other, np.uint8)
        return self._names | {
            "name": self.name,
            "colours": self._colours,
            "further": [about for about, _ in self._further],
            "shape": grid.shape,
            "spacing": grid.spacing_um,
            "size": grid.size,
            "projected": grid.projected,
            "crop": None if self._y_crop is None or self._y_crop >= grid.shape[1] else self._y_crop,
            "start": _fullest(_voxels(bits, grid), None if annotation is None else _voxels(annotation, grid)),
            "image": None if self._image is None else _atlas(self._image, left - len(masks)),
            "projections": self._projections,
            "frames": labels,
            "annotated": annotation is not None,
            "annotatedPlanes": self._annotated_planes,
            "masks": masks,
        }


def _agreed(mask_colour: str) -> str:
    """Return the colour of what is found and annotated: apart from that of what is found only."""
    return AGREED_COLOUR if mask_colour != AGREED_COLOUR else colour(5)


def _told(known: Sequence[NDArray[np.bool_]] | None) -> list[list[int] | None]:
    """Return planes along Z, Y and X as JSON has them: 1 where something is known; None for all along an axis."""
    if known is None:
        return [None] * 3
    return [None if planes.all() else [int(plane) for plane in planes] for planes in known]


def _voxels(bits: bytes | NDArray[np.uint8], grid: Grid) -> NDArray[np.uint8]:
    """Return the voxels of a mask that `Grid.bits` gave."""
    packed = bits if isinstance(bits, np.ndarray) else np.frombuffer(bits, np.uint8)
    return np.unpackbits(packed, count=math.prod(grid.size)).reshape(grid.size)


def _fullest(mask: NDArray[np.uint8], annotated: NDArray[np.uint8] | None = None) -> list[int]:
    """Return the planes along (Z, Y, X) that cut most of a mask; the middle ones of an empty mask.

    Where a part of the volume is annotated, among the planes that cut an annotation.
    """
    if not mask.any():
        return [n // 2 for n in mask.shape]
    planes = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        areas = mask.sum(others, np.int64)
        if annotated is not None and annotated.any():
            areas[~annotated.any(others)] = 0
        most = np.flatnonzero(areas == areas.max())
        planes.append(int(most[len(most) // 2]))
    return planes


def _grey(values: NDArray[Any], *, projection: bool = False) -> NDArray[np.uint8]:
    low, high = grey_range(values[sampled(values.shape, 128)], projection=projection)
    grey = np.empty(values.shape, np.uint8)
    for plane, shown in zip(values, grey, strict=True):
        scaled = (plane.astype(np.float32) - low) * (255 / (high - low))
        shown[...] = np.rint(np.clip(np.nan_to_num(scaled), 0, 255))
    return grey


def _atlas(grey: NDArray[np.uint8], most_bytes: int) -> dict[str, Any]:
    """Return the planes of a volume side by side in one JPEG, of the best quality that fits."""
    height, width = (-(-n // _JPEG_BLOCK) * _JPEG_BLOCK for n in grey.shape[1:])
    padded = np.pad(grey, ((0, 0), (0, height - grey.shape[1]), (0, width - grey.shape[2])), mode="edge")
    columns = max(1, min(len(grey), round(math.sqrt(len(grey) * height / width))))
    rows = -(-len(grey) // columns)
    tiles = np.zeros((rows * columns, height, width), np.uint8)
    tiles[: len(grey)] = padded
    picture = tiles.reshape(rows, columns, height, width).transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    for quality in _QUALITIES:
        source = _jpeg(picture, quality)
        if len(source) <= most_bytes:
            break
    return {"source": source, "columns": columns, "height": height, "width": width}


def _jpeg(grey: NDArray[np.uint8], quality: int) -> str:
    """Return a grey picture as a data URI."""
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
