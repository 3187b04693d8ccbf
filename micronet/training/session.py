"""A training session: carries out the commands of the prompt, and says what came of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import Tensor

from micronet.core.errors import FileError, InputError, setting
from micronet.core.ownership import check_outputs
from micronet.core.provenance import sha256_of
from micronet.core.words import counted
from micronet.data.dataset import DataSet, Sample, dataset_files
from micronet.data.image_samples import ImageSample
from micronet.io.checks import is_file
from micronet.measure.confusion import Confusion, confusion_lines
from micronet.networks.registry import model_for_state, network_of
from micronet.networks.weights import bootstrap
from micronet.training import named_weights
from micronet.training.commands import Command, forms
from micronet.training.distortion import ready
from micronet.training.ports import Bar, Ports, Settings, Wishes
from micronet.training.presence import PresenceTrainer
from micronet.training.presence_results import class_lines, planned_presence, told_of, write_presence
from micronet.training.rate_search import STEPS, planned_search, try_rates, write_search
from micronet.training.recorder import Recorder
from micronet.training.results import planned_result, write_sample
from micronet.training.run_files import Places, Run, latest_session, session_path, sessions, weights_named
from micronet.training.sayings import (
    bar_text,
    best_line,
    clock,
    last_pass,
    log_lines,
    not_the_best,
    rate_in_use,
    scores_line,
    time_for,
    validation_line,
)
from micronet.training.scoring import Scored, pooled
from micronet.training.trainer import StepReport, Trainer, ValidationReport

__all__ = ["Session"]


def _told_apart(trainer: Trainer) -> str:
    """Return above which threshold voxels are lumen, or which classes there are."""
    return f"classes {', '.join(trainer.names[1:])}" if trainer.several else f"threshold {trainer.threshold:g}"


class _StoppedError(Exception):
    """The person wishes no more of a segmentation."""


class Session:
    """Carries out commands: the trainer computes, the recorder writes, the session speaks.

    Parameters
    ----------
    trainer : Trainer
    dataset : DataSet
    samples : mapping of str to sequence of Sample
        By split; ``val`` and ``test`` segment them.
    places : Places
    settings : Settings
    ports : Ports
        Who listens, and whose wishes are looked at.
    keep_every : int, optional
        Keep the weights of every so many steps.

    Attributes
    ----------
    done : bool
        Whether the session is over.
    """

    def __init__(
        self,
        trainer: Trainer,
        dataset: DataSet,
        samples: Mapping[str, Sequence[Sample]],
        places: Places,
        settings: Settings,
        ports: Ports,
        keep_every: int | None = None,
    ) -> None:
        self.trainer = trainer
        self.network = trainer.network.name
        self.places = places
        self.done = False
        self._dataset = dataset
        self._samples = samples
        self._ports = ports
        self._say = ports.say
        self._recorder = Recorder(trainer, dataset, places, settings, keep_every, ports.scalars)

    @property
    def wishes(self) -> Wishes:
        """What the person wishes of the session at work."""
        return self._ports.wishes

    @property
    def run(self) -> Run:
        """The run in hand; its files appear with the first command that needs them."""
        return self._recorder.run

    def execute(self, command: Command) -> None:
        """Carry out one command.

        Raises
        ------
        MicronetError
            One line that says why it could not be done; the session goes on.
        """
        self._recorder.command_begins(command.text)
        try:
            getattr(self, f"_do_{command.verb}")(command)
        except BaseException as error:
            pressed = isinstance(error, KeyboardInterrupt)
            outcome = "interrupted" if pressed else f"failed: {str(error) or type(error).__name__}"
            with contextlib.suppress(FileError):  # the first error is the one to be told
                self._recorder.command_ends(outcome)
            raise
        self._recorder.command_ends("interrupted" if self.wishes.stop else "done")

    def close(self) -> None:
        """Save what there is, and say so; FileError when that fails."""
        self._recorder.close()
        if self._recorder.begun and self._recorder.sound:
            self._say(
                f"{self.run.name} is saved at step {self.trainer.step:,}: "
                f"a later session goes on from there {setting('resume')}"
            )

    def greeting(self) -> str:
        """Return one line on what an earlier session left, or an empty string."""
        return named_weights.left_over(self.network, self.places, self._dataset.path)

    def versions(self) -> list[str]:
        """Return what ``load`` may be followed by."""
        return ["best", "last", *weights_named(self.network, self.places)]

    def runs(self) -> list[str]:
        """Return what ``resume`` may be followed by."""
        return [path.stem for path in sessions(self.network, self.places)]

    # --- training ---

    def _do_train(self, command: Command) -> None:
        self.trainer.begin(command.rounds, command.passes)
        self._recorder.training = command.text
        self._train()

    def _train(self) -> None:
        trainer = self.trainer
        self._recorder.weights()
        first, began, planned = trainer.step, time.monotonic(), trainer.steps_left
        if trainer.network.refines and not ready.is_compiled():
            self._say("the first step compiles the distortion of masks, once on this machine: up to half a minute")
        with contextlib.closing(self._ports.progress(planned)) as bar, self._recorder.recording():
            stalled = self._work(bar)
        done = trainer.step - first
        scores = last_pass(self.run.rows, trainer.steps_a_pass)
        self._say(f"{counted(done, 'step')} in {clock(time.monotonic() - began)}, now at step {trainer.step:,}{scores}")
        if stalled:
            self._say(
                f"stopped early, {counted(planned - done, 'step')} before the end: "
                f"no better validation in the last {trainer.recipe.patience}"
            )
        elif trainer.steps_left:
            left = counted(trainer.steps_left, "step") + (" that is" if trainer.steps_left == 1 else " that are")
            self._say(f"interrupted, everything is kept: resume does the {left} left")
        elif trainer.validation_due:
            self._say("interrupted in the validation at the end, everything is kept: resume does it")
        self._plot()
        self._say(best_line(trainer))

    def _work(self, bar: Bar) -> bool:
        """Work through the plan until it is done, the person wishes to stop, or it stalls; return whether it did."""
        recorder, stalled = self._recorder, False

        compiling = self.trainer.network.refines and not ready.is_compiled()

        def on_step(report: StepReport) -> None:
            nonlocal compiling
            if compiling:
                ready.note_compiled()
                compiling = False
            recorder.note_step(report)
            bar.update(bar_text(report))

        def on_validation(report: ValidationReport) -> None:
            nonlocal stalled
            stalled = report.stalled
            recorder.note_validation(report)
            self._say(validation_line(report))
            for line in class_lines(report.presence):
                self._say(f"  {line}")

        def should_stop() -> bool:
            recorder.keep_if_due()
            return self.wishes.stop or stalled or recorder.failed

        self.trainer.run(on_step, on_validation, should_stop)
        if stalled and not recorder.failed:
            self.trainer.abandon_plan()
        return stalled

    def _do_resume(self, command: Command) -> None:
        recorder, trainer = self._recorder, self.trainer
        if not command.word and recorder.sound and (trainer.steps_left or trainer.validation_due):
            self._train()
            return
        path = session_path(self.places, command.word) if command.word else latest_session(self.network, self.places)
        for note in recorder.resume(path):
            self._say(note)
        self._say(f"resumed {self.run.name} at step {trainer.step:,}")
        if trainer.steps_left or trainer.validation_due:
            self._say(f"going on with '{recorder.training}': {counted(trainer.steps_left, 'step')} left")
            self._train()
        else:
            self._plot()  # it may have been killed just before it drew this
            self._say("its last command was done; the next one goes on from there")

    # --- weights ---

    def _do_save(self, command: Command) -> None:
        self._write_weights(f"{self.network}_{command.word}.pt", self._recorder.weights())

    def _do_bootstrap(self, _: Command) -> None:
        self._write_weights("ur-net_bootstrap.pt", bootstrap(self._recorder.weights()))

    def _write_weights(self, name: str, weights: Mapping[str, Tensor]) -> None:
        if note := not_the_best(self.trainer):
            self._say(note)
        path = self.places.checkpoints / name
        outputs = named_weights.planned(path, dataset_files(self._dataset))
        self._recorder.begin()
        source = {"network": self.network, "run": self.run.name, "step": self.trainer.step}
        if settings := getattr(self.trainer.model, "settings", None):
            source |= {"build": settings}
        if (counts := self.trainer.present_counts) is not None:
            source |= {"validation": counts.record()}
        aside = named_weights.write_weights(outputs, path, weights, source)
        if aside is not None:
            self._say(f"{path} was there already, with other weights: they are now {aside}")
        self._say(f"wrote {path} (step {self.trainer.step:,})")
        if hidden := named_weights.hidden_by(path, self.places):
            self._say(f"note: load takes it from now on, not {hidden}")

    def _do_load(self, command: Command) -> None:
        weights, source, step = self._meant(command.word)
        try:
            model = model_for_state(weights)
        except InputError as error:
            raise FileError(f"{source}: {error}") from error
        found = network_of(model).name
        if found != self.network:
            raise FileError(f"{source} holds a {found}, this session trains a {self.network}")
        here, there = (getattr(one, "settings", None) for one in (self.trainer.model, model))
        if here != there:
            raise FileError(f"{source} is built as {there}, the network of this session as {here}")
        self._recorder.keep()
        self.trainer.start_afresh(weights, step)
        origin = {"weights": source, **({"sha256": sha256_of(Path(source))} if is_file(source) else {})}
        self._recorder.start_anew(origin)
        self._say(f"loaded {source}; optimiser and schedule start afresh (resume would keep them)")

    def _meant(self, version: str) -> tuple[Mapping[str, Tensor], str, int]:
        """Return the weights, where they are from, and how many steps they have had as far as that is known."""
        trainer = self.trainer
        if version == "best" and trainer.best_state is not None and trainer.best_step is not None:
            return trainer.best_state, f"the best of {self.run.name}, step {trainer.best_step:,}", trainer.best_step
        return named_weights.find_weights(version, self.network, self.places, self._say)

    # --- settings ---

    def _do_lr(self, command: Command) -> None:
        self.trainer.fixed_rate = command.number or None
        self._recorder.keep()
        self._say(f"learning rate {rate_in_use(self.trainer)}")

    def _do_find(self, _: Command) -> None:
        self._recorder.weights()
        self._recorder.begin()
        outputs = planned_search(self.run)
        check_outputs([outputs], dataset_files(self._dataset))
        with contextlib.closing(self._ports.progress(STEPS)) as bar:

            def on_step(report: StepReport) -> bool:
                bar.update(bar_text(report))
                return not self.wishes.stop

            tried = try_rates(self.trainer, on_step)
        if self.wishes.stop:
            self._say("interrupted: the weights are as they were, nothing was written")
            return
        proposal = write_search(outputs, tried, self.run.name)
        self._say(f"wrote {outputs.paths[0]}")
        if proposal is None:
            self._say("no rate is proposed: the loss falls nowhere; look at the plot")
        else:
            self._say(f"proposed: lr {proposal:.2g}, a tenth of where the loss is least; the weights are as they were")

    def _do_rp(self, command: Command) -> None:
        practice = self.trainer.practice
        if practice is not None and practice.loss != "fbeta":
            raise InputError(f"β² is of the loss fbeta, this session trains with {practice.loss} {setting('loss')}")
        self.trainer.beta_squared = command.number
        self._recorder.keep()
        self._say(f"β² is {command.number:g}")

    def _do_threshold(self, command: Command) -> None:
        if self.trainer.several:
            raise InputError("of several classes a voxel is the most probable one, so that no threshold applies")
        self.trainer.threshold = command.number
        self._recorder.keep()
        what = "there" if self.trainer.network.of_images else "lumen"
        self._say(f"probabilities above {command.number:g} are {what}")

    # --- looking ---

    def _do_val(self, _: Command) -> None:
        self._looked_at("validation")

    def _do_test(self, _: Command) -> None:
        self._looked_at("test")

    def _looked_at(self, split: str) -> None:
        """Segment the volumes of a split, or tell which classes its images hold."""
        if not self._samples.get(split, ()):
            raise InputError(f"'{self._dataset.path}' lists no {split} volume")
        self._recorder.weights()
        if isinstance(self.trainer, PresenceTrainer):
            self._tell_classes(split, self.trainer)
        else:
            self._segment(split)
        if split == "test" and self._dataset.caution and not self.wishes.stop:
            self._say(f"caution: {self._dataset.caution}")

    def _tell_classes(self, split: str, trainer: PresenceTrainer) -> None:
        """Tell which classes the images of a split hold, and write a table of it."""
        samples = cast(Sequence[ImageSample], self._samples[split])
        outputs = planned_presence(self.run, trainer.step, split)
        check_outputs([outputs], dataset_files(self._dataset))
        outputs.check_room()
        self._recorder.begin()
        found = []
        with contextlib.closing(self._ports.progress(sum(len(sample.parts) for sample in samples))) as bar:

            def on_part(_: object) -> None:
                bar.update(sample.entry.name)
                if self.wishes.stop:
                    raise _StoppedError

            for sample in samples:
                try:
                    found.append((sample, trainer.presence(sample, on_part)))
                except _StoppedError:
                    self._say("interrupted: nothing was written")
                    return
        scores = trainer.scored(found)
        about = {"run": self.run.name, "step": trainer.step, "threshold": trainer.threshold, **told_of(scores)}
        write_presence(outputs, trainer.classes, found, about)
        for line in class_lines(scores):
            self._say(line)
        self._say(f"  wrote {outputs.paths[0]}")

    def _segment(self, split: str) -> None:
        """Segment the volumes of a split; a µr-Net refines from a blank mask."""
        samples, trainer = self._samples[split], self.trainer
        passes = trainer.iterations if trainer.network.refines else None
        planned = [planned_result(self.run, trainer.step, sample, passes) for sample in samples]
        check_outputs(planned, dataset_files(self._dataset))
        planned[0].check_room()
        self._recorder.begin()
        scored: list[Scored] = []
        with contextlib.closing(self._ports.progress(sum(map(trainer.looks_at, samples)))) as bar:

            def after_look(_: object) -> None:
                bar.update(sample.entry.name)
                if self.wishes.stop:
                    raise _StoppedError

            for sample, outputs in zip(samples, planned, strict=True):
                try:
                    with trainer.looking_at(sample, after_look) as found:
                        how, threshold = trainer.windows_of(sample), trainer.threshold
                        scores = write_sample(outputs, sample, found, how, threshold, self.run.name, trainer.step)
                except _StoppedError:
                    self._say("interrupted: the volumes that were not reported were not written")
                    return
                self._say(f"{sample.entry.name}: {scores_line(scores)}")
                stem = outputs.record_path.stem
                ends = sorted((name.removeprefix(stem) for name in outputs.names or ()), key=".seg.nrrd".__ne__)
                self._say(f"  wrote {outputs.folder / stem}{', '.join(ends)}")
                scored.append(scores)
        if len(samples) > 1:
            self._say(f"all {len(samples)}: {scores_line(pooled(scored))}")
        if isinstance(scored[0], Confusion):
            self._say("\n".join(confusion_lines(cast("Confusion", pooled(scored)))))

    def _do_status(self, _: Command) -> None:
        trainer, left = self.trainer, self.trainer.steps_left
        best = "none yet" if trainer.best_f is None else f"F {trainer.best_f:.4f} at step {trainer.best_step:,}"
        state = "nothing is left to do"
        if not self._recorder.sound:
            state = "training went wrong: load last takes the last good weights"
        elif left:
            time_left = time_for(left, self.run.rows)
            state = f"{counted(left, 'step')} left of '{self._recorder.training}', {time_left}: resume does them"
        self._say(
            f"{self.run.name}: step {trainer.step:,}; {state}\n"
            f"rate {rate_in_use(trainer)}, β² {trainer.beta_squared:g}, {_told_apart(trainer)}, "
            f"recipe {trainer.recipe.name}\n"
            f"best validation: {best}\n"
            f"data set: {self._dataset.name} ({', '.join(f'{len(s)} {split}' for split, s in self._samples.items())})"
        )

    def _do_log(self, _: Command) -> None:
        lines = log_lines(self.run.rows)
        if not lines:
            self._say("nothing has been trained in this run yet")
            return
        for line in lines:
            self._say(line)
        self._say(f"step: how many steps the weights had taken; all of it is in {self.run.log_path}")

    def _do_plot(self, _: Command) -> None:
        if not self.run.rows:
            raise InputError("nothing has been trained in this run yet, so there is nothing to plot")
        self._plot()
        self._say(f"wrote {self.run.plot_path}")

    def _plot(self) -> None:
        if self.run.rows:
            self.run.write_plot(self._recorder.changes)
            if self._ports.show is not None:
                self._ports.show(self.run.plot_path)

    def _do_help(self, command: Command) -> None:
        known = forms(self.network)
        chosen = [known[command.word]] if command.word else list(known.values())
        width = max(len(form.usage) for form in chosen)
        self._say("\n".join(f"{form.usage:<{width}}  {form.does}" for form in chosen))

    # --- leaving ---

    def _do_finish(self, _: Command) -> None:
        if note := not_the_best(self.trainer):
            self._say(note)
        self._recorder.keep()
        self.done = True

    def _do_quit(self, _: Command) -> None:
        self.done = True
        self._recorder.keep()
