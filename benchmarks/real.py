"""Measure on real volumes what a few annotated slices or strokes are worth to each way of segmenting.

python benchmarks/real.py DATA                                   # all of it
python benchmarks/real.py DATA --only forest pixel --volumes lightsheet --seeds 1
python benchmarks/real.py DATA -o real.json                      # again: goes on where it was interrupted

DATA holds lightsheet/brain_vessels.tif with brain_vessels_sparse.tif, and two_photon/NAME.nrrd with NAME_label.nrrd.
Of a two-photon volume the central 384 x 384 voxels of every plane are taken. Each method is given the same annotated
voxels and scored on those that were not annotated; where the truth is known in a part of the volume, in that part. In
clDice both masks hold the annotation where there is one. Seconds are those from labels to mask, training and features
included. MONAI's U-Net trains for the CPU seconds that `chosen` took for the same labels and seed, cross-validation and
µ-Net included; where `chosen` is not asked for it is run for that. Every score is written when it is there.

To add a method, add a line to METHODS. Needs scikit-learn and MONAI (requirements-dev.txt).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets import UNet
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import multiscale_basic_features
from skimage.filters import sato, threshold_otsu
from sklearn.ensemble import RandomForestClassifier
from torch.nn.functional import binary_cross_entropy_with_logits

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.core.provenance import versions, write_json  # noqa: E402
from micronet.core.threads import physical_cores  # noqa: E402
from micronet.core.volume import bounding_box  # noqa: E402
from micronet.io import read_volume  # noqa: E402
from micronet.measure.overlap import overlap  # noqa: E402
from micronet.measure.topology import cl_dice  # noqa: E402
from micronet.networks.kernels.scale_space import default_scales, features_at  # noqa: E402
from micronet.networks.normalize import normalize_image  # noqa: E402
from micronet.training.teach.course import default_learners, teach  # noqa: E402
from micronet.training.teach.learners import MicroNetLearner, TreesLearner  # noqa: E402
from micronet.training.teach.lesson import Learner, Lesson  # noqa: E402
from micronet.training.teach.pixel import train_pixel_network  # noqa: E402
from micronet.training.teach.refiner import MicroRNetLearner  # noqa: E402

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]  # 0 not annotated, 1 lumen, 2 background

TWO_PHOTON = (
    "burgess2014_tgMouse",
    "poon2015_plaqueVessels",
    "burgess2014_noisySparseVessels",
    "burgess2014_bbbDisruption",
)
TASKS = ("one slice", "three slices", "strokes", "long strokes", "corrections")
#: Voxels that a stroke wanders over: 0.25 % of the light sheet are annotated so, and 0.4 %.
_LONG = {"strokes": 22, "long strokes": 44}
_CROP = 384
#: Training steps of the networks.
_STEPS = {"pixel": 400, "u-net": 120, "ur-net": 100}


@dataclass(frozen=True)
class Case:
    """A volume with what is known of it: every annotated voxel of `truth`."""

    name: str
    image: NDArray[Any]
    truth: Labels
    spacing_um: tuple[float, float, float]


def read_cases(data: Path, names: Sequence[str], most: int = _CROP) -> list[Case]:
    """Return the volumes asked for, of each plane the middle `most` x `most` voxels."""
    cases = []
    for name in names:
        if name == "lightsheet":
            folder, one = data / "lightsheet", (1.0, 1.0, 1.0)
            image = read_volume(folder / "brain_vessels.tif", axes="ZYX", spacing_um=one)
            truth = read_volume(folder / "brain_vessels_sparse.tif", axes="ZYX", spacing_um=one).array
        else:
            image = read_volume(data / "two_photon" / f"{name}.nrrd")
            inside = read_volume(data / "two_photon" / f"{name}_label.nrrd").array > 0
            truth = np.where(inside, 1, 2)
        y, x = ((length - min(length, most)) // 2 for length in image.array.shape[1:])
        box = np.s_[:, y : y + most, x : x + most]
        array, labels = np.ascontiguousarray(image.array[box]), np.ascontiguousarray(truth[box].astype(np.uint8))
        z_um, y_um, x_um = map(float, image.spacing_um)
        cases.append(Case(name, array, labels, (z_um, y_um, x_um)))
    return cases


def annotate(case: Case, task: str, seed: int) -> Labels:
    """Return what a person has annotated: only strokes and corrections depend on the seed.

    Corrections are one slice and what was then painted, in three rounds, into what `chosen` had made of the labels.
    """
    if task == "corrections":
        rng, corrected = np.random.default_rng([seed, 3]), annotate(case, "one slice", seed)
        for _ in range(3):
            corrected = correct(case, corrected, chosen(case, corrected, seed), rng)
        return corrected
    known = np.flatnonzero((case.truth > 0).any(axis=(1, 2)))
    labels = np.zeros_like(case.truth)
    if task in _LONG:
        rng = np.random.default_rng([seed, 12])
        for z in known[np.linspace(0, len(known) - 1, 7).round().astype(int)[1:-1]]:
            for number in range(12):
                _paint(labels[z], case.truth[z], 1 + number % 2, _LONG[task], rng)
        return labels
    parts = {"one slice": (0.5,), "three slices": (0.25, 0.5, 0.75)}[task]
    planes = [known[int(part * len(known))] for part in parts]
    labels[planes] = case.truth[planes]
    return labels


def _paint(labels: Labels, truth: Labels, value: int, long: int, rng: np.random.Generator) -> None:
    """Paint one stroke, three voxels wide, that wanders over `long` voxels and never outside what it is to mark."""
    places = np.argwhere(truth == value)
    if not len(places):
        return
    y, x = places[rng.integers(len(places))].astype(float)
    direction = rng.uniform(0, 2 * np.pi)
    for _ in range(long):
        row, column = round(y), round(x)
        if not (0 <= row < truth.shape[0] and 0 <= column < truth.shape[1]):
            return
        brush = np.s_[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        labels[brush][truth[brush] == value] = value
        direction += rng.normal(0, 0.3)
        y, x = y + np.sin(direction), x + np.cos(direction)


def forest(case: Case, labels: Labels, seed: int) -> Mask:
    """Random forest on filter features: the recipe of ilastik, Labkit and Trainable Weka."""
    found = multiscale_basic_features(case.image, sigma_min=0.7, sigma_max=5, workers=torch.get_num_threads())
    model = RandomForestClassifier(100, n_jobs=torch.get_num_threads(), random_state=seed)
    model.fit(found[labels > 0], labels[labels > 0] == 1)
    return np.asarray(model.predict_proba(found.reshape(-1, found.shape[-1]))[:, 1] > 0.5).reshape(labels.shape)


def otsu(case: Case, labels: Labels, seed: int) -> Mask:
    """Above Otsu's threshold of the logarithm."""
    logarithm = np.log(np.maximum(case.image.astype(np.float32), 1))
    return np.asarray(logarithm > threshold_otsu(logarithm))


