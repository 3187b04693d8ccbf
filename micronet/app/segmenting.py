"""What ``infer.py`` does: weights and inputs found, each input segmented in turn, or the time points of one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from micronet.app.batch import run_batch
from micronet.app.computing import choose_engine, set_threads
from micronet.app.inputs import figure_wish, inputs_from
from micronet.app.named_models import models_from
from micronet.app.options import MODEL, settings_of
from micronet.app.progress import pass_bar
from micronet.app.segmenting_several import check_several, segment_into_several
from micronet.app.terminal import tell, with_options
from micronet.core.errors import InputError
from micronet.core.outcome import Outcome
from micronet.core.ownership import Outputs
from micronet.core.words import counted
from micronet.io.checks import is_store
from micronet.networks.card import trained_spacing
from micronet.report.wish import FigureWish
from micronet.segment.job import Job, Weights, check_results, check_stems, segment_file
from micronet.segment.members import Members
from micronet.segment.summary import BatchSummary, planned_summary, summary_lines
from micronet.segment.time_lapse import Start, TimeLapseRun, open_time_lapse

__all__ = ["segment_inputs"]


def segment_inputs(arguments: argparse.Namespace, root: Path) -> int:
    """Segment each input in turn; `root` holds the demo and ``trained_models/``. Returns the exit code."""
    weights_paths, names = models_from(
        arguments.model or [MODEL],
        [arguments.project / "checkpoints", Path("trained_models"), root / "trained_models"],
    )
    several = [Weights.load(path, arguments.device, say=tell) for path in weights_paths]
    if _are_of_images(several, names):
        from micronet.app.looking import look_at_inputs  # it imports scikit-image

        paths = _inputs(arguments, several)
        these = _told_part(paths, arguments.part)
        return look_at_inputs(paths, these, several, arguments) if these or not paths else 0
    _refuse_options_of_images(arguments)
    work = {kind for one in several for kind in one.work}
    computes, make_ready = choose_engine(arguments.engine, work, arguments.device)
    several = [replace(one, make_ready=make_ready) for one in several]
    members = Members.of(several, names) if names else Members.told_apart_by(several[0])
    demo = not arguments.inputs
    paths = _inputs(arguments, several) or [_demo(arguments, root, annotated=members is None)]
    start = _start(arguments)
    for note in check_stems(paths):
        tell(f"note: {note}")
    job = settings_of(Job, arguments, figure=_figure(paths, arguments), resample_um=None)
    _check_cluster(paths, arguments)
    if members is not None:
        check_several(job, arguments, exclusive=members.exclusive)
    # Of a cluster each process has one thread, if nobody says otherwise.
    threads = set_threads(arguments.threads or (None if job.cluster is None else 1))
    summary = None
    if not arguments.time_lapse:
        summary = planned_summary(job.output, arguments.part) if len(paths) > 1 else None
        these = _told_part(paths, arguments.part)
        if members is None:
            check_results(paths, weights_paths[0], job, [] if summary is None else [summary], these=these)
        if not these:
            return 0
        every, paths = paths, these
    weights = several[0]
    for one in several:
        job.window_wish.check(one.model)
    job = replace(job, resample_um=_one_spacing(arguments.resample_um, several))
    for one in several:
        tell(f"weights {one.path} ({one.network.name}); {computes}, {arguments.device}, {counted(threads, 'thread')}")
    if members is not None:
        code = segment_into_several(every, paths, members, job, arguments)
    elif arguments.time_lapse:
        return _time_lapse(paths, weights, job, start, arguments)
    else:
        code = _each(paths, weights, job, summary, force=arguments.force or demo, debug=arguments.debug)
    if demo:
        tell(f"The files are in {job.output.resolve()}: drag the volume and the .seg.nrrd into 3D Slicer,")
        tell("or open the preview. Your own volume: python infer.py FILE (python infer.py --help shows more).")
    return code


def _figure(paths: list[Path], arguments: argparse.Namespace) -> FigureWish | None:
    """Return the figure that is asked for; InputError where it, or a mask, is of one input and there are several."""
    alone = arguments.annotation or ((arguments.initial_mask or arguments.keep) and not arguments.time_lapse)
    if len(paths) > 1 and alone:
        raise InputError(f"--annotation, --keep and --initial-mask go with one input, found {len(paths)}")
    figure = figure_wish(arguments)
    if figure is not None and (len(paths) > 1 or arguments.time_lapse):
        raise InputError("--figure is of one volume: give one INPUT, without --time-lapse")
    return figure


def _check_cluster(paths: list[Path], arguments: argparse.Namespace) -> None:
    """Raise InputError where a cluster is asked for and not all inputs are OME-Zarr."""
    if arguments.cluster is None:
        return
    other = next((path for path in paths if not is_store(path)), None)
    if other is not None or arguments.time_lapse:
        which = "--time-lapse" if other is None else f"'{other}'"
        raise InputError(
            f"--cluster is for OME-Zarr, not for {which}: leave it out (--part 1/8 is one of eight processes that "
            "share a folder of volumes)"
        )


def _are_of_images(several: Sequence[Weights], names: Sequence[str]) -> bool:
    """Whether the networks say what an image holds; InputError where they do not go together."""
    of_images = sum(one.network.of_images for one in several)
    if names and of_images:
        raise InputError("--model SEGMENT=NAME goes with networks that find one lumen: a micranet names its classes")
    if len(several) > 1 and not names and of_images < len(several):
        raise InputError(
            f"{len(several)} networks and no segments: name each, as --model SEGMENT=NAME (only networks that say what "
            "an image holds are averaged)"
        )
    return of_images > 0


def _refuse_options_of_images(arguments: argparse.Namespace) -> None:
    for name, given in (
        ("--threshold-method", arguments.threshold_method),
        ("--maps", arguments.maps),
        ("--regions", arguments.regions),
    ):
        if given:
            raise InputError(f"{name} goes with a network that says what an image holds (micranet), not with others")


def _inputs(arguments: argparse.Namespace, several: Sequence[Weights]) -> list[Path]:
    """Return the volumes that are meant, and the 2-D images where the networks look at such; none where none are."""
    raw, flat = arguments.shape is not None, all(one.flat for one in several)
    return inputs_from(arguments.inputs, raw=raw, flat=flat)


def _demo(arguments: argparse.Namespace, root: Path, *, annotated: bool) -> Path:
    """Return the demo, with its annotation where a lumen is looked for."""
    if annotated:
        arguments.annotation = arguments.annotation or (
            root / "annotations" / "annotation_phantom_demo_iso_full.seg.nrrd"
        )
    return root / "struct_iso" / "E5D_phantom_demo.nrrd"


def _start(arguments: argparse.Namespace) -> Start:
    """Return where the time points start, and leave in --initial-mask only a file."""
    word = str(arguments.initial_mask)
    if word in ("previous", "blank"):
        if not arguments.time_lapse:
            raise InputError(f"--initial-mask {word} goes with --time-lapse; a file of that name is ./{word}")
        arguments.initial_mask = None
    if not arguments.time_lapse and arguments.interval is not None:
        raise InputError("--interval goes with --time-lapse")
    if arguments.time_lapse and arguments.part is not None:
        raise InputError("--part does not go with --time-lapse: a time point starts from the one before")
    if arguments.time_lapse and not arguments.inputs:
        raise InputError("--time-lapse needs an INPUT: a 4-D file, or the files of the time points in their order")
    return "blank" if word == "blank" else "previous"


def _network_spacing(asked: float | str | None, weights: Weights) -> float | None:
    """Return the voxel size in µm that volumes are brought to."""
    if asked is not None and weights.network.in_um:
        raise InputError(
            f"'{weights.path.name}' was taught and takes other voxel sizes as they are: leave out --resample"
        )
    if not isinstance(asked, str):
        return asked
    spacing = trained_spacing(weights.path, weights.sha256)
    if spacing is None:
        raise InputError(
            f"no model card says which voxels '{weights.path.name}' was trained on: give their size, such as "
            "--resample 4.5"
        )
    return spacing


def _one_spacing(asked: float | str | None, several: Sequence[Weights]) -> float | None:
    """Return the voxel size in µm that volumes are brought to for all networks."""
    spacings = {one.path.name: _network_spacing(asked, one) for one in several}
    if len(set(spacings.values())) > 1:
        told = ", ".join(f"'{name}' {um:g} µm" for name, um in spacings.items())
        raise InputError(f"the networks were trained on other voxels ({told}): give one size, such as --resample 4.5")
    return next(iter(spacings.values()))


def _part(paths: list[Path], part: tuple[int, int] | None) -> list[Path]:
    """Return every N-th volume, from the I-th on: each is in exactly one part, and no part has two more than another.

    >>> [[path.name for path in _part([Path("a"), Path("b"), Path("c")], (number, 2))] for number in (1, 2)]
    [['a', 'c'], ['b']]
    """
    if part is None:
        return paths
    number, count = part
    return paths[number - 1 :: count]


def _told_part(paths: list[Path], part: tuple[int, int] | None) -> list[Path]:
    """Return a part of the volumes, of which the person is told."""
    these = _part(paths, part)
    if part is not None:
        tell(f"part {part[0]} of {part[1]}: {len(these)} of {len(paths)} volumes")
        if not these:
            tell(f"nothing to do: there are {len(paths)} volumes, fewer than parts")
    return these


def _each(paths: list[Path], weights: Weights, job: Job, summary: Outputs | None, *, force: bool, debug: bool) -> int:
    """Segment each volume by itself; with a table over all of them where there are several."""

    def segment(path: Path) -> Outcome:
        with pass_bar(weights.passes(job)) as bar:
            return segment_file(path, weights, job, say=tell, on_iteration=bar.advance, force=force, on_tile=bar.tiles)

    if summary is None:
        return run_batch(paths, segment, lambda path: path, debug=debug)
    table = BatchSummary(summary, with_options)

    def told(outcomes: Sequence[Outcome]) -> list[str]:
        lines = [*summary_lines(outcomes), f"this table: {summary.paths[0]}"]
        return lines if job.measures else [*lines, "length and radius: with --measures"]

    code = run_batch(paths, segment, lambda path: path, debug=debug, note=table.add, table=told)
    table.finish()
    return code


def _time_lapse(paths: list[Path], weights: Weights, job: Job, start: Start, arguments: argparse.Namespace) -> int:
    """Segment the time points of a recording in turn."""
    with open_time_lapse(paths, job, interval_s=arguments.interval) as lapse:
        tell(f"{len(lapse.paths)} time points, '{lapse.paths[0].name}' to '{lapse.paths[-1].name}'")
        with pass_bar(weights.passes(job) * len(lapse.paths)) as bar:
            run = TimeLapseRun(
                lapse, weights, job, start=start, say=tell, on_iteration=bar.advance, force=arguments.force
            )
            points = range(len(lapse.paths))
            code = run_batch(points, run.segment, lambda number: Path(lapse.stems[number]), debug=arguments.debug)
            run.finish()
    return code
