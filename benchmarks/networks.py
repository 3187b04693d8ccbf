"""Measure the larger networks: what they reach in the same CPU time, and what their windows take of memory.

python benchmarks/networks.py --row shapes --row lobe --minutes 20      # an hour of CPU time, simulated images
python benchmarks/networks.py --row real --data DATA                    # real ones, as benchmarks/real.py
python benchmarks/networks.py --row memory
python benchmarks/networks.py --row shapes --minutes 0.1                # does it run?

CPU time is that of the process, `time.process_time`: with two threads 20 minutes of it are 10 by the clock. Whatever is
trained has its validations counted in it; scoring afterwards is not. Every row is printed as a line of a Markdown table
when it is known, and the tables are written to FILE.md (`-o`), with machine, threads and versions.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # runs from a checkout that is not installed

import memory  # noqa: E402
import real  # noqa: E402
from engine import processor  # noqa: E402

from micronet import Volume, write_volume  # noqa: E402
from micronet.core.exclusive import most_probable  # noqa: E402
from micronet.core.provenance import versions  # noqa: E402
from micronet.core.threads import physical_cores  # noqa: E402
from micronet.core.volume import upright  # noqa: E402
from micronet.data.augmentation import CROPS, CROPS_2D  # noqa: E402
from micronet.data.dataset import Sample, open_dataset  # noqa: E402
from micronet.measure.confusion import Confusion, confusion  # noqa: E402
from micronet.measure.overlap import Overlap, overlap  # noqa: E402
from micronet.networks.library import LIBRARY, Build, LibraryNetwork  # noqa: E402
from micronet.networks.weights import save_state  # noqa: E402
from micronet.segment.window_plan import WindowWish  # noqa: E402
from micronet.segment.windows import predicted_in_windows  # noqa: E402
from micronet.training.practice import Practice  # noqa: E402
from micronet.training.recipe import NETWORK_RECIPE  # noqa: E402
from micronet.training.teach.learners import MicroNetLearner  # noqa: E402
from micronet.training.trainer import Trainer  # noqa: E402

ROWS = ("shapes", "lobe", "real", "memory")
#: Limits of memory that are tried, MB.
LIMITS = (700, 900, 1200)
# Steps before, and in which a step is timed.
_WARM, _TIMED = 3, 10
#: Steps of a µ-Net from which it is told how many a time has.
PROBED = (4, 12)


@dataclass(frozen=True)
class Trained:
    """A network that had its time."""

    model: LibraryNetwork
    cpu_seconds: float
    wall_seconds: float
    steps: int
    best: float | None


def trained(
    model: LibraryNetwork,
    train: Sequence[Sample],
    validation: Sequence[Sample],
    practice: Practice,
    cpu_seconds: float,
    arguments: argparse.Namespace,
) -> Trained:
    """Train a network for a CPU time; where there is something to validate on, its best weights."""
    augmentation = CROPS_2D if model.build.dimensions == 2 else CROPS  # as train_network.py
    if arguments.plain:
        augmentation = replace(augmentation, elastic=0.0, contrast=0.0, brightness=0.0, speckle=0.0)
    recipe = replace(NETWORK_RECIPE, augmentation=augmentation, validate_every=arguments.validate_every)
    trainer = Trainer(model, train, validation, recipe, arguments.seed, practice=practice)
    began, cpu = time.perf_counter(), time.process_time()

    def work(steps: float = math.inf) -> None:
        trainer.run(lambda _: None, _told, lambda: trainer.step >= steps or time.process_time() - cpu >= cpu_seconds)

    # How many steps there is time for, so that a cosine ends with it; the first few prepare things.
    trainer.begin(1000)
    work(_WARM)
    warm, first = time.process_time(), trainer.step
    work(_WARM + _TIMED)
    a_step = (time.process_time() - warm) / max(trainer.step - first, 1)
    if validation:
        before = time.process_time()
        trainer.validate()
        a_step += (time.process_time() - before) / arguments.validate_every
    left = cpu_seconds - (time.process_time() - cpu)
    trainer.begin(max(1, int(left / (a_step * trainer.steps_a_pass))))
    work()
    while time.process_time() - cpu < cpu_seconds:  # it took less time than told
        trainer.fixed_rate = practice.min_lr
        trainer.begin(1)
        work()
    if validation and trainer.last_step != trainer.step:
        trainer.validate()
    spent = time.process_time() - cpu, time.perf_counter() - began
    if trainer.best_state is not None:
        model.load_state_dict(trainer.best_state)
    return Trained(model.eval(), *spent, trainer.step, trainer.best_f)


def _told(report: Any) -> None:
    print(f"  step {report.step}: loss {report.loss:.4f}, mean Dice {report.f:.4f}", file=sys.stderr, flush=True)


def built(name: str, seed: int, **build: Any) -> LibraryNetwork:
    """Return a network with weights of a seed."""
    torch.manual_seed(seed)
    return LIBRARY[name](Build(**build))


def in_windows(model: LibraryNetwork, sample: Sample, wish: WindowWish, folder: Path) -> NDArray[np.float32]:
    """Return the probability (classes, Z, Y, X) that is found in windows, whose numbers are those of infer.py."""
    windows = next(wish.candidates(model, sample.image.shape))
    with predicted_in_windows(sample.volume, model, windows, folder) as (found, _):
        return np.stack([one[:] for one in found])


def make(folder: Path, kind: str, count: int, *options: object) -> dict[str, list[Sample]]:
    """Make phantoms as a person does, and read their data set."""
    command = [sys.executable, str(ROOT / "make_phantoms.py"), str(count), "--kind", kind, "-o", str(folder)]
    subprocess.run([*command, *map(str, options)], check=True, stdout=subprocess.DEVNULL)
    return open_dataset(folder / "phantoms.toml")[1]


def shapes(arguments: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Yield the table of 2-D U-Net on drawn shapes of three classes."""
    few = arguments.minutes < 1
    count, held = (12, 2) if few else (arguments.images, 40)
    samples = make(folder / "shapes", "shapes", count, "--seed", 1000 * arguments.seed + 1, "--validation",
                   held // 4 + 1, "--test", held)  # fmt: skip
    crop = (1, arguments.crop, arguments.crop)
    names = ("background", "line", "ellipse")
    build = {name: getattr(arguments, name) for name in ("depth", "start_channels", "kernel_size", "norm")}
    model = built("unet", arguments.seed, dimensions=2, classes=names[1:], **build)
    practice = Practice(
        crop, samples_per_volume=4, batch_size=arguments.batch_size, optimizer=arguments.optimizer,
        schedule=arguments.schedule, loss=arguments.loss, lr=arguments.lr,
    )  # fmt: skip
    found = trained(model, samples["train"], samples["validation"], practice, 60 * arguments.minutes, arguments)
    yield "| simulated shapes, three classes, U-Net 2-D | mean IoU | of line | of ellipse | CPU s | wall s | steps |"
    yield "|---|---|---|---|---|---|---|"
    looks: dict[str, Callable[[Sample], Confusion]] = {
        f"patches of {arguments.crop}": lambda one: _patches(model, one, arguments.crop, names),
        f"whole, windows of {arguments.crop} by {arguments.overlap:g}": lambda one: confusion(
            most_probable(in_windows(model, one, WindowWish(arguments.crop, arguments.overlap), folder)),
            one.target,
            names,
            one.weight,
        ),
        "whole, seen whole": lambda one: _patches(model, one, one.image.shape[1], names),
    }
    for title, look in looks.items():
        scores = sum((look(one) for one in samples["test"][1:]), look(samples["test"][0]))
        each = " | ".join(f"{one.iou:.4f}" for one in scores.overlaps[1:])
        time_spent = f"{found.cpu_seconds:.0f} | {found.wall_seconds:.0f} | {found.steps:,}"
        yield f"| {title}, {len(samples['test'])} images | {scores.mean_iou:.4f} | {each} | {time_spent} |"


def _patches(model: LibraryNetwork, sample: Sample, side: int, names: Sequence[str]) -> Confusion:
    """Return the counts of patches that lie beside each other, each looked at by itself."""
    image, together = sample.normalized(), list[Confusion]()
    for y in range(0, image.shape[1] - side + 1, side):
        for x in range(0, image.shape[2] - side + 1, side):
            box = np.s_[:, y : y + side, x : x + side]
            with torch.inference_mode():
                found = model(torch.from_numpy(image[box].copy())[None, None])[0].numpy()
            together.append(confusion(most_probable(found), sample.target[box], names))
    return sum(together[1:], together[0])


def lobe(arguments: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Yield the table of U-Net and stacked hourglass on the simulated optic lobe."""
    few = arguments.minutes < 1
    shape = ("--shape", "64,64,64") if few else ()
    samples = make(folder / "lobes", "optic-lobe", 4 if few else 10, "--seed", 1000 * arguments.seed + 1,
                   "--validation", 1, "--test", 1 if few else 3, *shape)  # fmt: skip
    yield "| simulated optic lobe, 128³ | parameters | IoU, windows | IoU, whole | CPU s | wall s | steps |"
    yield "|---|---|---|---|---|---|---|"
    side = min(64, samples["train"][0].image.shape[0])
    practice = Practice(
        (side,) * 3, samples_per_volume=10, schedule=arguments.schedule, loss=arguments.loss, lr=arguments.lr
    )
    for title, name, build in (
        ("U-Net, depth 4", "unet", {"start_channels": 8}),
        ("stacked hourglass, two, depth 4", "hourglass", {"start_channels": 8, "num_stacks": 2}),
    ):
        model = built(name, arguments.seed, depth=4, **build)
        found = trained(model, samples["train"], samples["validation"], practice, 60 * arguments.minutes, arguments)
        cells = [f"{model.parameter_count:,}"]
        for wish in (WindowWish(side, arguments.overlap), WindowWish(max(samples["test"][0].image.shape))):
            counts = [
                overlap(in_windows(model, one, wish, folder)[0] > 0.5, one.mask, one.weight) for one in samples["test"]
            ]
            cells.append(f"{sum(counts, Overlap(0, 0, 0)).iou:.4f}")
        cells += [f"{found.cpu_seconds:.0f}", f"{found.wall_seconds:.0f}", f"{found.steps:,}"]
        yield f"| {title} | {' | '.join(cells)} |"


def on_real(arguments: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Yield the table of all kinds of networks on real volumes, of which one slice is annotated."""
    if arguments.data is None:
        raise SystemExit("error: the row real needs --data DATA, as benchmarks/real.py")
    yield "| real volume, one slice annotated | method | Dice | clDice | CPU s | wall s |"
    yield "|---|---|---|---|---|---|"
    for case in real.read_cases(arguments.data, arguments.volumes or ("lightsheet", *real.TWO_PHOTON)):
        labels = real.annotate(case, "one slice", arguments.seed)
        cpu = arguments.seconds
        for method in ("teach.py", "µ-Net", "U-Net", "V-Net"):
            began, before = time.perf_counter(), time.process_time()
            predicted = _by(method, case, labels, cpu, arguments, folder)
            spent = time.process_time() - before, time.perf_counter() - began
            cpu = cpu or spent[0]  # what teach.py chose took
            scores = real.score(case, labels, predicted)
            cells = f"{scores['dice']:.3f} | {scores['cldice']:.3f} | {spent[0]:.0f} | {spent[1]:.0f}"
            yield f"| {case.name} | {method} | {cells} |"


def _by(
    method: str, case: real.Case, labels: real.Labels, cpu: float, arguments: argparse.Namespace, folder: Path
) -> real.Mask:
    """Return what a method finds, trained on the labels for a CPU time; teach.py takes its own."""
    if method == "teach.py":
        return real.chosen(case, labels, arguments.seed)
    if method == "µ-Net":
        return _micro_net(case, labels, cpu, arguments.seed)
    volume = Volume(case.image, upright(case.spacing_um), units="um")
    sample = Sample.of(case.name, volume, labels == 1, labels > 0)
    crop = tuple(min(side, length) for side, length in zip((16, 96, 96), case.image.shape, strict=True))
    model = built({"U-Net": "unet", "V-Net": "vnet"}[method], arguments.seed, start_channels=16)
    practice = Practice((crop[0], crop[1], crop[2]), schedule=arguments.schedule, loss=arguments.loss, lr=arguments.lr)
    trained(model, [sample], [], practice, cpu, arguments)
    return np.asarray(in_windows(model, sample, WindowWish(window=128), folder)[0] > 0.5)


def _micro_net(case: real.Case, labels: real.Labels, cpu: float, seed: int) -> real.Mask:
    """Return what a µ-Net finds after as many steps as the CPU time has, told from two short trainings."""

    def mask(steps: int) -> tuple[real.Mask, float]:
        before = time.process_time()
        learner = MicroNetLearner(steps=steps, most_voxels=1_000_000)
        return real.taught(case, labels, seed, [learner]), time.process_time() - before

    took = [mask(steps)[1] for steps in PROBED]
    a_step = max((took[1] - took[0]) / (PROBED[1] - PROBED[0]), 1e-3)
    left = cpu - sum(took)  # the probes are of its time
    steps = int((left - (took[0] - PROBED[0] * a_step)) / a_step)
    return mask(max(steps, PROBED[0]))[0]


def peaks(arguments: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Yield the table of infer.py's peaks against --max-ram."""
    shape = (64, 200, 200) if arguments.minutes < 1 else (128, 512, 512)
    rng = np.random.default_rng(0)
    write_volume(folder / "a.nrrd", memory.grid(rng.integers(0, 255, shape, np.uint8)))
    voxels = "x".join(map(str, shape))
    yield f"| network, {voxels} voxels | --max-ram, MB | how | told, MB | peak, MB | peak / --max-ram | wall s |"
    yield "|---|---|---|---|---|---|---|"
    for title, name, build in (
        ("U-Net", "unet", {}),
        ("U-Net, 16 channels", "unet", {"start_channels": 16}),
        ("U-Net 2-D", "unet", {"dimensions": 2}),
        ("hourglass, two", "hourglass", {"num_stacks": 2}),
        ("U-Net, three classes", "unet", {"classes": ("one", "two")}),
    ):
        save_state(folder / f"{name}.pt", built(name, arguments.seed, **build).state_dict())
        for limit in LIMITS:
            out = Path(tempfile.mkdtemp(dir=folder))
            options = ("--model", folder / f"{name}.pt", "-o", out, "--threads", arguments.threads)
            began = time.perf_counter()
            peak, _ = memory.run("infer.py", folder / "a.nrrd", *options, "--max-ram", f"{limit}MB")
            yield _peak_row(title, limit, out / "a.json", peak, time.perf_counter() - began)


def _peak_row(title: str, limit: int, record: Path, peak: int, seconds: float) -> str:
    if not record.exists():
        return f"| {title} | {limit} | refused | | {peak / 1e6:.0f} | {peak / 1e6 / limit:.2f} | {seconds:.0f} |"
    found = json.loads(record.read_text(encoding="utf-8"))
    told = found.get("memory") or found["segments"][0]["memory"]
    windows = told.get("windows")
    sides = "whole" if windows is None else f"{windows['count']} of {'x'.join(map(str, windows['sides_zyx']))}"
    mark = " ABOVE" if peak > limit * 1e6 else ""
    cells = f"{told['estimated_bytes'] / 1e6:.0f} | {peak / 1e6:.0f} | {peak / 1e6 / limit:.2f}{mark} | {seconds:.0f}"
    return f"| {title} | {limit} | {sides} | {cells} |"


def main() -> None:
    """Print the tables as they grow, and write them."""
    arguments = build_parser().parse_args()
    torch.set_num_threads(arguments.threads)
    about = {**versions(), "processor": processor(), "cores": physical_cores(), "threads": arguments.threads}
    lines = [", ".join(f"{name} {value}" for name, value in about.items()), f"seed {arguments.seed}"]
    print("\n".join(lines), flush=True)
    rows = {"shapes": shapes, "lobe": lobe, "real": on_real, "memory": peaks}
    for row in dict.fromkeys(arguments.row or ROWS):
        lines.append("")
        print(flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for line in rows[row](arguments, Path(folder)):
                lines.append(line)
                print(line, flush=True)
                arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--row", action="append", choices=ROWS, help="table to measure (default: all)")
    p.add_argument("--minutes", type=float, default=20.0, help="of CPU time for each training on phantoms")
    p.add_argument(
        "--seconds", type=float, default=0.0, help="of CPU time on real volumes (default: what teach.py takes)"
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=physical_cores())
    p.add_argument("--data", type=Path, metavar="DATA", help="folder of the real volumes")
    p.add_argument("--volumes", nargs="+", choices=("lightsheet", *real.TWO_PHOTON), metavar="NAME")
    p.add_argument("--images", type=int, default=240, help="of shapes, 51 of them held out (%(default)s)")
    p.add_argument("--depth", type=int, default=4, help="this and the next five: of the U-Net on shapes (%(default)s)")
    p.add_argument("--start-channels", type=int, default=16)
    p.add_argument("--kernel-size", type=int, default=3)
    p.add_argument("--norm", default="batch")
    p.add_argument("--batch-size", type=int, default=8)
    p.add_argument("--optimizer", default="adam")
    p.add_argument("--plain", action="store_true", help="crops are mirrored and turned, not bent, with no other noise")
    p.add_argument("--crop", type=int, default=128, help="side of a 2-D crop, patch and window (%(default)s)")
    p.add_argument("--overlap", type=float, default=0.5)
    p.add_argument("--loss", default="dice")
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--schedule", default="cosine")
    p.add_argument("--validate-every", type=int, default=100, metavar="N", help="steps (%(default)s)")
    p.add_argument("-o", "--output", type=Path, default=Path("networks.md"))
    return p


if __name__ == "__main__":
    main()
