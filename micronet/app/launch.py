"""What the two training scripts share: their options, and how a session is put together from them."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from micronet.app.computing import set_engine, set_threads
from micronet.app.prompt import Interrupts, TerminalBar, converse, line_editing, say, show_file
from micronet.core.errors import FileError, InputError
from micronet.core.names import same_but_for_case
from micronet.data.dataset import DataSet, Sample, open_dataset, read_dataset
from micronet.networks.registry import Network, network_named
from micronet.training.commands import parse_command
from micronet.training.lock import FolderLock
from micronet.training.ports import Ports, Scalars, Settings
from micronet.training.recipe import NUMPY_SEED, RECIPES, TORCH_SEED, Recipe
from micronet.training.run_files import Places, Run, latest_session, sweep
from micronet.training.session import Session
from micronet.training.trainer import Trainer

__all__ = ["choose_dataset", "train"]


def choose_dataset(root: Path) -> tuple[Path, str]:
    """Return the data set to train on when none is named, and why: the published one if all of it is there."""
    published, bundled = (root / "datasets" / name for name in ("yolk_sac.toml", "phantom.toml"))
    entries = read_dataset(published).entries
    there = sum(entry.image.is_file() and entry.annotation.is_file() for entry in entries)
    if there == len(entries):
        return published, "the published data"
    return bundled, f"the bundled phantoms, as {there} of the {len(entries)} published volumes are in place"


def train(name: str, arguments: argparse.Namespace, root: Path) -> int:
    """Run a training session; `root` holds ``datasets/`` and ``trained_models/``. Returns the exit code."""
    network = network_named(name)
    commands = [part.strip() for part in (arguments.run or "").split(";") if part.strip()]
    for command in commands:  # a slip of the pen is told before hours of work, not after
        parse_command(command, network.name)
    interrupts = Interrupts()
    ports = Ports(
        say,
        TerminalBar,
        interrupts,
        scalars=_tensorboard() if arguments.tensorboard else None,
        show=_show_once() if arguments.show else None,
    )
    trained = tuple(dict.fromkeys((Path("trained_models"), root / "trained_models")))
    places = Places(arguments.checkpoints, arguments.logs, arguments.output, trained)
    with FolderLock(places.checkpoints, network.name):
        sweep(network.name, places)
        session = _session(network, arguments, places, ports, root)
        if arguments.resume:
            commands.insert(0, "resume")
        elif greeting := session.greeting():
            say(greeting)
        with interrupts.watching(), line_editing(session, places.logs / ".micronet_history"):
            return converse(session, interrupts, commands, alone=arguments.run is not None, debug=arguments.debug)


def _session(network: Network, arguments: argparse.Namespace, places: Places, ports: Ports, root: Path) -> Session:
    """Read the data, build what trains on it, and say what it is."""
    settings, why = _settings(arguments, network.name, places, root)
    dataset, samples = open_dataset(settings.dataset, settings.data)
    computes = set_engine(arguments.engine, network, training=True)
    torch.manual_seed(settings.seed)
    recipe, note = _recipe(settings, dataset)
    trainer = Trainer(
        network.build(),
        samples["train"],
        samples["validation"],
        recipe,
        settings.seed + NUMPY_SEED - TORCH_SEED,
        settings.iterations,
    )
    session = Session(trainer, dataset, samples, places, settings, ports, arguments.keep_every)
    counts = ", ".join(f"{len(found)} {split}" for split, found in samples.items())
    say(f"data set {settings.dataset}{why}: {counts} volumes")
    _say_notes([sample for found in samples.values() for sample in found])
    say(f"{network.name}, recipe {settings.recipe}, seed {settings.seed}; {computes}, {settings.threads} threads")
    if note:
        say(note)
    for one, two in same_but_for_case(dict.fromkeys(entry.name for entry in dataset.entries)):
        say(f"note: volumes '{one}' and '{two}' differ only in case: on some disks their results are the same files")
    return session


def _say_notes(samples: Sequence[Sample]) -> None:
    """Say what was assumed of volumes, and which of them the network sees padded."""
    for assumed in dict.fromkeys(note for sample in samples for note in sample.notes):
        say(f"note: {assumed}")
    for sample in samples:
        if sample.padded is not None:
            say(f"{sample.entry.name}: {sample.padded}")


def _show_once() -> Callable[[Path], None]:
    """Return what shows each file the first time; viewers look again by themselves when it changes."""
    shown: set[Path] = set()

    def show(path: Path) -> None:
        if path not in shown:
            shown.add(path)
            show_file(path)

    return show


def _settings(arguments: argparse.Namespace, network: str, places: Places, root: Path) -> tuple[Settings, str]:
    """Return what was asked for, else what the session to be resumed had, else the defaults; and a word on the data."""
    chosen: dict[str, Any] = {"recipe": "default", "seed": TORCH_SEED, "iterations": 10, "validate_every": 50}
    saved: dict[str, Any] = {}
    why = ""
    data = arguments.data or ()
    if arguments.resume:
        _, state = Run.reopen(latest_session(network, places), places)
        saved = dict(state.get("settings", {}))
        data = data or saved.get("data", ())
        chosen |= {name: saved[name] for name in chosen if name in saved}
    chosen |= {name: getattr(arguments, name) for name in chosen if getattr(arguments, name) is not None}
    if chosen["recipe"] not in RECIPES:
        raise FileError(f"the saved session has recipe '{chosen['recipe']}', which this micronet does not know")
    for name in ("iterations", "validate_every"):
        if chosen[name] < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, found {chosen[name]}")
    if not 0 <= chosen["seed"] < 2**31:
        raise InputError(f"--seed must lie in 0..{2**31 - 1}, found {chosen['seed']}")
    dataset = arguments.dataset or saved.get("dataset")
    if dataset is None:
        dataset, reason = choose_dataset(root)
        why = f" ({reason})"
    return Settings(str(dataset), **chosen, threads=set_threads(arguments.threads), data=tuple(map(str, data))), why


def _recipe(settings: Settings, dataset: DataSet) -> tuple[Recipe, str]:
    """Return the recipe with the data set's augmentation, and a line that says so."""
    recipe = replace(RECIPES[settings.recipe], validate_every=settings.validate_every)
    wished = dataset.augmentation
    if wished is None:
        return recipe, ""
    if recipe.augmentation is None:
        return recipe, f"the data set's [augmentation] is not used: recipe {recipe.name} shows every volume unchanged"
    shown = ", ".join(f"{name} {value}" for name, value in asdict(wished).items())
    return replace(recipe, augmentation=wished), f"augmentation of the data set: {shown}"


def _tensorboard() -> Callable[[Path, int], Scalars]:
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return lambda folder, step: SummaryWriter(folder, purge_step=step)
