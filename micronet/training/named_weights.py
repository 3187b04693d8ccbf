"""Weights by the names that people use: find what `load` means, write what `save` names, tell what was left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from micronet.core.errors import FileError, MicronetError
from micronet.core.names import same_name
from micronet.core.ownership import Outputs, check_outputs
from micronet.core.words import counted
from micronet.io.checks import is_file
from micronet.networks.card import planned_weights, record_weights
from micronet.networks.weights import load_state, save_state
from micronet.training.recipe import Plan
from micronet.training.run_files import Places, Run, latest_session, sessions, set_aside, weights_named

__all__ = ["find_weights", "hidden_by", "left_over", "planned", "write_weights"]


def find_weights(
    version: str, network: str, places: Places, say: Callable[[str], None]
) -> tuple[Mapping[str, Tensor], str, int]:
    """Return the weights that a person means, where they are from, and how many steps they have had.

    Of a file the steps are not known, and count from 0.

    Parameters
    ----------
    version : str
        ``best`` or ``last`` of the session that was last, what stands in a file's name after the network's, or a path.
    network : str
    places : Places
    say : callable
        Receives notes on the file.

    Raises
    ------
    FileError
        If there are none; it lists what there is.
    """
    if version in ("best", "last"):
        return _saved(version, network, places)
    named = weights_named(network, places)
    meant = next((path for name, path in named.items() if same_name(name, version)), None)
    if meant is not None:
        return load_state(meant, say), str(meant), 0
    if version.endswith(".pt") and is_file(version):
        return load_state(version, say), version, 0
    known = ", ".join([*named][:12]) + (", .." if len(named) > 12 else "")
    folders = ", ".join(str(folder) for folder in places.weights)
    raise FileError(f"no weights {network}_{version}.pt in {folders}; give load V, V one of: {known or '-'}")


def _saved(version: str, network: str, places: Places) -> tuple[Mapping[str, Tensor], str, int]:
    run, state = Run.reopen(latest_session(network, places), places)
    saved = state.get("trainer", {})
    found = saved.get("best_state" if version == "best" else "model")
    if not isinstance(found, dict):
        raise FileError(f"{run.name} has had no validation yet, so it has no best weights")
    step = saved.get("best_step" if version == "best" else "step")
    if not isinstance(step, int) or step < 0:
        raise FileError(f"the session file of {run.name} is damaged: its step is {step}")
    return found, f"the {version} of {run.name}, step {step:,}", step


def planned(path: Path, inputs: Iterable[Path]) -> Outputs:
    """Return weights and card that are about to be written under a name that a person gave.

    MicronetError where they would replace what is not ours, or one of the inputs.
    """
    outputs = planned_weights(path, advice="save NAME takes another name")
    check_outputs([outputs], inputs)
    outputs.check_room()
    return outputs


def write_weights(outputs: Outputs, path: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path | None:
    """Write weights as `planned`, and a card of what is known `about` them.

    Return where other weights of that name are now, if there were any.
    """
    aside = set_aside(path) if path.is_file() and not _holds(path, weights) else None
    with outputs.staged() as folder:
        save_state(folder / path.name, weights)
    record_weights(outputs, about)
    return aside


def _holds(path: Path, weights: Mapping[str, Tensor]) -> bool:
    try:
        there = load_state(path)
    except MicronetError:
        return False
    return there.keys() == weights.keys() and all(torch.equal(there[key], weights[key]) for key in there)


def hidden_by(path: Path, places: Places) -> Path | None:
    """Return the file that ``load`` took before for the name that a new one in the first folder has."""
    others = (folder / path.name for folder in places.weights[1:])
    return next((other for other in others if other.is_file() and not path.samefile(other)), None)


def left_over(network: str, places: Places, dataset: Path) -> str:
    """Return one line on what the last session on this data set left, or an empty string."""
    found = sessions(network, places)
    for path in reversed(found):
        try:
            run, state = Run.reopen(path, places)
            if not _is_of(state["settings"]["dataset"], dataset):
                continue
            trainer = state["trainer"]
            volumes = trainer.get("shares_a_pass", len(trainer["volumes"]))
            left = Plan.from_state(trainer["plan"], volumes).steps_left(volumes, trainer.get("accumulate", 1))
            command, step = state["training"]["command"], f"{trainer['step']:,}"
        except (MicronetError, KeyError, TypeError, ValueError):
            return f"an earlier session left '{path}', which cannot be read"
        what = (
            f"was interrupted in '{command}', {counted(left, 'step')} left"
            if left
            else "was done with its last command"
        )
        resume = "resume" if path == found[-1] else f"resume {run.name}"
        return f"{run.name} {what} (step {step}): {resume} goes on from there"
    return ""


def _is_of(saved: str, dataset: Path) -> bool:
    return Path(saved).resolve() == dataset.resolve()
