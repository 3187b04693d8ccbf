"""What the training scripts share: their options, and how a session is put together from them."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from micronet.app.computing import set_engine, set_threads
from micronet.app.image_training import image_trainer
from micronet.app.larger import asked_of, check_size, described, for_classes, practice_of
from micronet.app.prompt import Interrupts, TerminalBar, converse, line_editing, say, show_file
from micronet.app.sharing import compute_for_the_first, joined, place_of_process, usual_threads
from micronet.core.errors import FileError, InputError
from micronet.core.names import same_but_for_case
from micronet.core.words import counted
from micronet.data.augmentation import AUGMENTATIONS, CROPS, CROPS_2D
from micronet.data.dataset import DataSet, Sample, classes_in, open_dataset, read_dataset
from micronet.networks.engine import Work
from micronet.networks.library import Build
from micronet.networks.padding import Padding
from micronet.networks.registry import Network, network_named, network_of
from micronet.training.commands import parse_command
from micronet.training.lock import FolderLock
from micronet.training.looks import Looks
from micronet.training.ports import Ports, Scalars, Settings
from micronet.training.practice import Practice
from micronet.training.recipe import NETWORK_RECIPE, NUMPY_SEED, RECIPES, TORCH_SEED, Recipe
from micronet.training.run_files import Places, Run, latest_session, sweep
from micronet.training.session import Session
from micronet.training.trainer import Trainer

__all__ = ["choose_dataset", "new_model", "new_trainer", "train"]


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
    if place_of_process()[0] > 0:
        return compute_for_the_first(_prepared(network, arguments, places, root).trainer)
    with FolderLock(places.checkpoints, network.name):
        sweep(network.name, places)
        session = _session(network, arguments, places, ports, root)
        if arguments.resume:
            commands.insert(0, "resume")
        elif greeting := session.greeting():
            say(greeting)
        with joined(session.trainer) or contextlib.nullcontext() as others:
            if others is not None:
                say(_shared(others.size, session.trainer.recipe.accumulate))
            with interrupts.watching(), line_editing(session, places.logs / ".micronet_history"):
                return converse(session, interrupts, commands, alone=arguments.run is not None, debug=arguments.debug)


def _shared(processes: int, volumes: int) -> str:
    """Return what is to be said of the processes that share the steps."""
    return f"{processes} processes share every step of {volumes} volume{'s' * (volumes > 1)}" + (
        f", {processes - volumes} of them without work: --accumulate {processes} gives all of them some"
        if volumes < processes
        else ""
    )


@dataclass(frozen=True)
class _Prepared:
    """What trains, on what, how, and what is to be said of it."""

    settings: Settings
    dataset: DataSet
    samples: Mapping[str, Sequence[Sample]]
    trainer: Trainer
    why: str
    computes: str
    note: str


def _prepared(network: Network, arguments: argparse.Namespace, places: Places, root: Path) -> _Prepared:
    """Read the data, and build what trains on it."""
    settings, why = _settings(arguments, network, places, root)
    work: list[Work] = ["training"] if network.tiling == "slabs" else []
    computes = set_engine(getattr(arguments, "engine", "auto"), work)
    if network.of_images:
        settings, dataset, images, of_images = image_trainer(network, settings, arguments)
        return _Prepared(settings, dataset, images, of_images, why, computes, "")
    settings = for_classes(settings, network, classes_in(Path(settings.dataset)))
    model = new_model(network, settings)
    check_size(model, arguments)
    dataset, volumes = open_dataset(settings.dataset, settings.data)
    trainer, note = new_trainer(model.to(getattr(arguments, "device", "cpu")), settings, dataset, volumes)
    if network.sized:
        everything = [sample for found in volumes.values() for sample in found]
        trainer.looks = Looks(settings.windows, settings.max_ram, places.predictions, everything)
    return _Prepared(settings, dataset, volumes, trainer, why, computes, note)


def _session(network: Network, arguments: argparse.Namespace, places: Places, ports: Ports, root: Path) -> Session:
    """Prepare a session, and say what it is."""
    ready = _prepared(network, arguments, places, root)
    settings, dataset, samples, trainer = ready.settings, ready.dataset, ready.samples, ready.trainer
    keep_every = settings.validate_every if settings.kept == "all" else getattr(arguments, "keep_every", None)
    session = Session(trainer, dataset, samples, places, settings, ports, keep_every)
    counts = ", ".join(f"{len(found)} {split}" for split, found in samples.items())
    say(f"data set {settings.dataset}{ready.why}: {counts} volumes")
    _say_notes([sample for found in samples.values() for sample in found], network)
    accumulated = f", {settings.accumulate} volumes a step" if settings.accumulate > 1 else ""
    say(
        f"{network.name}, {described(trainer) or f'recipe {settings.recipe}'}{accumulated}, seed {settings.seed}; "
        f"{ready.computes}, {counted(settings.threads, 'thread')}"
    )
    if ready.note:
        say(ready.note)
    if trainer.looks is not None:
        for sample in (one for split in ("validation", "test") for one in samples[split]):
            memory = trainer.looks.memory(sample, trainer.model)
            if memory.windows is not None:
                say(f"{sample.entry.name}: {memory.description}")
    for one, two in same_but_for_case(dict.fromkeys(entry.name for entry in dataset.entries)):
        say(f"note: volumes '{one}' and '{two}' differ only in case: on some disks their results are the same files")
    return session


def new_model(network: Network, settings: Settings) -> nn.Module:
    """Return a network with fresh weights, drawn with the seed."""
    torch.manual_seed(settings.seed)
    return network.build(Build(**settings.build)) if network.sized else network.build()


def new_trainer(
    model: nn.Module, settings: Settings, dataset: DataSet, samples: Mapping[str, Sequence[Sample]]
) -> tuple[Trainer, str]:
    """Return what trains a network with these settings, and what is to be said of its augmentation."""
    practice = practice_of(settings, samples["train"]) if network_of(model).sized else None
    recipe, note = _recipe(settings, dataset, practice)
    seed = settings.seed + NUMPY_SEED - TORCH_SEED
    trained, scored = samples["train"], samples["validation"]
    return Trainer(model, trained, scored, recipe, seed, settings.iterations, practice), note


def _say_notes(samples: Sequence[Sample], network: Network) -> None:
    """Say what was assumed of volumes, and which of them the network sees padded."""
    for assumed in dict.fromkeys(note for sample in samples for note in sample.notes):
        say(f"note: {assumed}")
    for sample in samples if network.smallest_axis > 1 else ():
        if padded := Padding(sample.image.shape, network.smallest_axis).note:
            say(f"{sample.entry.name}: {padded}")


def _show_once() -> Callable[[Path], None]:
    """Return what shows each file the first time; viewers look again by themselves when it changes."""
    shown: set[Path] = set()

    def show(path: Path) -> None:
        if path not in shown:
            shown.add(path)
            show_file(path)

    return show


def _settings(arguments: argparse.Namespace, network: Network, places: Places, root: Path) -> tuple[Settings, str]:
    """Return what was asked for, else what the session to be resumed had, else the defaults; and a word on the data."""
    chosen: dict[str, Any] = {"recipe": network.recipe, "seed": TORCH_SEED, "iterations": 10, "validate_every": 50}
    chosen["kept"] = "best"
    chosen |= {"augmentation": None, "accumulate": 1}
    saved: dict[str, Any] = {}
    why = ""
    data = arguments.data or ()
    if arguments.resume:
        _, state = Run.reopen(latest_session(network.name, places), places)
        saved = dict(state.get("settings", {}))
        data = data or saved.get("data", ())
        chosen |= {name: saved[name] for name in chosen if name in saved}
    given = {name: getattr(arguments, name, None) for name in chosen}
    chosen |= {name: value for name, value in given.items() if value is not None}
    if network.sized:
        chosen |= asked_of(network, arguments, saved)
    if chosen["recipe"] not in (*RECIPES, NETWORK_RECIPE.name):
        raise FileError(f"the saved session has recipe '{chosen['recipe']}', which this micronet does not know")
    if chosen["augmentation"] not in (None, *AUGMENTATIONS):
        raise FileError("the saved session has an augmentation that this micronet does not know")
    for name in ("iterations", "validate_every", "accumulate"):
        if chosen[name] < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, found {chosen[name]}")
    if not 0 <= chosen["seed"] < 2**31:
        raise InputError(f"--seed must lie in 0..{2**31 - 1}, found {chosen['seed']}")
    dataset = arguments.dataset or saved.get("dataset")
    if dataset is None:
        dataset, reason = choose_dataset(root)
        why = f" ({reason})"
    return Settings(
        str(dataset),
        **chosen,
        threads=set_threads(arguments.threads or usual_threads()),
        data=tuple(map(str, data)),
        max_ram=getattr(arguments, "max_ram", None) or saved.get("max_ram"),
    ), why


def _recipe(settings: Settings, dataset: DataSet, practice: Practice | None) -> tuple[Recipe, str]:
    """Return the recipe with the data set's augmentation, and a line that says so."""
    if practice is None:
        recipe = RECIPES[settings.recipe]
    else:
        recipe = replace(
            NETWORK_RECIPE,
            optimizer=practice.optimizer,
            augmentation=CROPS_2D if settings.build.get("dimensions") == 2 else CROPS,
            patience=practice.early_stopping_patience,
        )
    recipe = replace(recipe, validate_every=settings.validate_every, accumulate=settings.accumulate)
    wished, whose = dataset.augmentation, "of the data set"
    if settings.augmentation is not None:
        if recipe.augmentation is None:
            raise InputError(f"--augmentation: recipe {recipe.name} shows every volume unchanged; it has none")
        wished, whose = AUGMENTATIONS[settings.augmentation], "as asked for"
        if wished is None:
            return replace(recipe, augmentation=None), "no augmentation, as asked for"
    if wished is None:
        return recipe, ""
    if recipe.augmentation is None:
        return recipe, f"the data set's [augmentation] is not used: recipe {recipe.name} shows every volume unchanged"
    shown = ", ".join(f"{name} {value}" for name, value in asdict(wished).items())
    return replace(recipe, augmentation=wished), f"augmentation {whose}: {shown}"


def _tensorboard() -> Callable[[Path, int], Scalars]:
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return lambda folder, step: SummaryWriter(folder, purge_step=step)
