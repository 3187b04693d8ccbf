"""Read and write network weights and sessions; besides io, the only module that opens such files."""

from __future__ import annotations

import io
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from micronet.core.errors import FileError, InputError, setting
from micronet.core.files import atomic_path, make_folder
from micronet.core.names import existing, listed
from micronet.io.checks import is_file
from micronet.io.hdf5_tensors import is_zoo, read_tensors
from micronet.networks.pickle_guard import checked_archive
from micronet.networks.registry import model_for_state, network_of

__all__ = ["bootstrap", "find_weights", "load_model", "load_session", "load_state", "save_session", "save_state"]

# A state dict of a µ-Net is 40 kB. What unpacks to a thousand times that is read only where the file itself is as
# large, as those of larger networks are (`networks.library.MOST_PARAMETERS`).
_LARGEST_BYTES, _LARGEST_FILE = 40_000_000, 500_000_000
_LARGEST_ELEMENTS = 50_000_000
# The first tensor of both networks.
_FIRST = "down0.0.weight"
# A session adds optimiser, best weights and a log of about 100 bytes a step.
_LARGEST_SESSION, _LARGEST_SESSION_FILE = 400_000_000, 2_500_000_000


def find_weights(name: str, folders: Sequence[Path]) -> Path:
    """Return the weight file that a person means by a path or by a name.

    Parameters
    ----------
    name : str
        A path, or the name of a file in one of the folders, each with or without ``.pt``; of a network in an HDF5 file
        ``zoo.h5:ARCHITECTURE/MODEL``.
    folders : sequence of Path
        Searched in this order when `name` is no existing path.

    Returns
    -------
    Path

    Raises
    ------
    FileError
        If nothing is found; it lists what there is.
    """
    zoo = Path(name)
    there = (folder / file for folder in folders for file in (f"{name}.pt", name))
    candidates = [zoo, *there, Path(f"{name}.pt")]
    for candidate in map(existing, candidates):
        if is_file(candidate) or is_zoo(candidate):
            return candidate
    if os.path.isdir(zoo):  # False of a name that no folder can have
        inside = listed(sorted(str(file) for file in zoo.glob("*.pt"))) or "none there"
        raise FileError(f"'{name}' is a folder of weights: give one of them {setting('model')}: {inside}")
    known = sorted({file.stem for folder in folders for file in folder.glob("*.pt")})
    raise FileError(
        f"no weights '{name}': no such file, nor in {', '.join(f'{folder}/' for folder in folders)}; "
        f"give a path {setting('model')} or one of: {', '.join(known) or '(none there)'}"
    )


def load_state(path: str | os.PathLike[str], say: Callable[[str], None] | None = None) -> OrderedDict[str, Tensor]:
    """Read a plain state dict; nothing in the file is executed.

    Parameters
    ----------
    path : path
        A file that ``torch.save`` wrote from a state dict, or ``zoo.h5:ARCHITECTURE/MODEL``.
    say : callable, optional
        Receives a line for what had to be converted: another number type, names with a prefix such as ``module.``.

    Returns
    -------
    OrderedDict of str to Tensor
        float32, on the CPU.

    Raises
    ------
    FileError
        If there is no such file, it is no weight file, or it holds anything but floating-point tensors by name.
    """
    state: Any
    if is_zoo(Path(path)):
        state = OrderedDict((key, torch.from_numpy(array)) for key, array in read_tensors(Path(path)).items())
    else:
        state = _read(Path(path), "weight", "the weights of a network", _LARGEST_BYTES, _LARGEST_FILE)
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) and tensor.is_floating_point()
        for key, tensor in state.items()
    ):
        raise FileError(f"'{path}' is not a plain state dict (names with floating-point tensors)")
    for key, tensor in state.items():
        if tensor.numel() > _LARGEST_ELEMENTS:
            raise FileError(f"'{path}': '{key}' has {tensor.numel():,} elements: too large for a network")
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise FileError(f"'{path}': '{key}' is {tensor.layout} on {tensor.device}, expected a plain tensor")
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()} - {"float32"})
    if kinds and say is not None:
        say(f"'{path}' holds {' and '.join(kinds)}: converted to float32")
    prefix = _prefix(state)
    if prefix and say is not None:
        say(f"'{path}': every name begins with '{prefix}', which is left away")
    return OrderedDict((key.removeprefix(prefix), tensor.to(torch.float32)) for key, tensor in state.items())