def sato_tubes(case: Case, labels: Labels, seed: int) -> Mask:
    """Tubeness of the logarithm (Sato et al. 1998), the threshold fitted to the annotation."""
    logarithm = np.log(np.maximum(case.image.astype(np.float32), 1))
    response = sato(logarithm, sigmas=(1.0, 2.0, 4.0), black_ridges=False)
    annotated = labels > 0
    thresholds = np.quantile(response[annotated], np.linspace(0.3, 0.995, 60))
    truth = labels[annotated] == 1
    best = max(thresholds, key=lambda threshold: overlap(response[annotated] > threshold, truth).f_score())
    return np.asarray(response > best)


def pixel(case: Case, labels: Labels, seed: int) -> Mask:
    """Pixel network on the image as it is."""
    image, annotated = normalize_image(case.image), labels > 0
    scales = default_scales(case.spacing_um)
    found = features_at(image, annotated, scales, case.spacing_um)
    network = train_pixel_network(found, labels[annotated] == 1, scales, steps=_STEPS["pixel"], seed=seed)
    return network.predict(image, case.spacing_um) > 0.5


def trees(case: Case, labels: Labels, seed: int) -> Mask:
    """Boosted trees on the same features."""
    return taught(case, labels, seed, [TreesLearner()])


def even_trees(case: Case, labels: Labels, seed: int) -> Mask:
    """Boosted trees on the features of the evened image."""
    return taught(case, labels, seed, [TreesLearner(around=40.0)])


