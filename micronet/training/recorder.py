"""Records a training on disk: what a session would lose when its process dies."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from micronet.core.errors import FileError, InputError, MicronetError, setting
from micronet.core.names import write_name
from micronet.core.provenance import now, versions
from micronet.data.dataset import DataSet, dataset_files, hashes
from micronet.training.ports import Scalars, Settings
from micronet.training.ranks import RankLostError
from micronet.training.run_files import LogRow, Places, Run, loss_label
from micronet.training.trainer import StepReport, Trainer, ValidationReport

__all__ = ["Recorder"]

# Commands that change how a training goes on, and what the plot calls them.
_CHANGES = {"lr": "rate", "rp": "β²"}


class Recorder:
    """Writes down what a trainer computes; alone owns the run's files, its manifest, and whether it is worth keeping.

    Parameters
    ----------
    trainer : Trainer
        Looked at; changed by `resume` only.
    dataset : DataSet
    places : Places
    settings : Settings
    keep_every : int, optional
        Keep the weights of every so many steps.
    scalars : callable, optional
        Opens the TensorBoard writer of a run: folder and first step.

    Attributes
    ----------
    run : Run
        Its files appear with `begin`.
    training : str
        The training command in hand, for whoever resumes it.
    sound : bool
        Whether the trainer's state is worth keeping: not after an error in the middle of a step.
    """

    def __init__(
        self,
        trainer: Trainer,
        dataset: DataSet,
        places: Places,
        settings: Settings,
        keep_every: int | None = None,
        scalars: Callable[[Path, int], Scalars] | None = None,
    ) -> None:
        self.training = ""
        self.sound = True
        self._trainer = trainer
        self._dataset = dataset
        self._places = places
        self._settings = settings
        self._keep_every = keep_every
        self._open_scalars = scalars
        self._scalars: Scalars | None = None
        self._manifest: dict[str, Any] | None = None
        self._commands: list[dict[str, Any]] = []
        self._origin: dict[str, Any] = {"weights": f"drawn with torch seed {torch.initial_seed()}"}
        self._failure: MicronetError | None = None
        self._kept_step: int | None = None
        self.run = self._fresh_run()

    def _fresh_run(self) -> Run:
        names = self._trainer.names if self._trainer.several else ()
        return Run.fresh(self._trainer.network.name, self._places, self._keep_every, names)

    @property
    def begun(self) -> bool:
        """Whether the run has files."""
        return self._manifest is not None

    @property
    def failed(self) -> bool:
        """Whether something could not be recorded since `recording` began; it should then end."""
        return self._failure is not None

    def weights(self) -> Mapping[str, Tensor]:
        """Return the present weights; InputError when they are not sound."""
        if not self.sound:
            raise InputError("training went wrong, these weights are not sound: load last takes the last good ones")
        return self._trainer.model.state_dict()

    # --- the manifest ---

    def command_begins(self, text: str) -> None:
        """Note a command for the manifest."""
        self._commands.append({"time": now(), "step": self._trainer.step, "command": text, "outcome": "begun"})

    def command_ends(self, outcome: str) -> None:
        """Note how the command ended that began last; FileError when the manifest cannot be written."""
        entry = self._commands[-1]
        entry["outcome"] = outcome
        if self.begun:
            entry["ended"], entry["ended at step"] = now(), self._trainer.step
            self._write_manifest()

    def begin(self) -> None:
        """Make the files of this run, if that has not been done."""
        if self._manifest is not None:
            return
        self.run.check(dataset_files(self._dataset))
        self._manifest = {
            "network": self._trainer.network.name,
            "created": now(),
            "start": self._origin,
            "dataset": {
                "file": write_name(self._dataset.path),
                "name": self._dataset.name,
                "volumes": hashes(self._dataset),
            },
            "recipe": asdict(self._trainer.recipe),
            "seed": {"torch": self._settings.seed, "numpy": self._trainer.seed},
            "iterations": self._trainer.iterations,
            "threads": self._settings.threads,
            "versions": versions(),
            **_larger(self._trainer),
        }
        self.run.write_log()
        self._write_manifest()

    @property
    def changes(self) -> list[tuple[int, str]]:
        """From which step on a person set another rate or β², and which."""
        found = []
        for entry in self._commands:
            verb, _, value = entry["command"].lower().partition(" ")
            if verb in _CHANGES and entry["outcome"] == "done":
                planned = verb == "lr" and float(value) == 0
                found.append((int(entry["step"]), "rate as planned" if planned else f"{_CHANGES[verb]} {value}"))
        return found

    def _write_manifest(self) -> None:
        self.run.write_manifest({**(self._manifest or {}), "commands": self._commands})

    def start_anew(self, origin: Mapping[str, Any]) -> None:
        """Start other files if this run has any: steps count from 0 again, and no name may meet an earlier one."""
        self._origin = dict(origin)
        self.training, self.sound = "", True
        if self._manifest is None:
            return
        self._commands = self._commands[-1:]
        self._manifest = None
        self._close_scalars()
        self.run = self._fresh_run()

    # --- a training ---

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the trainer's state before and after a training that runs meanwhile.

        Raises
        ------
        MicronetError
            When something cannot be written or the loss is not a number; the last good files are then intact.
        """
        self.weights()
        self.begin()
        self._write_manifest()
        self.keep()
        if self._open_scalars is not None and self._scalars is None:
            self._scalars = self._open_scalars(self._places.logs / self.run.name, self._trainer.step)
        self._failure = None
        try:
            yield
        except RankLostError:  # before the step changed anything
            self.keep()
            raise
        except BaseException:
            self.sound = False  # in the middle of a step
            raise
        if isinstance(self._failure, FileError):
            raise FileError(
                f"{self._failure}; training stopped at step {self._trainer.step:,}, the last good files are intact: "
                "make room, then resume goes on"
            ) from self._failure
        if self._failure is not None:
            raise self._failure
        self.keep()

    # These three only note what goes wrong: raised there, an error would leave the trainer in the middle of a step.

    def note_step(self, report: StepReport) -> None:
        """Log a step."""
        r = report
        self._log(
            LogRow(
                r.step, "step", r.volume, r.learning_rate, r.beta_squared,
                r.loss, r.precision, r.recall, r.f, None, round(r.seconds, 4),
            )
        )  # fmt: skip
        if not math.isfinite(r.loss):
            self._failure = self._diverged()
        self._add_scalars("train", report, r.step, ("loss", "precision", "recall", "f", "learning_rate"))

    def note_validation(self, report: ValidationReport) -> None:
        """Log a validation, and keep the weights if they are the best so far."""
        r, trainer = report, self._trainer
        self._log(
            LogRow(
                r.step, "validation", None, None, trainer.beta_squared,
                r.loss, r.precision, r.recall, r.f, int(r.best), round(r.seconds, 4), _of_classes(r),
            )
        )  # fmt: skip
        self._add_scalars("validation", report, r.step, ("loss", "precision", "recall", "f"))
        if r.classes is not None:
            self._add_scalars("validation", r.classes, r.step, ("mean_iou",))
            for name, one in zip(r.classes.names, r.classes.overlaps, strict=True):
                self._add_scalars(f"validation/{name}", one, r.step, ("iou",))
        for told in r.presence:
            group = f"validation/{told.name}"
            self._add_scalars(group, told, r.step, ("precision", "recall", "f1", "average_precision"))
        if self._scalars is not None and trainer.seen is not None:
            name, picture = trainer.seen
            self._scalars.add_image(f"validation/{name}", picture, r.step, dataformats="HWC")
        if r.best and trainer.best_state is not None and self._settings.kept != "last":
            try:
                self.run.keep_best(trainer.best_state, r.step, self._loss)
            except MicronetError as error:
                self._failure = error

    def keep_if_due(self) -> None:
        """Keep the trainer's state where a session is saved by itself: as often as it validates."""
        step = self._trainer.step
        due = step % self._trainer.recipe.validate_every == 0 or self.run.is_regular(step)
        if due and step != self._kept_step and self._failure is None:
            try:
                self.keep()
            except MicronetError as error:
                self._failure = error

    def _log(self, row: LogRow) -> None:
        try:
            self.run.log(row)
        except MicronetError as error:
            self._failure = error

    def _add_scalars(self, group: str, report: object, step: int, names: tuple[str, ...]) -> None:
        if self._scalars is not None:
            for name in names:
                self._scalars.add_scalar(f"{group}/{name}", getattr(report, name), step)

    def keep(self) -> None:
        """Write weights and session file, if there is anything to keep."""
        trainer = self._trainer
        if self._manifest is None or not self.sound:
            return
        state = {
            "trainer": trainer.state(),
            "settings": asdict(self._settings),
            "training": {"command": self.training, "begun": trainer.begun},
        }
        weights = trainer.model.state_dict()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
            raise self._diverged()
        self.run.keep(weights, trainer.step, self._loss, state)
        self._kept_step = trainer.step

    @property
    def _loss(self) -> str:
        trainer = self._trainer
        return loss_label("dice" if trainer.practice is None else trainer.practice.loss, trainer.beta_squared)

    def _diverged(self) -> InputError:
        self.sound = False
        return InputError(
            f"training diverged at step {self._trainer.step:,} (not numbers any more: is the rate too high?); "
            "load last takes the last good weights, lr 0 the scheduled rate"
        )

    def close(self) -> None:
        """Keep what there is; FileError when that fails."""
        try:
            self.keep()
        finally:
            self._close_scalars()

    def _close_scalars(self) -> None:
        if self._scalars is not None:
            self._scalars.close()
            self._scalars = None

    # --- resuming ---

    def resume(self, path: Path) -> list[str]:
        """Take the trainer back to the state of a session file, and go on with the files of its run.

        Returns
        -------
        list of str
            Notes for the person: what is not as it was.

        Raises
        ------
        InputError
            When the file is of another network, data, recipe, seed or settings; nothing has changed then.
        FileError
            When it is damaged.
        """
        run, state = Run.reopen(path, self._places, self._keep_every)
        notes = self._check_settings(state)
        run.check(dataset_files(self._dataset))
        if run.name != self.run.name:
            self.keep()
        try:
            training = state["training"]
            self._trainer.restore(state["trainer"], training["begun"])
            self.training = training["command"]
            if state["trainer"].get("windows", {}) != self._trainer.windows:
                notes.append(
                    "note: validation volumes are looked at in other windows than before, as the memory is another: "
                    f"scores will differ from an uninterrupted run {setting('window', 'max_ram')}"
                )
        except InputError:
            raise
        except Exception as error:  # a damaged file; torch raises a dozen kinds
            self.sound = False
            raise FileError(f"'{path}' is damaged: {error}") from error
        return [*notes, *self._adopt(run)]

    def _check_settings(self, state: Mapping[str, Any]) -> list[str]:
        saved = state.get("settings")
        if not isinstance(saved, dict):
            raise FileError("the session file holds no settings: it is damaged")
        # Of before there were any.
        unsaid: dict[str, Any] = {"build": {}, "practice": {}, "accumulate": 1, "windows": {}}
        for name in ("recipe", "seed", "iterations", "validate_every", *unsaid):
            here = getattr(self._settings, name)
            there = saved.get(name, unsaid.get(name))
            if there != here:
                raise InputError(
                    f"the saved session has {name} {there}, this one {here}; "
                    f"start again with the saved settings {setting('resume')}"
                )
        if saved.get("threads") == self._settings.threads:
            return []
        return [
            f"note: it ran with {saved.get('threads')} threads, this session has {self._settings.threads}: "
            "the last digits will differ from an uninterrupted run"
        ]

    def _adopt(self, run: Run) -> list[str]:
        """Go on with the files of a resumed run: its log is cut back to the step, its manifest continued."""
        entry = self._commands[-1]
        self.run, self.sound = run, True
        self._close_scalars()
        try:
            manifest = run.read_manifest()
            self._commands = [*manifest.pop("commands"), entry]
            manifest.pop("run")
            self._manifest = manifest
            known = manifest["dataset"]["volumes"]
        except (MicronetError, KeyError, TypeError, AttributeError):
            self._commands, self._manifest = [entry], None
            self.begin()
            return [f"note: '{run.manifest_path}' cannot be read; the manifest starts anew"]
        run.write_log()
        present = hashes(self._dataset)
        changed = sorted(name for name in present if known.get(name) != present[name])
        if not changed:
            return []
        return [f"note: these volumes are not what the run was trained on before: {', '.join(changed)}"]


def _of_classes(report: ValidationReport) -> tuple[float, ...]:
    """Return what the log has of several classes; nothing of lumen alone."""
    if report.classes is None:
        return ()
    each = [score for one in report.classes.overlaps for score in (one.iou, one.f_score())]
    return (report.classes.mean_iou, *each)


def _larger(trainer: Trainer) -> dict[str, Any]:
    """Return what the manifest says of a larger network beside what it says of all."""
    if trainer.practice is None:
        return {}
    return {"build": getattr(trainer.model, "settings", {}), "practice": asdict(trainer.practice)}
