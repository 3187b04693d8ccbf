"""What ``infer.py`` does: weights and inputs found, each input segmented in turn, or the time points of one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from micronet.app.batch import run_batch
from micronet.app.computing import set_engine, set_threads
from micronet.app.inputs import inputs_from
from micronet.app.options import settings_of
from micronet.app.terminal import tell
from micronet.core.errors import InputError
from micronet.core.outcome import Outcome
from micronet.networks.weights import find_weights
from micronet.segment.job import Job, Weights, check_results, check_stems, segment_file
from micronet.segment.time_lapse import Start, TimeLapseRun, open_time_lapse

__all__ = ["segment_inputs"]


def segment_inputs(arguments: argparse.Namespace, root: Path) -> int:
    """Segment each input in turn; `root` holds the demo and ``trained_models/``. Returns the exit code."""
    demo = not arguments.inputs
    if demo:
        paths = [root / "struct_iso" / "E5D_phantom_demo.nrrd"]
        arguments.annotation = arguments.annotation or (
            root / "annotations" / "annotation_phantom_demo_iso_full.seg.nrrd"
        )
    else:
        paths = inputs_from(arguments.inputs, raw=arguments.shape is not None)
    start = _start(arguments)
    if len(paths) > 1 and (arguments.annotation or (arguments.initial_mask and not arguments.time_lapse)):
        raise InputError(f"--annotation and --initial-mask go with one input, found {len(paths)}")
    for note in check_stems(paths):
        tell(f"note: {note}")
    job = settings_of(Job, arguments)
    threads = set_threads(arguments.threads)
    weights_path = find_weights(arguments.model, [Path("checkpoints"), Path("trained_models"), root / "trained_models"])
    if not arguments.time_lapse:
        check_results(paths, weights_path, job)
    weights = Weights.load(weights_path, arguments.device, say=tell)
    computes = set_engine(arguments.engine, weights.network, device=arguments.device)
    tell(f"weights {weights.path} ({weights.network.name}); {computes}, {arguments.device}, {threads} threads")
    if arguments.time_lapse:
        return _time_lapse(paths, weights, job, start, arguments)
    code = _each(paths, weights, job, force=arguments.force or demo, debug=arguments.debug)
    if demo:
        tell(f"The files are in {job.output.resolve()}: drag the volume and the .seg.nrrd into 3D Slicer,")
        tell("or open the preview. Your own volume: python infer.py FILE (python infer.py --help shows more).")
    return code


def _start(arguments: argparse.Namespace) -> Start:
    """Return where the time points start, and leave in --initial-mask only a file."""
    word = str(arguments.initial_mask)
    if word in ("previous", "blank"):
        if not arguments.time_lapse:
            raise InputError(f"--initial-mask {word} goes with --time-lapse; a file of that name is ./{word}")
        arguments.initial_mask = None
    if not arguments.time_lapse and arguments.interval is not None:
        raise InputError("--interval goes with --time-lapse")
    if arguments.time_lapse and not arguments.inputs:
        raise InputError("--time-lapse needs an INPUT: a 4-D file, or the files of the time points in their order")
    return "blank" if word == "blank" else "previous"


def _each(paths: list[Path], weights: Weights, job: Job, *, force: bool, debug: bool) -> int:
    """Segment each volume by itself."""

    def segment(path: Path) -> Outcome:
        with _bar(weights.passes(job)) as bar:
            return segment_file(path, weights, job, say=tell, on_iteration=bar.advance, force=force, on_tile=bar.tiles)

    return run_batch(paths, segment, lambda path: path, debug=debug)


def _time_lapse(paths: list[Path], weights: Weights, job: Job, start: Start, arguments: argparse.Namespace) -> int:
    """Segment the time points of a recording in turn."""
    with open_time_lapse(paths, job, interval_s=arguments.interval) as lapse:
        tell(f"{len(lapse.paths)} time points, '{lapse.paths[0].name}' to '{lapse.paths[-1].name}'")
        with _bar(weights.passes(job) * len(lapse.paths)) as bar:
            run = TimeLapseRun(
                lapse, weights, job, start=start, say=tell, on_iteration=bar.advance, force=arguments.force
            )
            points = range(len(lapse.paths))
            code = run_batch(points, run.segment, lambda number: Path(lapse.stems[number]), debug=arguments.debug)
            run.finish()
    return code


class _Bar:
    """A bar of passes; of what is segmented in tiles, of the tiles of all passes."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self, _: object) -> None:
        """Note that a pass is done."""
        self._bar.update()

    def tiles(self, done: int, total: int) -> None:
        """Note that a tile is done."""
        self._bar.unit, self._bar.total = "tile", total
        self._bar.update(done - self._bar.n)


@contextmanager
def _bar(passes: int) -> Iterator[_Bar]:
    """Show a bar while a block lasts."""
    with tqdm(total=passes, leave=False, disable=None, unit="pass") as bar:
        yield _Bar(bar)
