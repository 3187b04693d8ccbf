"""How real simulated OCT looks to the published networks, which were trained on nothing but real OCT.

python benchmarks/realism.py ANNOTATIONS WEIGHTS                # three seeds: some five seconds an image
python benchmarks/realism.py ANNOTATIONS WEIGHTS --ablation --seeds 1 --only 00_T46 05_T16 08_T39 11_T14

ANNOTATIONS is a folder with published annotations, WEIGHTS one with u-net_1600.pt and ur-net_b0.5_1200.pt. An image is
simulated over every annotation (preset `plain`: no decoys), and each network looks for the lumens in it: µ-Net once,
µr-Net ten times from blank. The score is F (Dice) at 0.5 within the published crop; the image is normalised as
published, over the whole volume. Results appear as they are known, and a run that was stopped goes on. realism.png
shows annotations: it is not to be published where they are not. phantoms.png shows the same of procedural phantoms with
decoys (preset `oct`).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.core.provenance import versions, write_json  # noqa: E402
from micronet.core.threads import physical_cores  # noqa: E402
from micronet.data.dataset import Entry, read_dataset  # noqa: E402
from micronet.data.phantom import PRESETS, Optics, mask_of_seed, render_oct  # noqa: E402
from micronet.io import read_annotation  # noqa: E402
from micronet.measure.overlap import overlap  # noqa: E402
from micronet.networks.models import MicroNet, MicroRNet  # noqa: E402
from micronet.networks.weights import load_model  # noqa: E402
from micronet.report.panels import ANNOTATION_COLOUR, MASK_COLOUR  # noqa: E402
from micronet.segment.refine import predict  # noqa: E402

WEIGHTS = {"u": "u-net_1600.pt", "ur": "ur-net_b0.5_1200.pt"}
#: The preset `plain`, which the fit is about.
OCT = Optics()
#: Each lacks one ingredient of it, or has it changed.
ABLATION: dict[str, Optics] = {
    "no attenuation": replace(
        OCT, blood_loss_per_mm=0.0, wall_loss_per_mm=0.0, sheet_loss_per_mm=0.0, body_loss_per_mm=0.0
    ),
    "no yolk sac between the vessels": replace(OCT, sheet=OCT.coelom),
    "no wall of vessels": replace(OCT, vessel_roof_um=0.0, vessel_floor_um=0.0),
    "no wall of the heart": replace(OCT, heart_roof_um=0.0, heart_floor_um=0.0),
    "heart's wall of one layer": replace(OCT, endocardium=OCT.jelly, myocardium=OCT.jelly),
    "no pericardial cavity": replace(OCT, pericardium_um=0.0),
    "floors of vessels as thin as roofs": replace(OCT, vessel_floor_um=OCT.vessel_roof_um),
    "blood as bright at the wall as in the middle": replace(OCT, heart_core_gain=0.0),
    "blood half as bright": replace(
        OCT,
        vessel_blood=OCT.vessel_blood - 0.69,
        heart_blood=OCT.heart_blood - 0.69,
    ),
    "blood twice as bright": replace(
        OCT,
        vessel_blood=OCT.vessel_blood + 0.69,
        heart_blood=OCT.heart_blood + 0.69,
    ),
    "medium, coelom and body alike": replace(OCT, medium=OCT.body, coelom=OCT.body),
    "blood speckled as tissue": replace(OCT, blood_speckle=1.0),
    "no texture": replace(OCT, body_texture=0.0, wall_texture=0.0),
    "hardly any speckle": replace(OCT, speckle_average_vox=3.0),
    "no noise floor": replace(OCT, noise_floor=-9.0),
    "no point spread": replace(OCT, blur_vox=0.0),
}

#: Seeds of the procedural phantoms in the figure that may be published.
PROCEDURAL = (1, 2)
SPACING_UM = 4.5
# Of the figures: inches, and the length of the scale bar.
_FIGURE_WIDTH, _BAR_UM = 10.0, 200

_Mask = NDArray[np.bool_]
_Networks = Mapping[str, MicroNet | MicroRNet]


def judge(
    mask: _Mask, y_crop: int | None, optics: Optics, seed: int, networks: _Networks
) -> tuple[dict[str, Any], Any]:
    """Simulate one image and score both networks on it; return the scores, and image and masks for the figure."""
    began = time.perf_counter()
    image = render_oct(mask, np.random.default_rng(seed), optics)
    scores: dict[str, Any] = {"render_seconds": time.perf_counter() - began}
    inside = mask[:, :y_crop]
    found = {}
    for name, network in networks.items():
        found[name] = predict(image, network, y_crop=y_crop)[:, :y_crop] > 0.5
        counts = overlap(found[name], inside)
        scores |= {
            f"{name}_f": counts.f_score(),
            f"{name}_precision": counts.precision,
            f"{name}_recall": counts.recall,
        }
    return scores, (image[:, :y_crop], inside, found)


def table(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the tables: a row a volume of the preset, then a row a variant."""

    def row(title: str, runs: list[dict[str, float]]) -> str:
        cells = []
        for name in WEIGHTS:
            f, p, r = (np.array([run[f"{name}_{what}"] for run in runs]) for what in ("f", "precision", "recall"))
            cells += [f"{f.mean():.3f} ± {f.std():.3f}", f"{p.mean():.2f}", f"{r.mean():.2f}"]
        return f"| {title} | " + " | ".join(cells) + " |"

    if "plain" in results:
        yield "| volume | µ-Net F | precision | recall | µr-Net F | precision | recall |"
        yield "|---|---|---|---|---|---|---|"
        volumes = results["plain"]
        for name, runs in volumes.items():
            yield row(name, list(runs.values()))
        yield row("**all**", [run for runs in volumes.values() for run in runs.values()])
        worst = [min(np.mean([run[f"{n}_f"] for run in runs.values()]) for runs in volumes.values()) for n in WEIGHTS]
        yield f"| **worst volume** | {worst[0]:.3f} | | | {worst[1]:.3f} | | |"
        yield ""
    yield "| optics | µ-Net F | change | µr-Net F | change | images |"
    yield "|---|---|---|---|---|---|"
    for variant, volumes in results.items():
        # Beside the preset on the same masks, with the same seeds: the speckle is then the same too.
        shared = [
            (name, seed) for name, runs in volumes.items() for seed in runs if seed in results["plain"].get(name, {})
        ]
        if not shared:
            continue
        cells = []
        for network in WEIGHTS:
            f, whole = (np.mean([by[n][s][f"{network}_f"] for n, s in shared]) for by in (volumes, results["plain"]))
            cells.append(f"{f:.3f} | {f - whole:+.3f}" if variant != "plain" else f"{f:.3f} | ")
        yield f"| {variant} | {' | '.join(cells)} | {len(shared)} |"


