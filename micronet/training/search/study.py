"""A study on disk that processes, also of several machines, work on together, and that outlives each of them.

Beside the journal, in which Optuna writes what happens, every process that takes part keeps a file locked. The system
drops that lock however a process ends; a trial that runs for somebody who has gone is given up and done again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import lock_descriptor, unlock_descriptor
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from micronet.core.errors import FileError, InputError, MicronetError, setting
from micronet.core.files import make_folder
from micronet.training.search.trials import Candidate, PrunedError

__all__ = ["Search", "Told"]

_NAME = "search"  # of the one study of a journal
_FIRST = 10  # trials drawn at random, before what they tell is drawn from
_UNPRUNED = 4  # trials that are not pruned, for lack of others to compare with


@dataclass(frozen=True)
class Told:
    """A trial that is over: its number, settings, score (None where it never had one), and whether it was pruned."""

    number: int
    settings: Mapping[str, Any]
    score: float | None
    pruned: bool
    steps: int
    seconds: float


class Search:
    """Trials in a journal; used in a ``with`` block.

    Parameters
    ----------
    journal : Path
        Made if it is not there. What is there already is gone on with.
    asked : mapping
        What the score of a trial depends on beside its settings, as JSON has it; the processes of one study agree.
    seed : int
        The settings of a trial follow from it and from the trials before.
    warm_up : int
        Steps before a trial may be pruned.

    Raises
    ------
    InputError
        If the journal is of a search for which something else was asked.
    FileError
        If it is no journal, or damaged, or cannot be written.
    """

    def __init__(self, journal: Path, asked: Mapping[str, Any], *, seed: int, warm_up: int) -> None:
        # Absolute: the lock of a relative one would be looked for elsewhere after a change of folder.
        self._journal = journal.absolute()
        self._asked = json.loads(json.dumps(asked))
        self._sampler = _SeededSampler(seed)
        self._pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED, n_warmup_steps=warm_up)
        self._worker = f".{journal.name}.{secrets.token_hex(8)}.lock"
        self._open = contextlib.ExitStack()
        self.study: Study

    def __enter__(self) -> Search:
        make_folder(self._journal.parent)
        with contextlib.ExitStack() as opened:
            opened.enter_context(_held(self._journal.with_name(self._worker), remove=True))
            with self.alone():
                try:
                    self.study = self._opened()
                except MicronetError:
                    raise
                except Exception as error:  # a damaged journal; Optuna raises a dozen kinds
                    raise FileError(f"'{self._journal}' is damaged, or no journal of a search: {error}") from error
            self._open = opened.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _opened(self) -> Study:
        _mend(self._journal)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        backend = JournalFileBackend(str(self._journal), lock_obj=JournalFileOpenLock(str(self._journal)))
        study = optuna.create_study(
            storage=JournalStorage(backend),
            sampler=self._sampler,
            pruner=self._pruner,
            study_name=_NAME,
            direction="maximize",
            load_if_exists=True,
        )
        asked = study.user_attrs.get("asked")
        if asked is None and not study.get_trials(deepcopy=False):
            study.set_user_attr("asked", self._asked)
        elif asked != self._asked:
            before = asked if isinstance(asked, dict) else {}
            names = [name for name in self._asked if before.get(name) != self._asked[name]]
            differs = ", ".join(f"{name} was {before.get(name)}, now {self._asked[name]}" for name in names)
            raise InputError(
                f"'{self._journal}' is a search for which something else was asked ({differs}); ask the same, "
                f"or search elsewhere {setting('output')}"
            )
        return study

    def run(
        self,
        candidate: Candidate,
        trials: int,
        begin: Callable[[int, Mapping[str, Any]], None],
        end: Callable[[Told], None],
    ) -> None:
        """Do trials until the study has that many, whoever did them; those that run elsewhere count.

        Parameters
        ----------
        candidate : Candidate
        trials : int
            That all processes together are to do.
        begin, end : callable
            Told each trial of this process: its number and settings, and what came of it.

        Raises
        ------
        Exception
            What the objective raises; the trial is then given up, and whoever goes on does it again.
        """
        while (trial := self._next(candidate, trials)) is not None:

            def report(step: int, score: float, trial: optuna.Trial = trial) -> None:
                trial.report(_sound(score), step)
                if trial.should_prune():
                    raise PrunedError

            try:
                settings = candidate.suggest(trial)
                trial.set_user_attr("settings", settings)
                begin(trial.number, settings)
                try:
                    self.study.tell(trial, _sound(candidate.objective(settings, report)))
                except PrunedError:
                    self.study.tell(trial, state=TrialState.PRUNED)
            except BaseException:
                with self.alone():
                    self._give_up(self.study.get_trials(deepcopy=False)[trial.number])
                raise
            end(_told(self.study.get_trials(deepcopy=False)[trial.number]))

    @property
    def told(self) -> list[Told]:
        """The trials that are over, in their order."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        return [_told(one) for one in self.study.get_trials(deepcopy=False, states=states)]

    @property
    def best(self) -> Told | None:
        """The first of the best trials that were not pruned, None where there is none."""
        whole = [one for one in self.told if not one.pruned and one.score is not None]
        return max(whole, key=lambda one: one.score or 0.0, default=None)

    def _next(self, candidate: Candidate, trials: int) -> optuna.Trial | None:
        """Return a trial to do, None where all are done or in hand."""
        with self.alone():
            present = self.study.get_trials(deepcopy=False)
            for one in present:
                if one.state is TrialState.RUNNING and not self._alive(one):
                    self._give_up(one)
            present = self.study.get_trials(deepcopy=False)
            if not present:
                self.study.enqueue_trial(dict(candidate.usual))
            taken = sum(one.state not in (TrialState.FAIL, TrialState.WAITING) for one in present)
            if taken >= trials:
                return None
            trial = self.study.ask()
            trial.set_user_attr("worker", self._worker)
            return trial

    def _alive(self, trial: FrozenTrial) -> bool:
        """Whether whoever does a trial still runs, or that cannot be told."""
        worker = trial.user_attrs.get("worker")
        if worker == self._worker:
            return True
        if not isinstance(worker, str) or Path(worker).name != worker:
            return False  # killed before it had signed; or no name that we would give
        return _is_held(self._journal.with_name(worker))

    def _give_up(self, trial: FrozenTrial) -> None:
        """End a trial without a result, and have it done again."""
        if trial.state is TrialState.RUNNING:
            # What was drawn in part is drawn anew: what follows a given setting would be drawn otherwise.
            drawn = "settings" in trial.user_attrs
            self.study.enqueue_trial(trial.params if drawn else trial.system_attrs.get("fixed_params", {}))
            self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            worker = trial.user_attrs.get("worker")
            if isinstance(worker, str) and worker != self._worker and Path(worker).name == worker:
                self._journal.with_name(worker).unlink(missing_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process of the study looks for its next trial."""
        with _held(self._journal.with_name(f".{self._journal.name}.next.lock")):
            yield


class _SeededSampler(BaseSampler):
    """Optuna's tree-structured Parzen estimator, seeded anew for every trial by its place.

    So a process that goes on draws what the one before would have drawn, and no two draw the same. Trials that were
    given up have no place.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._present: tuple[int, TPESampler] | None = None

    def _of(self, study: Study, trial: FrozenTrial) -> TPESampler:
        if self._present is None or self._present[0] != trial.number:
            before = study.get_trials(deepcopy=False)[: trial.number]
            place = sum(one.state is not TrialState.FAIL for one in before)
            seed = int(np.random.SeedSequence([self._seed, place]).generate_state(1)[0])
            self._present = (trial.number, TPESampler(seed=seed, n_startup_trials=_FIRST, multivariate=False))
        return self._present[1]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: settings that only some trials have are drawn one by one."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing, as above."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one setting."""
        return self._of(study, trial).sample_independent(study, trial, param_name, param_distribution)


def _told(trial: FrozenTrial) -> Told:
    began, ended = trial.datetime_start, trial.datetime_complete
    return Told(
        trial.number,
        trial.user_attrs.get("settings", {}),
        trial.value,
        trial.state is TrialState.PRUNED,
        max(trial.intermediate_values, default=0),
        0.0 if began is None or ended is None else (ended - began).total_seconds(),
    )


def _sound(score: float) -> float:
    """Return a score as a number: a network that has gone astray finds nothing."""
    return score if math.isfinite(score) else 0.0


def _mend(journal: Path) -> None:
    """Refuse a file that is no journal, and cut off a line that was being written when the power went."""
    if not journal.exists() or journal.stat().st_size == 0:
        return
    with journal.open("rb") as stream:
        first = stream.readline(1_000_000)
    try:
        entry = json.loads(first) if first.endswith(b"\n") else None
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict) or "op_code" not in entry:
        raise FileError(f"'{journal}' is in the way: it is no journal of a search; it is not replaced, move it")
    lock = JournalFileOpenLock(str(journal))
    lock.acquire()
    try:
        with journal.open("r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.seek(0)
                stream.truncate(stream.read().rindex(b"\n") + 1)
    finally:
        lock.release()


@contextlib.contextmanager
def _held(path: Path, *, remove: bool = False) -> Iterator[None]:
    """Hold a lock, waiting for it; where nothing can be locked, go on."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise FileError(f"cannot write '{path}': {error.strerror}") from error
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            lock_descriptor(descriptor, blocking=True)
        yield
    finally:
        if remove:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            unlock_descriptor(descriptor)
        os.close(descriptor)


def _is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file; True where that cannot be told."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        if not lock_descriptor(descriptor, blocking=False):
            return True
        unlock_descriptor(descriptor)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)
