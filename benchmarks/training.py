"""Time a training of published size: 13 volumes of 217 x 160 x 218 voxels, 1,600 steps of µ-Net.

python benchmarks/training.py                    # the whole run, then a few steps of the published way
python benchmarks/training.py --steps 130        # a tenth of it, extrapolated

Ours: the default recipe, validated every 50 steps, numba engine. The published way: eager PyTorch, whole volumes,
forward, loss, backward and Adam, without validation; the time of 1,600 steps is extrapolated from the shortest of
a few. Memory is the peak of the whole process, before the published way has its turn.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.core.provenance import versions  # noqa: E402
from micronet.core.threads import physical_cores  # noqa: E402
from micronet.core.volume import Volume  # noqa: E402
from micronet.data.dataset import Sample  # noqa: E402
from micronet.data.phantom import phantom_of_seed  # noqa: E402
from micronet.networks import engine  # noqa: E402
from micronet.networks.models import MicroNet  # noqa: E402
from micronet.training.losses import fbeta_loss  # noqa: E402
from micronet.training.recipe import RECIPES, TORCH_SEED  # noqa: E402
from micronet.training.trainer import Trainer  # noqa: E402

SHAPE = (217, 160, 218)
VOLUMES = 13
STEPS = 1600


def phantom(seed: int) -> Sample:
    """Return an annotated phantom of published size."""
    mask, image = phantom_of_seed(SHAPE, seed)
    return Sample.of(f"phantom {seed}", Volume(image), mask)


def published_step(sample: Sample, repeats: int) -> float:
    """Return the shortest time of a step as published: eager PyTorch on the whole volume."""
    engine.choose("torch")
    model = MicroNet()
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.from_numpy(sample.normalized())[None, None]
    target = torch.from_numpy(sample.mask)[None, None]
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        optimizer.zero_grad()
        fbeta_loss(model(x), target).backward()
        optimizer.step()
        times.append(time.perf_counter() - began)
    engine.choose("auto")
    return min(times)


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="steps to run (default: %(default)s)")
    parser.add_argument("--published-steps", type=int, default=3, help="eager steps to time (default: %(default)s)")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="default")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/training.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    samples = [phantom(seed) for seed in range(VOLUMES + 1)]
    if not engine.is_ready("training"):
        engine.make_ready("training")
    torch.manual_seed(TORCH_SEED)
    trainer = Trainer(MicroNet(), samples[:VOLUMES], samples[VOLUMES:], RECIPES[arguments.recipe])
    trainer.begin(-(-arguments.steps // VOLUMES))
    began = time.perf_counter()
    trainer.run(
        lambda _: None,
        lambda report: print(f"step {report.step} F {report.f:.3f} {time.perf_counter() - began:.0f} s", flush=True),
        lambda: trainer.step >= arguments.steps,
    )
    ours = (time.perf_counter() - began) * STEPS / trainer.step
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    published = published_step(samples[0], arguments.published_steps) * STEPS
    how = "measured" if trainer.step == STEPS else f"extrapolated from {trainer.step} steps"
    print(f"\n| {STEPS} steps of µ-Net, {VOLUMES} volumes of {' x '.join(map(str, SHAPE))} | minutes | peak memory |")
    print(f"|---|---|---|\n| ours, {arguments.recipe} recipe, {how} | {ours / 60:.1f} | {peak:.0f} MB |")
    print(f"| the published way, extrapolated from {arguments.published_steps} steps | {published / 60:.0f} | |")
    record = {
        "ours_seconds": ours,
        "ours_steps": trainer.step,
        "peak_mb": peak,
        "published_seconds": published,
        "recipe": arguments.recipe,
        "threads": arguments.threads,
        "best_validation_f": trainer.best_f,
        "versions": versions(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
