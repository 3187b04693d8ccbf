"""What ``teach.py`` does: one volume and its labels, taught and segmented."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from micronet.app.computing import set_engine, set_threads
from micronet.app.options import settings_of, teach_parser
from micronet.app.terminal import tell
from micronet.core.errors import InputError
from micronet.networks.registry import network_named
from micronet.networks.weights import find_weights
from micronet.training.teach.course import Progress
from micronet.training.teach.job import TeachJob, WouldReplaceError, teach_file

__all__ = ["teach"]


def teach(arguments: argparse.Namespace, root: Path) -> int:
    """Teach on one volume; `root` holds ``trained_models/``. Returns the exit code."""
    trained = Path("trained_models")
    start = None if arguments.start is None else find_weights(arguments.start, [trained, root / trained])
    job = settings_of(TeachJob, arguments, start=start, weights_folder=trained)
    set_threads(arguments.threads)
    set_engine("auto", network_named("taught"), training=True)
    try:
        with _bar() as advance:
            outcome = teach_file(arguments.input, job, say=tell, on_progress=advance, force=arguments.force)
    except WouldReplaceError as error:
        raise InputError(f"{error}, such as: {_elsewhere(arguments, error.name)}") from error
    tell(f"{outcome.status}  {outcome.path.name}  {outcome.message}")
    return 0


def _elsewhere(arguments: argparse.Namespace, name: str | None) -> str:
    """Return the whole command, with another name for the weights, or a folder for the output that is not there yet."""
    words, changed = ["python", "teach.py", str(arguments.input)], "name" if name else "output"
    for action in teach_parser()._actions:
        value = getattr(arguments, action.dest, None)
        if not action.option_strings or action.dest in ("help", changed) or value == action.default:
            continue
        words.append(action.option_strings[0])
        if value is not True:
            words.append(",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value))
    if name:
        return shlex.join([*words, "--name", name])
    folder, number = arguments.output, 2
    while (there := folder.with_name(f"{folder.name}_{number}")).exists():
        number += 1
    return shlex.join([*words, "-o", str(there)])


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