def micro_net(case: Case, labels: Labels, seed: int) -> Mask:
    """µ-Net on the isotropic grid."""
    return taught(case, labels, seed, [MicroNetLearner(steps=_STEPS["u-net"], most_voxels=1_000_000)])


def micro_r_net(case: Case, labels: Labels, seed: int) -> Mask:
    """µr-Net on the evened image, from the probability of the pixel members that `chosen` has."""
    pixels = default_learners(Lesson(normalize_image(case.image), labels, case.spacing_um))
    return taught(case, labels, seed, [MicroRNetLearner(pixels, steps=_STEPS["ur-net"], around=40.0)])


def chosen(case: Case, labels: Labels, seed: int) -> Mask:
    """Taught as teach.py does it."""
    return taught(case, labels, seed, None)


def taught(case: Case, labels: Labels, seed: int, learners: Sequence[Learner] | None) -> Mask:
    """By these learners, or as teach.py chooses among its own."""
    image = normalize_image(case.image)
    course = teach(Lesson(image, labels, case.spacing_um), seed, learners=learners)
    return course.network.predict(image, case.spacing_um) > 0.5


def monai_unet(case: Case, labels: Labels, seed: int) -> Mask:
    """MONAI's 3-D U-Net on patches around annotated voxels, for the CPU seconds that `chosen` took for these labels."""
    if _key(case, labels, seed) not in _CPU:
        timed("chosen", case, labels, seed)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    image = normalize_image(case.image)
    pad = [(0, -length % 16) for length in image.shape]
    image = np.pad(image, pad, mode="symmetric")
    known, truth = (np.pad(array, pad) for array in (labels > 0, labels == 1))
    network = UNet(3, 1, 1, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    places, size = np.argwhere(known), np.minimum(image.shape, (16, 96, 96))
    began = time.process_time()
    while time.process_time() - began < _CPU[_key(case, labels, seed)]:
        middle = places[rng.integers(len(places))]
        first = np.clip(middle - rng.integers(0, size), 0, np.subtract(image.shape, size))
        box = tuple(slice(f, f + n) for f, n in zip(first, size, strict=True))
        flip = [axis for axis in range(3) if rng.random() < 0.5]
        x, weight, y = (
            torch.from_numpy(np.flip(array[box], flip).astype(np.float32)) for array in (image, known, truth)
        )
        loss = binary_cross_entropy_with_logits(network(x[None, None])[0, 0], y, weight=weight, reduction="sum")
        optimizer.zero_grad()
        (loss / weight.sum()).backward()
        optimizer.step()
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(image)[None, None])[0, 0].numpy()
    return np.asarray(logits > 0)[tuple(slice(length) for length in case.image.shape)]


def correct(case: Case, labels: Labels, predicted: Mask, rng: np.random.Generator) -> Labels:
    """Return labels to which a user has added the largest error of each of three random slices."""
    found = labels.copy()
    wrong = (predicted != (case.truth == 1)) & (case.truth > 0) & (labels == 0)
    planes = np.flatnonzero(wrong.any(axis=(1, 2)))
    for z in rng.choice(planes, min(3, len(planes)), replace=False):
        pieces, _ = ndimage.label(wrong[z])
        largest = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
        found[z][largest] = case.truth[z][largest]
    return found


METHODS: dict[str, Callable[[Case, Labels, int], Mask]] = {
    "forest": forest,
    "otsu": otsu,
    "sato": sato_tubes,
    "pixel": pixel,
    "trees": trees,
    "even trees": even_trees,
    "u-net": micro_net,
    "ur-net": micro_r_net,
    "chosen": chosen,
    "monai": monai_unet,
}
#: CPU seconds that `chosen` took.
_CPU: dict[tuple[str, int, int], float] = {}


