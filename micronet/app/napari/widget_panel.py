"""What both widgets are made of: a panel with an image, a progress bar, a stop button, and work in a thread."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import napari
from magicgui.widgets import CheckBox, ComboBox, Container, FloatSlider, Label, ProgressBar, PushButton, SpinBox, Widget
from napari.layers import Image, Labels
from napari.qt.threading import thread_worker
from napari.utils.notifications import show_info
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QSizePolicy

from micronet.app.napari.layers import GRID, layer_attributes, settled_grids
from micronet.app.napari.work import Progress, Tell, Work
from micronet.core.errors import InputError, MicronetError
from micronet.core.volume import Volume

__all__ = ["Panel", "after", "layer_choice", "path_of", "row", "settled_grid"]

#: Milliseconds between looks at what the thread has told.
_POLL = 40


def layer_choice(viewer: napari.Viewer, kind: type[Any], *, optional: bool = False, **options: Any) -> ComboBox:
    """Return a box that offers the layers of a kind; with `optional` none may be chosen."""

    def choices(_: Any) -> list[Any]:
        return [(layer.name, layer) for layer in viewer.layers if isinstance(layer, kind)]

    return ComboBox(choices=choices, nullable=optional, **options)


def row(*widgets: Widget) -> Container:
    """Return widgets side by side."""
    found = Container(widgets=list(widgets), layout="horizontal", labels=False)
    found.margins = (0, 0, 0, 0)
    return found


def after(milliseconds: int, call: Callable[[], Any]) -> QTimer:
    """Return a timer that calls once, so long after it was last started."""
    timer = QTimer()
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.timeout.connect(call)
    return timer


def path_of(layer: Any) -> str | None:
    """Return the file that a layer was opened from."""
    return getattr(layer.source, "path", None)


def settled_grid(image: Image, labels: Labels | None) -> Volume:
    """Return the grid of the image; where its unit or that of the labels is settled by the other, scale that layer."""
    here = image.data.shape, image.as_layer_data_tuple()[1]
    there = here if labels is None else (labels.data.shape, labels.as_layer_data_tuple()[1])
    *grids, note = settled_grids(here, there, (image.name, image.name if labels is None else labels.name))
    if note:
        show_info(note)
        for layer, grid in zip((image, labels), grids, strict=True):
            layer.scale = layer_attributes(grid, layer.name, ndim=layer.data.ndim)["scale"]
            layer.metadata[GRID] = grid
    return grids[0]


class Panel(Container):  # type: ignore[misc]  # magicgui is not needed for the checks
    """A widget whose work is done in a thread, the latest wish first: what was begun before is stopped.

    Parameters
    ----------
    viewer : napari.Viewer
    call : str
        What the button is called that begins.
    tooltip : str
        Of that button.
    """

    def __init__(self, viewer: napari.Viewer, call: str, tooltip: str) -> None:
        super().__init__(labels=True)
        # napari hands a plugin a proxy, through which a layer that was added is not the one that a box offers.
        self.viewer = viewer = getattr(viewer, "__wrapped__", viewer)
        self.image = layer_choice(viewer, Image, label="Image", tooltip="one channel of grey values")
        self.log = CheckBox(
            text="Log intensities",
            tooltip="take the logarithm first: for linear intensities that span several powers of ten, as raw OCT",
        )
        self.depth = SpinBox(
            label="Depth crop (Y)",
            value=0,
            min=0,
            max=1_000_000,
            tooltip="look at so many voxels of Y only, from its beginning; 0: all of them",
        )
        self.threshold = FloatSlider(
            label="Threshold", value=0.5, min=0, max=0.99, step=0.01, tooltip="lumen is where the probability is above"
        )
        self.begin = PushButton(text=call, tooltip=tooltip)
        self.stop = PushButton(text="Stop", tooltip="stop what is being computed; what is shown stays", enabled=False)
        self.bar = ProgressBar(value=0, max=100)
        self.status = Label(value="")
        self.status.native.setWordWrap(True)
        self.status.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.status.native.setFixedHeight(72)
        self.status.native.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        self.bar.native.setTextVisible(False)
        self.bar.native.setMaximumHeight(8)
        self._work: Work | None = None
        self._next: tuple[Work, Callable[[Any], None], Callable[[Any], None]] | None = None
        self._timer = QTimer()
        self._timer.setInterval(_POLL)
        self._timer.timeout.connect(self._poll)
        self.stop.changed.connect(self.cancel)
        for event in self._layer_events():
            event.connect(self._offer_layers)
        self.native.destroyed.connect(self._close)

    def lay_out(self, widgets: Sequence[Widget], width: int = 320) -> None:
        """Show these, then the buttons, the bar and the line on what happens; no narrower than so many pixels."""
        self.extend([*widgets, row(self.begin, self.stop), row(self.bar), row(self.status)])
        self.native.setMinimumWidth(width)
        self.reset_choices()

    @property
    def busy(self) -> bool:
        """Whether something is being computed."""
        return self._work is not None

    @property
    def y_crop(self) -> int | None:
        """How many voxels of Y to look at, None for all."""
        return int(self.depth.value) or None

    def chosen_image(self) -> Image:
        """Return the image layer; InputError where there is none, or one that networks do not take."""
        image = self.image.value
        if image is None:
            raise InputError("open an image first")
        if image.multiscale or image.rgb:
            raise InputError(f"layer '{image.name}' is a colour or multiscale image; one channel of grey values wanted")
        return image

    def say(self, line: str) -> None:
        """Show a line."""
        self.status.value = line

    def start(
        self, function: Callable[[Tell], Any], on_told: Callable[[Any], None], on_done: Callable[[Any], None]
    ) -> None:
        """Do something in a thread, as soon as what is under way there has stopped.

        Parameters
        ----------
        function : callable
            As `Work` takes it.
        on_told, on_done : callable
            Receive, in the thread of the windows, what it tells beside `Progress`, and its result. Neither is called
            once it is stopped.
        """
        self._next = Work(function), on_told, on_done
        self.stop.enabled = True
        if self._work is None:
            self._begin_next()
        else:
            self._work.stop()

    def cancel(self) -> None:
        """Stop what is under way, and what waits."""
        self._next = None
        if self._work is not None:
            self._work.stop()
            self.say("stopping …")

    def tried(self, call: Callable[[], Any]) -> Any:
        """Return what a call returns, or None after showing in a line what is wrong with what was asked for."""
        try:
            return call()
        except MicronetError as error:
            self.say(str(error))
            return None

    def refresh(self) -> None:
        """Show what has changed."""

    def on_stop(self) -> None:
        """Set right what is shown after work was stopped."""

    def _layer_events(self) -> list[Any]:
        events = self.viewer.layers.events
        return [events.inserted, events.removed, events.reordered]

    def _offer_layers(self, event: Any = None) -> None:
        self.reset_choices()

    def _close(self) -> None:
        """Leave nothing running behind a panel that is gone."""
        with suppress(RuntimeError):  # Qt has taken it down already
            self._timer.stop()
        self._next = None
        if self._work is not None:
            self._work.stop()
        for event in self._layer_events():
            event.disconnect(self._offer_layers)

    def _begin_next(self) -> None:
        if self._next is None:
            return
        self._work, self._on_told, self._on_done = self._next
        self._next = None
        thread_worker(self._work.run)().start()
        self._timer.start()

    def _poll(self) -> None:
        work = self._work
        if work is None:
            return
        ended = work.ended  # before looking: nothing is told after that
        every = [] if work.stopped else work.told()
        for told in every:
            if not isinstance(told, Progress):
                self._on_told(told)
        for told in [told for told in every if isinstance(told, Progress)][-1:]:
            self.bar.max, self.bar.value = max(told.whole, 1), told.done
            self.say(f"{told.what} …")
        if every:
            self.refresh()
        if ended:
            self._end(work)

    def _end(self, work: Work) -> None:
        self._work = None
        if self._next is not None:
            self._begin_next()
            return
        self._timer.stop()
        self.stop.enabled = False
        self.bar.value = 0
        if work.stopped:
            self.on_stop()
            self.say("stopped")
        elif isinstance(work.error, MicronetError):
            self.say(str(work.error))
        elif work.error is not None:
            self.say("failed; napari says more")
            raise work.error
        else:
            self._on_done(work.result)
