"""Make everything that is bundled: the phantoms with their annotations, and the weights trained on phantoms.

python tools/make_bundled.py --volumes      # the phantoms of datasets/phantom.toml, the same bytes every time: seconds
python tools/make_bundled.py                # the weights and their model cards too: about 15 minutes on two cores

The weights learn from other phantoms than the bundled ones: many of published size and some small ones, the optics
varied in each. Training may be interrupted: the same command goes on where it was, from what lies in --work.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.app.option_types import THREADS, Whole, path_option  # noqa: E402
from micronet.app.terminal import run  # noqa: E402
from micronet.core.ownership import Outputs  # noqa: E402
from micronet.core.provenance import versions  # noqa: E402
from micronet.core.threads import physical_cores  # noqa: E402
from micronet.core.volume import Volume, upright  # noqa: E402
from micronet.data.dataset import Sample  # noqa: E402
from micronet.data.phantom import PRESETS, Anatomy, phantom_of_seed  # noqa: E402
from micronet.io import Segment, write_segmentation, write_volume  # noqa: E402
from micronet.measure.overlap import overlap  # noqa: E402
from micronet.networks import engine  # noqa: E402
from micronet.networks.card import Look, expected, planned_weights, write_card  # noqa: E402
from micronet.networks.models import MicroNet, MicroRNet  # noqa: E402
from micronet.networks.registry import model_for_state  # noqa: E402
from micronet.networks.weights import (  # noqa: E402
    bootstrap,
    load_session,
    save_session,
    save_state,
)
from micronet.training.recipe import NUMPY_SEED, RECIPES, TORCH_SEED  # noqa: E402
from micronet.training.trainer import Trainer, ValidationReport  # noqa: E402

SMALL, FULL, FULL_CROP = (96, 96, 96), (217, 260, 218), 160
SPACING_UM = 4.5
#: Of the bundled phantoms to train on: with these planes all that is bundled stays below 4 MB.
TRAINING = (88, 96, 96)
BUNDLED = {
    "phantom_train_1": 20_002,
    "phantom_train_2": 20_003,
    "phantom_train_3": 20_004,
    "phantom_validation": 20_005,
    "phantom_demo": 20_001,
}
FULL_TRAINING, SMALL_TRAINING = tuple(range(1, 17)), tuple(range(101, 109))
FULL_VALIDATION, SMALL_VALIDATION = (10_001,), (10_101,)
#: Benchmarks score on the same phantoms.
UNSEEN = tuple(range(30_001, 30_009))
#: Of the three that benchmarks/accuracy.py trains (0, 1, 2), the one whose µr-Net validates best.
SEED = 2
MICRONET_EPOCHS = 8
MICRORNET_ROUNDS = 2
#: Steps between two savings of an unfinished training.
_SAVE_EVERY = 25


@dataclass(frozen=True)
class Stage:
    """What is typed at the prompt: ``rp``, ``lr`` (None follows the schedule), then `rounds` and `passes`."""

    rounds: int
    passes: int = 1
    beta_squared: float = 1.0
    rate: float | None = None


#: How a µr-Net ends: a small rate and a loss for precision rid its masks of specks (docs/training.md).
FINISH = Stage(1, 4, beta_squared=0.25, rate=2e-4)


def micronet_stages(epochs: int) -> list[Stage]:
    """Return how a µ-Net is trained."""
    return [Stage(epochs)]


def micrornet_stages(rounds: int) -> list[Stage]:
    """Return how a µr-Net is trained that begins as a trained µ-Net."""
    return [Stage(rounds, 4), FINISH]


def phantom(name: str, seed: int, shape: tuple[int, int, int], *, vary: bool) -> Sample:
    """Return the phantom of a seed, ready for training."""
    y_crop = FULL_CROP if shape == FULL else None
    mask, image = phantom_of_seed(shape, seed, y_crop=y_crop, vary=vary)
    volume = Volume(image, upright((SPACING_UM,) * 3), space="left-posterior-superior", units="um")
    return Sample.of(name, volume, mask, y_crop=y_crop)


def phantoms(full: Sequence[int], small: Sequence[int], *, vary: bool) -> list[Sample]:
    """Return the phantoms of some seeds, of published size and small."""
    wanted = [(seed, FULL) for seed in full] + [(seed, SMALL) for seed in small]
    return [phantom(f"phantom {seed}", seed, shape, vary=vary) for seed, shape in wanted]


def write_phantoms(root: Path) -> None:
    """Write the bundled phantoms under the published names."""
    files = {
        name: (f"struct_iso/E5D_{name}.nrrd", f"annotations/annotation_{name}_iso_full.seg.nrrd") for name in BUNDLED
    }
    names = [file for pair in files.values() for file in pair]
    outputs = Outputs(root, "datasets/phantom.json", "make_bundled.py", names, advice="--root DIR writes elsewhere")
    shapes = {name: TRAINING if "train" in name else SMALL for name in BUNDLED}
    with outputs.staged() as folder:
        for name, seed in BUNDLED.items():
            sample = phantom(name, seed, shapes[name], vary=False)
            image, annotation = (folder / file for file in files[name])
            write_volume(image, sample.volume)
            write_segmentation(annotation, [(Segment(name="full seg"), sample.mask)], sample.volume)
            print(f"{image.name}: foreground {sample.mask.mean():.1%}")
    outputs.finish({"seeds": BUNDLED, "shape_zyx": shapes, "versions": versions()})


def train(trainer: Trainer, stages: Sequence[Stage], session: Path) -> tuple[dict[str, float], float]:
    """Train, tell each validation, and return the time it took and the F of the last validation.

    What is done is kept in a session file, from which another call goes on.
    """
    begun, before = 0, {"seconds": 0.0, "cpu_seconds": 0.0}
    if session.exists():
        content = load_session(session)
        trainer.restore(content["trainer"])
        begun, before = content["stages_begun"], content["spent"]
    began, cpu_began = time.perf_counter(), time.process_time()
    saved = trainer.step

    def spent() -> dict[str, float]:
        return {
            "seconds": before["seconds"] + time.perf_counter() - began,
            "cpu_seconds": before["cpu_seconds"] + time.process_time() - cpu_began,
        }

    def save() -> None:
        save_session(session, {"trainer": trainer.state(), "stages_begun": begun, "spent": spent()})

    def between_steps() -> bool:
        nonlocal saved
        if trainer.step >= saved + _SAVE_EVERY:
            save()
            saved = trainer.step
        return False

    def tell(report: ValidationReport) -> None:
        print(f"{trainer.model.name} step {report.step:4d} validation F {report.f:.3f}", flush=True)

    while True:
        trainer.run(lambda _: None, tell, between_steps)
        if begun == len(stages):
            break
        stage = stages[begun]
        begun += 1
        trainer.beta_squared, trainer.fixed_rate = stage.beta_squared, stage.rate
        trainer.begin(stage.rounds, stage.passes)
    last = trainer.validate()
    tell(last)
    save()
    return spent(), last.f


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """Return mean and standard deviation over volumes, and how many there are."""
    return {
        "mean": round(float(np.mean(values)), 4),
        "sd": round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else 0.0,
        "volumes": len(values),
    }


def scores(trainer: Trainer, validation_f: float, unseen: Sequence[Sample], demo: Sample) -> dict[str, Any]:
    """Return the scores of trained weights; a µr-Net refines ten times from a blank mask."""
    counts = [overlap(trainer.predict(sample) > 0.5, sample.mask) for sample in unseen]
    return {
        "validation_f": round(validation_f, 4),
        "unseen_full_size": {
            "f": spread([count.f_score() for count in counts]),
            "precision": spread([count.precision for count in counts]),
            "recall": spread([count.recall for count in counts]),
        },
        "demo_f": round(trainer.score([demo])[0].f_score(), 4),
    }


def write_weights(
    root: Path,
    trainer: Trainer,
    stages: Sequence[Stage],
    spent: dict[str, float],
    validation_f: float,
    unseen: Sequence[Sample],
    demo: Sample,
) -> None:
    """Write the weights and their model card."""
    path = root / "trained_models" / f"{trainer.model.name}_phantom.pt"
    outputs = planned_weights(path, advice="--root DIR writes elsewhere")
    with outputs.staged() as folder:
        save_state(folder / path.name, trainer.model.state_dict())
    found = scores(trainer, validation_f, unseen, demo)
    more = {
        "network": trainer.model.name,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "data": {
            "what": "simulated yolk sacs, made by micronet.data.phantom; the optics of all but demo and unseen vary",
            "training": {"full_size": FULL_TRAINING, "small": SMALL_TRAINING},
            "validation": {"full_size": FULL_VALIDATION, "small": SMALL_VALIDATION},
            "unseen_full_size": UNSEEN,
            "demo": BUNDLED["phantom_demo"],
            "full_size_zyx": FULL,
            "full_size_y_crop": FULL_CROP,
            "small_zyx": SMALL,
            "anatomy": vars(Anatomy()),
            "optics": asdict(PRESETS["oct"]),
        },
        "recipe": trainer.state()["recipe"],
        "optimizer": trainer.recipe.optimizer,
        "augmentation": trainer.state()["augmentation"],
        "seeds": {"torch": TORCH_SEED + SEED, "order": NUMPY_SEED + SEED},
        "steps": trainer.step,
        "stages": [vars(stage) for stage in stages],
        "refinements": trainer.iterations if isinstance(trainer.model, MicroRNet) else 1,
        "scores": found,
        "training": {name: round(seconds) for name, seconds in spent.items()},
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    write_card(
        outputs,
        spacing_um=SPACING_UM,
        intensity_domain="log",
        dtype="uint8",
        look=expected([Look.of(sample.volume.array) for sample in trainer.train_samples]),
        more=more,
    )
    print(f"{path.name}: {found}, {spent['seconds']:.0f} s")


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--volumes", action="store_true", help="only the phantoms and their annotations")
    parser.add_argument(
        "--root", type=path_option, default=ROOT, help="where the data folders lie (default: the checkout)"
    )
    parser.add_argument(
        "--work", type=path_option, default=ROOT / "checkpoints" / "bundled", help="for what is unfinished"
    )
    parser.add_argument(
        "--epochs", type=Whole(1, 1_000_000), default=MICRONET_EPOCHS, help="of µ-Net (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=Whole(1, 1_000_000), default=MICRORNET_ROUNDS, help="of µr-Net (default: %(default)s)"
    )
    parser.add_argument("--threads", type=THREADS, default=physical_cores(), help="for training (default: %(default)s)")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback when something fails")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Make the phantoms and, unless told otherwise, the weights."""
    for folder in ("struct_iso", "annotations", "trained_models"):
        (arguments.root / folder).mkdir(parents=True, exist_ok=True)
    write_phantoms(arguments.root)
    if arguments.volumes:
        return 0

    torch.set_num_threads(arguments.threads)
    if not engine.is_ready("training"):
        engine.make_ready("training")
    arguments.work.mkdir(parents=True, exist_ok=True)
    training = phantoms(FULL_TRAINING, SMALL_TRAINING, vary=True)
    validation = phantoms(FULL_VALIDATION, SMALL_VALIDATION, vary=True)
    unseen = phantoms(UNSEEN, (), vary=False)
    demo = phantom("phantom_demo", BUNDLED["phantom_demo"], SMALL, vary=False)
    plan = [micronet_stages(arguments.epochs), micrornet_stages(arguments.rounds)]
    # A session goes on only with the very same volumes and training.
    digest = hashlib.sha256(f"{plan} {SEED}".encode())
    for sample in (*training, *validation):
        digest.update(sample.image.tobytes())
    torch.manual_seed(TORCH_SEED + SEED)
    model: MicroNet | MicroRNet = MicroNet()
    for stages in plan:
        trainer = Trainer(model, training, validation, RECIPES["default"], NUMPY_SEED + SEED)
        session = arguments.work / f"{model.name}_{digest.hexdigest()[:12]}.session"
        spent, validation_f = train(trainer, stages, session)
        write_weights(arguments.root, trainer, stages, spent, validation_f, unseen, demo)
        if isinstance(model, MicroNet):
            model = model_for_state(bootstrap(model.state_dict()))
    return 0


if __name__ == "__main__":
    run(build_parser(), main)
