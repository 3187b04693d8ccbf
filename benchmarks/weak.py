"""Measure what labels of images and of blocks are worth: a yes or no instead of a mask.

python benchmarks/weak.py DATA --row blocks-8 blocks-16 --seed 1 2 3     # light sheet, REAL
python benchmarks/weak.py --row otsu --minutes 1

Rows of blocks need DATA with lightsheet/brain_vessels.tif and brain_vessels_sparse.tif: planes z < 50, every voxel of
which is annotated, are cut out, and a block is told to hold lumen where the annotation has a voxel of it in it. Nothing
else of the annotation is shown. All masks are scored on all voxels of these planes, as those of the forest are, which
learns from the same block labels: every voxel of a block counts as the block does. Seconds are CPU seconds of the
process, so that a busy machine measures the same. `--minutes` is the CPU time that training and the map may take.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.feature import multiscale_basic_features
from skimage.filters import threshold_otsu
from sklearn.ensemble import RandomForestClassifier

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.core.provenance import versions  # noqa: E402
from micronet.io import read_volume  # noqa: E402
from micronet.measure.overlap import overlap  # noqa: E402
from micronet.networks.normalize import log_intensity, normalize_image  # noqa: E402
from micronet.training.blocks.labels import blocks_of_mask  # noqa: E402
from micronet.training.blocks.learn import block_map, over_voxels, sparse_labels, train_block_net  # noqa: E402
from micronet.training.teach.course import teach  # noqa: E402
from micronet.training.teach.lesson import Lesson  # noqa: E402

_PLANES, _UM = 50, (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Task:
    """What a row is given: where the data lie, the seed, and the CPU minutes it may take."""

    data: Path | None
    seed: int
    minutes: float


@dataclass(frozen=True)
class Score:
    """One line of a row's result."""

    method: str
    data: str
    numbers: str
    cpu_s: float


def light_sheet(task: Task) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the logarithm of the annotated planes, normalised, and the annotation."""
    if task.data is None:
        raise SystemExit("this row needs DATA")
    how = {"axes": "ZYX", "spacing_um": _UM}
    image = read_volume(task.data / "lightsheet" / "brain_vessels.tif", **how).array[:_PLANES]
    truth = read_volume(task.data / "lightsheet" / "brain_vessels_sparse.tif", **how).array[:_PLANES]
    if not (truth > 0).all():
        raise SystemExit("planes that are not annotated")
    return normalize_image(log_intensity(image)), truth == 1


def _score(method: str, mask: NDArray[np.bool_], truth: NDArray[np.bool_], began: float) -> Score:
    took, found = time.process_time() - began, overlap(mask, truth)
    return Score(
        method,
        "light sheet z < 50, REAL",
        f"Dice {found.f_score():.3f} precision {found.precision:.3f} recall {found.recall:.3f}",
        took,
    )


def otsu(task: Task) -> list[Score]:
    """Above Otsu's threshold of the logarithm: no label at all."""
    image, truth = light_sheet(task)
    began = time.process_time()
    return [_score("otsu of the logarithm", image > threshold_otsu(image), truth, began)]


def blocks(edge: int) -> Callable[[Task], list[Score]]:
    """Return the rows of cubic blocks: the map alone, and taught from what is sure in it."""

    def run(task: Task) -> list[Score]:
        image, truth = light_sheet(task)
        size = (edge,) * 3
        told = blocks_of_mask(truth, size)
        began = time.process_time()
        network = train_block_net(image, told, size, seed=task.seed)
        found = block_map(network, image, told, size)
        scores = [_score(f"blocks of {edge}³: map", found.mask, truth, began)]
        if scores[0].cpu_s > 60 * task.minutes:
            raise SystemExit(f"training and map took {scores[0].cpu_s:.0f} s of CPU, more than allowed")
        anywhere = found.activation > found.threshold
        scores.append(_score(f"blocks of {edge}³: map, blocks not imposed", anywhere, truth, began))
        lesson = Lesson(image, sparse_labels(found, told, size), _UM)
        taught = teach(lesson, task.seed).network.predict(image, _UM) > 0.5
        return [*scores, _score(f"blocks of {edge}³: then teach", taught, truth, began)]

    return run


def forest(edge: int) -> Callable[[Task], list[Score]]:
    """Return the row of a random forest on filter features that takes the blocks' labels for their voxels'."""

    def run(task: Task) -> list[Score]:
        image, truth = light_sheet(task)
        size = (edge,) * 3
        lumen = over_voxels(blocks_of_mask(truth, size) == 1, size, truth.shape)
        began = time.process_time()
        threads = torch.get_num_threads()
        rows = multiscale_basic_features(image, sigma_min=0.7, sigma_max=5, workers=threads)
        rows = rows.reshape(-1, rows.shape[-1])
        drawn = np.random.default_rng([task.seed, 20]).choice(len(rows), 50_000, replace=False)
        model = RandomForestClassifier(100, n_jobs=threads, random_state=task.seed, min_samples_leaf=3)
        model.fit(rows[drawn], lumen.ravel()[drawn])
        probability = model.predict_proba(rows)[:, 1].reshape(truth.shape)
        name = f"blocks of {edge}³: random forest"
        return [
            _score(f"{name}, above one half", probability > 0.5, truth, began),
            _score(
                f"{name}, above its Otsu, blocks imposed",
                lumen & (probability > threshold_otsu(probability)),
                truth,
                began,
            ),
        ]

    return run


#: Of light sheet first; add a row with a line here.
ROWS: dict[str, Callable[[Task], list[Score]]] = {
    "otsu": otsu,
    "blocks-8": blocks(8),
    "blocks-16": blocks(16),
    "forest-8": forest(8),
    "forest-16": forest(16),
}


def main() -> None:
    """Print a line a result, as it comes."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", nargs="?", type=Path, metavar="DATA")
    p.add_argument("--row", nargs="+", choices=ROWS, default=list(ROWS))
    p.add_argument("--seed", nargs="+", type=int, default=[1, 2, 3])
    p.add_argument("--minutes", type=float, default=5.0, help="of CPU that a row may train (default: %(default)s)")
    p.add_argument("--threads", type=int, default=1)
    arguments = p.parse_args()
    torch.set_num_threads(arguments.threads)
    print(", ".join(f"{name} {number}" for name, number in versions().items()), f"; {arguments.threads} threads")
    for row in arguments.row:
        for seed in arguments.seed:
            for score in ROWS[row](Task(arguments.data, seed, arguments.minutes)):
                print(f"{score.method:48}  {score.data}  seed {seed}  {score.numbers}  {score.cpu_s:.0f} s", flush=True)


if __name__ == "__main__":
    main()