def _key(case: Case, labels: Labels, seed: int) -> tuple[str, int, int]:
    return case.name, zlib.crc32(labels.tobytes()), seed


def timed(method: str, case: Case, labels: Labels, seed: int) -> tuple[Mask, dict[str, float]]:
    """Return what a method makes of labels, and the seconds by the clock and of the cores."""
    began, cpu = time.perf_counter(), time.process_time()
    predicted = METHODS[method](case, labels, seed)
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    if method == "chosen":
        _CPU[_key(case, labels, seed)] = took["cpu_seconds"]
    return predicted, took


def score(case: Case, labels: Labels, predicted: Mask) -> dict[str, float]:
    """Return Dice and clDice where the truth is known and was not given."""
    known, given = case.truth > 0, labels > 0
    dice = overlap(predicted, case.truth == 1, known & ~given).f_score()
    filled = np.where(given, labels == 1, predicted & known)
    box = bounding_box(known)
    return {"dice": dice, "cldice": cl_dice(filled[box], (case.truth == 1)[box]).score}


def table(rows: Sequence[dict[str, Any]], methods: Sequence[str], tasks: Sequence[str]) -> str:
    """Return Markdown: a line for each method and volume, means over the seeds."""
    lines = ["| volume | method | " + " | ".join(f"{task}: Dice, clDice, s" for task in tasks) + " |"]
    lines.append("|---" * (2 + len(tasks)) + "|")
    names = list(dict.fromkeys(row["volume"] for row in rows))
    groups = [(name, [name]) for name in names]
    thin = [name for name in names if name != "lightsheet"]
    if len(thin) > 1:
        groups.append((f"mean of {len(thin)} two-photon", thin))
    for title, members in groups:
        for method in methods:
            cells = []
            for task in tasks:
                mine = [r for r in rows if (r["method"], r["task"]) == (method, task) and r["volume"] in members]
                means = {key: np.mean([row[key] for row in mine]) for key in ("dice", "cldice", "seconds")}
                cells.append(f"{means['dice']:.3f}, {means['cldice']:.3f}, {means['seconds']:.1f}")
            lines.append(f"| {title} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run every method on every task; print the table as it grows, write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--volumes", nargs="+", choices=("lightsheet", *TWO_PHOTON), metavar="NAME")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--crop", type=int, default=_CROP, metavar="N", help="middle N x N of planes (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("-o", "--output", type=Path, default=Path("real.json"), help="the table lies beside it, .md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    about = {"threads": arguments.threads, "crop": arguments.crop, "versions": versions()}
    rows, asked = earlier_rows(arguments.output, about), []
    for case in read_cases(arguments.data, arguments.volumes or ("lightsheet", *TWO_PHOTON), arguments.crop):
        for task, seed in itertools.product(arguments.tasks, range(arguments.seeds)):
            keys = [{"volume": case.name, "task": task, "method": method, "seed": seed} for method in arguments.only]
            asked += keys
            missing = [key for key in keys if not any(key.items() <= row.items() for row in rows)]
            labels = annotate(case, task, seed) if missing else case.truth
            for key in missing:
                predicted, took = timed(key["method"], case, labels, seed)
                rows.append(key | took | score(case, labels, predicted))
                write_json(arguments.output, {"scores": rows, **about})
                print(rows[-1], flush=True)
    shown = [row for row in rows if any(key.items() <= row.items() for key in asked)]
    text = table(shown, arguments.only, arguments.tasks)
    arguments.output.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")


def earlier_rows(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the scores of a run that was interrupted; it ends where these are of other versions, crop or threads."""
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    if any(found.get(name) != value for name, value in about.items()):
        sys.exit(f"'{path}' holds scores of other versions, crop or threads; give another file (-o)")
    print(f"{len(found['scores'])} scores are there")
    return list(found["scores"])


if __name__ == "__main__":
    main()
