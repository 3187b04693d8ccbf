"""Where the files of each kind of phantom lie, and how those are written that are no OCT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from micronet.core.volume import Volume, upright
from micronet.data.phantom.anatomy import SMALLEST_AXIS
from micronet.data.phantom.optic_lobe import SMALLEST_LOBE, OpticLobe, optic_lobe
from micronet.data.phantom.shapes import SMALLEST_IMAGE, Shapes, draw_shapes
from micronet.io import Segment, write_segmentation, write_volume
from micronet.io.hdf5 import write_one

__all__ = ["KINDS", "Kind"]

# What a stream of random numbers is for; with the seed it names one (micronet.data.phantom.seeds has the others).
_SHAPES, _OPTIC_LOBE = 3, 4


@dataclass(frozen=True)
class Kind:
    """One kind of phantom.

    Parameters
    ----------
    title : str
        What the data-set file says it is.
    stem : str
        Names are ``<stem>_<seed>``.
    shortest : int
        Voxels that each axis has at least.
    image, annotation : str
        Files of the one called ``{name}``, relative to the folder of the set.
    keys, defaults : tuple of str
        Further lines of the data-set file, and of its defaults.
    hdf5 : str, optional
        File for each that is written where HDF5 is asked for, as above.
    parameters : Shapes or OpticLobe, optional
        What it is made with; None of OCT, whose parameters depend on the phantom.
    write : callable, optional
        ``write(folder, name, seed, shape, hdf5)`` makes one, writes its files into a folder that is like that of the
        set, and says in a few words what it is. None of OCT.
    """

    title: str
    stem: str
    shortest: int
    image: str
    annotation: str
    keys: tuple[str, ...] = ()
    defaults: tuple[str, ...] = ()
    hdf5: str | None = None
    parameters: Shapes | OpticLobe | None = None
    write: Callable[[Path, str, int, tuple[int, ...], bool], str] | None = None

    def asked(self, seed: int, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return what one depends on."""
        parameters = {} if self.parameters is None else asdict(self.parameters)
        return {"kind": self.stem, "seed": seed, "shape": shape, **parameters}


def _write_shapes(folder: Path, name: str, seed: int, shape: tuple[int, ...], _: bool) -> str:
    y, x = shape
    image, labels = draw_shapes((y, x), np.random.default_rng([seed, _SHAPES]))
    kind = KINDS["shapes"]
    for place, array in ((kind.image, image), (kind.annotation, labels)):
        Image.fromarray(array).save(folder / place.format(name=name), format="PNG")
    background, line, ellipse = 100 * np.bincount(labels.ravel(), minlength=3) / labels.size
    return f"lines {line:.1f} %, ellipses {ellipse:.1f} %, background {background:.1f} %"


def _write_optic_lobe(folder: Path, name: str, seed: int, shape: tuple[int, ...], hdf5: bool) -> str:
    z, y, x = shape
    kind = KINDS["optic-lobe"]
    grey, mask = optic_lobe((z, y, x), np.random.default_rng([seed, _OPTIC_LOBE]))
    grid = Volume(grey, upright((OpticLobe().spacing_um,) * 3), space="left-posterior-superior", units="um")
    write_volume(folder / kind.image.format(name=name), grid)
    write_segmentation(folder / kind.annotation.format(name=name), [(Segment(name="column"), mask)], grid)
    if hdf5 and kind.hdf5 is not None:
        write_one(folder / kind.hdf5.format(name=name), grid, mask)
    return f"columns {100 * mask.mean():.1f} % of the volume"


KINDS: Mapping[str, Kind] = {
    "oct": Kind(
        title="Simulated OCT",
        stem="phantom",
        shortest=SMALLEST_AXIS,
        image="struct_iso/E5D_{name}.nrrd",
        annotation="annotations/annotation_{name}_iso_full.seg.nrrd",
    ),
    "shapes": Kind(
        title="Drawn shapes (in masks 0 is background, 1 a line, 2 an ellipse)",
        stem="shapes",
        shortest=SMALLEST_IMAGE,
        image="images/{name}.png",
        annotation="masks/{name}.png",
        keys=('classes = ["line", "ellipse"]',),
        parameters=Shapes(),
        write=_write_shapes,
    ),
    "optic-lobe": Kind(
        title="Simulated two-photon volumes of an optic lobe",
        stem="optic_lobe",
        shortest=SMALLEST_LOBE,
        image="volumes/{name}.nrrd",
        annotation="annotations/{name}.seg.nrrd",
        defaults=('segment = "column"',),
        hdf5="hdf5/{name}.h5",
        parameters=OpticLobe(),
        write=_write_optic_lobe,
    ),
}
