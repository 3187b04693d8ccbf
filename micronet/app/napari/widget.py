"""The widget "Segment with µr-Net": an image layer in, a labels layer out, live after every refinement.

magicgui makes the widget of the annotations, so they are types here and not text.
"""

from pathlib import Path
from typing import Any

import napari
import numpy as np
from magicgui import magic_factory
from magicgui.widgets import FunctionGui
from napari.layers import Image, Labels
from napari.qt.threading import thread_worker
from napari.utils.notifications import show_info, show_warning

from micronet.app.napari.layers import GRID, grid_of, layer_attributes, settled_grids
from micronet.app.napari.segmenter import Step, default_weights, steps, warning
from micronet.core.errors import InputError
from micronet.core.volume import Volume
from micronet.networks.padding import Padding

__all__ = ["segment_widget"]


def _segment(
    viewer: napari.Viewer,
    image: Image,
    weights: Path,
    iterations: int = 10,
    threshold: float = 0.5,
    start: Labels | None = None,
    live: bool = True,
) -> Any:
    """Segment the lumens of an image layer into a labels layer, in the background; return the worker."""
    if image.multiscale or image.rgb:
        raise InputError(
            f"layer '{image.name}' is a colour or multiscale image; µr-Net takes one channel of grey values"
        )
    array = np.asarray(image.data)
    grid = _settled(image, start)
    told = warning(grid, array, weights)
    if told is not None:
        show_warning(told)
    mirrored = Padding(array.shape[-3:]).note if array.ndim in (3, 4) else None
    if mirrored is not None:
        show_info(mirrored)
    name = f"{image.name} lumen"
    beginning = None if start is None else np.asarray(start.data)
    labels = np.zeros(array.shape, np.uint8)
    shown: list[Labels] = []

    def show(step: Step) -> None:
        part = labels if labels.ndim == 3 else labels[step.time_point]
        part[...] = step.mask
        if live:
            refresh()
            viewer.status = f"µr-Net: refinement {step.iteration} of {step.of}, {step.voxels:,} voxels"

    def refresh() -> None:
        if not shown:
            keys = ("scale", "translate", "units", "axis_labels")
            place = {key: getattr(image, key) for key in keys}
            shown.append(viewer.add_labels(labels, name=name, opacity=0.5, metadata={GRID: grid}, **place))
        shown[0].refresh()

    def done(_: object) -> None:
        refresh()
        show_info(f"{name}: {np.count_nonzero(labels):,} voxels")

    worker = thread_worker(steps)(array, weights, iterations=iterations, threshold=threshold, start=beginning)
    worker.yielded.connect(show)
    worker.returned.connect(done)  # after an error, which napari shows, there is nothing to tell
    worker.start()
    return worker


def _settled(image: Image, start: Labels | None) -> Volume:
    """Return the grid of the image; where its unit or that of the start is settled by the other, scale that layer."""
    here = image.data.shape, image.as_layer_data_tuple()[1]
    if start is None:
        return grid_of(*here)
    there = start.data.shape, start.as_layer_data_tuple()[1]
    *grids, note = settled_grids(here, there, (image.name, start.name))
    if note:
        show_info(note)
        for layer, grid in zip((image, start), grids, strict=True):
            layer.scale = layer_attributes(grid, layer.name, ndim=layer.data.ndim)["scale"]
            layer.metadata[GRID] = grid
    return grids[0]


def _prepare(widget: FunctionGui[Any]) -> None:
    widget.weights.value = default_weights()


#: Makes the widget; napari calls it.
segment_widget = magic_factory(
    _segment,
    widget_init=_prepare,
    call_button="Segment",
    weights={"filter": "weights (*.pt)", "tooltip": "of a µr-Net, or of a µ-Net, which looks once"},
    iterations={"min": 1, "max": 100},
    threshold={"min": 0.0, "max": 0.99, "step": 0.05},
    start={"label": "start from", "tooltip": "labels that the first refinement starts from; none: a blank mask"},
    live={"label": "show every refinement"},
)