def write_figure(path: Path, shown: Mapping[str, Any]) -> None:
    """Write two slices of every volume: the image alone, and with the annotation and what each network found."""
    lines = []
    for name, (image, mask, found) in shown.items():
        z = int(np.argsort(mask.sum(axis=(1, 2)))[int(0.8 * len(mask))])  # a slice with much lumen, not the fullest
        y = int(mask.sum(axis=(0, 2)).argmax())
        for what, take in ((f"z {z}", (z,)), (f"y {y}", (slice(None), y))):
            planes = [None, *((mask[take], found[network][take]) for network in WEIGHTS)]
            lines.append((f"{name}, {what}", image[take], planes))
    heights = [len(plane) / plane.shape[1] + 0.11 for _, plane, _ in lines]  # of a picture, in widths, and its title
    figure = Figure(figsize=(_FIGURE_WIDTH, _FIGURE_WIDTH / 3 * sum(heights) + 0.3), dpi=85, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(lines), 3, squeeze=False, gridspec_kw={"height_ratios": heights})
    for line, (name, plane, pictures) in zip(axes, lines, strict=True):
        for pane, title, masks in zip(line, (name, "µ-Net", "µr-Net"), pictures, strict=True):
            pane.imshow(plane, cmap="gray", vmin=0, vmax=255)
            for outline, colour in zip(masks or (), (ANNOTATION_COLOUR, MASK_COLOUR), strict=False):
                if outline.any():
                    pane.contour(outline, [0.5], colors=colour, linewidths=1.2)
            pane.set_title(title, fontsize=10, loc="left")
            pane.axis("off")
        end, low = plane.shape[1] - 6, len(plane) - 7
        start = end - _BAR_UM / SPACING_UM
        edge = [withStroke(linewidth=4, foreground="black")]  # read on white walls too
        line[0].plot([start, end], [low, low], color="white", lw=2.5, solid_capstyle="butt", path_effects=edge)
        text = {"color": "white", "fontsize": 9, "ha": "center", "va": "bottom", "path_effects": edge}
        line[0].text((start + end) / 2, low - 4, f"{_BAR_UM} µm", **text)
    meaning = {"annotation": ANNOTATION_COLOUR, "found by the published network": MASK_COLOUR}
    handles = [Line2D([], [], color=colour, linewidth=2, label=label) for label, colour in meaning.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False, fontsize=10)
    figure.savefig(path)


