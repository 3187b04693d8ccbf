"""Measure what each decoy costs methods that judge a voxel by filters around it, and networks, on simulated OCT.

python benchmarks/decoys.py ANNOTATIONS WEIGHTS                  # all and none, full size, three seeds: two CPU hours
python benchmarks/decoys.py ANNOTATIONS WEIGHTS --rows cracks "all but cracks"
python benchmarks/decoys.py ANNOTATIONS WEIGHTS --rows each      # each decoy alone, and all but it: a day
python benchmarks/decoys.py ANNOTATIONS WEIGHTS --shape 96,96,96 --voxels 10000 --seeds 1 --only 00_T46 03_T17

Random forest and pixel network (voxels.py) learn from six phantoms whose optics and decoys vary, and are scored on six
others and on images over the annotations, which do not vary; on random voxels. The bundled networks, which learned from
phantoms too, and the published ones, which learned from real OCT, look at the whole of these images: µ-Net once, µr-Net
ten times. So does MONAI's 3-D U-Net, trained on the phantoms of the bundled networks for the CPU time of both.
decoys.png shows what the published ones find in a procedural phantom with much of one decoy. Every image is simulated.
What is in --output is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import realism
import torch
import voxels

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]  # runs from a checkout that is not installed

import competitors  # noqa: E402
import make_bundled  # noqa: E402

from micronet.core.provenance import sha256_of, versions, write_json  # noqa: E402
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

TAUGHT = {"forest": "random forest", "pixel network": "pixel network"}
PUBLISHED = {"published µ-Net": "u-net_1600.pt", "published µr-Net": "ur-net_b0.5_1200.pt"}
OURS = {"bundled µ-Net": "u-net_phantom.pt", "bundled µr-Net": "ur-net_phantom.pt"}
RIVAL = "MONAI U-Net"
#: Of which published networks are asked the latter alone: they were not made for phantoms.
SETS = ("unseen", "annotations")
TRAINING, UNSEEN = range(1, 7), range(30_001, 30_007)
WHOLE = PRESETS["oct"]


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


def columns() -> list[tuple[str, str]]:
    """Return method and set of every column."""
    anywhere = (*TAUGHT, *OURS, RIVAL)
    return [*((name, which) for name in anywhere for which in SETS), *((name, SETS[1]) for name in PUBLISHED)]


class Bench:
    """The annotated masks, and who is asked."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        folders = {arguments.weights: PUBLISHED, arguments.ours: OURS}
        self.networks = {name: load_model(folder / file) for folder, of in folders.items() for name, file in of.items()}
        y = arguments.shape[1]
        self.crop = y * 160 // 260 if y > 160 else None
        self.annotated = {}
        for entry in read_dataset(ROOT / "datasets" / "yolk_sac.toml").entries:
            path = arguments.annotations / entry.annotation.name
            if path.exists() and (not arguments.only or entry.name.endswith(tuple(arguments.only))):
                self.annotated[entry.name] = (read_annotation(path, segment=entry.segment).mask.array, entry.y_crop)

    def sample(self, mask: Any, rng: np.random.Generator, optics: Optics, crop: int | None) -> Sample:
        """Return the image over a mask."""
        image = render_oct(mask, rng, optics, threads=self.arguments.threads)
        return Sample.of("phantom", Volume(image, upright((4.5,) * 3), units="um"), mask, y_crop=crop)

    def phantom(self, seed: int, optics: Optics) -> Sample:
        """Return a phantom whose optics vary."""
        mask = mask_of_seed(self.arguments.shape, seed, y_crop=self.crop)
        drawn = varied(optics, np.random.default_rng([seed, 2]), VARIATION["oct"])
        return self.sample(mask, speckle_of_seed(seed), drawn, self.crop)

    def rows(self, name: str, sample: Sample, seed: int) -> voxels.Rows:
        """Return random voxels, as a taught method sees them."""
        return voxels.drawn(voxels.LEARNERS[TAUGHT[name]], sample, self.arguments.voxels, seed)

    @cache  # noqa: B019 - there is one bench
    def rival(self, seed: int) -> competitors.UNet:
        """Return MONAI's U-Net, trained with this seed for the CPU time of the bundled networks together."""
        network = competitors.UNet(96, seed)
        path = self.arguments.output / f"monai_seed{seed}.session"
        if not network.load(path):
            cards = [(self.arguments.ours / file).with_suffix(".json") for file in OURS.values()]
            budget = sum(json.loads(card.read_text(encoding="utf-8"))["training"]["cpu_seconds"] for card in cards)
            learned_from = make_bundled.phantoms(make_bundled.FULL_TRAINING, make_bundled.SMALL_TRAINING, vary=True)
            held_out = make_bundled.phantoms(make_bundled.FULL_VALIDATION, make_bundled.SMALL_VALIDATION, vary=True)
            network.train(learned_from, held_out, budget, path)
        return network

    def dice(self, method: voxels.VoxelMethod | competitors.UNet | str, name: str, sample: Sample, seed: int) -> float:
        """Return Dice of one method on one image."""
        if isinstance(method, voxels.VoxelMethod):
            return method.dice(self.rows(name, sample, seed))
        if isinstance(method, competitors.UNet):
            return overlap(method.predict(sample), sample.mask).f_score()
        crop = sample.entry.y_crop
        mine = predict(sample.volume.array, self.networks[name], y_crop=crop)[:, :crop] > 0.5
        return overlap(mine, sample.mask).f_score()

    def row(self, optics: Optics, seed: int, found: dict[str, list[float]]) -> None:
        """Add to `found` the Dice on every image that is missing; the seed is that of teaching and of all speckle."""
        wanted = [(name, which) for name, which in columns() if name in self.arguments.methods]
        missing = [(name, which) for name, which in wanted if f"{name}, {which}" not in found]
        methods: dict[str, voxels.VoxelMethod | competitors.UNet | str] = {name: name for name, _ in missing}
        taught: dict[str, list[voxels.Rows]] = {name: [] for name in methods if name in TAUGHT}
        for s in TRAINING if taught else ():
            sample = self.phantom(s + 100 * seed, optics)
            for name, rows in taught.items():
                rows.append(self.rows(name, sample, s + 100 * seed))
        for name, rows in taught.items():
            methods[name] = voxels.teach(voxels.LEARNERS[TAUGHT[name]], rows, seed)
        if RIVAL in methods:
            methods[RIVAL] = self.rival(seed)
        for which in SETS:
            asked = [name for name, where in missing if where == which]
            scores: dict[str, list[float]] = {name: [] for name in asked}
            for drawn, sample in self.samples(which, optics, seed) if asked else ():
                for name in asked:
                    scores[name].append(self.dice(methods[name], name, sample, drawn))
            found |= {f"{name}, {which}": values for name, values in scores.items()}

    def samples(self, which: str, optics: Optics, seed: int) -> Iterator[tuple[int, Sample]]:
        """Yield the images of a set, each with the seed of the voxels that are drawn from it."""
        if which == "unseen":
            yield from ((s, self.phantom(s, optics)) for s in UNSEEN)
        else:
            for mask, crop in self.annotated.values():
                yield seed, self.sample(mask, np.random.default_rng(seed + 1), optics, crop)

    def figure(self, path: Path) -> None:
        """Show what the published networks find where there is much of one decoy."""
        mask = mask_of_seed((128, 160, 160), 1, y_crop=128)
        shown = {}
        for name, amount in MUCH.items():
            image = render_oct(mask, speckle_of_seed(1), replace(WHOLE, decoys=Decoys(**amount)))
            found = (predict(image, self.networks[each], y_crop=128)[:, :128] > 0.5 for each in PUBLISHED)
            shown[name] = (image[:, :128], mask[:, :128], dict(zip(realism.WEIGHTS, found, strict=True)))
        realism.write_figure(path, shown)


