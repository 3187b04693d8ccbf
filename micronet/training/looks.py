"""How a network in training looks at a whole volume, to validate or to segment it: at once, or in windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from micronet.core.errors import InputError, setting
from micronet.core.files import make_folder
from micronet.core.planes import Planes
from micronet.core.ram import MARGIN, Allowance, size
from micronet.data.dataset import Sample
from micronet.networks.library import LibraryNetwork
from micronet.networks.registry import classes_of
from micronet.segment.memory import Memory, Need, plan_memory, program_bytes
from micronet.segment.refine import Refinement
from micronet.segment.window_plan import Windows, WindowWish
from micronet.segment.windows import predicted_in_windows
from micronet.training.volume_loss import loss_bytes

__all__ = ["Looks"]

# Copies of the parameters that a training holds: gradient, two of the optimiser, the best ones.
_COPIES = 4
# What a training adds to the program: PyTorch's optimisers load its compiler; measured.
_TRAINING = 80_000_000


class Looks:
    """Decides how volumes are looked at, as `infer.py` does: whole where that fits into memory, else in windows.

    What was decided of a volume stays, so that all scores of a session are of the same windows.

    Parameters
    ----------
    wished : mapping
        What is asked of windows, as `WindowWish`.
    max_ram : int, optional
        Bytes that the process may take.
    folder : Path
        Where results lie that do not fit into memory.
    samples : iterable of Sample
        All that are in memory meanwhile.
    loss : str, optional
        That of a volume, as `micronet.training.practice.Practice` has it.
    """

    def __init__(
        self,
        wished: Mapping[str, Any],
        max_ram: int | None,
        folder: Path,
        samples: Iterable[Sample],
        loss: str | None = None,
    ) -> None:
        self._loss = loss
        self._wish, self._max_ram, self._folder = WindowWish(**wished), max_ram, folder
        self._held = sum({id(array): array.nbytes for one in samples for array in _arrays(one)}.values())
        self._decided: dict[int, Memory] = {}

    def memory(self, sample: Sample, model: nn.Module) -> Memory:
        """Return what was decided of a volume; InputError where it does not fit even in windows."""
        if id(sample) not in self._decided:
            # What is available does not have in it what is held already.
            beside = 0 if self._max_ram is None else self._beside(model)
            shape, classes = sample.image.shape, len(classes_of(model))
            channels = 1 if classes == 1 else 1 + classes
            wishes = {} if self._loss is None else {"loss": loss_bytes(self._loss, channels, shape)}
            need = Need(
                (shape[0], shape[1], shape[2]),
                shape[1],
                sample.image.dtype,
                beside=beside,
                classes=classes,
                wishes=wishes,
            )
            try:
                self._decided[id(sample)] = plan_memory(need, model, self._max_ram, self._folder, self._wish)
            except InputError as error:
                raise InputError(f"volume {sample.entry.name}: {error}") from error
        return self._decided[id(sample)]

    def check_step(self, model: nn.Module, crop: tuple[int, int, int], count: int) -> None:
        """Raise InputError where a step of so many crops of (Z, Y, X) voxels takes more than a person allowed."""
        if self._max_ram is None or next(model.parameters()).device.type != "cpu":
            return
        allowance = Allowance.of(self._max_ram, program_bytes(model))
        step = count * cast(LibraryNetwork, model).step_bytes(crop)
        weights = 4 * sum(parameter.numel() for parameter in model.parameters())
        needed = int(allowance.program + MARGIN * (self._beside(model) + weights + step))
        if not allowance.fits(needed):
            shown = " x ".join(map(str, crop))
            raise InputError(
                f"a step of {count} crop{'s' * (count > 1)} of {shown} voxels takes up to {size(needed)} of memory, "
                f"{allowance.words}; see less at once {setting('batch_size', 'crop_size')} or allow more"
            )

    def _beside(self, model: nn.Module) -> int:
        """Return what is held beside the weights and what a step or a look takes."""
        return _TRAINING + self._held + 4 * _COPIES * sum(parameter.numel() for parameter in model.parameters())

    @contextmanager
    def through(
        self, sample: Sample, model: nn.Module, windows: Windows, on_window: Callable[[object], None] | None
    ) -> Iterator[Sequence[Planes]]:
        """Give the probability of each class on the cropped volume; what lies on the disk is gone after the block."""
        make_folder(self._folder)

        def tell(done: int, _: int) -> None:
            if on_window is not None:
                on_window(done)

        how, statistics = Refinement(), (sample.mean, sample.sd)
        with predicted_in_windows(sample.image, model, windows, self._folder, how, tell, statistics) as (found, _):
            yield found


def _arrays(sample: Sample) -> Iterator[np.ndarray[Any, Any]]:
    for array in (sample.volume.array, sample.image, sample.mask, sample.weight, sample.classes):
        if array is not None:
            yield array
