"""Measure what labels of images and of blocks are worth: a yes or no instead of a mask.

python benchmarks/weak.py DATA --row blocks-8 blocks-16 --seed 1 2 3     # light sheet, REAL
python benchmarks/weak.py --row otsu --minutes 1

Rows of blocks need DATA with lightsheet/brain_vessels.tif and brain_vessels_sparse.tif: planes z < 50, every voxel of
which is annotated, are cut out, and a block is told to hold lumen where the annotation has a voxel of it in it. Nothing
else of the annotation is shown. All masks are scored on all voxels of these planes, as those of the forest are, which
learns from the same block labels: every voxel of a block counts as the block does. Seconds are CPU seconds of the
process, so that a busy machine measures the same. `--minutes` is the CPU time that training and the map may take.

Rows of shapes make their images, and need no DATA: 256 x 256 pixels with small ellipses to be found among lines;
those of usual shapes have ellipses and lines as `make_phantoms.py --kind shapes` draws them, large and on each other. A
network of images is shown crops of 64 x 64 (of usual shapes 32 x 32, as those of 64 seldom lack one) and whether an
ellipse, or a line, has 20 pixels in them; a U-Net is shown crops of 64 x 64 with masks. Both train for so many minutes.
Of 40 other images: a point is the centre of a piece, and right within 3 pixels of that of an ellipse that no other
point has; pieces of fewer than 12 pixels are left out. Regions are those of `infer.py --regions`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from skimage.feature import multiscale_basic_features
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops
from sklearn.ensemble import RandomForestClassifier

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.core.provenance import versions  # noqa: E402
from micronet.core.volume import Volume, upright  # noqa: E402
from micronet.data.augmentation import CROPS_2D  # noqa: E402
from micronet.data.dataset import Sample  # noqa: E402
from micronet.data.image_samples import Cut as Crops  # noqa: E402
from micronet.data.image_samples import ImageSample, Part, boxes_of, mask_labels  # noqa: E402
from micronet.data.phantom.shapes import Shapes, draw_shapes  # noqa: E402
from micronet.io import read_volume  # noqa: E402
from micronet.measure.cutting import OTSU  # noqa: E402
from micronet.measure.overlap import Overlap, overlap  # noqa: E402
from micronet.measure.presence import class_scores  # noqa: E402
from micronet.networks.library import Build, UNet  # noqa: E402
from micronet.networks.micranet import MicraNet  # noqa: E402
from micronet.networks.normalize import log_intensity, normalize_image  # noqa: E402
from micronet.segment.weak.found import detections, look, marked, stands_out  # noqa: E402
from micronet.segment.weak.regions import mean_in, regions_of  # noqa: E402
from micronet.training.blocks.labels import blocks_of_mask  # noqa: E402
from micronet.training.blocks.learn import block_map, over_voxels, sparse_labels, train_block_net  # noqa: E402
from micronet.training.practice import Practice  # noqa: E402
from micronet.training.presence import IMAGE_PRACTICE, PresenceTrainer, presence_of  # noqa: E402
from micronet.training.recipe import NETWORK_RECIPE  # noqa: E402
from micronet.training.teach.course import teach  # noqa: E402
from micronet.training.teach.lesson import Lesson  # noqa: E402
from micronet.training.trainer import Trainer  # noqa: E402

_PLANES, _UM = 50, (1.0, 1.0, 1.0)
_LEAST = 12


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


@dataclass(frozen=True)
class Drawn:
    """Which shapes are drawn, and what they are called."""

    name: str
    shapes: Shapes
    crop: int = 64


_SMALL = Drawn(
    "small ellipses among lines, SIMULATED",
    Shapes(lines=(1, 5), line_length=(0.1, 0.4), ellipses=(1, 9), semi_axis=(0.018, 0.035)),
)
_USUAL = Drawn("shapes of make_phantoms.py, SIMULATED", Shapes(), crop=32)


def _shapes(drawn: Drawn, seed: int, count: int) -> list[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Return images (1, Y, X), normalised, and their labels: 1 line, 2 ellipse."""
    rngs = (np.random.default_rng([seed, 64, number]) for number in range(count))
    pairs = (draw_shapes((256, 256), rng, drawn.shapes) for rng in rngs)
    return [(normalize_image(image.astype(np.float32)[None]), labels[None]) for image, labels in pairs]


def _until(task: Task) -> Callable[[], bool]:
    end = time.process_time() + 60 * task.minutes
    return lambda: time.process_time() > end