def _prefix(state: Mapping[str, Tensor]) -> str:
    """Return what a wrapper (DataParallel, Lightning, torch.compile) has put before every name."""
    first = next((key for key in state if key.endswith(f".{_FIRST}")), "")
    prefix = first.removesuffix(_FIRST)
    return prefix if all(key.startswith(prefix) for key in state) else ""


def _read(path: Path, kind: str, what: str, unpacked: int, most: int) -> Any:
    """Return what a file of at most `most` bytes holds; one that is packed unpacks to `unpacked` at most."""
    if not is_file(path):
        raise FileError(f"no {kind} file '{path}'")
    try:
        archive = checked_archive(path, kind, what, min(max(unpacked, path.stat().st_size), most))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on its way to refuse a file PyTorch may warn of what it itself does
            return torch.load(archive, map_location="cpu", weights_only=True)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"'{path}' cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch raises a dozen kinds for broken files; none of them may reach a person
        raise FileError(f"'{path}' is not a {kind} file that PyTorch can read") from error


def load_model(path: str | os.PathLike[str], say: Callable[[str], None] | None = None) -> nn.Module:
    """Read a network; its tensors decide which it is, and of what size.

    Parameters
    ----------
    path : path
        A plain state dict of a network, ours or published.
    say : callable, optional
        As `load_state`.

    Returns
    -------
    torch.nn.Module
        In evaluation mode, float32, on the CPU.

    Raises
    ------
    FileError
        If the file cannot be read safely, or holds neither network: it then says which tensors are missing,
        extra or misshaped.
    """
    try:
        return model_for_state(load_state(path, say)).eval()
    except InputError as error:
        raise FileError(f"'{path}': {error}") from error


def save_state(path: str | os.PathLike[str], state: Mapping[str, Tensor]) -> None:
    """Write weights as a plain float32 state dict, readable by the published code.

    The file appears whole or not at all.
    """
    plain = OrderedDict((key, tensor.detach().to("cpu", torch.float32).clone()) for key, tensor in state.items())
    _write(Path(path), plain)


def load_session(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_session` wrote; nothing in the file is executed.

    Raises
    ------
    FileError
        If there is no such file, it is damaged, or it holds anything but a dictionary of plain values and tensors.
    """
    content = _read(Path(path), "session", "a session", _LARGEST_SESSION, _LARGEST_SESSION_FILE)
    if not isinstance(content, dict):
        raise FileError(f"'{path}' is not a session file of micronet")
    return content


def save_session(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a dictionary of numbers, strings, lists, dictionaries and tensors, whole or not at all."""
    _write(Path(path), dict(content))


def _write(path: Path, content: Any) -> None:
    # Through memory: torch's own writer reports a full disk as an error of its own, a plain write as an OSError.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def bootstrap(state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Turn the weights of a µ-Net into those of a µr-Net that ignores its mask.

    A zero input channel is put before the others in ``down1.1.weight`` and ``up0.0.weight``; the µr-Net then
    gives the µ-Net's output for any mask, and training starts from there.

    Parameters
    ----------
    state : mapping of str to Tensor
        State dict of a µ-Net.

    Returns
    -------
    OrderedDict of str to Tensor
        State dict of a µr-Net; tensors that do not change are copies.

    Raises
    ------
    InputError
        If `state` is a µr-Net's already, or no network of ours.
    """
    if network_of(model_for_state(state)).refines:
        raise InputError("these weights are a µr-Net already; bootstrap takes those of a µ-Net")
    result = OrderedDict((key, tensor.detach().clone()) for key, tensor in state.items())
    for key in ("down1.1.weight", "up0.0.weight"):
        weight = result[key]
        result[key] = torch.cat((torch.zeros_like(weight[:, :1]), weight), dim=1)
    return result
