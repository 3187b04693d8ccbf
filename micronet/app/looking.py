"""What ``infer.py`` does with networks that say what an image holds: each input in turn, an ensemble at a time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm

from micronet.app.batch import run_batch
from micronet.app.computing import set_threads
from micronet.app.options import settings_of
from micronet.app.terminal import option_of, tell
from micronet.core.errors import InputError
from micronet.core.outcome import Outcome
from micronet.core.words import counted
from micronet.segment.settings import Job, Weights, check_stems
from micronet.segment.weak.job import look_at_file
from micronet.segment.weak.settings import Ensemble, WeakJob, check_weak_results

__all__ = ["look_at_inputs"]

#: Options of ``infer.py`` that such networks have no use for, beside those of a job that theirs lacks.
_ONLY_VOXELS = ("resample_um", "time_lapse", "interval")


def look_at_inputs(
    paths: Sequence[Path], these: Sequence[Path], several: Sequence[Weights], arguments: argparse.Namespace
) -> int:
    """Look at each of these inputs, a part of all; return the exit code."""
    if not paths:
        raise InputError("a network that says what an image holds needs an INPUT: there is no demo of one")
    _refuse_options_of_voxels(arguments)
    ensemble = Ensemble(tuple(several))
    given = {} if arguments.threshold_method is None else {"threshold_method": arguments.threshold_method}
    job = settings_of(WeakJob, arguments, **({"threshold_method": WeakJob.threshold_method} | given))
    for line in check_stems(paths):
        tell(f"note: {line}")
    check_weak_results(these, ensemble, job)
    threads = set_threads(arguments.threads)
    for one in several:
        tell(f"weights {one.path} ({one.network.name}); PyTorch, {arguments.device}, {counted(threads, 'thread')}")
    tell(f"finds {', '.join(ensemble.classes)}; maps are cut by {job.threshold_method}")

    def look(path: Path) -> Outcome:
        with tqdm(total=None, leave=False, disable=None, unit="image") as bar:

            def advance(whole: int) -> None:
                bar.total = whole
                bar.update()

            return look_at_file(path, ensemble, job, say=tell, on_image=advance, force=arguments.force)

    return run_batch(these, look, lambda path: path, debug=arguments.debug)


def _refuse_options_of_voxels(arguments: argparse.Namespace) -> None:
    mine = {field.name for field in fields(WeakJob)}
    default = Job()
    others = [(field.name, getattr(default, field.name)) for field in fields(Job) if field.name not in mine]
    for name, unset in (*others, *((name, None) for name in _ONLY_VOXELS)):
        given = getattr(arguments, name, unset)
        if given != unset and given is not None and given is not False:  # 0 is given
            raise InputError(f"{option_of(name)} does not go with a network that says what an image holds")