def _of_crops(crop: int, number: int, image: NDArray[np.float32], labels: NDArray[np.uint8]) -> ImageSample:
    cut = Crops((1, crop, crop), (1, crop // 2, crop // 2), area=20)
    parts = [
        Part(box, mask_labels(labels[tuple(slice(*span) for span in box)], None, 2, cut))
        for box in boxes_of(image.shape, cut)
    ]
    return ImageSample.of(str(number), image, parts)


def shapes_images(drawn: Drawn, task: Task) -> list[Score]:
    """Score the pieces, and the points, of a MICRA-Net that was told which crops hold a line or an ellipse."""
    began = time.process_time()
    torch.manual_seed(task.seed)
    model = MicraNet(2, ("line", "ellipse"), 8)
    data = [_of_crops(drawn.crop, number, *pair) for number, pair in enumerate(_shapes(drawn, task.seed, 100))]
    # As many pixels a step of crops of any size, about.
    practice = replace(IMAGE_PRACTICE, lr=2e-3, batch_size=16 if drawn.crop == 64 else 32)
    trainer = PresenceTrainer(model, data, seed=task.seed, practice=practice)
    trainer.begin(1000)
    trainer.run(lambda _: None, lambda _: None, _until(task))
    took = time.process_time() - began
    tests = _shapes(drawn, task.seed + 1000, 40)
    parts = [presence_of(model, _of_crops(drawn.crop, 0, *pair)) for pair in tests]
    truth = [[part.labels for part in _of_crops(drawn.crop, 0, *pair).parts] for pair in tests]
    scores = class_scores(model.classes, np.concatenate(truth), np.concatenate(parts))
    found, points, whole = [], [], []
    for image, _ in tests:
        seen = look([model], image)
        holds = [bool(seen.probability[0, 1] > 0.5)]
        in_regions = mean_in(regions_of(image, flat=True), np.maximum(seen.coarse[1], 0))
        whole.append(stands_out(in_regions, holds, OTSU)[0])
        map_ = marked(seen.coarse[1], seen.precise[1], flat=True)
        mask = stands_out(map_, holds, OTSU)
        found.append(mask[0])
        pieces = detections(1, map_, mask, [1.0])
        points.append(np.array([one.voxel[1:] for one in pieces if one.voxels >= _LEAST]).reshape(-1, 2))
    truths = [labels[0] == 2 for _, labels in tests]
    name = f"image labels, {trainer.step} steps"
    presence = ", ".join(f"{one.name} F1 {one.f1:.3f} AP {one.average_precision:.3f}" for one in scores)
    return [
        Score(f"{name}: presence in crops", drawn.name, presence, took),
        _detected(f"{name}: centres of pieces", drawn, found, truths, [_centres(mask) for mask in found], took),
        _detected(f"{name}: points at the maximum", drawn, found, truths, points, took),
        _detected(f"{name}: centres of regions", drawn, whole, truths, [_centres(mask) for mask in whole], took),
    ]


def shapes_masks(drawn: Drawn, task: Task) -> list[Score]:
    """Score a U-Net that was shown every pixel of the ellipses."""
    began = time.process_time()
    torch.manual_seed(task.seed)
    model = UNet(Build(dimensions=2, depth=3, start_channels=8))
    grid = upright(_UM)
    data = [
        Sample.of(str(number), Volume(image, grid, units="um"), labels == 2)
        for number, (image, labels) in enumerate(_shapes(drawn, task.seed, 100))
    ]
    practice = Practice((1, 64, 64), samples_per_volume=49, batch_size=16, lr=2e-3)
    recipe = replace(NETWORK_RECIPE, augmentation=CROPS_2D)
    trainer = Trainer(model, data, (), recipe, task.seed, practice=practice)
    trainer.begin(1000)
    trainer.run(lambda _: None, lambda _: None, _until(task))
    took = time.process_time() - began
    tests = _shapes(drawn, task.seed + 1000, 40)
    model.eval()
    with torch.inference_mode():
        found = [model(torch.from_numpy(image)[None, None])[0, 0, 0].numpy() > 0.5 for image, _ in tests]
    points = [_centres(mask) for mask in found]
    name = f"U-Net with masks, {trainer.step} steps"
    return [_detected(name, drawn, found, [labels[0] == 2 for _, labels in tests], points, took)]


def _centres(mask: NDArray[np.bool_], least: int = _LEAST) -> NDArray[np.float64]:
    """Return the centres of the pieces of a mask (Y, X) that have so many pixels, (N, 2)."""
    pieces = [one.centroid for one in regionprops(label(mask)) if one.area >= least]
    return np.array(pieces, float).reshape(-1, 2)


def _detected(
    name: str,
    drawn: Drawn,
    found: Sequence[NDArray[np.bool_]],
    truths: Sequence[NDArray[np.bool_]],
    points: Sequence[NDArray[np.float64]],
    took: float,
) -> Score:
    right = wrong = missed = 0
    pooled, off = Overlap(0, 0, 0), []
    for mask, truth, told in zip(found, truths, points, strict=True):
        there = _centres(truth, 20)
        near = np.linalg.norm(told[:, None] - there[None], axis=2) <= 3
        hits = int(near[linear_sum_assignment(near, maximize=True)].sum())
        right, wrong, missed = right + hits, wrong + len(told) - hits, missed + len(there) - hits
        pooled += overlap(mask, truth)
        off.append(abs(len(told) - len(there)))
    counts = Overlap(right, wrong, missed)
    numbers = (
        f"F1 {counts.f_score():.3f} precision {counts.precision:.3f} recall {counts.recall:.3f} "
        f"Dice {pooled.f_score():.3f} count off by {np.mean(off):.2f}"
    )
    return Score(name, drawn.name, numbers, took)


#: Of light sheet first; add a row with a line here.
ROWS: dict[str, Callable[[Task], list[Score]]] = {
    "otsu": otsu,
    "blocks-8": blocks(8),
    "blocks-16": blocks(16),
    "forest-8": forest(8),
    "forest-16": forest(16),
    "shapes-images": partial(shapes_images, _SMALL),
    "shapes-masks": partial(shapes_masks, _SMALL),
    "usual-shapes-images": partial(shapes_images, _USUAL),
    "usual-shapes-masks": partial(shapes_masks, _USUAL),
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
