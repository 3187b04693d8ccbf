"""The folder of a segmentation that several processes work on: what it is of, how far it has come, its arrays.

It lies hidden beside the results and outlives all processes: whoever is killed, the same call goes on after the last
thing that was finished. Whoever works on it finds all that is to be known in it.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch

from micronet.core.errors import FileError, InputError, setting
from micronet.core.files import atomic_path, make_folder
from micronet.core.names import read_name, write_name
from micronet.core.ownership import ELSEWHERE
from micronet.core.provenance import read_sealed, write_sealed
from micronet.core.version import __version__
from micronet.io.zarr import open_level
from micronet.networks.registry import model_for_state
from micronet.segment.earlier import differences
from micronet.segment.plan import Plan
from micronet.segment.refine import Iteration
from micronet.segment.settings import MADE_BY
from micronet.segment.shelf import SharedShelf
from micronet.segment.store_spec import StoreSpec, spec_of, spec_told
from micronet.segment.store_work import StoreWork, store_work
from micronet.segment.tiles import Progress

__all__ = ["Checkpoint", "work_of"]

_JOB, _PROGRESS, _WEIGHTS, _LOCK = "job.json", "progress.json", "weights.npz", ".lock"


class Checkpoint:
    """The folder of a plan."""

    def __init__(self, plan: Plan) -> None:
        # By its whole path: processes may have another working directory.
        self.folder = plan.task.job.output.absolute() / f".{plan.task.stem}.tiles"
        self._asked = json.loads(json.dumps(plan.asked))
        self._of = plan.task.path

    def kept(self, force: bool) -> StoreSpec | None:
        """Return what there is to go on with, None where there is nothing.

        FileError for an unfinished segmentation of other settings, which `force` removes, and for what is none.
        """
        if not self.folder.exists():
            return None
        job = read_sealed(self.folder / _JOB)
        if job is None or job.get("made_by") != MADE_BY:
            if any(not file.name.startswith(".") for file in self.folder.iterdir()):
                raise FileError(
                    f"'{self.folder}' is in the way: it is no unfinished segmentation of ours; move it, or {ELSEWHERE}"
                )
            return None
        different = list(differences(job.get("asked", {}), self._asked))
        if job.get("micronet") != __version__:
            different.append(f"micronet {job.get('micronet')} there, {__version__} here")
        if not different:
            return _spec_of(job)
        if not force:
            raise FileError(
                f"'{self.folder}' is an unfinished segmentation of '{self._of.name}' with other settings: "
                f"{'; '.join(different)}; remove it {setting('force')}, or {ELSEWHERE}"
            )
        self.remove()
        return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other calls away from the folder, which is made; the system ends that with the process."""
        make_folder(self.folder)
        lock = filelock.FileLock(self.folder / _LOCK)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise FileError(f"'{self._of}' is being segmented by another process in '{self.folder}'") from None
        except OSError:  # some network file systems have no locks
            pass
        try:
            yield
        finally:
            lock.release()
            if not (self.folder / _JOB).exists():  # nothing was begun, or all is done
                with contextlib.suppress(OSError):
                    (self.folder / _LOCK).unlink(missing_ok=True)
                    self.folder.rmdir()

    def begin(self, spec: StoreSpec, state: Mapping[str, torch.Tensor]) -> str:
        """Write what everybody has to know; return how this call is called."""
        call = secrets.token_hex(8)
        with atomic_path(self.folder / _WEIGHTS) as temporary, temporary.open("wb") as file:
            np.savez(file, **{name: value.detach().numpy() for name, value in state.items()})  # type: ignore[arg-type]
        told = spec_told(spec) | {"path": write_name(spec.path)}
        job = {"made_by": MADE_BY, "micronet": __version__, "call": call, "asked": self._asked, "spec": told}
        write_sealed(self.folder / _JOB, job)
        return call

    def progress(self) -> Progress:
        """Return how far it has come; what is noted in it is written down."""
        told = read_sealed(self.folder / _PROGRESS) or {}
        progress = Progress(
            bool(told.get("copied")),
            None if told.get("statistics") is None else tuple(told["statistics"]),
            bool(told.get("encoded")),
            [Iteration(**one) for one in told.get("iterations", ())],
            told.get("stages", {}),
        )

        def note() -> None:
            write_sealed(
                self.folder / _PROGRESS,
                {
                    "copied": progress.copied,
                    "statistics": progress.statistics,
                    "encoded": progress.encoded,
                    "iterations": [asdict(one) for one in progress.iterations],
                    "stages": progress.stages,
                },
            )

        progress.note = note
        return progress

    def forget_progress(self) -> None:
        """Begin anew."""
        (self.folder / _PROGRESS).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        with contextlib.suppress(OSError):
            (self.folder / _JOB).unlink(missing_ok=True)  # first: what is left of a folder is not gone on with
        shutil.rmtree(self.folder, ignore_errors=True)


def work_of(folder: Path, call: str = "") -> StoreWork:
    """Return the work of a folder, in any process; FileError or InputError where it cannot be done here.

    FileError too where it is not, or not yet, that of a `call` that is named.
    """
    job = read_sealed(folder / _JOB)
    if job is None or (call and job.get("call") != call):
        raise FileError(f"'{folder}' is not seen here, or has gone: all processes need the same disk")
    if job.get("micronet") != __version__:
        raise InputError(f"micronet {__version__} is installed here, {job.get('micronet')} where the call came from")
    with np.load(folder / _WEIGHTS, allow_pickle=False) as stored:
        state = {name: torch.from_numpy(array) for name, array in stored.items()}
    spec, model = _spec_of(job), model_for_state(state).eval()
    return store_work(SharedShelf(folder), spec, model, open_level(Path(spec.path), spec.level))


def _spec_of(job: Mapping[str, Any]) -> StoreSpec:
    return spec_of(job["spec"] | {"path": read_name(job["spec"]["path"])})
