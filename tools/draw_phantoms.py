"""Draw docs/phantom_kinds.png: shapes and an optic lobe, as `make_phantoms.py --kind` makes them, with their labels.

python tools/draw_phantoms.py
"""

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.app.option_types import path_option  # noqa: E402
from micronet.app.terminal import run  # noqa: E402
from micronet.data.phantom.optic_lobe import optic_lobe  # noqa: E402
from micronet.data.phantom.shapes import draw_shapes  # noqa: E402
from micronet.report.figure import new_figure, write_figure  # noqa: E402

# Okabe & Ito 2008: any colour vision tells them apart.
_COLOURS = ("#56B4E9", "#E69F00")


def main(arguments: argparse.Namespace) -> int:
    """Draw both kinds: alone above, with labels below."""
    pairs = [draw_shapes((128, 128), np.random.default_rng(seed)) for seed in (5, 8)]
    image, mask = optic_lobe((128, 128, 128), np.random.default_rng(1))
    pairs += [(image[24], mask[24]), (image[:, 64], mask[:, 64])]
    figure = new_figure(8, 4.05, dpi=62)
    for column, (grey, labels) in zip(figure.subplots(2, len(pairs)).T, pairs, strict=True):
        for row, axes in enumerate(column):
            axes.imshow(grey, cmap="gray", vmin=np.percentile(grey, 0.5), vmax=np.percentile(grey, 99))
            axes.set_axis_off()
            for label, colour in enumerate(_COLOURS, 1):
                if row == 1 and (labels == label).any():
                    axes.contour(labels == label, [0.5], colors=colour, linewidths=1.0)
    write_figure(arguments.output / "phantom_kinds.png", figure)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=path_option, default=ROOT / "docs", metavar="DIR", help="(docs)")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback when something fails")
    return parser


if __name__ == "__main__":
    run(build_parser(), main)
