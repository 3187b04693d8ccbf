"""Compare ways to segment lumens, on simulated OCT that none of them has seen.

python benchmarks/accuracy.py WORK --annotations DIR --weights DIR    # hours on two cores; Ctrl-C, and it goes on later
python benchmarks/accuracy.py WORK --tiny                             # minutes: does it run?

Test sets: (a) eight phantoms of published size; (b) images over the published annotations in --annotations, which take
no part in training. Methods: our two networks and MONAI's 3-D U-Net, trained on the same phantoms, the last for the CPU
time that ours took together; a random forest, pixel trees and a pixel network, taught on six of these phantoms
(voxels.py); the published two in --weights (u-net_1600.pt, ur-net_b0.5_1200.pt); Otsu, Frangi and Sato, fitted on
training phantoms. WORK keeps every trained network and every score: what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]  # runs from a checkout that is not installed

import competitors  # noqa: E402
import make_bundled  # noqa: E402
import voxels  # noqa: E402

from micronet.core.provenance import versions, write_json  # noqa: E402
from micronet.core.threads import physical_cores  # noqa: E402
from micronet.data.dataset import Sample, read_dataset  # noqa: E402
from micronet.data.phantom import render_oct, speckle_of_seed  # noqa: E402
from micronet.io import read_annotation  # noqa: E402
from micronet.measure.overlap import overlap  # noqa: E402
from micronet.measure.topology import cl_dice, skeleton  # noqa: E402
from micronet.networks import engine  # noqa: E402
from micronet.networks.models import MicroNet, MicroRNet  # noqa: E402
from micronet.networks.registry import model_for_state  # noqa: E402
from micronet.networks.weights import (  # noqa: E402
    bootstrap,
    load_model,
    load_state,
    save_state,
)
from micronet.segment.refine import refine  # noqa: E402
from micronet.training.recipe import NUMPY_SEED, RECIPES, TORCH_SEED  # noqa: E402
from micronet.training.trainer import Trainer  # noqa: E402

PUBLISHED = {"published µ-Net": "u-net_1600.pt", "published µr-Net": "ur-net_b0.5_1200.pt"}
LEARNED = ("µr-Net", "µ-Net", "MONAI U-Net")
CLASSICAL = ("Otsu", "Frangi", "Sato")
#: Learn from voxels of this many training phantoms; their thresholds are fitted on these too.
VOXELWISE, _TAUGHT_ON = tuple(voxels.LEARNERS), 6
SETS = {"a": "phantoms of published size, not seen", "b": "images over published annotations"}
#: Volumes that thresholds are fitted on.
_FITTED_ON = 3
_COLUMNS = {"f": "Dice", "precision": "precision", "recall": "recall", "cl_dice": "clDice", "seconds": "seconds"}


@dataclass(frozen=True)
class Plan:
    """What is trained and how long; `tiny` has small phantoms and hardly any steps."""

    full: tuple[int, ...] = make_bundled.FULL_TRAINING
    small: tuple[int, ...] = make_bundled.SMALL_TRAINING
    validation: tuple[tuple[int, ...], tuple[int, ...]] = (make_bundled.FULL_VALIDATION, make_bundled.SMALL_VALIDATION)
    unseen: tuple[int, ...] = make_bundled.UNSEEN
    epochs: int = make_bundled.MICRONET_EPOCHS
    rounds: int = make_bundled.MICRORNET_ROUNDS
    crop: int = 96
    shape: tuple[int, int, int] = make_bundled.FULL


TINY = Plan((), (101, 102), ((), (10_101,)), (30_001, 30_002), epochs=3, rounds=1, crop=64, shape=make_bundled.SMALL)


class Bench:
    """The work folder with what was trained, fitted and scored."""

    def __init__(self, work: Path, plan: Plan, annotations: Path | None, weights: Path | None) -> None:
        self.work, self.plan, self.annotations, self.weights = work, plan, annotations, weights
        for folder in ("networks", "scores"):
            (work / folder).mkdir(parents=True, exist_ok=True)
        made_by = work / "plan.json"
        asked = json.loads(json.dumps({**vars(plan), "finish": vars(make_bundled.FINISH)}))
        if made_by.exists() and json.loads(made_by.read_text(encoding="utf-8")) != asked:
            raise SystemExit(f"'{work}' holds networks of another plan ({made_by}); take another folder")
        write_json(made_by, asked)

    @cache  # noqa: B019 - there is one bench
    def training(self) -> tuple[list[Sample], list[Sample]]:
        """Return the volumes for training and validation."""
        print("making the training phantoms", flush=True)
        train = make_bundled.phantoms(self.plan.full, self.plan.small, vary=True)
        return train, make_bundled.phantoms(*self.plan.validation, vary=True)

    def ours(self, seed: int, *, refines: bool) -> MicroNet | MicroRNet:
        """Return our µ-Net, or the µr-Net that starts from it, trained with this seed."""
        name = f"{'ur-net' if refines else 'u-net'}_seed{seed}"
        path = self.work / "networks" / f"{name}.pt"
        if not path.exists():
            torch.manual_seed(TORCH_SEED + seed)
            start = model_for_state(bootstrap(self.ours(seed, refines=False).state_dict())) if refines else MicroNet()
            trainer = Trainer(start, *self.training(), RECIPES["default"], NUMPY_SEED + seed)
            stages = (
                make_bundled.micrornet_stages(self.plan.rounds)
                if refines
                else make_bundled.micronet_stages(self.plan.epochs)
            )
            print(f"training {name}", flush=True)
            spent, validation_f = make_bundled.train(trainer, stages, path.with_suffix(".session"))
            write_json(path.with_suffix(".json"), {**spent, "steps": trainer.step, "validation_f": validation_f})
            save_state(path, trainer.model.state_dict())
        return model_for_state(load_state(path)).eval()

    def unet(self, seed: int) -> competitors.UNet:
        """Return MONAI's U-Net, trained with this seed for the CPU time of ours."""
        network = competitors.UNet(self.plan.crop, seed)
        path = self.work / "networks" / f"monai_seed{seed}.session"
        if not network.load(path):
            self.ours(seed, refines=True)
            records = [self.work / "networks" / f"{name}_seed{seed}.json" for name in ("u-net", "ur-net")]
            budget = sum(json.loads(record.read_text(encoding="utf-8"))["cpu_seconds"] for record in records)
            print(f"training MONAI's U-Net, seed {seed}, for {budget / 60:.0f} CPU minutes", flush=True)
            network.train(*self.training(), budget, path)
        return network

    def fitted(self, name: str) -> dict[str, Any]:
        """Return what a method without learning was fitted to on training phantoms."""
        path = self.work / "networks" / f"{name}.json"
        if not path.exists():
            print(f"fitting {name}", flush=True)
            volumes = self.training()[0][:_FITTED_ON]
            write_json(path, competitors.fit_otsu(volumes) if name == "Otsu" else competitors.fit_filter(name, volumes))
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def voxelwise(self, name: str, seed: int) -> voxels.VoxelMethod:
        """Return a method that judges each voxel by filters around it, taught with this seed: minutes, so not kept."""
        print(f"teaching {name}, seed {seed}", flush=True)
        learner, volumes = voxels.LEARNERS[name], self.training()[0][:_TAUGHT_ON]
        rows = [voxels.drawn(learner, sample, voxels.VOXELS, seed) for sample in volumes]
        return voxels.teach(learner, rows, seed)

    @cache  # noqa: B019 - there is one bench
    def predictor(self, method: str, seed: int) -> Callable[[Sample], NDArray[np.bool_]]:
        """Return what makes a mask of a volume."""
        if method == "MONAI U-Net":
            return self.unet(seed).predict
        if method in VOXELWISE:
            return self.voxelwise(method, seed).predict
        if method == "Otsu":
            bright = self.fitted("Otsu")["bright"]
            return lambda sample: competitors.otsu(sample, bright=bright)
        if method in CLASSICAL:
            fit, response = self.fitted(method.lower()), competitors.FILTERS[method.lower()]
            return lambda sample: response(sample, black_ridges=fit["black_ridges"]) > fit["threshold"]
        if method in PUBLISHED:
            assert self.weights is not None  # noqa: S101 - else the method is not asked for
            model = load_model(self.weights / PUBLISHED[method])
        else:
            model = self.ours(seed, refines=method == "µr-Net")

        def network(sample: Sample) -> NDArray[np.bool_]:
            image = sample.normalized()
            return refine(image, np.zeros_like(image), model, 10) > 0.5

        return network

    def volumes(self, which: str) -> Iterator[tuple[str, Callable[[], Sample]]]:
        """Yield the name of every volume of a test set, and what makes it."""
        if which == "a":
            for seed in self.plan.unseen:
                name = f"phantom_{seed}"
                yield name, lambda name=name, seed=seed: make_bundled.phantom(name, seed, self.plan.shape, vary=False)
        elif self.annotations is not None:
            crops = {entry.name: entry.y_crop for entry in read_dataset(ROOT / "datasets" / "yolk_sac.toml").entries}
            for path in sorted(self.annotations.glob("annotation_*_iso_full.seg.nrrd")):
                name = path.name.removeprefix("annotation_").removesuffix("_iso_full.seg.nrrd")
                yield name, lambda path=path, name=name: over_annotation(path, name, crops.get(name))

    def score(self, which: str, methods: list[tuple[str, int]]) -> list[dict[str, Any]]:
        """Return the scores of all methods on all volumes of a test set, making those that are not kept."""
        rows = []
        for name, make in self.volumes(which):
            paths = {key: self.work / "scores" / f"{which}_{name}_{key[0]}_seed{key[1]}.json" for key in methods}
            missing = [key for key in methods if not paths[key].exists()]
            sample = make() if missing else None
            line = skeleton(sample.mask) if sample is not None else None
            for key in missing:
                assert sample is not None and line is not None  # noqa: S101, PT018
                row = score_one(sample, line, self.predictor(*key))
                write_json(paths[key], {"set": which, "volume": name, "method": key[0], "seed": key[1], **row})
                print(f"({which}) {name} {key[0]}: F {row['f']:.3f}, clDice {row['cl_dice']:.3f}", flush=True)
            rows += [json.loads(path.read_text(encoding="utf-8")) for path in paths.values()]
        return rows


