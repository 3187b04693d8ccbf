"""Measure on plain beating phantoms whether a time point should start from the mask of the last, or from a blank one.

python benchmarks/time_lapse.py                                  # minutes; the bundled weights
python benchmarks/time_lapse.py --model trained_models/ur-net_b0.5_1200.pt

Every sequence is an embryo whose heart beats, each time point with a speckle of its own. The first time point refines
ten times from a blank mask, as infer.py --time-lapse does; it is not scored. F (Dice) of the others against their true
masks. With --drift the stage moves as well, by so many voxels a time point along X.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.core.provenance import sha256_of, versions, write_json  # noqa: E402
from micronet.core.threads import physical_cores  # noqa: E402
from micronet.data.phantom import Optics, beating, render_oct  # noqa: E402
from micronet.measure.overlap import overlap  # noqa: E402
from micronet.networks.models import MicroNet, MicroRNet  # noqa: E402
from micronet.networks.normalize import normalize_image  # noqa: E402
from micronet.networks.weights import load_model  # noqa: E402
from micronet.segment.refine import refine  # noqa: E402
from micronet.segment.time_lapse import FIRST_ITERATIONS  # noqa: E402

STARTS = ("blank", "previous")


def sequence(seed: int, size: int, time_points: int, drift: int) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Return a normalised image and the true mask for each time point of a beat."""
    found = []
    wide = size + drift * (time_points - 1)
    for number, mask in enumerate(beating((size, size, wide), seed, time_points)):
        seen = mask[:, :, drift * number : drift * number + size]
        found.append((normalize_image(render_oct(seen, np.random.default_rng([seed, number]), Optics())), seen))
    return found


def scores(
    points: list[tuple[NDArray[np.float32], NDArray[np.bool_]]],
    first: NDArray[np.float32],
    model: MicroNet | MicroRNet,
    start: str,
    iterations: int,
) -> list[float]:
    """Return F of each time point but the first, whose probability is given."""
    blank = np.zeros_like(first)
    last = first
    found = []
    for image, mask in points[1:]:
        last = refine(image, last if start == "previous" else blank, model, iterations)
        found.append(overlap(last > 0.5, mask).f_score())
    return found


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "trained_models" / "ur-net_phantom.pt", help="a µr-Net")
    parser.add_argument("--iterations", type=int, nargs="+", default=[1, 2, 3, 10], metavar="N")
    parser.add_argument("--seeds", type=int, default=4, help="embryos (default: %(default)s)")
    parser.add_argument("--time-points", type=int, default=12, help="of one beat (default: %(default)s)")
    parser.add_argument("--size", type=int, default=96, help="voxels along each axis (default: %(default)s)")
    parser.add_argument("--drift", type=int, default=0, metavar="VOXELS", help="of the stage (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/time_lapse.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, sha256 = load_model(arguments.model), sha256_of(arguments.model)
    results: dict[str, list[list[float]]] = {}
    for seed in range(500, 500 + arguments.seeds):
        points = sequence(seed, arguments.size, arguments.time_points, arguments.drift)
        first = refine(points[0][0], np.zeros_like(points[0][0]), model, FIRST_ITERATIONS)
        for iterations in arguments.iterations:
            for start in STARTS:
                results.setdefault(f"{start} {iterations}", []).append(scores(points, first, model, start, iterations))
        print(f"embryo {seed} done", flush=True)

    print(f"\n{arguments.model.name}, sha256 {sha256[:12]}")
    print(
        "\n| iterations | from blank: mean F | worst | from the last: mean F | worst | time points where it is higher |"
    )
    print(f"|{'---|' * 6}")
    for iterations in arguments.iterations:
        blank, previous = (np.array(results[f"{start} {iterations}"]) for start in STARTS)
        print(
            f"| {iterations} | {blank.mean():.4f} | {blank.min():.3f} | {previous.mean():.4f} | {previous.min():.3f} | "
            f"{np.mean(previous > blank):.0%} |"
        )
    settings = {key: getattr(arguments, key) for key in ("seeds", "time_points", "size", "drift", "threads")}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        arguments.output,
        {
            "model": arguments.model.name,
            "sha256": sha256,
            "settings": settings,
            "f": results,
            "versions": versions(),
        },
    )


if __name__ == "__main__":
    main()
