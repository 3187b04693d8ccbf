"""What ``make_phantoms.py`` does: a set of simulated volumes, or the part of it that is not there yet."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

from micronet.app.batch import run_batch
from micronet.app.options import MOST_PHANTOMS, settings_of
from micronet.app.terminal import tell
from micronet.core.errors import InputError
from micronet.core.outcome import Outcome
from micronet.core.ram import available_memory
from micronet.data.phantom_kinds import KINDS
from micronet.data.phantom_set import PhantomSet, Subject, make_set, over_annotations, procedural

__all__ = ["make_phantoms"]

_SHAPES = {"oct": (217, 260, 218), "shapes": (256, 256), "optic-lobe": (128, 128, 128)}  # OCT as published
_FULL_CROP = 160  # as published
_BYTES = {"oct": 40, "shapes": 400, "optic-lobe": 80}  # of memory a voxel takes: 32, 331 and 31 to 68 were measured
_TRAINS = {
    "oct": "train_micronet.py",
    "shapes": "train_network.py --network unet --dimensions 2",
    "optic-lobe": "train_micronet.py",
}


def make_phantoms(arguments: argparse.Namespace) -> int:
    """Make what is not there yet. Returns the exit code."""
    _check(arguments)
    masks = arguments.from_annotation
    if arguments.shape is None and arguments.kind == "oct" and not masks:
        arguments.y_crop = arguments.y_crop or _FULL_CROP
    arguments.shape = arguments.shape or _SHAPES[arguments.kind]
    needed, free = _BYTES[arguments.kind] * math.prod(arguments.shape), available_memory()
    if not masks and free is not None and needed > free:
        raise InputError(f"--shape: about {needed / 1e9:.3g} GB of memory needed, {free / 1e9:.3g} GB are available")
    splits = {"validation": arguments.validation, "test": arguments.test}
    if masks:
        subjects = over_annotations(masks, arguments.count, arguments.seed, **splits)
    else:
        kind, time_points = arguments.kind, arguments.time_points
        subjects = procedural(arguments.count, arguments.seed, kind=kind, time_points=time_points, **splits)
    job = settings_of(PhantomSet, arguments)

    def each(subjects: Sequence[Subject], make: Callable[[Subject], Outcome]) -> int:
        return run_batch(subjects, make, lambda subject: job.image(subject.name), debug=arguments.debug)

    code, made, found = make_set(subjects, job, say=tell, each=each, force=arguments.force)
    if code:
        tell(f"{job.dataset} is not written before all of them are made: the same command makes what is missing")
        return code
    there = f", {found} there already (--force repeats them)" if found else ""
    tell(f"{made} made{there}. Train on them: python {_TRAINS[job.kind]} --dataset {job.dataset}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse more than a set may have, and options that do not go together."""
    _check_kind(arguments)
    _check_crop(arguments)
    masks = arguments.from_annotation
    total = arguments.count * arguments.time_points * len(masks or [None])
    if total > MOST_PHANTOMS:
        raise InputError(
            f"{total:,} phantoms: a set has {MOST_PHANTOMS:,} at most; make several with -o DIR and --seed"
        )
    if masks and (arguments.shape is not None or arguments.time_points > 1):
        raise InputError("--shape and --time-points are for procedural phantoms: an annotation has its own grid")
    if not masks and (arguments.segment is not None or arguments.spacing_um is not None):
        raise InputError("--segment and --spacing are for --from-annotation")


def _check_kind(arguments: argparse.Namespace) -> None:
    """Refuse options that the kind of phantom does not have."""
    kind, shape = arguments.kind, arguments.shape
    if shape is not None and len(shape) != len(_SHAPES[kind]):
        usual = ",".join(map(str, _SHAPES[kind]))
        raise InputError(f"--shape: {len(shape)} sizes; {kind} takes {len(_SHAPES[kind])}, such as {usual}")
    if shape is not None and min(shape) < (least := KINDS[kind].shortest):
        sizes = ",".join(map(str, shape))
        raise InputError(f"--shape: '{sizes}'; {kind} needs at least {least} along each axis")
    unused = {
        "--y-crop": arguments.y_crop is None,
        "--vary": not arguments.vary,
        "--time-points": arguments.time_points == 1,
        "--from-annotation": arguments.from_annotation is None,
        "--segment": arguments.segment is None,
        "--spacing": arguments.spacing_um is None,
    }
    given = [option for option, absent in unused.items() if not absent]
    if kind != "oct" and given:
        raise InputError(f"{' and '.join(given)}: for --kind oct, not for {kind}")
    if kind == "shapes" and arguments.hdf5:
        raise InputError("--hdf5 is for volumes; shapes are PNG")


def _check_crop(arguments: argparse.Namespace) -> None:
    """Refuse a depth of lumens that the shape, or the anatomy, has no room for; over a mask any will do."""
    crop, least = arguments.y_crop, KINDS["oct"].shortest
    if crop is None or arguments.from_annotation:
        return
    depth = (arguments.shape or _SHAPES["oct"])[1]
    if not least <= crop <= depth:
        raise InputError(f"--y-crop: '{crop}'; a phantom of {depth} voxels in depth takes {least} to {depth}")
