"""What a training session keeps on disk: weights, the file that it resumes from, log, manifest and plot."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from micronet.core.errors import FileError, InputError, setting
from micronet.core.names import read_name, write_name
from micronet.core.ownership import RECORD_KEYS, Mark, Outputs, check_outputs
from micronet.networks.card import card_path
from micronet.networks.weights import load_session, save_session, save_state
from micronet.training.curves import Curve, write_curves
from micronet.training.practice import LOSSES

__all__ = [
    "LogRow",
    "Places",
    "Run",
    "latest_session",
    "loss_label",
    "session_path",
    "sessions",
    "set_aside",
    "sweep",
    "weights_named",
]

_FORMAT = 1
# Columns of the log that begin so name the classes.
_IOU = "iou "
# What the records of a run say that made them.
_MADE_BY = "training"
# No file system that is in use counts time in larger steps.
_TICK_NS = 2_000_000_000


@dataclass(frozen=True)
class Places:
    """The folders of a session; `trained` are searched for weights after `checkpoints`, in this order."""

    checkpoints: Path = Path("checkpoints")
    logs: Path = Path("logs")
    predictions: Path = Path("predictions")
    trained: tuple[Path, ...] = (Path("trained_models"),)

    @property
    def weights(self) -> tuple[Path, ...]:
        """Where weights are looked for."""
        return (self.checkpoints, *self.trained)


class LogRow(NamedTuple):
    """One line of the log; `kind` is ``"step"`` or ``"validation"``, the columns that do not apply are None.

    `of_classes` are, of a validation of several classes, their mean IoU and the IoU and Dice of background and of each.
    """

    step: int
    kind: str
    volume: str | None
    learning_rate: float | None
    beta_squared: float
    loss: float
    precision: float
    recall: float
    f: float
    best: int | None
    seconds: float
    of_classes: tuple[float, ...] = ()


@dataclass
class _Kept:
    """Names of the automatic weight files that thinning spares."""

    last: str | None = None
    last_step: int | None = None
    best: str | None = None
    regular: list[str] = field(default_factory=list)


class Run:
    """The files of one run: one network trained from one start, however often it was interrupted.

    The first run of a network in a folder is called ``u-net``, the next ones ``u-net-2``, ``u-net-3``.

    - ``checkpoints/<network>_<loss>[b<β²>][-<number>]_<step>.pt``: weights; the last, the best and every
      `keep_every`-th step's stay, the others go when newer ones are safe. ``b<β²>`` is there unless β² is 1.
    - ``checkpoints/<run>.session``: all that resuming needs.
    - ``checkpoints/<run>.session.json``: the record that names these with their hashes.
    - ``logs/<run>.csv``, ``.json``, ``.png``: a line per step and validation, the manifest, the plot. The manifest is
      the record of the other two.

    Only what a record names is ever replaced or removed, see `micronet.core.ownership`.

    Parameters
    ----------
    network : str
        ``"u-net"`` or ``"ur-net"``.
    number : int
        From 1.
    places : Places
    keep_every : int, optional
        Keep the weights of every so many steps.
    names : sequence of str
        Of background and classes where there are several: the log has columns for them.
    """

    def __init__(
        self, network: str, number: int, places: Places, keep_every: int | None = None, names: Sequence[str] = ()
    ) -> None:
        if keep_every is not None and keep_every < 1:
            raise InputError(f"weights are kept every 1 step or more, found {keep_every} {setting('keep_every')}")
        self.network = network
        self.number = number
        self.places = places
        self.keep_every = keep_every
        self.suffix = "" if number == 1 else f"-{number}"
        self.name = network + self.suffix
        self.names = tuple(names)
        self.rows: list[LogRow] = []
        self._kept = _Kept()
        self._log_whole = False  # whether the CSV holds all rows, and nothing but them
        self._log_bytes, self._log_digest = 0, sha256()
        how: dict[str, Any] = {
            "advice": "move it, or take what it holds into a run of its own: load last",
            "lasting": True,
        }
        session = session_path(places, self.name).name
        self._weights = Outputs(places.checkpoints, f"{session}.json", _MADE_BY, None, **how)
        names = [self.log_path.name, self.plot_path.name]
        self._logs = Outputs(places.logs, self.manifest_path.name, _MADE_BY, names, **how)

    @classmethod
    def fresh(cls, network: str, places: Places, keep_every: int | None = None, names: Sequence[str] = ()) -> Run:
        """Return a run whose names no earlier one has used."""
        used = {
            int(found[1] or 1)
            for folder in (places.checkpoints, places.logs)
            for name in _names(folder)
            if (found := _owner(network).fullmatch(name))
        }
        return cls(network, max(used, default=0) + 1, places, keep_every, names)

    @classmethod
    def reopen(cls, path: Path, places: Places, keep_every: int | None = None) -> tuple[Run, dict[str, Any]]:
        """Read a session file; return its run, with the log as it was then, and what `keep` was given.

        Nothing is written or removed yet. FileError when the file is damaged.
        """
        content = load_session(path)
        try:
            if content["format"] != _FORMAT:
                raise FileError(f"'{path}' is of format {content['format']}, this micronet reads {_FORMAT}")
            run = cls(str(content["network"]), int(content["number"]), places, keep_every)
            run.rows, run.names = _parse(content["log"])
            run._kept = _Kept(**content["kept"])
            state = dict(content["state"])
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise FileError(f"'{path}' is not a session file of micronet, or is damaged") from error
        return run, state

    @property
    def log_path(self) -> Path:
        """The CSV."""
        return self.places.logs / f"{self.name}.csv"

    @property
    def manifest_path(self) -> Path:
        """The JSON."""
        return self.places.logs / f"{self.name}.json"

    @property
    def plot_path(self) -> Path:
        """The PNG."""
        return self.places.logs / f"{self.name}.png"

    def weights_path(self, step: int, loss: str) -> Path:
        """Return the automatic name of the weights after a step, trained with a loss of that name (`loss_label`)."""
        return self.places.checkpoints / f"{self.network}_{loss}{self.suffix}_{step}.pt"

    def check(self, inputs: Iterable[Path] = ()) -> None:
        """Raise MicronetError where this run would replace what is not its own, or one of the files that it reads."""
        check_outputs([self._logs, self._weights], inputs)
        named = (session_path(self.places, self.name).name, self._kept.last, self._kept.best, *self._kept.regular)
        self._weights.check(name for name in named if name is not None)

    def log(self, row: LogRow) -> None:
        """Append a row; FileError when the disk is full, and the next row then writes the whole log anew."""
        self.rows.append(row)
        if not self._log_whole:
            self.write_log()
            return
        text = _formatted([_written(row, self.names)]).encode()
        self._log_digest.update(text)
        self._log_whole = False
        try:
            # The record knows beforehand what the log will be: killed in between, it is ours before and after.
            mark = Mark(self.log_path.name, self._log_bytes + len(text), self._log_digest.hexdigest())
            self._logs.expect(mark)
            with self.log_path.open("ab") as stream:
                stream.write(text)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.log_path, self._log_bytes)
            reason = error.strerror or getattr(error.__cause__, "strerror", None) or error
            raise FileError(f"cannot write '{self.log_path}': {reason}") from error
        self._log_bytes += len(text)
        self._log_whole = True

    def write_log(self) -> None:
        """Write the CSV from the rows, whole or not at all; rows of another future (a lost interval) go."""
        text = _log_text(self.rows, self.names).encode()
        with self._logs.staged() as folder:
            (folder / self.log_path.name).write_bytes(text)
        self._log_bytes, self._log_digest = len(text), sha256(text)
        self._log_whole = True

    def keep_best(self, weights: Mapping[str, Tensor], step: int, loss: str) -> None:
        """Write the weights of the best validation so far."""
        path = self.weights_path(step, loss)
        with self._weights.staged() as folder:
            save_state(folder / path.name, weights)
        self._kept.best = path.name

    def keep(self, weights: Mapping[str, Tensor], step: int, loss: str, state: Mapping[str, Any]) -> None:
        """Write the present weights and the session file, then remove the weights that they replace.

        Killed anywhere in between, either the earlier session file or the new one is there, whole, with the
        weights that it names.
        """
        path = self.weights_path(step, loss)
        if step != self._kept.last_step or not (self.places.checkpoints / str(self._kept.last)).is_file():
            with self._weights.staged() as folder:
                save_state(folder / path.name, weights)
            self._kept.last, self._kept.last_step = path.name, step
        if self.is_regular(step) and path.name not in self._kept.regular:
            self._kept.regular.append(path.name)
        content = {
            "format": _FORMAT,
            "network": self.network,
            "number": self.number,
            "log": _log_text(self.rows, self.names),
            "kept": asdict(self._kept),
            "state": dict(state),
        }
        with self._weights.staged() as folder:
            save_session(folder / session_path(self.places, self.name).name, content)
        self._make_latest()
        self._thin()
        self._weights.finish({"run": self.name, "step": step, **asdict(self._kept)})

    def _make_latest(self) -> None:
        """Give the session file a later time than every other has, also where the clock has gone back since."""
        path = session_path(self.places, self.name)
        times = {other: other.stat().st_mtime_ns for other in sessions(self.network, self.places)}
        latest = max((time for other, time in times.items() if other != path), default=0)
        if times[path] <= latest:
            with contextlib.suppress(OSError):
                os.utime(path, ns=(latest + _TICK_NS, latest + _TICK_NS))

    def is_regular(self, step: int) -> bool:
        """Whether `keep_every` wants the weights after this step."""
        return self.keep_every is not None and step > 0 and step % self.keep_every == 0

    def _thin(self) -> None:
        spared = {self._kept.last, self._kept.best, *self._kept.regular}
        found = {name: _AUTOMATIC.fullmatch(name) for name in _names(self.places.checkpoints)}
        self._weights.remove(
            name
            for name, parts in found.items()
            if parts and parts[1] == self.network and int(parts[2] or 1) == self.number and name not in spared
        )

    def write_manifest(self, record: Mapping[str, Any]) -> None:
        """Write the JSON manifest."""
        self._logs.finish({"run": self.name, **record})

    def read_manifest(self) -> dict[str, Any]:
        """Read the JSON manifest; FileError when there is none, or it is not as it was written."""
        content = self._logs.read()
        if content is None:
            raise FileError(f"cannot read '{self.manifest_path}'")
        return {key: value for key, value in content.items() if key not in RECORD_KEYS}

    def write_plot(self, changes: Sequence[tuple[int, str]] = ()) -> None:
        """Write the plot of all rows, and from which step on something else was set."""
        training: dict[str, Curve] = {}
        validation, classes = Curve(), {name: Curve() for name in self.names[1:]}
        for row in self.rows:
            curve = validation if row.kind == "validation" else training.setdefault(str(row.volume), Curve())
            curve.add(row.step, row.f, row.loss)
            for name, dice in zip(self.names, row.of_classes[2::2], strict=False):
                if name in classes:
                    classes[name].add(row.step, dice, row.loss)
        with self._logs.staged() as folder:
            path, ordered = folder / self.plot_path.name, dict(sorted(training.items()))
            write_curves(path, ordered, validation, changes=changes, title=self.name, classes=classes)


# Files of a run, with its number: weights, session, logs.
_LOSS = rf"(?:{'|'.join(LOSSES)})(?:b[0-9.]+)?"
_AUTOMATIC = re.compile(rf"([a-z-]+)_{_LOSS}(?:-([0-9]+))?_[0-9]+\.pt")


def loss_label(loss: str, beta_squared: float) -> str:
    """Return how names of automatic weights tell a loss: its name, and β² unless it is 1."""
    # Without an exponent, whose minus sign could be taken for the run's number.
    return loss if beta_squared == 1 else f"{loss}b{np.format_float_positional(beta_squared, trim='-')}"


def _owner(network: str) -> re.Pattern[str]:
    return re.compile(rf"{network}(?:_{_LOSS})?(?:-([0-9]+))?(?:_[0-9]+\.pt|\.session|\.csv|\.json|\.png)")


def session_path(places: Places, run: str) -> Path:
    """Return where the session file of a run lies."""
    return places.checkpoints / f"{run}.session"


def sessions(network: str, places: Places) -> list[Path]:
    """Return the session files of a network, the one that was written last at the end."""
    ours = re.compile(rf"{network}(-[0-9]+)?\.session")
    found = [places.checkpoints / name for name in _names(places.checkpoints) if ours.fullmatch(name)]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def latest_session(network: str, places: Places) -> Path:
    """Return the session file of a network that was written last; FileError when there is none."""
    found = sessions(network, places)
    if not found:
        raise FileError(f"there is no earlier session of {network} in '{places.checkpoints}'")
    return found[-1]


def weights_named(network: str, places: Places) -> dict[str, Path]:
    """Return the weights of a network by version: what stands between its name and ``.pt``."""
    found: dict[str, Path] = {}
    for folder in places.weights:
        for name in _names(folder):
            if name.startswith(f"{network}_") and name.endswith(".pt"):
                found.setdefault(name.removeprefix(f"{network}_").removesuffix(".pt"), folder / name)
    return found


def sweep(network: str, places: Places) -> None:
    """Remove the half-written files that a killed session left; only for the holder of the lock."""
    # The second dot is of a journal, which is hidden itself (`core.ownership`).
    temporary = re.compile(rf"\.[0-9a-f]{{8}}\.tmp\.\.?{network}[-_.].*")
    for folder in (places.checkpoints, places.logs):
        for name in _names(folder):
            if temporary.fullmatch(name):
                shutil.rmtree(folder / name, ignore_errors=True)  # what was written into
                with contextlib.suppress(OSError):
                    (folder / name).unlink()


def set_aside(path: Path) -> Path | None:
    """Rename weights that are about to be replaced to ``<stem>.<number>.pt``, and their card alike.

    Return the new path, if there were any.
    """
    if not path.is_file():
        return None
    numbered = (path.with_stem(f"{path.stem}.{number}") for number in count(1))
    aside = next(free for free in numbered if not os.path.lexists(free) and not os.path.lexists(card_path(free)))
    try:
        path.rename(aside)
        if card_path(path).is_file():
            card_path(path).rename(card_path(aside))
    except OSError as error:
        raise FileError(f"cannot rename '{path}': {error.strerror}") from error
    return aside


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def _formatted(rows: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _columns(names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the log: of several classes there are more."""
    each = [column for name in names for column in (f"{_IOU}{write_name(name)}", f"dice {write_name(name)}")]
    return (*LogRow._fields[:-1], *(["mean_iou", *each] if names else []))


