"""Compare the speckle of simulated OCT with that of real frames (of retina), raw and after the same decimation.

python benchmarks/speckle.py FRAMES            # FRAMES holds eye3_1.tif .. eye3_4.tif, eye3_test.tif and the like

Real frames hold log intensity in grey values of unknown slope. It is taken from the darkest, most even region, in which
there is nothing but noise: the logarithm of fully developed speckle has a standard deviation of pi / sqrt(6) (Goodman
1976), and so has the detector's noise. Slow changes are taken away first (a Gaussian of 15 pixels). The decimation is
that of micronet.data.phantom: linear intensity averaged over a Gaussian of 0.8 pixels along depth, across, and over
neighbouring B-scans.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage, stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.core.provenance import versions, write_json  # noqa: E402
from micronet.data.phantom import PRESETS, Optics, only, render_oct  # noqa: E402

Array = NDArray[np.float64]
FRAMES = ("1", "2", "test", "3", "4")
#: Rows and columns; eye 11's retina lies tilted, so its regions are few.
REGIONS = {
    "eye3": {
        "vitreous": np.s_[:, 10:70, 60:840],
        "inner retina": np.s_[:, 130:160, 560:720],
        "choroid": np.s_[:, 235:260, 480:740],
    },
    "eye11": {"deep": np.s_[:, 330:410, 450:740], "choroid": np.s_[:, 235:260, 480:740]},
}
NOISE = {"eye3": "vitreous", "eye11": "deep"}
FULL = math.pi / math.sqrt(6)
_SLOW, _AVERAGE = 15.0, 0.8


def measures(log: Array) -> dict[str, float | list[float]]:
    """Return contrast, skewness and autocorrelations of residual log intensity (B-scans, depth, across)."""

    def along(axis: int) -> list[float]:
        lags = range(min(5, log.shape[axis]))
        parts = [(log.take(range(log.shape[axis] - k), axis), log.take(range(k, log.shape[axis]), axis)) for k in lags]
        return [float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in parts]

    return {
        "contrast": float(log.std()),
        "skewness": float(stats.skew(log.ravel())),
        "depth": along(1),
        "across": along(2),
        "B-scans": along(0),
    }


def decimated(log: Array) -> Array:
    """Return the logarithm of the linear intensity averaged as the simulator does it."""
    return np.log(ndimage.gaussian_filter(np.exp(log), _AVERAGE, truncate=3.0, mode="reflect"))


def even(log: Array) -> Array:
    """Return what is left without slow changes within each B-scan."""
    return np.asarray(log - ndimage.gaussian_filter(log, (0, _SLOW, _SLOW)))


def real(folder: Path, eye: str) -> dict[str, tuple[Array, Array]]:
    """Return log intensity of each region of an eye, raw and decimated."""
    grey = np.stack([tifffile.imread(folder / f"{eye}_{frame}.tif") for frame in FRAMES]).astype(float)
    slope = FULL / even(grey)[REGIONS[eye][NOISE[eye]]].std()
    log = grey * slope
    averaged = decimated(log)
    return {f"{eye}, {name}": (even(log)[box], even(averaged)[box]) for name, box in REGIONS[eye].items()}


def simulated(optics: Optics) -> tuple[Array, Array]:
    """Return log intensity of the medium, raw and decimated: without texture, noise alone."""
    found = []
    for average in (0.01, optics.speckle_average_vox):
        quiet = replace(optics, body_texture=0.0, wall_texture=0.0, speckle_average_vox=average, decoys=only([]))
        wide = replace(quiet, black=-8.0, white=5.0)
        image = render_oct(np.zeros((12, 300, 200), bool), np.random.default_rng(1), wide).astype(float)
        found.append(even(image[:, 5:45] * (wide.white - wide.black) / 255))
    return found[0], found[1]


def table(found: Mapping[str, tuple[Array, Array]]) -> str:
    """Return Markdown: a line for each region."""
    lines = ["| | contrast, ln | skewness | next voxel in depth | across | next B-scan |", "|---" * 6 + "|"]
    for step, what in enumerate(("raw", "decimated")):
        for name, both in found.items():
            m = measures(both[step])
            lags = " | ".join(f"{m[key][1]:.2f}" for key in ("depth", "across", "B-scans"))
            lines.append(f"| {name}, {what} | {m['contrast']:.2f} | {m['skewness']:.2f} | {lags} |")
    return "\n".join(lines)


def write_figure(path: Path, found: Mapping[str, tuple[Array, Array]]) -> None:
    """Draw distributions and autocorrelation along depth, raw and decimated."""
    figure = Figure(figsize=(9, 6), dpi=85, layout="constrained")
    FigureCanvasAgg(figure)
    for row, what in zip(figure.subplots(2, 2), ("raw", "decimated"), strict=True):
        for name, both in found.items():
            log = both[what == "decimated"]
            style = "-" if name.startswith("eye") else "--"
            bins = np.linspace(-4, 2.5, 45) if what == "raw" else np.linspace(-1.5, 1.2, 33)
            heights, edges = np.histogram(log - log.mean(), bins, density=True)
            row[0].plot(0.5 * (edges[1:] + edges[:-1]), heights, style, label=name if what == "raw" else None)
            row[1].plot(measures(log)["depth"], style, marker="o", ms=3)
        row[0].set(xlabel=f"log intensity, {what}", ylabel="density")
        row[1].set(xlabel="voxels along depth", ylabel="autocorrelation")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path)


def main() -> None:
    """Print the table; write figure, table and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("frames", type=Path, help="folder with raw B-scans of real OCT")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    arguments = parser.parse_args()
    found = {}
    for eye in REGIONS:
        found |= real(arguments.frames, eye)
    for name in ("plain", "oct"):
        found[f"preset {name}"] = simulated(PRESETS[name])
    text = table(found)
    arguments.output.mkdir(parents=True, exist_ok=True)
    record = {name: [measures(part) for part in both] for name, both in found.items()}
    write_json(arguments.output / "speckle.json", {"measures": record, "versions": versions()})
    (arguments.output / "speckle.md").write_text(text + "\n", encoding="utf-8")
    write_figure(arguments.output / "speckle.png", found)
    print(text)


if __name__ == "__main__":
    main()
