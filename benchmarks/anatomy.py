"""Compare procedural lumens with published annotations, in numbers and pictures.

python benchmarks/anatomy.py ANNOTATIONS        # folder of published annotations, read where they lie
python benchmarks/anatomy.py                    # phantoms alone

Every measure is taken inside the published crop. What was measured of a mask is kept in the output folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.core.provenance import sha256_of, versions, write_json  # noqa: E402
from micronet.data.dataset import read_dataset  # noqa: E402
from micronet.data.phantom import lumen_mask  # noqa: E402
from micronet.io import read_annotation  # noqa: E402
from micronet.measure.topology import betti_numbers, components, skeleton  # noqa: E402

SPACING_UM = 4.5
#: Shape of a published volume after its crop.
SHAPE = (217, 160, 218)
RADII = (2, 4, 7, 12)  # voxels; the classes are named for µm
CLASSES = [
    *(f"radius {a * SPACING_UM:g} to {b * SPACING_UM:g} µm" for a, b in zip((0, *RADII[:-1]), RADII, strict=True)),
    f"radius over {RADII[-1] * SPACING_UM:g} µm",
]


def local_radius(mask: NDArray[np.bool_], inside: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return for every lumen voxel the radius of the largest of some balls that fits in and covers it, else 0."""
    radius = np.zeros(mask.shape, np.uint8)
    for size in RADII:
        core = inside >= size
        if core.any():
            radius[(ndimage.distance_transform_edt(~core) < size) & mask] = size
    return radius


def centreline_length(line: NDArray[np.bool_]) -> float:
    """Return the length in voxels of all links between neighbouring skeleton voxels."""
    total = 0.0
    for offset in np.ndindex(3, 3, 3):
        step = tuple(o - 1 for o in offset)
        if step > (0, 0, 0):  # each pair once
            here = tuple(slice(max(-o, 0), -o if o > 0 else None) for o in step)
            there = tuple(slice(max(o, 0), o if o < 0 else None) for o in step)
            total += np.count_nonzero(line[here] & line[there]) * float(np.hypot.reduce(step))
    return total


