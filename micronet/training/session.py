"""A training session: carries out the commands of the prompt, and keeps what must not be lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from micronet.core.errors import FileError, InputError, MicronetError
from micronet.core.names import file_part, same_name
from micronet.core.ownership import Outputs, check_outputs
from micronet.core.provenance import now, sha256_of
from micronet.data.dataset import DataSet, Sample, dataset_files
from micronet.io.checks import is_file
from micronet.measure.overlap import Overlap, overlap
from micronet.networks.card import planned_weights, record_weights
from micronet.networks.registry import model_for_state, network_of
from micronet.networks.weights import bootstrap, load_state, save_state
from micronet.segment.outputs import above, score_line, write_result
from micronet.training.commands import Command, forms
from micronet.training.ports import Bar, Scalars, Settings, Wishes
from micronet.training.recorder import Keeper
from micronet.training.run_files import Places, Run, latest_session, session_path, sessions, set_aside, weights_named
from micronet.training.trainer import Trainer

__all__ = ["Session"]


class Session:
    """Carries out commands on a trainer.

    Parameters
    ----------
    trainer : Trainer
    dataset : DataSet
    samples : mapping of str to sequence of Sample
        By split; ``val`` and ``test`` segment them.
    places : Places
    settings : Settings
    say : callable
        Receives what happens, a line or a few at a time.
    progress : callable
        Opens a bar for so many steps.
    wishes : Wishes, optional
        Looked at between steps.
    keep_every : int, optional
        Keep the weights of every so many steps.
    scalars : callable, optional
        Opens the TensorBoard writer of a run: folder and first step.
    show : callable, optional
        Shows the plot to the person each time it is written.

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
        *,
        say: Callable[[str], None],
        progress: Callable[[int], Bar],
        wishes: Wishes | None = None,
        keep_every: int | None = None,
        scalars: Callable[[Path, int], Scalars] | None = None,
        show: Callable[[Path], None] | None = None,
    ) -> None:
        self.trainer = trainer
        self.network = trainer.network.name
        self.places = places
        self.done = False
        self.wishes = wishes or Wishes()
        self._dataset = dataset
        self._samples = samples
        self._say = say
        self._progress = progress
        self._show = show
        self._keeper = Keeper(
            trainer, dataset, places, settings, say=say, wishes=self.wishes, keep_every=keep_every, scalars=scalars
        )

    @property
    def run(self) -> Run:
        """The run in hand; its files appear with the first command that needs them."""
        return self._keeper.run

    def execute(self, command: Command) -> None:
        """Carry out one command.

        Raises
        ------
        MicronetError
            One line that says why it could not be done; the session goes on.
        """
        entry = {"time": now(), "step": self.trainer.step, "command": command.text, "outcome": "begun"}
        self._keeper.commands.append(entry)
        try:
            getattr(self, f"_do_{command.verb}")(command)
        except BaseException as error:
            entry["outcome"] = f"failed: {error or type(error).__name__}"
            with contextlib.suppress(FileError):  # the first error is the one to be told
                self._record(entry)
            raise
        entry["outcome"] = "interrupted" if self.wishes.stop else "done"
        self._record(entry)

    def _record(self, entry: dict[str, Any]) -> None:
        if self._keeper.begun:
            entry["ended"], entry["ended at step"] = now(), self.trainer.step
            self._keeper.write_manifest()

    def close(self) -> None:
        """Save what there is, and say so; FileError when that fails."""
        self._keeper.close()
        if self._keeper.begun and self._keeper.sound:
            self._say(f"{self.run.name} is saved at step {self.trainer.step:,}: --resume goes on from there")

    def greeting(self) -> str:
        """Return one line on what an earlier session left, or an empty string."""
        found = sessions(self.network, self.places)
        if not found:
            return ""
        path = found[-1]
        try:
            run, state = Run.reopen(path, self.places)
            command, left = state["training"]["command"], _steps_left(state["trainer"])
        except (MicronetError, KeyError, TypeError):
            return f"an earlier session left '{path}', which cannot be read"
        what = f"was interrupted in '{command}', {left:,} steps left" if left else "was done with its last command"
        return f"{run.name} {what} (step {state['trainer']['step']:,}): resume goes on from there"

    def versions(self) -> list[str]:
        """Return what ``load`` may be followed by."""
        return ["best", "last", *weights_named(self.network, self.places)]

    def runs(self) -> list[str]:
        """Return what ``resume`` may be followed by."""
        return [path.stem for path in sessions(self.network, self.places)]

    # --- training ---

    def _do_train(self, command: Command) -> None:
        self.trainer.begin(command.rounds, command.passes)
        self._keeper.training = {"command": command.text, "begun": self.trainer.step}
        self._train()

    def _train(self) -> None:
        keeper, trainer = self._keeper, self.trainer
        keeper.weights()
        first, began, planned = trainer.step, time.monotonic(), keeper.steps_left
        bar = self._progress(planned)
        try:
            keeper.train(bar)
        finally:
            bar.close()
        done = trainer.step - first
        clock = _clock(time.monotonic() - began)
        self._say(f"{done:,} steps in {clock}, now at step {trainer.step:,}{self._last_pass()}")
        if keeper.stalled:
            self._say(
                f"stopped early, {planned - done:,} steps before the end: no better validation in the last "
                f"{trainer.recipe.patience}; load best takes the weights of step {trainer.best_step:,} "
                f"(F {trainer.best_f:.4f})"
            )
        elif keeper.steps_left:
            self._say(f"interrupted, everything is kept: resume does the {keeper.steps_left:,} steps that are left")
        self._plot()

    def _do_resume(self, command: Command) -> None:
        keeper = self._keeper
        if not command.word and keeper.sound and keeper.steps_left:
            self._train()
            return
        path = session_path(self.places, command.word) if command.word else latest_session(self.network, self.places)
        keeper.resume(path)
        self._say(f"resumed {self.run.name} at step {self.trainer.step:,}")
        if keeper.steps_left:
            self._say(f"going on with '{keeper.training['command']}': {keeper.steps_left:,} steps left")
            self._train()
        else:
            self._plot()  # it may have been killed just before it drew this
            self._say("its last command was done; the next one goes on from there")

    # --- weights ---

    def _do_save(self, command: Command) -> None:
        self._write_weights(self.places.checkpoints / f"{self.network}_{command.word}.pt", self._keeper.weights())

    def _do_bootstrap(self, _: Command) -> None:
        self._write_weights(self.places.checkpoints / "ur-net_bootstrap.pt", bootstrap(self._keeper.weights()))

    def _write_weights(self, path: Path, weights: Mapping[str, Tensor]) -> None:
        outputs = planned_weights(path, advice="save NAME takes another name")
        check_outputs([outputs], dataset_files(self._dataset))
        outputs.check_room()
        self._keeper.begin()
        aside = None
        if path.is_file() and not _same_weights(path, weights):
            aside = set_aside(path)
        with outputs.staged() as folder:
            save_state(folder / path.name, weights)
        record_weights(outputs, {"network": self.network, "run": self.run.name, "step": self.trainer.step})
        self._say(f"wrote {path} (step {self.trainer.step:,})")
        if aside is not None:
            self._say(f"  what had that name is now {aside}")

    def _do_load(self, command: Command) -> None:
        weights, source = self._find(command.word)
        try:
            model = model_for_state(weights)
        except InputError as error:
            raise FileError(f"{source}: {error}") from error
        found = network_of(model).name
        if found != self.network:
            raise FileError(f"{source} holds a {found}, this session trains a {self.network}")
        self._keeper.keep()
        self.trainer.start_afresh(weights)
        self._keeper.start_anew({"weights": source, **({"sha256": sha256_of(Path(source))} if is_file(source) else {})})
        self._say(f"loaded {source}; optimiser, schedule and best validation start afresh (resume would keep them)")

    def _find(self, version: str) -> tuple[Mapping[str, Tensor], str]:
        """Return the weights that a person means, and where they are from."""
        if version in ("best", "last"):
            if version == "best" and self.trainer.best_state is not None:
                return self.trainer.best_state, f"the best of {self.run.name}, step {self.trainer.best_step:,}"
            path = latest_session(self.network, self.places)
            run, state = Run.reopen(path, self.places)
            saved = state.get("trainer", {})
            found = saved.get("best_state" if version == "best" else "model")
            if not isinstance(found, dict):
                raise FileError(f"{run.name} has had no validation yet, so it has no best weights")
            step = saved.get("best_step" if version == "best" else "step")
            return found, f"the {version} of {run.name}, step {step:,}"
        named = weights_named(self.network, self.places)
        meant = next((path for name, path in named.items() if same_name(name, version)), None)
        if meant is not None:
            return load_state(meant, self._say), str(meant)
        if version.endswith(".pt") and is_file(version):
            return load_state(version, self._say), version
        known = ", ".join([*named][:12]) + (", .." if len(named) > 12 else "")
        folders = ", ".join(str(folder) for folder in self.places.weights)
        raise FileError(f"no weights {self.network}_{version}.pt in {folders}; give load V, V one of: {known or '-'}")

    # --- settings ---

    def _do_lr(self, command: Command) -> None:
        self.trainer.fixed_rate = command.number or None
        self._keeper.keep()
        self._say(f"learning rate {self._rate()}")

    def _do_rp(self, command: Command) -> None:
        self.trainer.beta_squared = command.number
        self._keeper.keep()
        self._say(f"β² is {command.number:g}")

    def _do_threshold(self, command: Command) -> None:
        self.trainer.threshold = command.number
        self._keeper.keep()
        self._say(f"probabilities above {command.number:g} are lumen")

    def _rate(self) -> str:
        return f"{self.trainer.rate:.3g} ({'schedule' if self.trainer.fixed_rate is None else 'fixed'})"

    # --- looking ---

    def _do_val(self, _: Command) -> None:
        self._segment("validation")

    def _do_test(self, _: Command) -> None:
        self._segment("test")

    def _segment(self, split: str) -> None:
        """Segment the volumes of a split; a µr-Net refines from a blank mask."""
        samples = self._samples.get(split, ())
        if not samples:
            raise InputError(f"'{self._dataset.path}' lists no {split} volume")
        self._keeper.weights()
        refines = self.trainer.network.refines
        passes = self.trainer.iterations if refines else 1
        suffix = f"_{passes}" if refines else ""
        planned = [self._outputs(sample, suffix) for sample in samples]
        check_outputs(planned, dataset_files(self._dataset))
        planned[0].check_room()
        self._keeper.begin()
        pooled = Overlap(0, 0, 0)
        bar = self._progress(passes * len(samples))
        try:
            for sample, outputs in zip(samples, planned, strict=True):

                def after_pass(_: object, name: str = sample.entry.name) -> None:
                    bar.update(name)
                    if self.wishes.stop:
                        raise InputError("interrupted: the volumes that were not reported were not written")

                probability = self.trainer.predict(sample, after_pass)
                pooled += self._report(sample, probability, outputs)
        finally:
            bar.close()
        if len(samples) > 1:
            self._say(f"all {len(samples)}: {score_line(pooled)}")
        if split == "test" and self._dataset.caution:
            self._say(f"caution: {self._dataset.caution}")

    def _outputs(self, sample: Sample, suffix: str) -> Outputs:
        """Return the files that the result of one volume consists of."""
        stem = f"{self.run.name}_{self.trainer.step}_{file_part(sample.entry.name)}{suffix}"
        names = [f"{stem}.nrrd", f"{stem}.seg.nrrd", f"{stem}_preview.png"]
        return Outputs(self.places.predictions, f"{stem}.json", "training", names)

    def _report(self, sample: Sample, probability: NDArray[np.float32], outputs: Outputs) -> Overlap:
        """Write one result on the grid of its volume, zero below the crop, and return its score."""
        scores = overlap(probability > self.trainer.threshold, sample.mask, sample.weight)
        whole = np.zeros(sample.volume.shape, np.float32)
        annotation = np.zeros(sample.volume.shape, bool)
        depth = slice(None, probability.shape[1])
        whole[:, depth], annotation[:, depth] = probability, sample.mask
        stem = outputs.record_path.stem
        with outputs.staged() as folder:
            write_result(
                folder,
                stem,
                sample.volume,
                whole,
                above(whole, self.trainer.threshold),
                annotation=annotation,
                probability_name=f"{stem}.nrrd",
            )
        outputs.finish({"volume": sample.entry.name, "run": self.run.name, "step": self.trainer.step})
        self._say(f"{sample.entry.name}: {score_line(scores)}")
        self._say(f"  wrote {outputs.folder / stem}.nrrd, .seg.nrrd, _preview.png")
        return scores

    def _do_status(self, _: Command) -> None:
        trainer = self.trainer
        keeper = self._keeper
        left = keeper.steps_left
        best = "none yet" if trainer.best_f is None else f"F {trainer.best_f:.4f} at step {trainer.best_step:,}"
        state = "nothing is left to do"
        if not keeper.sound:
            state = "training went wrong: load last takes the last good weights"
        elif left:
            state = f"{left:,} steps left of '{keeper.training['command']}', {self._time_for(left)}: resume does them"
        self._say(
            f"{self.run.name}: step {trainer.step:,}; {state}\n"
            f"rate {self._rate()}, β² {trainer.beta_squared:g}, threshold {trainer.threshold:g}, "
            f"recipe {trainer.recipe.name}\n"
            f"best validation: {best}\n"
            f"data set: {self._dataset.name} ({', '.join(f'{len(s)} {split}' for split, s in self._samples.items())})"
        )

    def _time_for(self, steps: int) -> str:
        recent = self.run.rows[-100:]
        taken = sum(row.kind == "step" for row in recent)
        return f"about {_clock(sum(row.seconds for row in recent) / taken * steps)}" if taken else "time unknown"

    def _last_pass(self) -> str:
        count = len(self.trainer.train_samples)
        rows = [row for row in self.run.rows[-2 * count :] if row.kind == "step"][-count:]
        if not rows:
            return ""
        loss, f = (sum(getattr(row, name) for row in rows) / len(rows) for name in ("loss", "f"))
        return f"; over the last {len(rows)}: loss {loss:.4f}, F {f:.4f}"

    def _do_log(self, _: Command) -> None:
        latest = {row.volume: row for row in self.run.rows if row.kind == "step"}
        validations = [row for row in self.run.rows if row.kind == "validation"]
        if not latest:
            self._say("nothing has been trained in this run yet")
            return
        width = max(len(str(name)) for name in [*latest, *(["validation"] if validations else [])])
        for name, row in sorted(latest.items(), key=lambda item: str(item[0])):
            self._say(f"{name:<{width}}  step {row.step:>6,}  loss {row.loss:.4f}  F {row.f:.4f}")
        for row in validations[-8:]:
            self._say(f"{'validation':<{width}}  step {row.step:>6,}  loss {row.loss:.4f}  F {row.f:.4f}")
        self._say(f"all of it is in {self.run.log_path}")

    def _do_plot(self, _: Command) -> None:
        if not self.run.rows:
            raise InputError("nothing has been trained in this run yet, so there is nothing to plot")
        self._plot()
        self._say(f"wrote {self.run.plot_path}")

    def _plot(self) -> None:
        if self.run.rows:
            self.run.write_plot()
            if self._show is not None:
                self._show(self.run.plot_path)

    def _do_help(self, command: Command) -> None:
        known = forms(self.network)
        word = command.word.lower()
        chosen = [known["train" if word[0].isdecimal() else word]] if word else list(known.values())
        width = max(len(form.usage) for form in chosen)
        self._say("\n".join(f"{form.usage:<{width}}  {form.does}" for form in chosen))

    # --- leaving ---

    def _do_finish(self, _: Command) -> None:
        self._keeper.keep()
        self.done = True

    def _do_quit(self, _: Command) -> None:
        self.done = True
        self._keeper.keep()


def _same_weights(path: Path, weights: Mapping[str, Tensor]) -> bool:
    try:
        there = load_state(path)
    except MicronetError:
        return False
    return there.keys() == weights.keys() and all(torch.equal(there[key], weights[key]) for key in there)


def _steps_left(state: Mapping[str, Any]) -> int:
    plan = state["plan"]
    rounds = plan["passes_left"] + plan["rounds"] * plan["passes"]
    return len(plan["order"]) + len(state["volumes"]) * int(rounds)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