def table(results: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """Return Markdown: mean Dice over images and seeds; over annotations the mean of the worst one too."""
    measured = {name for seeds in results.values() for run in seeds.values() for name in run}
    names = [name for name in (f"{method}, {which}" for method, which in columns()) if name in measured]
    lines = ["| decoys; seeds | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for variant, seeds in results.items():
        cells = []
        for name in names:
            scores = np.array([run[name] for run in seeds.values() if name in run])
            worst = f" (worst {scores.mean(0).min():.3f})" if len(scores) and SETS[1] in name else ""
            cells.append(f"{scores.mean():.3f}{worst}" if len(scores) else "")
        lines.append(f"| {variant}; {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Make the rows that are missing; write table and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("annotations", type=Path, help="folder with published annotations")
    parser.add_argument("weights", type=Path, help="folder with the published weights")
    parser.add_argument("--ours", type=Path, default=ROOT / "trained_models", help="folder with the bundled weights")
    parser.add_argument(
        "--rows", nargs="+", default=["all decoys", "none"], choices=[*dict(variants()), "each"], metavar="ROW"
    )
    everyone = list(dict(columns()))
    parser.add_argument("--methods", nargs="+", default=everyone, choices=everyone, metavar="METHOD")
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
    hashes = {name: sha256_of(arguments.ours / file) for name, file in OURS.items()}
    if record.setdefault("bundled", hashes) != hashes:
        raise SystemExit(f"{path} holds results of other bundled weights; another -o, or delete it")
    bench = Bench(arguments)
    if not (arguments.output / "decoys.png").is_file():
        bench.figure(arguments.output / "decoys.png")
    for variant, optics in variants():
        asked_for = variant in arguments.rows or "each" in arguments.rows
        for seed in range(arguments.seeds) if asked_for else ():
            run = record["results"].setdefault(variant, {}).setdefault(str(seed), {})
            bench.row(optics, seed, run)
            write_json(path, record)
            print(variant, seed, {k: round(float(np.mean(v)), 3) for k, v in run.items()}, flush=True)
    text = table(record["results"])
    (arguments.output / "decoys.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