def over_annotation(path: Path, name: str, y_crop: int | None) -> Sample:
    """Return an image over a published annotation, with the published crop."""
    lumens = read_annotation(path).mask
    image = render_oct(lumens.array, speckle_of_seed(1))
    return Sample.of(name, replace(lumens, array=image, header={}), lumens.array, y_crop=y_crop)


def score_one(
    sample: Sample, line: NDArray[np.bool_], predict: Callable[[Sample], NDArray[np.bool_]]
) -> dict[str, Any]:
    """Return the scores of one method on one volume, and the seconds of its prediction."""
    began = time.perf_counter()
    mask = predict(sample)
    seconds = time.perf_counter() - began
    counts = overlap(mask, sample.mask)
    topology = cl_dice(mask, sample.mask, (skeleton(mask), line))
    scores = {"f": counts.f_score(), "precision": counts.precision, "recall": counts.recall}
    return scores | {"cl_dice": topology.score, "seconds": seconds}


def summary(rows: list[dict[str, Any]], method: str) -> dict[str, Any]:
    """Return mean, spread over volumes (of the seeds' means) and over seeds (of the volumes' means) of each score."""
    mine = [row for row in rows if row["method"] == method]
    result: dict[str, Any] = {}
    for column in _COLUMNS:
        spreads = []
        for key in ("volume", "seed"):
            groups = sorted({row[key] for row in mine})
            means = [np.mean([row[column] for row in mine if row[key] == group]) for group in groups]
            spreads.append(float(np.std(means, ddof=1)) if len(means) > 1 else 0.0)
        mean = float(np.mean([row[column] for row in mine]))
        result[column] = {"mean": mean, "sd_volumes": spreads[0], "sd_seeds": spreads[1]}
    return result