def main() -> None:
    """Judge what is not there yet; write table, figure and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("annotations", type=Path, help="folder with published annotations")
    parser.add_argument("weights", type=Path, help="folder with the published weights")
    parser.add_argument("--seeds", type=int, default=3, help="images over each annotation (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="volumes whose name ends so, as 05_T16")
    parser.add_argument("--ablation", action="store_true", help="also optics that lack one ingredient each")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    published = {entry.annotation.name: entry for entry in read_dataset(ROOT / "datasets" / "yolk_sac.toml").entries}
    volumes: dict[Path, Entry] = {}
    for path in sorted(arguments.annotations.glob("*.seg.nrrd")):
        entry = published.get(path.name)
        if entry and (not arguments.only or entry.name.endswith(tuple(arguments.only))):
            volumes[path] = entry
    if not volumes:
        raise SystemExit(f"'{arguments.annotations}' holds no published annotation that is asked for")
    networks = {name: load_model(arguments.weights / file) for name, file in WEIGHTS.items()}

    arguments.output.mkdir(parents=True, exist_ok=True)
    record_path = arguments.output / "realism.json"
    record: dict[str, Any] = {"versions": versions(), "optics": asdict(OCT), "results": {}}
    if record_path.is_file():
        before = json.loads(record_path.read_text(encoding="utf-8"))
        if before["optics"] != asdict(OCT):
            raise SystemExit(f"{record_path} holds results of other optics; another -o, or delete it")
        record = before
    shown: dict[str, Any] = {}
    for variant, optics in ({"plain": OCT} | (ABLATION if arguments.ablation else {})).items():
        results = record["results"].setdefault(variant, {})
        for path, entry in volumes.items():
            name = entry.name.partition("_")[2]
            runs = results.setdefault(name, {})
            mask = read_annotation(path, segment=entry.segment).mask.array
            for seed in range(1, arguments.seeds + 1):
                if str(seed) in runs:
                    continue
                runs[str(seed)], pictures = judge(mask, entry.y_crop, optics, seed, networks)
                write_json(record_path, record)
                print(variant, name, seed, {k: round(v, 3) for k, v in runs[str(seed)].items()}, flush=True)
                if variant == "plain":
                    shown.setdefault(name, pictures)
    text = "\n".join(table(record["results"]))
    print(f"\n{text}")
    (arguments.output / "realism.md").write_text(text + "\n", encoding="utf-8")
    if shown:
        write_figure(arguments.output / "realism.png", shown)
    own = arguments.output / "phantoms.png"
    if not own.is_file():
        masks = {seed: mask_of_seed((217, 260, 218), seed, y_crop=160) for seed in PROCEDURAL}
        pictures = {f"seed {seed}": judge(mask, 160, PRESETS["oct"], seed, networks)[1] for seed, mask in masks.items()}
        write_figure(own, pictures)


if __name__ == "__main__":
    main()