def _log_text(rows: Sequence[LogRow], names: Sequence[str]) -> str:
    return _formatted([_columns(names)]) + _formatted(_written(row, names) for row in rows)


def _written(row: LogRow, names: Sequence[str]) -> list[object]:
    volume = None if row.volume is None else write_name(row.volume)
    further = row.of_classes or (None,) * (1 + 2 * len(names)) if names else ()
    return [*row._replace(volume=volume)[:-1], *further]


def _parse(text: str) -> tuple[list[LogRow], tuple[str, ...]]:
    """Return the rows of a log, and the names of background and classes where there are several."""
    lines = csv.reader(io.StringIO(text))
    columns = tuple(next(lines, ()))
    names = tuple(read_name(name.removeprefix(_IOU)) for name in columns if name.startswith(_IOU))
    if columns != _columns(names):
        raise ValueError("not a log")
    rows = [
        LogRow(
            int(step),
            kind,
            read_name(volume) if kind == "step" else None,
            float(rate) if rate else None,
            float(beta_squared),
            float(loss),
            float(precision),
            float(recall),
            float(f),
            int(best) if best else None,
            float(seconds),
            tuple(map(float, of_classes)) if any(of_classes) else (),
        )
        for step, kind, volume, rate, beta_squared, loss, precision, recall, f, best, seconds, *of_classes in lines
    ]
    return rows, names