def table(summaries: dict[str, dict[str, Any]], which: str) -> str:
    """Return one test set in Markdown, best Dice first."""
    lines = [f"({which}) {SETS[which]}: mean ± SD over volumes (± SD over training seeds)", ""]
    lines += [f"| method | {' | '.join(_COLUMNS.values())} |", "|---" * (1 + len(_COLUMNS)) + "|"]
    for method, found in sorted(summaries.items(), key=lambda item: -item[1]["f"]["mean"]):
        cells = []
        for column, value in found.items():
            seeds = f" (± {value['sd_seeds']:.3f})" if method in (*LEARNED, *VOXELWISE) and column != "seconds" else ""
            text = f"{value['mean']:.3f} ± {value['sd_volumes']:.3f}{seeds}"
            cells.append(f"{value['mean']:.2f}" if column == "seconds" else text)
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train, fit and score what is missing; print the tables, write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path, metavar="WORK", help="folder for networks and scores")
    parser.add_argument("--annotations", type=Path, metavar="DIR", help="published annotations: test set (b)")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="published weights")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=(*LEARNED, *VOXELWISE, *PUBLISHED, *CLASSICAL), metavar="METHOD")
    parser.add_argument("--epochs", type=int, help="of µ-Net (default: as the bundled weights)")
    parser.add_argument("--rounds", type=int, help="of µr-Net (default: as the bundled weights)")
    parser.add_argument("--tiny", action="store_true", help="small phantoms, hardly any training")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("-o", "--output", type=Path, help="default: WORK/accuracy.json, with accuracy.md beside it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plan = TINY if arguments.tiny else Plan()
    lengths = {name: getattr(arguments, name) for name in ("epochs", "rounds") if getattr(arguments, name) is not None}
    bench = Bench(arguments.work, replace(plan, **lengths), arguments.annotations, arguments.weights)
    if not engine.is_ready("training"):
        engine.make_ready("training")
    asked = arguments.only or [*LEARNED, *VOXELWISE, *(PUBLISHED if arguments.weights else ()), *CLASSICAL]
    methods = [
        (name, seed) for name in asked for seed in range(arguments.seeds if name in (*LEARNED, *VOXELWISE) else 1)
    ]
    record: dict[str, Any] = {"plan": vars(bench.plan), "seeds": arguments.seeds, "threads": arguments.threads}
    texts = []
    for which in SETS:
        rows = bench.score(which, methods)
        if rows:
            summaries = {name: summary(rows, name) for name in asked}
            record[which] = {"summary": summaries, "scores": rows}
            texts.append(table(summaries, which))
    networks = sorted((arguments.work / "networks").glob("*.json"))
    record["training"] = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in networks}
    output = arguments.output or arguments.work / "accuracy.json"
    write_json(output, record | {"versions": versions()})
    output.with_suffix(".md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    print("\n" + "\n\n".join(texts))


if __name__ == "__main__":
    main()
