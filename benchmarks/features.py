"""Time scale-space features against scikit-image's, and measure what a pixel network needs beside the volume.

python benchmarks/features.py                    # 100³ against scikit-image; memory at 256³

Same scales and threads, in turn in one process, the shortest time counts. From every scale scikit-image makes
intensity, edges and Hessian eigenvalues, as we do. Memory is the growth of the largest resident size while a pixel
network of three members is applied to a loaded float32 volume, the probability included.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
from skimage.feature import multiscale_basic_features

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.core.threads import physical_cores  # noqa: E402
from micronet.networks.kernels.scale_space import features  # noqa: E402
from micronet.networks.pixel import PixelNetwork  # noqa: E402

#: scikit-image spaces its scales in powers; these are ours, at the same ones.
FINEST, COARSEST, SCALES = 0.7, 6.0, 6
ONE = (1.0, 1.0, 1.0)


def peak_bytes() -> int:
    """Return the largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=100, help="edge of the volume that is timed (default: %(default)s)")
    parser.add_argument("--memory-size", type=int, default=256, help="of the one for memory (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=physical_cores())
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    scales = tuple(np.logspace(np.log2(FINEST), np.log2(COARSEST), SCALES, base=2))
    network = PixelNetwork(scales, members=3)
    network.predict(np.zeros((8, 8, 8), np.float32), ONE)  # compiled, or loaded from the cache
    volume = rng.standard_normal((arguments.memory_size,) * 3, dtype=np.float32)
    before = peak_bytes()
    network.predict(volume, ONE, threads=arguments.threads)
    grown = (peak_bytes() - before) / volume.size
    print(
        f"pixel network at {arguments.memory_size}³: {grown:.1f} bytes a voxel above the loaded volume, "
        "4 of them the result"
    )
    volume = rng.standard_normal((arguments.size,) * 3, dtype=np.float32)
    features(volume, scales, ONE)
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        began = time.perf_counter()
        features(volume, scales, ONE, threads=arguments.threads)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        multiscale_basic_features(
            volume, sigma_min=FINEST, sigma_max=COARSEST, num_sigma=SCALES, workers=arguments.threads
        )
        theirs.append(time.perf_counter() - began)
    print(
        f"features at {arguments.size}³, {arguments.threads} threads: {min(ours):.3f} s, "
        f"scikit-image {min(theirs):.3f} s: {min(theirs) / min(ours):.1f} times as long"
    )


if __name__ == "__main__":
    main()
