"""Measure what each decoy costs a random forest and the published networks, on simulated OCT.

python benchmarks/decoys.py ANNOTATIONS WEIGHTS                  # all and none, full size, three seeds: two hours
python benchmarks/decoys.py ANNOTATIONS WEIGHTS --rows cracks "all but cracks"
python benchmarks/decoys.py ANNOTATIONS WEIGHTS --rows each      # each decoy alone, and all but it: a day
python benchmarks/decoys.py ANNOTATIONS WEIGHTS --shape 96,96,96 --voxels 10000 --seeds 1 --only 00_T46 03_T17

The forest (voxels.py) learns from six phantoms whose optics and decoys vary, and is scored on six others and on images
over the annotations, which do not vary; on random voxels. The published µ-Net looks at each image over an annotation
once, µr-Net ten times. decoys.png shows what they find in a procedural phantom with much of one decoy. Every image is
simulated. Rows that are in --output are not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import realism
import torch
import voxels

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.core.provenance import versions, write_json  # noqa: E402
from micronet.core.threads import physical_cores  # noqa: E402
from micronet.core.volume import Volume, upright  # noqa: E402
from micronet.data.dataset import Sample, read_dataset  # noqa: E402
from micronet.data.phantom import (  # noqa: E402
    DECOYS,
    PRESETS,
    VARIATION,
    Decoys,
    Optics,
    mask_of_seed,
    only,
    render_oct,
    speckle_of_seed,
    varied,
)
from micronet.io import read_annotation  # noqa: E402
from micronet.measure.overlap import overlap  # noqa: E402
from micronet.networks.weights import load_model  # noqa: E402
from micronet.segment.refine import predict  # noqa: E402

WEIGHTS = {"published µ-Net": "u-net_1600.pt", "published µr-Net": "ur-net_b0.5_1200.pt"}
TRAINING, UNSEEN = range(1, 7), range(30_001, 30_007)
WHOLE = PRESETS["decoys"]


def variants() -> Iterator[tuple[str, Optics]]:
    """Yield name and optics of every row there is."""
    yield "all decoys", WHOLE
    yield "none", replace(WHOLE, decoys=only([]))
    for name in DECOYS:
        yield name, replace(WHOLE, decoys=only([name]))
        yield f"all but {name}", replace(WHOLE, decoys=only(set(DECOYS) - {name}))


#: In the figure, how much there is of the decoys that mislead the published networks most.
MUCH = {
    "head-folds": {"head_fold_share": 0.3},
    "empty-vessels": {"empty_share": 0.3},
    "faded-walls": {"faded_share": 0.3},
}


class Bench:
    """The annotated masks, and who is asked."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.networks = {name: load_model(arguments.weights / file) for name, file in WEIGHTS.items()}
        y = arguments.shape[1]
        crop = y * 160 // 260 if y > 160 else None
        self.crop = crop
        self.annotated = {}
        for entry in read_dataset(ROOT / "datasets" / "yolk_sac.toml").entries:
            path = arguments.annotations / entry.annotation.name
            if path.exists() and (not arguments.only or entry.name.endswith(tuple(arguments.only))):
                self.annotated[entry.name] = (read_annotation(path, segment=entry.segment).mask.array, entry.y_crop)

    def rendered(self, mask: Any, rng: np.random.Generator, optics: Optics) -> Any:
        """Return the image over a mask."""
        return render_oct(mask, rng, optics, threads=self.arguments.threads)

    def phantom(self, seed: int, optics: Optics) -> voxels.Rows:
        """Return voxels of a phantom whose optics vary."""
        mask, crop = mask_of_seed(self.arguments.shape, seed, y_crop=self.crop), self.crop
        drawn = varied(optics, np.random.default_rng([seed, 2]), VARIATION["decoys"])
        return self.rows(self.rendered(mask, speckle_of_seed(seed), drawn), mask, crop, seed)

    def rows(self, image: Any, mask: Any, crop: int | None, seed: int) -> voxels.Rows:
        """Return random voxels of an image, for the forest."""
        sample = Sample.of("phantom", Volume(image, upright((4.5,) * 3), units="um"), mask, y_crop=crop)
        return voxels.drawn(voxels.LEARNERS["random forest"], sample, self.arguments.voxels, seed)

    def row(self, optics: Optics, seed: int) -> dict[str, list[float]]:
        """Return the Dice of everybody on every volume; the seed is that of the forest and of all speckle."""
        learner = voxels.LEARNERS["random forest"]
        forest = voxels.teach(learner, [self.phantom(s + 100 * seed, optics) for s in TRAINING], seed)
        found: dict[str, list[float]] = {
            "forest, unseen": [forest.dice(self.phantom(s, optics)) for s in UNSEEN],
            "forest, annotations": [],
            **{name: [] for name in WEIGHTS},
        }
        for mask, crop in self.annotated.values():
            image = self.rendered(mask, np.random.default_rng(seed + 1), optics)
            found["forest, annotations"].append(forest.dice(self.rows(image, mask, crop, seed)))
            for name, network in self.networks.items():
                mine = predict(image, network, y_crop=crop)[:, :crop] > 0.5
                found[name].append(overlap(mine, mask[:, :crop]).f_score())
        return found

    def figure(self, path: Path) -> None:
        """Show what the published networks find where there is much of one decoy."""
        mask = mask_of_seed((128, 160, 160), 1, y_crop=128)
        shown = {}
        for name, amount in MUCH.items():
            image = render_oct(mask, speckle_of_seed(1), replace(WHOLE, decoys=Decoys(**amount)))
            found = (predict(image, network, y_crop=128)[:, :128] > 0.5 for network in self.networks.values())
            shown[name] = (image[:, :128], mask[:, :128], dict(zip(realism.WEIGHTS, found, strict=True)))
        realism.write_figure(path, shown)


