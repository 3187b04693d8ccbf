"""What ``search.py`` does: trials until there are enough, a table and plots of them, and the best as a command line."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micronet.app.computing import set_engine, set_threads
from micronet.app.options import AUGMENTATIONS
from micronet.app.prompt import TerminalBar
from micronet.app.terminal import tell
from micronet.core.errors import InputError
from micronet.core.names import write_name
from micronet.core.ownership import Outputs, check_outputs
from micronet.core.provenance import sha256_of, versions
from micronet.core.table import number_cell, write_table
from micronet.data.dataset import DataSet, dataset_files, open_dataset
from micronet.networks.registry import Network, network_named
from micronet.training.trainer import StepReport

if TYPE_CHECKING:
    from micronet.training.search.study import Search, Told

__all__ = ["search"]

_MADE_BY = "search.py"
_SHOWN = 10  # trials in the table at the end


def search(arguments: argparse.Namespace) -> int:
    """Do what is left of the trials. Returns the exit code."""
    if find_spec("optuna") is None:
        raise InputError("search.py needs the package optuna: pip install optuna")
    from micronet.training.search.micro import Trial, candidate
    from micronet.training.search.pictures import PICTURES
    from micronet.training.search.study import Search

    network = network_named(arguments.network)
    dataset, samples = open_dataset(arguments.dataset, arguments.data or ())
    if not samples["validation"]:
        raise InputError(f"'{dataset.path}': no volume with split = \"validation\", which scores the trials")
    stem = f"{network.name}_{write_name(dataset.path.stem)}"
    pictures = [f"{stem}_{name}.png" for name in PICTURES]
    outputs = Outputs(arguments.output, f"{stem}.json", _MADE_BY, [f"{stem}_trials.csv", *pictures], lasting=True)
    check_outputs([outputs], dataset_files(dataset))
    outputs.check_room()
    threads = set_threads(arguments.threads)
    computes = set_engine(arguments.engine, network, training=True)
    bar = _Bar(arguments.epochs * len(samples["train"]))
    trial = Trial(
        network,
        samples["train"],
        samples["validation"],
        dataset.augmentation,
        arguments.epochs,
        arguments.seed,
        arguments.iterations,
        arguments.validate_every,
        bar.step,
    )
    journal = arguments.output / f"{stem}.journal"
    with Search(journal, _asked(arguments, dataset), seed=arguments.seed, warm_up=arguments.warm_up) as study:
        tell(f"{network.name}, {computes}, {threads} threads; {len(study.told)} of {arguments.trials} trials are done")
        best = _Best(study)
        with contextlib.closing(bar):
            study.run(candidate(trial), arguments.trials, bar.begin, lambda told: tell(best.line(told)))
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


def _asked(arguments: argparse.Namespace, dataset: DataSet) -> dict[str, Any]:
    """Return what the processes of one search agree on."""
    names = ("network", "epochs", "validate_every", "warm_up", "iterations", "seed")
    return {name: getattr(arguments, name) for name in names} | {"data": sha256_of(*dataset_files(dataset))[:16]}


class _Bar:
    """The bar of the trial in hand."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._bar: TerminalBar | None = None
        self._trial = 0

    def begin(self, number: int, _: Mapping[str, Any]) -> None:
        """Begin another trial."""
        self.close()
        self._bar, self._trial = TerminalBar(self._steps), number

    def step(self, report: StepReport) -> None:
        """Advance by a step."""
        if self._bar is not None:
            self._bar.update(f"trial {self._trial}, F {report.f:.3f}")

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Best:
    """Tells each trial beside the best so far."""

    def __init__(self, study: Search) -> None:
        self._study = study

    def line(self, told: Told) -> str:
        """Return a line on a trial that is over."""
        best = self._study.best
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
    words: list[str | Path] = ["python", network.script, "--dataset", arguments.dataset]
    words += [word for folder in arguments.data or () for word in ("--data", folder)]
    if settings["augmentation"] in AUGMENTATIONS:
        words += ["--augmentation", settings["augmentation"]]
    words += ["--seed", str(arguments.seed), "--validate-every", str(arguments.validate_every)]
    if network.refines:
        words += ["--iterations", str(arguments.iterations)]
    if arguments.engine != "auto":
        words += ["--engine", arguments.engine]
    if arguments.threads is not None:
        words += ["--threads", str(arguments.threads)]
    rate = [f"lr {settings['rate']}"] if "rate" in settings else []
    commands = [*rate, f"rp {settings['beta_squared']}", str(arguments.epochs), "load best", "save searched", "finish"]
    return " ".join(_quoted(str(word)) for word in [*words, "--run", "; ".join(commands)])


def _quoted(word: str) -> str:
    """Return a word as a command line has it, in the double quotes that every shell takes where that is enough.

    >>> _quoted("a.toml"), _quoted("a b.toml")
    ('a.toml', '"a b.toml"')
    """
    if re.fullmatch(r"[\w./:=,+-]+", word):
        return word
    return shlex.quote(word) if re.search(r'["$`\\!%]', word) else f'"{word}"'
