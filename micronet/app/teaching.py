"""What ``teach.py`` does: one volume and its labels, taught and segmented."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from micronet.app.computing import set_engine, set_threads
from micronet.app.options import settings_of, teach_parser
from micronet.app.terminal import option_of, tell
from micronet.core.errors import InputError, MicronetError, setting
from micronet.io import open_stack
from micronet.networks.engine import Work
from micronet.networks.evening import planes_are_thick
from micronet.networks.taught import Taught
from micronet.networks.weights import find_weights, load_model
from micronet.training.blocks.job import BlockWish, labels_path, teach_blocks
from micronet.training.teach.course import Progress
from micronet.training.teach.job import TeachJob, WouldReplaceError, teach_file

__all__ = ["teach"]

_USUAL_BLOCK = (8, 8, 8)


def teach(arguments: argparse.Namespace, root: Path) -> int:
    """Teach on one volume; `root` holds ``trained_models/``. Returns the exit code."""
    trained = Path("trained_models")
    start = None if arguments.start is None else _start(arguments.start, [trained, root / trained])
    wish = _block_wish(arguments)
    job = settings_of(TeachJob, arguments, start=start, weights_folder=trained)
    set_threads(arguments.threads)
    earlier = None if start is None else load_model(start)
    set_engine("auto", _work(arguments) | (earlier.work if isinstance(earlier, Taught) else set()))
    try:
        with _bar() as advance:
            if wish is not None:
                outcome = teach_blocks(arguments.input, wish, job, say=tell, on_progress=advance, force=arguments.force)
            else:
                outcome = teach_file(arguments.input, job, say=tell, on_progress=advance, force=arguments.force)
    except WouldReplaceError as error:
        arguments.labels = None if wish is not None else arguments.labels
        raise InputError(f"{error}, such as: {_elsewhere(arguments, error.name)}") from error
    tell(f"{outcome.status}  {outcome.path.name}  {outcome.message}")
    return 0


def _start(name: str, folders: Sequence[Path]) -> Path:
    """Return the weights to start from; errors name the setting that they are asked for by."""
    try:
        return find_weights(name, folders)
    except MicronetError as error:
        raise type(error)(str(error).replace(setting("model"), setting("start"))) from error


def _block_wish(arguments: argparse.Namespace) -> BlockWish | None:
    """Return what is told of blocks, and leave in --labels where the sparse labels of them will be."""
    if (arguments.labels is None) == (arguments.blocks is None):
        raise InputError("teach.py learns from --labels FILE or from --blocks FILE: give one of them")
    if arguments.blocks is None:
        if arguments.block is not None:
            raise InputError("--block goes with --blocks FILE")
        return None
    for name in ("lumen", "background", "checked", "start", "free_labels"):
        if getattr(arguments, name):
            raise InputError(f"{option_of(name)} goes with --labels, not with --blocks")
    arguments.labels = labels_path(arguments.output, arguments.input)
    return BlockWish(arguments.blocks, arguments.block or _USUAL_BLOCK)


def _work(arguments: argparse.Namespace) -> set[Work]:
    """Return what the engine has to be ready for, by the volume's header; `teach_file` says what is wrong there."""
    try:
        with open_stack(arguments.input, axes=arguments.axes, spacing_um=arguments.spacing_um) as stack:
            spacing_um = stack.grid.spacing_um
    except MicronetError:
        return set()
    return {"trees", "training"} if spacing_um is not None and planes_are_thick(spacing_um) else {"trees"}


def _elsewhere(arguments: argparse.Namespace, name: str | None) -> str:
    """Return the whole command, with another name for the weights, or a folder for the output that is not there yet."""
    words, changed = ["python", "teach.py", str(arguments.input)], "name" if name else "output"
    for action in teach_parser()._actions:
        value = getattr(arguments, action.dest, None)
        if not action.option_strings or action.dest in ("help", changed) or value == action.default:
            continue
        words.append(action.option_strings[0])
        if value is not True:
            words.append(_text(value))
    if name:
        return shlex.join([*words, "--name", name])
    folder, number = arguments.output, 2
    while (there := folder.with_name(f"{folder.name}_{number}")).exists():
        number += 1
    return shlex.join([*words, "-o", str(there)])


def _text(value: object) -> str:
    """Return what is typed for the value of an option."""
    if isinstance(value, tuple):
        return ",".join(part if isinstance(part, str) else f"{part:g}" for part in value)
    return str(value)


@contextmanager
def _bar() -> Iterator[Progress]:
    """Show a bar while a block lasts; yield what to call when something is done."""
    with tqdm(total=1, leave=False, disable=None, unit="step") as bar:

        def advance(done: int, whole: int, what: str) -> None:
            bar.total = whole
            bar.set_description(what, refresh=False)
            bar.update(done - bar.n)
            bar.refresh()

        yield advance
