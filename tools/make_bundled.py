"""Make everything that is bundled: the phantoms with their annotations, and the weights trained on phantoms.

python tools/make_bundled.py --volumes      # the phantoms of datasets/phantom.toml, the same bytes every time: seconds
python tools/make_bundled.py                # the weights and their model cards as well: minutes

Phantoms and published data differ: these weights show how the tool works and are a start for training on
phantoms; for real OCT take the published weights.
"""

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.checkpoint import save_state  # noqa: E402
from micronet.dataset import Sample  # noqa: E402
from micronet.io import Segment, write_segmentation, write_volume  # noqa: E402
from micronet.kernels.threads import physical_cores  # noqa: E402
from micronet.models import MicroNet, MicroRNet, bootstrap, model_for_state  # noqa: E402
from micronet.phantom import Anatomy, Optics, phantom_of_seed  # noqa: E402
from micronet.record import sha256_of, versions, write_json  # noqa: E402
from micronet.training import NUMPY_SEED, RECIPES, TORCH_SEED, Trainer  # noqa: E402
from micronet.volume import Volume, upright  # noqa: E402

SHAPE = (96, 96, 96)
SPACING_UM = 4.5
BUNDLED = {
    "phantom_train_1": 20_002,
    "phantom_train_2": 20_003,
    "phantom_train_3": 20_004,
    "phantom_validation": 20_005,
    "phantom_demo": 20_001,
}
# The bundled weights learn from other phantoms than the bundled ones.
TRAINING_SEEDS = tuple(range(1, 13))
VALIDATION_SEEDS = (10_001, 10_002)
MICRONET_EPOCHS = 50
MICRORNET_ROUNDS, MICRORNET_PASSES = 12, 4


def phantom(name: str, seed: int) -> Sample:
    """Return the phantom of a seed, ready for training."""
    mask, image = phantom_of_seed(SHAPE, seed)
    volume = Volume(image, upright((SPACING_UM,) * 3), space="left-posterior-superior", units="um")
    return Sample.of(name, volume, mask)


def write_phantoms(root: Path) -> None:
    """Write the bundled phantoms under the published names."""
    for name, seed in BUNDLED.items():
        sample = phantom(name, seed)
        image = root / "struct_iso" / f"E5D_{name}.nrrd"
        write_volume(image, sample.volume)
        annotation = root / "annotations" / f"annotation_{name}_iso_full.seg.nrrd"
        write_segmentation(annotation, [(Segment(name="full seg"), sample.mask)], sample.volume)
        print(f"{image.name}: foreground {sample.mask.mean():.1%}")


def train(trainer: Trainer, rounds: int, passes: int) -> None:
    """Train, tell each validation, and end with the weights that validated best."""
    trainer.begin(rounds, passes)
    trainer.run(
        lambda _: None,
        lambda report: print(f"{trainer.model.name} step {report.step:4d} validation F {report.f:.3f}", flush=True),
    )
    trainer.validate()
    assert trainer.best_state is not None  # noqa: S101 - there are validation volumes
    trainer.model.load_state_dict(trainer.best_state)


def write_weights(root: Path, trainer: Trainer, seconds: float, demo: Sample) -> None:
    """Write the weights and their model card."""
    path = root / "trained_models" / f"{trainer.model.name}_phantom.pt"
    save_state(path, trainer.model.state_dict())
    statistics = np.array([(sample.mean, sample.sd) for sample in trainer.train_samples])
    demo_score, _ = trainer.score([demo])
    card: dict[str, Any] = {
        "network": trainer.model.name,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "sha256": sha256_of(path),
        "data": {
            "what": "simulated yolk sacs, made by micronet.phantom",
            "training_seeds": TRAINING_SEEDS,
            "validation_seeds": VALIDATION_SEEDS,
            "shape_zyx": SHAPE,
            "anatomy": asdict(Anatomy()),
            "optics": asdict(Optics()),
        },
        "spacing_um": SPACING_UM,
        "intensity_domain": "log uint8",
        "image_mean": round(float(statistics[:, 0].mean()), 2),
        "image_sd": round(float(statistics[:, 1].mean()), 2),
        "recipe": asdict(trainer.recipe),
        "seeds": {"torch": TORCH_SEED, "order": NUMPY_SEED},
        "steps": trainer.step,
        "refinements": trainer.iterations if isinstance(trainer.model, MicroRNet) else 1,
        "scores": {"validation_f": round(trainer.best_f or 0.0, 4), "demo_f": round(demo_score.f_score(), 4)},
        "training_seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    write_json(path.with_suffix(".json"), card)
    print(f"{path.name}: {card['scores']}, {seconds:.0f} s")


def main() -> None:
    """Make the phantoms and, unless told otherwise, the weights."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--volumes", action="store_true", help="only the phantoms and their annotations")
    parser.add_argument("--root", type=Path, default=ROOT, help="where the data folders lie (default: the checkout)")
    parser.add_argument("--threads", type=int, default=physical_cores(), help="for training (default: %(default)s)")
    arguments = parser.parse_args()
    for folder in ("struct_iso", "annotations", "trained_models"):
        (arguments.root / folder).mkdir(parents=True, exist_ok=True)
    write_phantoms(arguments.root)
    if arguments.volumes:
        return

    torch.set_num_threads(arguments.threads)
    training = [phantom(f"phantom {seed}", seed) for seed in TRAINING_SEEDS]
    validation = [phantom(f"phantom {seed}", seed) for seed in VALIDATION_SEEDS]
    demo = phantom("phantom_demo", BUNDLED["phantom_demo"])
    torch.manual_seed(TORCH_SEED)
    model: MicroNet | MicroRNet = MicroNet()
    for rounds, passes in ((MICRONET_EPOCHS, 1), (MICRORNET_ROUNDS, MICRORNET_PASSES)):
        began = time.perf_counter()
        trainer = Trainer(model, training, validation, RECIPES["default"])
        train(trainer, rounds, passes)
        write_weights(arguments.root, trainer, time.perf_counter() - began, demo)
        if isinstance(model, MicroNet):
            model = model_for_state(bootstrap(model.state_dict()))


if __name__ == "__main__":
    main()
