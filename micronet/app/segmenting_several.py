"""What ``infer.py`` does for several segments: each input into one file, with a row for each segment in the table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from micronet.app.batch import run_batch
from micronet.app.progress import pass_bar
from micronet.app.terminal import tell, with_options
from micronet.core.errors import InputError
from micronet.core.outcome import Outcome
from micronet.segment.members import Members, check_members, check_wishes
from micronet.segment.settings import Job
from micronet.segment.summary import BatchSummary, planned_summary, summary_lines

__all__ = ["check_several", "segment_into_several"]


def check_several(job: Job, arguments: argparse.Namespace, *, exclusive: bool) -> None:
    """Raise InputError where options go with one mask only."""
    if arguments.time_lapse:
        raise InputError("--time-lapse goes with one network that finds a lumen, not with several segments")
    check_wishes(job, exclusive)


def segment_into_several(
    paths: Sequence[Path], these: Sequence[Path], members: Members, job: Job, arguments: argparse.Namespace
) -> int:
    """Segment each of these volumes, a part of all, with a table over them; return the exit code."""
    from micronet.segment.several import segment_several  # its page takes 0.3 s to import

    summary = planned_summary(job.output, arguments.part, several=True) if len(paths) > 1 else None
    check_members(paths, members, job, [] if summary is None else [summary], these=these)

    def segment(path: Path) -> Outcome:
        with pass_bar(members.passes(job)) as bar:
            return segment_several(
                path,
                members,
                job,
                say=tell,
                on_iteration=bar.advance,
                force=arguments.force or not arguments.inputs,
                on_tile=bar.tiles,
            )

    if summary is None:
        return run_batch(these, segment, lambda path: path, debug=arguments.debug)
    table = BatchSummary(summary, with_options, several=True)

    def told(outcomes: Sequence[Outcome]) -> list[str]:
        return [*summary_lines(outcomes), f"this table: {summary.paths[0]}"]

    code = run_batch(these, segment, lambda path: path, debug=arguments.debug, note=table.add, table=told)
    table.finish()
    return code
