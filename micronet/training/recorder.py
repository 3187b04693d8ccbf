"""Keeps a trainer's run on disk: what a training session would lose when its process dies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from micronet.core.errors import FileError, InputError, MicronetError
from micronet.core.names import write_name
from micronet.core.provenance import now, versions
from micronet.data.dataset import DataSet, dataset_files, hashes
from micronet.training.ports import Bar, Scalars, Settings, Wishes
from micronet.training.recipe import Plan
from micronet.training.run_files import LogRow, Places, Run
from micronet.training.trainer import StepReport, Trainer, ValidationReport

__all__ = [
    "Keeper",
]


class Keeper:
    """Trains, and writes down what happens.

    Parameters
    ----------
    trainer : Trainer
    dataset : DataSet
    places : Places
    settings : Settings
    say : callable
        Receives a line for each validation, and notes.
    wishes : Wishes
        Looked at between steps.
    keep_every : int, optional
        Keep the weights of every so many steps.
    scalars : callable, optional
        Opens the TensorBoard writer of a run: folder and first step.

    Attributes
    ----------
    run : Run
        Its files appear with `begin`.
    commands : list of dict
        What was typed, for the manifest.
    training : dict
        The training command in hand (``command``) and the step at which it began (``begun``), for whoever
        resumes it.
    sound : bool
        Whether the trainer's state is worth keeping: not after an error in the middle of a step.
    stalled : bool
        Whether the last training ended early.
    """

    def __init__(
        self,
        trainer: Trainer,
        dataset: DataSet,
        places: Places,
        settings: Settings,
        *,
        say: Callable[[str], None],
        wishes: Wishes,
        keep_every: int | None = None,
        scalars: Callable[[Path, int], Scalars] | None = None,
    ) -> None:
        self.trainer = trainer
        self.commands: list[dict[str, Any]] = []
        self.training: dict[str, Any] = {"command": "", "begun": 0}
        self.sound = True
        self.stalled = False
        self._dataset = dataset
        self._places = places
        self._settings = settings
        self._say = say
        self._wishes = wishes
        self._keep_every = keep_every
        self._open_scalars = scalars
        self._scalars: Scalars | None = None
        self._manifest: dict[str, Any] | None = None
        self._origin: dict[str, Any] = {"weights": f"drawn with torch seed {torch.initial_seed()}"}
        self._failure: MicronetError | None = None
        self._bar: Bar | None = None
        self._kept_step: int | None = None
        self.run = Run.fresh(trainer.network.name, places, keep_every)

    @property
    def begun(self) -> bool:
        """Whether the run has files."""
        return self._manifest is not None

    @property
    def steps_left(self) -> int:
        """Steps of the command in hand that are still to be done."""
        return self.trainer.plan.steps_left(len(self.trainer.train_samples))

    def weights(self) -> Mapping[str, Tensor]:
        """Return the present weights; InputError when they are not sound."""
        if not self.sound:
            raise InputError("training went wrong, these weights are not sound: load last takes the last good ones")
        return self.trainer.model.state_dict()

    def begin(self) -> None:
        """Make the files of this run, if that has not been done."""
        if self._manifest is not None:
            return
        self.run.check(dataset_files(self._dataset))
        self._manifest = {
            "network": self.trainer.network.name,
            "created": now(),
            "start": self._origin,
            "dataset": {
                "file": write_name(self._dataset.path),
                "name": self._dataset.name,
                "volumes": hashes(self._dataset),
            },
            "recipe": asdict(self.trainer.recipe),
            "seed": {"torch": self._settings.seed, "numpy": self.trainer.seed},
            "iterations": self.trainer.iterations,
            "threads": self._settings.threads,
            "versions": versions(),
        }
        self.run.write_log()
        self.write_manifest()

    def write_manifest(self) -> None:
        """Write the manifest with what was typed so far."""
        self.run.write_manifest({**(self._manifest or {}), "commands": self.commands})

    def start_anew(self, origin: Mapping[str, Any]) -> None:
        """Start other files if this run has any: steps count from 0 again, and no name may meet an earlier one."""
        self._origin = dict(origin)
        self.sound = True
        if self._manifest is None:
            return
        self.commands = self.commands[-1:]
        self._manifest = None
        self._close_scalars()
        self.run = Run.fresh(self.trainer.network.name, self._places, self._keep_every)

    def train(self, bar: Bar) -> None:
        """Work through the trainer's plan until it is done, the person wishes to stop, or training stalls.

        Raises
        ------
        MicronetError
            When something cannot be written or the loss is not a number; the last good files are then intact.
        """
        trainer = self.trainer
        self.weights()
        self.begin()
        self.write_manifest()
        self.keep()
        if self._open_scalars is not None and self._scalars is None:
            self._scalars = self._open_scalars(self._places.logs / self.run.name, trainer.step)
        self._failure, self.stalled, self._bar = None, False, bar
        try:
            trainer.run(self._on_step, self._on_validation, self._should_stop)
        except BaseException:
            self.sound = False  # in the middle of a step
            raise
        finally:
            self._bar = None
        if isinstance(self._failure, FileError):
            raise FileError(
                f"{self._failure}; training stopped at step {trainer.step:,}, the last good files are intact: "
                "make room, then resume goes on"
            ) from self._failure
        if self._failure is not None:
            raise self._failure
        if self.stalled:
            trainer.plan = Plan()
        self.keep()

    # The callbacks only note what goes wrong: raised here, an error would leave the trainer in the middle of a step.

    def _on_step(self, report: StepReport) -> None:
        r = report
        self._note(
            LogRow(
                r.step, "step", r.volume, r.learning_rate, r.beta_squared,
                r.loss, r.precision, r.recall, r.f, None, round(r.seconds, 4),
            )
        )  # fmt: skip
        if not math.isfinite(r.loss):
            self._failure = self._diverged()
        if self._scalars is not None:
            for name in ("loss", "precision", "recall", "f", "learning_rate"):
                self._scalars.add_scalar(f"train/{name}", getattr(r, name), r.step)
        if self._bar is not None:
            self._bar.update(
                f"loss {r.loss:.3f} prec {r.precision:.2f} rec {r.recall:.2f} F {r.f:.2f} rate {r.learning_rate:.1e}"
            )

    def _on_validation(self, report: ValidationReport) -> None:
        r = report
        self._note(
            LogRow(
                r.step, "validation", None, None, self.trainer.beta_squared,
                r.loss, r.precision, r.recall, r.f, int(r.best), round(r.seconds, 4),
            )
        )  # fmt: skip
        self._say(
            f"step {r.step:>6,}  validation F {r.f:.4f}  precision {r.precision:.4f}  recall {r.recall:.4f}  "
            f"loss {r.loss:.4f}{'  best so far' if r.best else ''}"
        )
        if self._scalars is not None:
            for name in ("loss", "precision", "recall", "f"):
                self._scalars.add_scalar(f"validation/{name}", getattr(r, name), r.step)
        if r.best and self.trainer.best_state is not None:
            try:
                self.run.keep_best(self.trainer.best_state, r.step, self.trainer.beta_squared)
            except MicronetError as error:
                self._failure = error
        recipe = self.trainer.recipe
        patience = (recipe.patience or 0) * recipe.validate_every
        # A person who trains on after a stall is given the whole patience again.
        self.stalled = self.trainer.stalled and r.step - self.training["begun"] >= patience

    def _note(self, row: LogRow) -> None:
        try:
            self.run.log(row)
        except MicronetError as error:
            self._failure = error

    def _should_stop(self) -> bool:
        step = self.trainer.step
        due = step % self.trainer.recipe.validate_every == 0 or self.run.is_regular(step)
        if due and step != self._kept_step and self._failure is None:
            try:
                self.keep()
            except MicronetError as error:
                self._failure = error
        return self._wishes.stop or self.stalled or self._failure is not None

    def keep(self) -> None:
        """Write weights and session file, if there is anything to keep."""
        if self._manifest is None or not self.sound:
            return
        state = {
            "trainer": self.trainer.state(),
            "settings": asdict(self._settings),
            "training": dict(self.training),
        }
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.trainer.model.state_dict().values()):
            raise self._diverged()
        self.run.keep(self.trainer.model.state_dict(), self.trainer.step, self.trainer.beta_squared, state)
        self._kept_step = self.trainer.step

    def _diverged(self) -> InputError:
        self.sound = False
        return InputError(
            f"training diverged at step {self.trainer.step:,} (not numbers any more: is the rate too high?); "
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

    def resume(self, path: Path) -> None:
        """Go back to the state of a session file, and go on with the files of its run.

        Raises
        ------
        InputError
            When the file is of another network, data, recipe, seed or settings; nothing has changed then.
        FileError
            When it is damaged.
        """
        run, state = Run.reopen(path, self._places, self._keep_every)
        self._check_settings(state)
        run.check(dataset_files(self._dataset))
        if run.name != self.run.name:
            self.keep()
        try:
            self.trainer.restore(state["trainer"])
            self.training = {key: state["training"][key] for key in ("command", "begun")}
        except InputError:
            raise
        except Exception as error:  # a damaged file; torch raises a dozen kinds
            self.sound = False
            raise FileError(f"'{path}' is damaged: {error}") from error
        self._adopt(run)

    def _check_settings(self, state: Mapping[str, Any]) -> None:
        saved = state.get("settings")
        if not isinstance(saved, dict):
            raise FileError("the session file holds no settings: it is damaged")
        for name in ("recipe", "seed", "iterations", "validate_every"):
            here = getattr(self._settings, name)
            if saved.get(name) != here:
                raise InputError(
                    f"the saved session has {name.replace('_', '-')} {saved.get(name)}, this one {here}; "
                    "start the script with --resume, which takes the saved settings"
                )
        if saved.get("threads") != self._settings.threads:
            self._say(
                f"note: it ran with {saved.get('threads')} threads, this session has {self._settings.threads}: "
                "the last digits will differ from an uninterrupted run"
            )

    def _adopt(self, run: Run) -> None:
        """Go on with the files of a resumed run: its log is cut back to the step, its manifest continued."""
        entry = self.commands[-1]
        self.run, self.sound = run, True
        self._close_scalars()
        try:
            manifest = run.read_manifest()
            self.commands = [*manifest.pop("commands"), entry]
            manifest.pop("run")
            self._manifest = manifest
            known = manifest["dataset"]["volumes"]
        except (MicronetError, KeyError, TypeError, AttributeError):
            self._say(f"note: '{run.manifest_path}' cannot be read; the manifest starts anew")
            self.commands, self._manifest = [entry], None
            self.begin()
            return
        run.write_log()
        present = hashes(self._dataset)
        changed = sorted(name for name in present if known.get(name) != present[name])
        if changed:
            self._say(f"note: these volumes are not what the run was trained on before: {', '.join(changed)}")
