"""The language of the prompt: a line in, a command or one line of advice out. Nothing is done here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from micronet.core.errors import InputError
from micronet.networks.registry import entries, network_named
from micronet.training.practice import LOSSES

__all__ = ["Command", "Form", "forms", "parse_command"]


@dataclass(frozen=True)
class Command:
    """One command: `verb` is a key of `forms`, `text` what was typed, the rest what the verb needs of it.

    `word` is a version, a run, or the verb to be explained.
    """

    verb: str
    text: str
    word: str = ""
    number: float = 0.0
    rounds: int = 0
    passes: int = 1


@dataclass(frozen=True)
class Form:
    """How a command is written and what it does."""

    usage: str
    does: str


# By whether the network refines.
_TRAIN: Mapping[bool, Form] = {
    False: Form("N", "train N epochs: every training volume once, N times, such as 123"),
    True: Form("N K", "N times: distort every mask once, then K passes over the volumes, such as 159 4; N is N 1"),
}
_FORMS: Mapping[str, Form] = {
    "resume": Form("resume [RUN]", "go on with an interrupted command; without RUN, of the session that was last"),
    "status": Form("status", "show step, rate, β², best validation and the time that is left"),
    "val": Form("val", "segment the validation volumes, write and score the results"),
    "test": Form("test", "segment the test volumes, write and score the results"),
    "save": Form("save V", "write the weights to <name>_V.pt; weights that have that name are kept as <name>_V.1.pt"),
    "load": Form(
        "load V",
        "read weights: best (of the validations) or last; <name>_V.pt; or a path. The schedule starts anew",
    ),
    "bootstrap": Form("bootstrap", "turn these weights into a µr-Net's: ur-net_bootstrap.pt, for load bootstrap there"),
    "lr": Form("lr X", "fix the learning rate, such as lr 0.001; lr 0 goes back to the schedule"),
    "rp": Form("rp X", "set β² of the loss, such as rp 0.5; below 1 favours precision, above 1 recall"),
    "threshold": Form("threshold X", "call probabilities above X lumen, 0 <= X < 1, in val, test and validation"),
    "find": Form(
        "find lr", "try rates from small to large, a step each: plot and proposal; the weights stay as they are"
    ),
    "log": Form("log", "show the last scores of every volume and the last validations"),
    "plot": Form("plot", "draw scores and loss of this run into a PNG"),
    "help": Form("help [COMMAND]", "list the commands, or explain one; ? is the same"),
    "finish": Form("finish", "save everything and leave"),
    "quit": Form("quit", "save everything and leave, even if saving fails; exit is the same"),
}
# Of a network that is trained on crops.
_OF_CROPS: Mapping[str, Form] = {
    "train": Form("N", "train N epochs, each so many crops of every training volume as was asked for, such as 30"),
}
# Of a network that tells what images hold.
_OF_IMAGES: Mapping[str, Form] = {
    "train": Form("N", "train N epochs: every training image, or crop of one, once, N times, such as 30"),
    "val": Form("val", "tell what the validation images hold, write a table and score it"),
    "test": Form("test", "tell what the test images hold, write a table and score it"),
    "threshold": Form("threshold X", "call a class there above probability X, 0 <= X < 1, in val, test and validation"),
}
# Other words for the same.
_ALSO = {"?": "help", "exit": "quit"}
_BARE = ("status", "val", "test", "bootstrap", "log", "plot", "finish", "quit")
# Names that `load` gives a meaning of its own, or that sessions give their automatic weights.
_RESERVED = re.compile(rf"best|last|({'|'.join(LOSSES)})(b[0-9.]+)?(-[0-9]+)?_[0-9]+")
_BETAS = (0.001, 1000.0)


def forms(network: str) -> dict[str, Form]:
    """Return the commands of a network by verb; training is ``"train"``."""
    entry = network_named(network)
    own = _OF_IMAGES if entry.of_images else _OF_CROPS if entry.sized else {}
    said = {"train": _TRAIN[entry.refines], **_FORMS, **own}
    return {verb: form for verb, form in said.items() if _has(network, verb)}


def _has(network: str, verb: str) -> bool:
    """Whether a network has a command that not all have."""
    if verb == "find":  # µ-Nets have their published schedule
        return network_named(network).sized
    return verb != "bootstrap" or _starts_another(network)


def _starts_another(network: str) -> bool:
    return any(entry.made_from == network for entry in entries())


def parse_command(line: str, network: str) -> Command:
    """Understand one line.

    Parameters
    ----------
    line : str
    network : str
        Its name in the registry.

    Returns
    -------
    Command

    Raises
    ------
    InputError
        One line that names the accepted form.

    Examples
    --------
    >>> command = parse_command("159 4", "ur-net")
    >>> command.verb, command.rounds, command.passes
    ('train', 159, 4)
    """
    words = line.split()
    text = " ".join(words)
    if not words:
        raise InputError("an empty line; help lists the commands")
    verb, rest = _ALSO.get(words[0].lower(), words[0].lower()), words[1:]
    if re.match(r"[-+.]?[0-9]", verb):
        return _training(words, text, network)
    known = forms(network)
    if verb not in known or verb == "train":
        raise InputError(_unknown(words[0], known, network))
    usage = known[verb].usage
    if verb == "find" and [word.lower() for word in rest] == ["lr"]:
        return Command(verb, text)
    if verb in _BARE:
        if rest:
            raise InputError(f"{usage} stands alone, found '{text}'")
        return Command(verb, text)
    if verb == "help" and _is_training(rest):
        return Command(verb, text, word="train")
    if verb in ("help", "resume"):
        if len(rest) > 1:
            raise InputError(f"give {usage}, found '{text}'")
        word = rest[0] if rest else ""
        return Command(verb, text, word=_explained(word, known, network) if verb == "help" and word else word)
    if len(rest) != 1:
        raise InputError(f"give {usage}, found '{text}': {known[verb].does}")
    word = rest[0]
    if verb == "save":
        _check_version(word, usage)
    if verb in ("save", "load"):
        return Command(verb, text, word=word)
    return Command(verb, text, number=_number(verb, word, usage))


def _is_training(words: list[str]) -> bool:
    """Whether words stand for training: as the list of commands writes it, N or N K, or with numbers."""
    return 0 < len(words) <= 2 and all(word.isdecimal() or word.upper() in ("N", "K") for word in words)


def _explained(word: str, known: Mapping[str, Form], network: str) -> str:
    """Return the verb that a person wants explained."""
    verb = _ALSO.get(word.lower(), word.lower())
    if verb not in known:
        raise InputError(_unknown(word, known, network))
    return verb


def _training(words: list[str], text: str, network: str) -> Command:
    form = _TRAIN[network_named(network).refines]
    most = 2 if network_named(network).refines else 1
    whole = all(re.fullmatch(r"[0-9]{1,9}", word) and int(word) > 0 for word in words)
    if len(words) > most or not whole:
        raise InputError(f"give {form.usage}, whole numbers from 1, found '{text}': {form.does}")
    return Command("train", text, rounds=int(words[0]), passes=int(words[1]) if len(words) == 2 else 1)


def _number(verb: str, word: str, usage: str) -> float:
    try:
        number = float(word)
    except ValueError:
        raise InputError(f"give {usage} with a number, found '{word}'") from None
    lowest, highest = {"lr": (0.0, 1.0), "rp": _BETAS, "threshold": (0.0, 1.0)}[verb]
    if not lowest <= number <= highest or (verb == "threshold" and number == 1):
        span = f"at least {lowest:g} and below 1" if verb == "threshold" else f"from {lowest:g} to {highest:g}"
        raise InputError(f"give {usage} with a number {span}, found '{word}'")
    return number


def _check_version(word: str, usage: str) -> None:
    if not re.fullmatch(r"\w[\w.+-]{0,99}", word):
        raise InputError(f"give {usage} with letters, digits and . _ + - in V, found '{word}'")
    if _RESERVED.fullmatch(word):
        raise InputError(f"'{word}' is a name that sessions use themselves; give {usage} with another V")


def _unknown(word: str, known: Mapping[str, Form], network: str) -> str:
    if word.lower() == "bootstrap":
        return "bootstrap is a command of train_micronet.py; a µr-Net takes what it wrote with: load bootstrap"
    near = difflib.get_close_matches(word.lower(), [verb for verb in known if verb != "train"], 1)
    meant = f"did you mean {known[near[0]].usage}? " if near else ""
    return f"unknown command '{word}': {meant}{known['train'].usage} trains, help lists the commands"