def measure(mask: NDArray[np.bool_]) -> dict[str, float]:
    """Return the measures of one lumen mask (Z, Y, X) by name."""
    labels, _ = components(mask)
    sizes = np.bincount(labels.ravel())[1:]
    betti = betti_numbers(mask)
    # Voxels that an annotator missed inside a heart would each turn its centreline into a shell around them.
    solid = ndimage.binary_fill_holes(mask)
    line = skeleton(solid)
    inside = ndimage.distance_transform_edt(solid)
    radius = local_radius(solid, inside)[mask]
    of_lumen = 100 / np.count_nonzero(mask)
    by_depth = np.cumsum(mask.sum(axis=(0, 2))) * of_lumen
    result = {
        "foreground, %": 100 * mask.mean(),
        "components (Betti 0)": betti.components,
        "components of over 100 voxels": np.count_nonzero(sizes > 100),
        "largest component, % of lumen": sizes.max() * of_lumen,
        "loops (Betti 1)": betti.tunnels,
        "cavities (Betti 2)": betti.cavities,
        "centreline, mm per mm³": centreline_length(line) / mask.size / (SPACING_UM / 1000) ** 2,
        "radius along the centreline, median, µm": np.median(inside[line]) * SPACING_UM,
        "radius along the centreline, 90th percentile, µm": np.percentile(inside[line], 90) * SPACING_UM,
        "largest radius, µm": inside.max() * SPACING_UM,
    }
    for name, size in zip(CLASSES, (0, *RADII), strict=True):
        result[f"lumen of {name}, %"] = np.count_nonzero(radius == size) * of_lumen
    for share in (5, 25, 50, 75, 95):
        result[f"depth above which {share} % of the lumen lies, µm"] = np.searchsorted(by_depth, share) * SPACING_UM
    result["lumen in the near half (Z), %"] = np.count_nonzero(mask[: len(mask) // 2]) * of_lumen
    result["covered by lumen, seen from above, %"] = 100 * mask.any(axis=1).mean()
    result["the same, far 40 % (Z)"] = 100 * mask[int(0.6 * len(mask)) :].any(axis=1).mean()
    return {name: float(value) for name, value in result.items()}


def annotations(folder: Path) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Yield name, hash and cropped mask of every published annotation in a folder."""
    crops = {entry.name: entry.y_crop for entry in read_dataset(ROOT / "datasets" / "yolk_sac.toml").entries}
    for path in sorted(folder.glob("annotation_*_iso_full.seg.nrrd")):
        name = path.name.removeprefix("annotation_").removesuffix("_iso_full.seg.nrrd")
        yield name, sha256_of(path), read_annotation(path).mask.array[:, : crops.get(name)]


def table(real: list[dict[str, float]], made: list[dict[str, float]]) -> str:
    """Return the comparison in Markdown."""
    lines = ["| measure | annotations: least | median | most | phantoms: least | median | most | within |"]
    lines.append("|---" * 8 + "|")
    for name in made[0]:
        columns, within = [], ""
        for group in (real, made):
            values = [row[name] for row in group]
            columns += [f"{f(values):.3g}" for f in (min, np.median, max)] if values else ["", "", ""]
        if real:
            low, high = min(row[name] for row in real), max(row[name] for row in real)
            count = sum(low <= row[name] <= high for row in made)
            median = low <= np.median([row[name] for row in made]) <= high
            within = f"{count} of {len(made)}" if median else f"**{count} of {len(made)}**"
        lines.append(f"| {name} | {' | '.join(columns)} | {within} |")
    return "\n".join(lines)


def draw(path: Path, rows: list[tuple[str, NDArray[np.bool_]]], title: str) -> None:
    """Draw masks as the distance to the wall seen along Y, Z and X, one column each."""
    figure = Figure(figsize=(2.4 * len(rows), 6.6), dpi=110, layout="constrained")
    axes = figure.subplots(3, len(rows), squeeze=False)
    for column, (name, mask) in zip(axes.T, rows, strict=True):
        radius = ndimage.distance_transform_edt(mask).astype(np.float32) * SPACING_UM
        for panel, axis, label in zip(column, (1, 0, 2), ("z ↓  x →", "y ↓  x →", "y ↓  z →"), strict=True):
            flat = radius.max(axis=axis)
            image = panel.imshow(flat.T if axis == 2 else flat, cmap="magma", vmin=0, vmax=100)
            panel.set(xticks=[], yticks=[])
            panel.set_xlabel(label, fontsize=7)
        column[0].set_title(name, fontsize=9)
    bar = figure.colorbar(image, ax=axes, shrink=0.5)
    bar.set_label("distance to the wall, µm", fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)


def main() -> None:
    """Measure, print the table, write it with the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("annotations", nargs="?", type=Path, help="folder of the published annotations")
    parser.add_argument("--phantoms", type=int, default=10, help="how many (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE, help="Z Y X (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    kept_path = arguments.output / "anatomy_annotations.json"
    kept = json.loads(kept_path.read_text(encoding="utf-8")) if kept_path.exists() else {}
    real, pictures = {}, []
    for name, sha256, mask in annotations(arguments.annotations) if arguments.annotations else ():
        if kept.get(name, {}).get("sha256") != sha256:
            kept[name] = {"sha256": sha256, "measures": measure(mask)}
            write_json(kept_path, kept)
            print(name, "measured", flush=True)
        real[name] = kept[name]["measures"]
        pictures.append((name, mask))
    made, own_pictures = {}, []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.phantoms):
        mask = lumen_mask(tuple(arguments.shape), np.random.default_rng(seed))
        made[f"seed {seed}"] = measure(mask)
        own_pictures.append((f"phantom, seed {seed}", mask))
        print("phantom", seed, "measured", flush=True)
    text = table(list(real.values()), list(made.values()))
    print(text)
    (arguments.output / "anatomy.md").write_text(text + "\n", encoding="utf-8")
    record = {"annotations": real, "phantoms": made, "shape_zyx": list(arguments.shape), "versions": versions()}
    write_json(arguments.output / "anatomy.json", record)
    draw(arguments.output / "anatomy_phantoms.png", own_pictures[:5], "procedural lumens")
    if pictures:
        draw(arguments.output / "anatomy_annotations.png", pictures[::2][:5], "published annotations")


if __name__ == "__main__":
    main()