def table(results: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """Return Markdown: mean Dice over volumes and seeds; of the annotations the worst volume's mean too."""
    names = ["forest, unseen", "forest, annotations", *WEIGHTS]
    lines = ["| decoys | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for variant, seeds in results.items():
        cells = []
        for name in names:
            scores = np.array([run[name] for run in seeds.values()])
            worst = f" (worst {scores.mean(0).min():.3f})" if name in WEIGHTS else ""
            cells.append(f"{scores.mean():.3f}{worst}")
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Make the rows that are missing; write table and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("annotations", type=Path, help="folder with published annotations")
    parser.add_argument("weights", type=Path, help="folder with the published weights")
    parser.add_argument(
        "--rows", nargs="+", default=["all decoys", "none"], choices=[*dict(variants()), "each"], metavar="ROW"
    )
    parser.add_argument("--shape", type=lambda text: tuple(map(int, text.split(","))), default=(217, 260, 218))
    parser.add_argument("--voxels", type=int, default=voxels.VOXELS, help="of each volume (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="annotations whose name ends so, as 05_T16")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "decoys.json"
    asked = json.loads(json.dumps([asdict(WHOLE), arguments.shape, arguments.voxels, arguments.only]))
    record: dict[str, Any] = {"asked": asked, "versions": versions(), "results": {}}
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["asked"] != asked:
            raise SystemExit(f"{path} holds results of other phantoms; another -o, or delete it")
    bench = Bench(arguments)
    if not (arguments.output / "decoys.png").is_file():
        bench.figure(arguments.output / "decoys.png")
    for variant, optics in variants():
        asked_for = variant in arguments.rows or "each" in arguments.rows
        for seed in range(arguments.seeds) if asked_for else ():
            runs = record["results"].setdefault(variant, {})
            if str(seed) not in runs:
                runs[str(seed)] = bench.row(optics, seed)
                write_json(path, record)
                print(variant, seed, {k: round(float(np.mean(v)), 3) for k, v in runs[str(seed)].items()}, flush=True)
    text = table(record["results"])
    (arguments.output / "decoys.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
