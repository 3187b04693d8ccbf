"""Score predicted masks against annotations: overlap, centrelines, topology, surface distances.

python evaluate.py predictions/embryo.seg.nrrd --annotation embryo_true.seg.nrrd
python evaluate.py predictions/ --annotation annotations/               # files of the same volume are put together
python evaluate.py predictions/ --annotation annotations/ --sweep       # probabilities: precision-recall curves too
python evaluate.py predictions/ --annotation annotations/ --report --image struct_iso/      # a page to look at
"""

import argparse
from pathlib import Path

import numpy as np

from micronet.app.batch import run_batch
from micronet.app.option_types import Real, Whole, axes_option, bytes_option, path_option, spacing_option, text_option
from micronet.app.terminal import inputs_from, run, tell
from micronet.core.errors import FileError, InputError
from micronet.core.outcome import Outcome
from micronet.core.ownership import check_outputs
from micronet.core.ram import SHARE, Allowance
from micronet.measure.lumen_files import write_vessels
from micronet.measure.pairs import (
    Pair,
    Reading,
    check_reading,
    check_scoring,
    evaluate_pair,
    files_of_pairs,
    find_pairs,
    read_pair,
    with_images,
)
from micronet.measure.report import EvaluationReport
from micronet.measure.scores import Scoring, summarise
from micronet.measure.tables import ScoreTables, planned_scores, summary_lines

# Of the bootstrap: the same volumes always give the same intervals.
SEED = 20261121


def main(arguments: argparse.Namespace) -> int:
    """Score each pair; a bad one never stops the others."""
    reading = Reading(
        probability=arguments.sweep,
        **{name: getattr(arguments, name) for name in Reading.__dataclass_fields__ if name != "probability"},
    )
    scoring = Scoring(arguments.beta, arguments.tolerance_um)
    table = arguments.output / "scores.csv"
    if table.exists() and not arguments.force:
        raise FileError(f"'{table}' exists; --force replaces it, -o DIR writes elsewhere")
    pairs, notes = find_pairs(arguments.predictions, arguments.annotations, probability=arguments.sweep)
    for note in notes:
        tell(f"note: {note}")
    if arguments.images and not arguments.report:
        raise InputError("--image is for --report: add it, or leave the images out")
    if arguments.images:
        pairs = with_images(pairs, inputs_from(arguments.images, raw=False))
    outputs = planned_scores(arguments.output, pairs, reading, report=arguments.report, measures=arguments.measures)
    check_outputs([outputs], files_of_pairs(pairs))
    outputs.check_room()
    report = EvaluationReport(len(pairs), reading, scoring) if arguments.report else None
    tables = ScoreTables(outputs, scoring, reading)

    def score(pair: Pair) -> Outcome:
        allowance = Allowance.of(arguments.max_ram)
        check_reading(pair, reading, allowance)
        masks = read_pair(pair, reading)
        tell(f"  {masks.descriptions[0]} against {masks.descriptions[1]}")
        for note in masks.notes:
            tell(f"  note: {note}")
        if masks.spacing_um is None:
            tell("  note: no spacing stated, so nothing in µm; give --spacing")
        check_scoring(pair, masks, allowance, measures=arguments.measures, report=report is not None)
        evaluation = evaluate_pair(masks, pair, scoring)
        if arguments.measures:
            with outputs.staged() as folder:
                write_vessels(folder, f"{pair.name}_predicted", masks.predicted)
                write_vessels(folder, f"{pair.name}_annotated", masks.annotated)
        if report is not None:
            report.add(masks, evaluation)
        tables.add(evaluation)
        return Outcome(pair.prediction, "done", evaluation.scores.headline())

    code = run_batch(pairs, score, lambda pair: pair.prediction, debug=arguments.debug)
    if tables.evaluations:
        summaries = summarise([one.scores for one in tables.evaluations], np.random.default_rng(SEED))
        files = tables.finish(summaries, report)
        tell("\n".join(summary_lines(tables.evaluations, summaries)))
        tell(f"wrote {arguments.output}/: {', '.join(file.name for file in files)}")
    return code


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    p = argparse.ArgumentParser(description="Score predicted masks against annotations.")
    p.add_argument("predictions", nargs="+", type=path_option, metavar="PREDICTION", help="masks, or folders of masks")
    p.add_argument(
        "--annotation",
        dest="annotations",
        nargs="+",
        type=path_option,
        required=True,
        metavar="FILE",
        help="or folders",
    )
    p.add_argument("-o", "--output", type=path_option, default=Path("scores"), metavar="DIR", help="default: scores")
    p.add_argument("--sweep", action="store_true", help="predictions are probabilities: score at every threshold too")
    p.add_argument(
        "--measures", action="store_true", help="write tables too: vessels, and their centrelines with radii"
    )
    p.add_argument(
        "--threshold",
        type=Real(0, 1, below=True),
        default=0.5,
        metavar="P",
        help="of probabilities (default: %(default)s)",
    )
    p.add_argument(
        "--beta",
        type=Real(0.001, 1000),
        default=2.0,
        metavar="B",
        help="of F-beta: recall counts B² times (%(default)s)",
    )
    p.add_argument(
        "--tolerance", dest="tolerance_um", type=Real(0, 1e6), metavar="UM", help="of the NSD (default: one voxel)"
    )
    p.add_argument(
        "--y-crop", type=Whole(1, 1_000_000), metavar="N", help="look only at the first N voxels in depth (Y)"
    )
    p.add_argument(
        "--segment", type=text_option, metavar="NAME|INDEX", help="which segment of a .seg.nrrd annotation to take"
    )
    p.add_argument(
        "--prediction-segment", type=text_option, metavar="NAME|INDEX", help="which segment of a .seg.nrrd prediction"
    )
    p.add_argument("--axes", type=axes_option, metavar="ZYX", help="order of the axes, where files do not say")
    p.add_argument("--spacing", dest="spacing_um", type=spacing_option, metavar="Z,Y,X", help="voxel size in µm")
    p.add_argument("--report", action="store_true", help="write a page too, with slices to scroll through (HTML)")
    p.add_argument(
        "--image",
        dest="images",
        nargs="+",
        type=path_option,
        default=[],
        metavar="FILE",
        help="shown in it; or folders",
    )
    p.add_argument(
        "--max-ram",
        type=bytes_option,
        metavar="SIZE",
        help=f"memory to take at most, such as 3GB (default: {100 * SHARE:.0f} %% of what is free)",
    )
    p.add_argument("--force", action="store_true", help="replace scores that are there")
    p.add_argument("--debug", action="store_true", help="show the whole traceback when something fails")
    return p


if __name__ == "__main__":
    run(build_parser(), main)
