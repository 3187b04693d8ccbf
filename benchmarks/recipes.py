"""Compare training recipes on plain phantoms: the published one, the default, and the default without one ingredient.

python benchmarks/recipes.py                     # three seeds; goes on where an earlier run stopped
python benchmarks/recipes.py --seeds 1 --steps 100 --only published default

Every recipe gets the same volumes, the same number of steps and the same validation: the mask that a network arrives at
by itself (a µr-Net refining ten times from blank) on phantoms it has not seen, scored by F (Dice) pooled over them. The
weights are the last ones for the published recipe, else those that validated best on two more phantoms.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.core.provenance import versions, write_json  # noqa: E402
from micronet.core.threads import physical_cores  # noqa: E402
from micronet.core.volume import Volume  # noqa: E402
from micronet.data.augmentation import Augmentation  # noqa: E402
from micronet.data.dataset import Sample  # noqa: E402
from micronet.data.phantom import phantom_of_seed  # noqa: E402
from micronet.networks.models import MicroNet  # noqa: E402
from micronet.networks.registry import model_for_state  # noqa: E402
from micronet.networks.weights import bootstrap  # noqa: E402
from micronet.training.recipe import RECIPES, Recipe  # noqa: E402
from micronet.training.trainer import Trainer  # noqa: E402

DEFAULT = RECIPES["default"]


@dataclass(frozen=True)
class Variant:
    """A recipe, and whether the weights are those that validated best, or the last ones as published."""

    recipe: Recipe
    best: bool = True


VARIANTS: dict[str, Variant] = {
    "published": Variant(RECIPES["published"], best=False),
    "default": Variant(DEFAULT),
    "last weights": Variant(DEFAULT, best=False),
    "rate 4": Variant(replace(DEFAULT, rate_factor=4.0)),
    "rate 16": Variant(replace(DEFAULT, rate_factor=16.0)),
    "with Adam": Variant(replace(DEFAULT, optimizer="adam", rate_factor=2.0)),
    "with Adam, published rate": Variant(replace(DEFAULT, optimizer="adam", rate_factor=1.0)),
    "without own masks": Variant(replace(DEFAULT, own_masks=0.0)),
    "without flips": Variant(replace(DEFAULT, augmentation=None)),
    "published distortion": Variant(replace(DEFAULT, distortion="published")),
    "with contrast": Variant(replace(DEFAULT, augmentation=Augmentation(smallest_crop=1.0, speckle=0.0))),
    "with speckle": Variant(
        replace(DEFAULT, augmentation=Augmentation(smallest_crop=1.0, contrast=0.0, brightness=0.0))
    ),
    "with crops": Variant(replace(DEFAULT, augmentation=Augmentation(contrast=0.0, brightness=0.0, speckle=0.0))),
}


@dataclass(frozen=True)
class Data:
    """Phantoms, each seen in one role."""

    train: list[Sample]
    validation: list[Sample]
    test: list[Sample]

    @classmethod
    def of_size(cls, size: int) -> Data:
        """Make 8 phantoms to train on, 2 to choose weights with and 6 to score."""
        roles = (range(100, 108), range(150, 152), range(200, 206))
        return cls(*([phantom(seed, size) for seed in seeds] for seeds in roles))


def phantom(seed: int, size: int) -> Sample:
    """Return an annotated phantom, size³ voxels, with optics of its own."""
    mask, image = phantom_of_seed((size, size, size), seed, vary=True, preset="plain")
    return Sample.of(f"phantom {seed}", Volume(image), mask)


def score(variant: Variant, data: Data, steps: int, seed: int) -> dict[str, float]:
    """Train a µ-Net, then a µr-Net from it, as long each; return the scores of both on volumes not seen."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    micro = MicroNet()
    found = {}
    for name, passes in (("u", 1), ("ur", 4)):
        model = micro if name == "u" else model_for_state(bootstrap(micro.state_dict()))
        trainer = Trainer(model, data.train, data.validation if variant.best else (), variant.recipe, seed)
        trainer.begin(max(1, round(steps / len(data.train) / passes)), passes)
        trainer.run(lambda _: None, lambda _: None)
        if variant.best:
            trainer.validate()  # the last weights have their chance
            assert trainer.best_state is not None  # noqa: S101 - there are validation volumes
            model.load_state_dict(trainer.best_state)
        counts, _ = trainer.score(data.test)
        found |= {f"{name}_f": counts.f_score(), f"{name}_precision": counts.precision, f"{name}_recall": counts.recall}
    return found | {"seconds": time.perf_counter() - began}


def table(results: dict[str, dict[str, dict[str, float]]]) -> Iterator[str]:
    """Yield the lines of the table: mean and standard deviation over the seeds."""
    yield "| recipe | µ-Net F | µr-Net F, ten refinements from blank | seeds | seconds |"
    yield "|---|---|---|---|---|"
    for name, runs in results.items():
        u, ur, seconds = (np.array([run[key] for run in runs.values()]) for key in ("u_f", "ur_f", "seconds"))
        scores = f"{u.mean():.3f} ± {u.std():.3f} | {ur.mean():.3f} ± {ur.std():.3f}"
        yield f"| {name} | {scores} | {len(runs)} | {seconds.mean():.0f} |"


def main() -> None:
    """Run what is not there yet, print a table; every result is written as soon as it is known."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="training seeds (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="steps of each network (default: %(default)s)")
    parser.add_argument("--size", type=int, default=96, help="voxels along each axis (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/recipes.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = {key: getattr(arguments, key) for key in ("steps", "size", "threads")}
    record: dict[str, Any] = {"settings": settings, "versions": versions(), "results": {}}
    if arguments.output.is_file():
        record = json.loads(arguments.output.read_text(encoding="utf-8"))
        if record["settings"] != settings:
            raise SystemExit(f"{arguments.output} holds results of {record['settings']}; another -o, or delete it")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, dict[str, float]]] = record["results"]
    data = Data.of_size(arguments.size)
    for seed in range(arguments.seeds):
        for name in arguments.only:
            runs = results.setdefault(name, {})
            if str(seed) not in runs:
                runs[str(seed)] = score(VARIANTS[name], data, arguments.steps, seed)
                write_json(arguments.output, record)
            print(seed, name, {key: round(value, 4) for key, value in runs[str(seed)].items()}, flush=True)
    print("", *table(results), sep="\n")


if __name__ == "__main__":
    main()
