"""Compare training recipes on phantoms: the published one, the default, and the default without one ingredient.

python benchmarks/recipes.py                     # three seeds; about half an hour on two cores
python benchmarks/recipes.py --seeds 1 --steps 100 --only published default

Every recipe gets the same volumes, the same number of steps and the same validation: the mask that a network arrives at
by itself (a µr-Net refining ten times from blank) on phantoms it has not seen, scored by F (Dice) pooled over them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.augmentation import Augmentation  # noqa: E402
from micronet.dataset import Sample  # noqa: E402
from micronet.kernels.threads import physical_cores  # noqa: E402
from micronet.models import MicroNet, bootstrap, model_for_state  # noqa: E402
from micronet.phantom import lumen_mask, render_oct  # noqa: E402
from micronet.record import versions  # noqa: E402
from micronet.training import RECIPES, Recipe, Trainer  # noqa: E402
from micronet.volume import Volume  # noqa: E402

DEFAULT = RECIPES["default"]
VARIANTS: dict[str, Recipe] = {
    "published": RECIPES["published"],
    "default": DEFAULT,
    "without own masks": replace(DEFAULT, own_masks=0.0),
    "without augmentation": replace(DEFAULT, augmentation=None),
    "published distortion": replace(DEFAULT, distortion="published"),
    "flips only": replace(
        DEFAULT, augmentation=Augmentation(smallest_crop=1.0, contrast=0.0, brightness=0.0, speckle=0.0)
    ),
    "flips and contrast": replace(DEFAULT, augmentation=Augmentation(smallest_crop=1.0)),
    "flips and crops": replace(DEFAULT, augmentation=Augmentation(contrast=0.0, brightness=0.0, speckle=0.0)),
}


def phantom(seed: int, size: int) -> Sample:
    """Return an annotated phantom, size³ voxels."""
    rng = np.random.default_rng(seed)
    mask = lumen_mask((size, size, size), rng)
    return Sample.of(f"phantom {seed}", Volume(render_oct(mask, rng)), mask)


def score(recipe: Recipe, train: list[Sample], held_out: list[Sample], steps: int, seed: int) -> dict[str, float]:
    """Train a µ-Net, then a µr-Net from it, as long each; return the scores of both on volumes not seen."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    micro = MicroNet()
    found = {}
    for name, passes in (("u", 1), ("ur", 4)):
        model = micro if name == "u" else model_for_state(bootstrap(micro.state_dict()))
        trainer = Trainer(model, train, (), recipe, seed)
        trainer.begin(max(1, round(steps / len(train) / passes)), passes)
        trainer.run(lambda _: None, lambda _: None)
        counts, _ = trainer.score(held_out)
        found |= {f"{name}_f": counts.f_score(), f"{name}_precision": counts.precision, f"{name}_recall": counts.recall}
    return found | {"seconds": time.perf_counter() - began}


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="training seeds (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="steps of each network (default: %(default)s)")
    parser.add_argument("--size", type=int, default=96, help="voxels along each axis (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/recipes.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train = [phantom(seed, arguments.size) for seed in range(100, 108)]
    held_out = [phantom(seed, arguments.size) for seed in range(200, 204)]

    results: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.only}
    for seed in range(arguments.seeds):
        for name in arguments.only:
            results[name].append(score(VARIANTS[name], train, held_out, arguments.steps, seed))
            print(seed, name, {key: round(value, 4) for key, value in results[name][-1].items()}, flush=True)

    print(f"\n| recipe | µ-Net F | µr-Net F, ten refinements from blank | seconds |\n|{'---|' * 4}")
    for name, runs in results.items():
        columns = [np.array([run[key] for run in runs]) for key in ("u_f", "ur_f", "seconds")]
        u, ur, seconds = columns
        print(f"| {name} | {u.mean():.3f} ± {u.std():.3f} | {ur.mean():.3f} ± {ur.std():.3f} | {seconds.mean():.0f} |")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: getattr(arguments, key) for key in ("seeds", "steps", "size", "threads")}
    record = {"settings": settings, "results": results, "versions": versions()}
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
