"""What ``search.py`` does: trials until there are enough, a table and plots of them, and the best as a command line."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micronet.app.computing import set_engine, set_threads
from micronet.app.larger import for_classes
from micronet.app.launch import new_model, new_trainer
from micronet.app.options import AUGMENTATIONS
from micronet.app.prompt import TerminalBar
from micronet.app.terminal import tell
from micronet.core.errors import InputError
from micronet.core.names import write_name
from micronet.core.ownership import Outputs, check_outputs
from micronet.core.provenance import sha256_of, versions
from micronet.core.table import number_cell, write_table
from micronet.core.words import counted
from micronet.data.dataset import DataSet, Sample, dataset_files, open_dataset
from micronet.networks.registry import Network, network_named
from micronet.training.looks import Looks
from micronet.training.ports import Settings
from micronet.training.trainer import StepReport, Trainer

if TYPE_CHECKING:
    from micronet.training.search.study import Search, Told
    from micronet.training.search.trials import Candidate

__all__ = ["search"]

_MADE_BY = "search.py"
_SHOWN = 10  # trials in the table at the end


def search(arguments: argparse.Namespace) -> int:
    """Do what is left of the trials. Returns the exit code."""
    if find_spec("optuna") is None:
        raise InputError("search.py needs the package optuna: pip install optuna")
    from micronet.training.search.study import Search

    network = network_named(arguments.network)
    if not network.sized and (arguments.dimensions is not None or arguments.device != "cpu"):
        raise InputError(f"--dimensions and --device are for larger networks; {network.title} is 3-D, and on the CPU")
    dataset, samples = open_dataset(_named(arguments), arguments.data or ())
    if not samples["validation"]:
        raise InputError(f"'{dataset.path}': no volume with split = \"validation\", which scores the trials")
    stem = f"{network.name}_{write_name(dataset.path.stem)}"
    outputs = _planned(arguments, stem, dataset)
    threads = set_threads(arguments.threads)
    computes = set_engine(arguments.engine, ["training"] if network.tiling == "slabs" else [])
    bar = _Bar()
    candidate = _candidate(network, arguments, dataset, samples, bar)
    journal = arguments.output / f"{stem}.journal"
    with Search(journal, _asked(arguments, dataset), seed=arguments.seed, warm_up=arguments.warm_up) as study:
        done = f"{len(study.told)} of {arguments.trials} trials are done"
        tell(f"{network.name}, {computes}, {counted(threads, 'thread')}; {done}")
        with contextlib.closing(bar):
            study.run(candidate, arguments.trials, bar.begin, lambda told: tell(_line(told, study.best)))
        _write(outputs, stem, study, arguments, network)
    for line in _table(study.told):
        tell(line)
    tell(f"{arguments.output / stem}.json, _trials.csv and plots as .png tell more")
    if study.best is None:
        tell("no trial was done to its end, so there are no best settings")
        return 0
    tell(f"best: trial {study.best.number}, F {study.best.score:.3f}. Train so:")
    tell(_command(study.best.settings, arguments, network))
    return 0


def _named(arguments: argparse.Namespace) -> Path:
    """Return the data set that was named; InputError where none was."""
    if arguments.dataset is None:
        raise InputError("which data set? --dataset FILE, a .toml with volumes for training and validation")
    path: Path = arguments.dataset
    return path


def _planned(arguments: argparse.Namespace, stem: str, dataset: DataSet) -> Outputs:
    """Return what will be written, once nothing that is not ours is in the way."""
    from micronet.training.search.pictures import PICTURES

    names = [f"{stem}_trials.csv", *(f"{stem}_{name}.png" for name in PICTURES)]
    outputs = Outputs(arguments.output, f"{stem}.json", _MADE_BY, names, lasting=True)
    check_outputs([outputs], dataset_files(dataset))
    outputs.check_room()
    return outputs


def _candidate(
    network: Network,
    arguments: argparse.Namespace,
    dataset: DataSet,
    samples: Mapping[str, Sequence[Sample]],
    bar: _Bar,
) -> Candidate:
    """Return what the search needs to know of the network; a trial is trained as the training scripts do it."""
    from micronet.training.search import spaces

    same = Settings(
        dataset=str(dataset.path),
        recipe=network.recipe,
        seed=arguments.seed,
        iterations=arguments.iterations,
        validate_every=arguments.validate_every,
        threads=0,
        build={} if arguments.dimensions is None else {"dimensions": arguments.dimensions},
    )
    same = for_classes(same, network, dataset.classes)

    looks = Looks({}, None, arguments.output, [sample for found in samples.values() for sample in found])

    def make(settings: Mapping[str, Any]) -> Trainer:
        asked = replace(
            same,
            augmentation=None if settings.get("augmentation") == spaces.OWN else settings.get("augmentation"),
            practice=_practice(settings) if network.sized else {},
        )
        model = new_model(network, asked).to(arguments.device)
        trainer, _ = new_trainer(model, asked, dataset, samples)
        trainer.looks = looks if network.sized else None
        bar.steps = trainer.steps_a_pass * arguments.epochs
        return trainer

    if not network.sized:
        return spaces.micro(make, dataset.augmentation is not None, arguments.epochs, bar.step)
    smallest = [min(sample.image.shape[axis] for sample in samples["train"]) for axis in range(3)]
    if arguments.dimensions == 2:
        smallest[0] = 1
    channels = len(dataset.classes) + 1 if dataset.classes else 1
    return spaces.larger(make, smallest, channels, arguments.epochs, bar.step)


def _practice(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings, "crop_size": [int(size) for size in settings["crop_size"].split(",")]}


def _asked(arguments: argparse.Namespace, dataset: DataSet) -> dict[str, Any]:
    """Return what the processes of one search agree on."""
    names = ("network", "dimensions", "epochs", "validate_every", "warm_up", "iterations", "seed")
    return {name: getattr(arguments, name) for name in names} | {"data": sha256_of(*dataset_files(dataset))[:16]}


class _Bar:
    """The bar of the trial in hand; `steps` are those of a trial."""

    def __init__(self) -> None:
        self.steps = 0
        self._bar: TerminalBar | None = None
        self._trial = 0

    def begin(self, number: int, _: Mapping[str, Any]) -> None:
        """Begin another trial."""
        self.close()
        self._trial = number

    def step(self, report: StepReport) -> None:
        """Advance by a step."""
        if self._bar is None:
            self._bar = TerminalBar(self.steps)
        self._bar.update(f"trial {self._trial}, F {report.f:.3f}")

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _line(told: Told, best: Told | None) -> str:
    """Return a line on a trial that is over, beside the best so far."""
    score = "pruned" if told.pruned else f"F {told.score:.3f}"
    beside = "" if best is None else f" (best: {best.score:.3f}, trial {best.number})"
    return f"trial {told.number}: {score}{beside}; {_shown(told.settings)}"


def _shown(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _table(told: list[Told]) -> list[str]:
    whole = [one for one in told if not one.pruned]
    first = sorted(whole, key=lambda one: one.score or 0.0, reverse=True)[:_SHOWN]
    lines = [f"{one.score or 0.0:6.3f}  {one.number:5}  {one.steps:6}  {_shown(one.settings)}" for one in first]
    return [
        f"{len(whole)} trials to the end, {len(told) - len(whole)} pruned",
        "     F  trial   steps  settings",
        *lines,
    ]


def _write(outputs: Outputs, stem: str, study: Search, arguments: argparse.Namespace, network: Network) -> None:
    """Write table, plots and record, if they do not tell of all trials yet.

    Of several processes that end one after the other, the last knows all trials.
    """
    from micronet.training.search.pictures import write_pictures

    told, record = study.told, outputs.read()
    if record is not None and record.get("trials") == len(told):
        return
    names = sorted({name for one in told for name in one.settings})
    rows = [
        [
            one.number,
            "pruned" if one.pruned else "done",
            "" if one.score is None else number_cell(one.score),
            one.steps,
            round(one.seconds, 1),
            *(one.settings.get(name, "") for name in names),
        ]
        for one in told
    ]
    columns = ["trial", "state", "f", "steps", "seconds", *names]
    with study.alone():
        with outputs.staged() as folder:
            write_table(folder / f"{stem}_trials.csv", f"search for settings of {network.name}", [], columns, rows)
            write_pictures(folder, stem, study.study)
        best = study.best
        found = {} if best is None else {"trial": best.number, "f": best.score, "settings": best.settings}
        command = {} if best is None else {"command": _command(best.settings, arguments, network)}
        asked = study.study.user_attrs["asked"]
        outputs.finish({"versions": versions(), "asked": asked, "trials": len(told), "best": found, **command})


def _command(settings: Mapping[str, Any], arguments: argparse.Namespace, network: Network) -> str:
    """Return the command line that trains with these settings, and gives the score of their trial."""
    words: list[object] = ["python", network.script]
    words += ["--network", network.name] if network.sized else []
    words += ["--dataset", arguments.dataset]
    words += [word for folder in arguments.data or () for word in ("--data", folder)]
    commands = [arguments.epochs, "load best", "save searched", "finish"]
    if network.sized:
        given = {"dimensions": arguments.dimensions, **settings, "device": arguments.device}
        named = [(f"--{name.replace('_', '-')}", value) for name, value in given.items() if value not in (None, "cpu")]
        words += [word for pair in named for word in pair]
    else:
        if settings["augmentation"] in AUGMENTATIONS:
            words += ["--augmentation", settings["augmentation"]]
        if network.refines:
            words += ["--iterations", arguments.iterations]
        if arguments.engine != "auto":
            words += ["--engine", arguments.engine]
        rate = [f"lr {settings['rate']}"] if "rate" in settings else []
        commands = [*rate, f"rp {settings['beta_squared']}", *commands]
    words += ["--seed", arguments.seed, "--validate-every", arguments.validate_every]
    if arguments.threads is not None:
        words += ["--threads", arguments.threads]
    return " ".join(_quoted(str(word)) for word in [*words, "--run", "; ".join(map(str, commands))])


def _quoted(word: str) -> str:
    """Return a word as a command line has it, in the double quotes that every shell takes where that is enough.

    >>> _quoted("a.toml"), _quoted("a b.toml")
    ('a.toml', '"a b.toml"')
    """
    if re.fullmatch(r"[\w./:=,+-]+", word):
        return word
    return shlex.quote(word) if re.search(r'["$`\\!%]', word) else f'"{word}"'
