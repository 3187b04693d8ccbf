"""The command line of each script: one function builds one parser.

Nothing here, and nothing this imports, loads what computes: ``--help`` and a slip of the pen are answered at once.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from micronet.app.option_types import (
    THREADS,
    Real,
    Sizes,
    Whole,
    axes_option,
    block_option,
    bytes_option,
    classes_option,
    clean_option,
    cluster_option,
    commands_option,
    cut_option,
    device_option,
    dtype_option,
    input_option,
    mask_option,
    part_option,
    path_option,
    plane_option,
    range_option,
    resample_option,
    spacing_option,
    text_option,
)
from micronet.core.ram import SHARE
from micronet.io.mesh import MESH_FORMATS
from micronet.report.wish import PANELS

__all__ = [
    "MOST_PHANTOMS",
    "bootstrap_parser",
    "evaluate_parser",
    "infer_parser",
    "make_phantoms_parser",
    "network_parser",
    "new_dataset_parser",
    "prepare_parser",
    "search_parser",
    "settings_of",
    "teach_parser",
    "training_parser",
]

_Settings = TypeVar("_Settings")

#: Phantoms of a set: its data-set file stays one that is read.
MOST_PHANTOMS = 10_000
# What may be chosen, of modules that load PyTorch or SciPy; tests/test_options.py holds that these say the same.
DOMAINS, AVERAGES = ("intensity", "amplitude", "db", "log"), ("log", "linear")
PRESETS = (
    *("oct", "plain", "somites", "head-folds", "amnion", "cracks", "empty-vessels", "still-blood", "shadows"),
    *("faded-walls", "saturated-lines", "motion", "bubbles"),
)
FORMATS = ("nrrd", "ome.zarr")
PHANTOMS = ("oct", "shapes", "optic-lobe")
BLENDS = ("gaussian", "constant")
ENGINES = ("auto", "numba", "torch")
RECIPES = ("default", "published")
AUGMENTATIONS = ("none", "flips", "full")
SEED = 43283
MODEL = "ur-net_phantom"
TITLES = {"u-net": "µ-Net", "ur-net": "µr-Net"}
NETWORKS = ("unet", "vnet", "hourglass")
#: What tells which classes an image holds.
OF_IMAGES = ("micranet",)
NORMS = ("batch", "instance", "group")
LOSSES = ("dice", "bce", "weighted_bce", "boundary_dice", "cross_entropy", "focal", "fbeta")
OPTIMIZERS = ("adam", "sgd", "rmsprop", "soap")
SCHEDULES = ("plateau", "step", "cosine", "published")


def settings_of(kind: type[_Settings], arguments: argparse.Namespace, **others: Any) -> _Settings:
    """Return settings, a dataclass: each field is what the option of its name says, if it is not among the others."""
    names = (field.name for field in fields(kind) if field.name not in others)  # type: ignore[arg-type]
    return kind(**{name: getattr(arguments, name) for name in names}, **others)


class _ProjectParser(argparse.ArgumentParser):
    """A parser of scripts that write into the folders of one project, each of which may also be named by itself."""

    _folders: dict[str, str]

    def add_project(self, folders: dict[str, str], holds: str, fixed: tuple[str, ...] = ()) -> None:
        """Add ``--project``, and for each of its folders (by destination), but the fixed, the option for another."""
        self._folders = folders
        self.set_defaults(**dict.fromkeys(fixed))
        self.add_argument(
            "--project", type=path_option, default=Path(), metavar="DIR", help=f"one folder {holds} (default: here)"
        )
        for destination, folder in folders.items():
            if destination in fixed:
                continue
            options = ("-o", "--output") if destination == "output" else (f"--{destination}",)
            self.add_argument(*options, type=path_option, metavar="DIR", help=f"default: {folder} in the project")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and put the folders that were not named into the project."""
        arguments, rest = super().parse_known_args(args, namespace)
        for destination, folder in self._folders.items():
            if getattr(arguments, destination) is None:
                setattr(arguments, destination, arguments.project / folder)
        return arguments, rest


def infer_parser() -> argparse.ArgumentParser:
    """Return the parser of ``infer.py``."""
    p = _ProjectParser(description="Segment lumens in 3-D volumes; with no INPUT, the bundled demo.")
    p.add_argument("inputs", nargs="*", type=path_option, metavar="INPUT", help="volumes, or folders of volumes")
    p.add_project({"output": "predictions"}, "with predictions, and checkpoints where --model NAME is looked for")
    p.add_argument(
        "--model",
        type=text_option,
        action="append",
        metavar="NAME|PATH",
        help=f"weights (default: {MODEL}); SEGMENT=NAME, once for each, for several segments in one file",
    )
    _add_refinement(p)
    _add_maps(p)
    _add_y_crop(p, "look only at the first N voxels in depth (Y)")
    p.add_argument("--intensity", choices=("as stored", "log"), default="as stored", help="log: of linear intensities")
    _add_axes(p, "order of the axes, where the file does not say")
    _add_spacing(p, "voxel size in µm")
    p.add_argument(
        "--resample",
        dest="resample_um",
        nargs="?",
        const="network",
        type=resample_option,
        metavar="UM",
        help="bring the volume to the voxels of the network (or to UM µm), and the results back",
    )
    _add_headerless(p, Sizes((3, 4)), "such as uint16")
    _add_segment(p, "mask to take")
    p.add_argument("--annotation", type=input_option, metavar="FILE", help="true mask to score the result against")
    p.add_argument("--keep", type=input_option, metavar="FILE", help="edited mask: its checked voxels stay as they are")
    _add_checked(p, "of it that says which (default: checked)")
    _add_report(p)
    _add_figure(p)
    p.add_argument("--mesh", choices=MESH_FORMATS, help="write the surface of the lumen too, in µm")
    _add_measures(p)
    p.add_argument("--time-lapse", action="store_true", help="INPUT is a 4-D file, or the time points in their order")
    p.add_argument("--interval", type=Real(1e-6, 1e9), metavar="SECONDS", help="from one time point to the next")
    p.add_argument("--label-tiff", action="store_true", help="write the mask as a TIFF for Fiji as well")
    _add_level(p)
    p.add_argument("--device", type=device_option, default="cpu", help="cpu (default) or cuda")
    _add_max_ram(p)
    _add_windows(p)
    p.add_argument(
        "--clean",
        type=clean_option,
        metavar="WHAT",
        help="clean the mask: 500 removes pieces below 500 µm³, largest keeps one, holes fills; or 500,largest,holes",
    )
    p.add_argument(
        "--cluster",
        type=cluster_option,
        metavar="N|ADDRESS|FILE",
        help="of an OME-Zarr: have N processes do it, or the Dask workers of tcp://host:8786 or scheduler.json",
    )
    p.add_argument("--part", type=part_option, metavar="I/N", help="only part I of N of the volumes (job arrays)")
    _add_force(p, "do again what was done, and replace it")
    _add_computing(p)
    _add_debug(p)
    return p


def _add_maps(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--threshold-method",
        type=cut_option,
        metavar="WAY",
        help="of a micranet: where maps are cut: otsu (default), triangle, percentile:P",
    )
    p.add_argument("--maps", action="store_true", help="of a micranet: write the maps too")
    p.add_argument("--regions", action="store_true", help="of a micranet: find regions of one grey, with their borders")


def evaluate_parser() -> argparse.ArgumentParser:
    """Return the parser of ``evaluate.py``."""
    p = argparse.ArgumentParser(description="Score predicted masks against annotations.")
    p.add_argument("predictions", nargs="+", type=path_option, metavar="PREDICTION", help="masks, or folders of masks")
    p.add_argument(
        "--annotation",
        dest="annotations",
        nargs="+",
        type=input_option,
        required=True,
        metavar="FILE",
        help="or folders",
    )
    _add_output(p, "scores")
    p.add_argument("--sweep", action="store_true", help="predictions are probabilities: score at every threshold too")
    _add_measures(p)
    _add_threshold(p, "of probabilities")
    p.add_argument(
        "--beta",
        type=Real(0.001, 1000),
        default=2.0,
        metavar="B",
        help="of F-beta: recall counts B² times (%(default)s)",
    )
    p.add_argument(
        "--tolerance", dest="tolerance_um", type=Real(0, 1e6), metavar="UM", help="of the NSD (default: one voxel)"
    )
    _add_y_crop(p, "look only at the first N voxels in depth (Y)")
    _add_segment(p, "annotation to take")
    p.add_argument(
        "--prediction-segment", type=text_option, metavar="NAME|INDEX", help="which segment of a .seg.nrrd prediction"
    )
    p.add_argument(
        "--classes",
        type=classes_option,
        metavar="A,B,..",
        help="segments that exclude each other, or what numbers from 1 mean (default: as the predictions' records say)",
    )
    _add_axes(p, "order of the axes, where files do not say")
    _add_spacing(p, "voxel size in µm")
    _add_level(p)
    _add_report(p)
    p.add_argument(
        "--image",
        dest="images",
        nargs="+",
        type=input_option,
        default=[],
        metavar="FILE",
        help="shown in it; or folders",
    )
    _add_figure(p)
    _add_max_ram(p)
    _add_force(p, "replace scores that are there")
    _add_debug(p)
    return p


def prepare_parser() -> argparse.ArgumentParser:
    """Return the parser of ``prepare.py``."""
    p = argparse.ArgumentParser(description="Make structural volumes of raw scans, or map finished masks back to them.")
    p.add_argument("inputs", nargs="+", type=path_option, metavar="INPUT", help="scans or folders of B-scans; or masks")
    p.add_argument(
        "-o", "--output", type=path_option, metavar="DIR", help="default: struct_iso; of a mask, its own folder"
    )
    p.add_argument("--domain", choices=DOMAINS, help="what the numbers of the scan are; log is never taken twice")
    p.add_argument("--average", choices=AVERAGES, default="log", help="what is averaged (default: %(default)s)")
    p.add_argument(
        "--iso", dest="iso_um", type=Real(1e-3, 1e6), default=4.5, metavar="UM", help="new voxel size (%(default)s)"
    )
    p.add_argument(
        "--noise-floor", type=Real(-1e30, 1e30), metavar="N", help="in the scan's own numbers (default: measured)"
    )
    p.add_argument("--depth-axis", choices=("Z", "Y", "X"), default="Y", help="where light travels (%(default)s)")
    p.add_argument(
        "--refractive-index",
        type=Real(1, 5, below=True),
        default=1.0,
        metavar="N",
        help="of the sample, such as 1.38 (1)",
    )
    _add_axes(p, "order of the axes, slowest first, where the file does not say")
    _add_spacing(p, "raw voxel size in µm")
    _add_headerless(p, Sizes((3,)), "such as uint16; >u2 is big-endian")
    _add_level(p)
    p.add_argument(
        "--output-format",
        choices=FORMATS,
        default="nrrd",
        help="ome.zarr: may be larger than memory, infer.py reads it box by box (default: %(default)s)",
    )
    p.add_argument(
        "--back-to", type=input_option, metavar="RAW", help="INPUT are masks: write them on the grid of this scan"
    )
    p.add_argument(
        "--record", type=input_option, metavar="JSON", help="what prepare.py wrote of RAW (default: looked for)"
    )
    _add_segment(p, "to map back")
    p.add_argument("--interpolation", choices=("linear", "nearest"), default="linear", help="of masks (%(default)s)")
    _add_force(p, "do again what was done, and replace it")
    _add_debug(p)
    return p


def make_phantoms_parser() -> argparse.ArgumentParser:
    """Return the parser of ``make_phantoms.py``."""
    p = argparse.ArgumentParser(description="Make simulated images with annotations, and a data set of them.")
    some = Whole(0, MOST_PHANTOMS)
    many = Whole(1, MOST_PHANTOMS)
    p.add_argument("count", nargs="?", type=many, default=1, metavar="N", help="how many; over a mask, images of each")
    p.add_argument("--kind", choices=PHANTOMS, default="oct", help="of what (default: %(default)s)")
    _add_output(p, "phantoms")
    p.add_argument(
        "--seed",
        type=Whole(0, 2**31 - 1),
        default=1,
        metavar="S",
        help="phantom k has the seed S + k - 1 (%(default)s)",
    )
    p.add_argument(
        "--shape",
        type=Sizes((2, 3)),
        metavar="Z,Y,X",
        help="voxels: of OCT 217,260,218 (default) of 4.5 µm, of an optic lobe 128,128,128 of 1 µm, of shapes 256,256",
    )
    _add_y_crop(p, "lumens and training end at this depth (Y); full size: 160")
    p.add_argument("--vary", action="store_true", help="OCT: other optics for each seed, for training")
    p.add_argument(
        "--preset",
        choices=PRESETS,
        default="oct",
        metavar="NAME",
        help="of OCT: the optics: oct, plain (no decoys), or one decoy by name (default: %(default)s)",
    )
    p.add_argument("--time-points", type=many, default=1, metavar="T", help="OCT: one heart beat in T volumes each")
    p.add_argument(
        "--from-annotation", type=input_option, nargs="+", metavar="FILE", help="OCT over these masks instead"
    )
    _add_segment(p, "mask is the lumen")
    _add_spacing(p, "of the mask, in µm")
    p.add_argument("--validation", type=some, metavar="N", help="anatomies for validation (1, if there are two)")
    p.add_argument("--test", type=some, metavar="N", help="anatomies for test (1, if there are three)")
    p.add_argument("--hdf5", action="store_true", help="write HDF5 too (not of shapes); needs h5py")
    _add_force(p, "make again what is there, and replace it")
    _add_debug(p)
    return p


def new_dataset_parser() -> argparse.ArgumentParser:
    """Return the parser of ``new_dataset.py``."""
    p = argparse.ArgumentParser(description="Write FOLDER/dataset.toml, which training takes, of what lies in FOLDER.")
    p.add_argument("folder", type=path_option, metavar="FOLDER", help="images and their annotations")
    _add_debug(p)
    return p


def bootstrap_parser() -> argparse.ArgumentParser:
    """Return the parser of ``bootstrap_micrornet.py``."""
    p = argparse.ArgumentParser(description="Turn the weights of a µ-Net into those of a µr-Net.")
    p.add_argument(
        "input",
        nargs="?",
        type=path_option,
        metavar="IN",
        help="µ-Net weights (default: trained_models/u-net_1600.pt when there, else the bundled u-net_phantom.pt)",
    )
    p.add_argument(
        "output",
        nargs="?",
        type=path_option,
        default=Path("checkpoints") / "ur-net_bootstrap.pt",
        metavar="OUT",
        help="default: %(default)s",
    )
    _add_force(p, "replace OUT when it exists")
    _add_debug(p)
    return p


def teach_parser() -> argparse.ArgumentParser:
    """Return the parser of ``teach.py``."""
    p = argparse.ArgumentParser(description="Learn from strokes or slices painted on a volume, and segment all of it.")
    p.add_argument("input", type=input_option, metavar="IMAGE", help="the volume")
    p.add_argument(
        "--labels",
        type=input_option,
        metavar="FILE",
        help="what was painted: .seg.nrrd of 3D Slicer, or 0 not annotated, 1 lumen, 2 background",
    )
    p.add_argument(
        "--blocks",
        type=input_option,
        metavar="FILE",
        help="instead of labels, which blocks hold lumen: .csv (z,y,x,lumen), a voxel a block, or a mask of it",
    )
    p.add_argument(
        "--block", type=block_option, metavar="N", help="edge of the blocks in voxels (default: 8), or Z,Y,X"
    )
    p.add_argument("--lumen", type=text_option, metavar="SEGMENT", help="segment that is lumen (default: so called)")
    p.add_argument("--background", type=text_option, metavar="SEGMENT", help="and the one that is background")
    p.add_argument(
        "--classes",
        type=classes_option,
        metavar="A,B",
        help="find several: segments of these names, or labels 1, 2, .. in this order and background after the last",
    )
    _add_checked(p, "of an edited mask, such as checked: in it, lumen and background are as edited")
    _add_output(p, "taught")
    p.add_argument("--name", type=text_option, metavar="NAME", help="of the weights, taught_NAME.pt (default: IMAGE's)")
    p.add_argument(
        "--from",
        dest="start",
        type=text_option,
        metavar="WEIGHTS",
        help="taught before: learn on, with all their labels",
    )
    p.add_argument("--seed", type=Whole(0, 2**31 - 1), default=0, metavar="N", help="the same repeats (%(default)s)")
    p.add_argument("--free-labels", action="store_true", help="let the mask differ from what was painted")
    _add_threshold(p, "lumen is above it")
    p.add_argument("--intensity", choices=("as stored", "log"), default="as stored", help="log: of linear intensities")
    _add_axes(p, "order of the axes, where the file does not say")
    _add_spacing(p, "voxel size in µm")
    p.add_argument("--threads", type=THREADS, metavar="N", help="threads to work with (default: physical cores)")
    _add_max_ram(p)
    _add_force(p, "teach again, and replace what was taught")
    _add_debug(p)
    return p


def training_parser(network: str) -> argparse.ArgumentParser:
    """Return the parser of the script that trains a network of this name.

    What a resumed session knows itself has no default here.
    """
    p = _ProjectParser(description=f"Train {TITLES[network]}; without --run, commands are typed or piped in.")
    number = Whole(1, 1_000_000)
    _add_data(p)
    p.add_argument("--recipe", choices=RECIPES, help="default: default")
    p.add_argument("--augmentation", choices=AUGMENTATIONS, help="default: the data set's, else that of the recipe")
    _add_running(p)
    p.add_argument("--iterations", type=number, metavar="N", help="refinements of a µr-Net (default: 10)")
    p.add_argument("--keep-every", type=number, metavar="N", help="keep the weights of every N steps (default: none)")
    folders = {"checkpoints": "checkpoints", "logs": "logs", "output": "predictions"}
    p.add_project(folders, "with checkpoints, logs and predictions")
    _add_watching(p)
    _add_computing(p)
    _add_debug(p)
    return p


def network_parser() -> argparse.ArgumentParser:
    """Return the parser of ``train_network.py``.

    What a resumed session knows itself, and what a network may lack, has no default here.
    """
    p = _ProjectParser(description="Train a larger network; without --run, commands are typed or piped in.")
    p.add_argument(
        "--network",
        choices=(*NETWORKS, *OF_IMAGES),
        required=True,
        help="MONAI's U-Net or V-Net, a stacked hourglass, or, where only is known what images hold, MICRA-Net",
    )
    _add_data(p)
    _add_network(p)
    _add_practice(p)
    _add_running(p)
    p.add_argument(
        "--checkpoints",
        dest="kept",
        choices=("last", "best", "all"),
        help="weights to keep: the last, these and the best (default), those of every validation",
    )
    folders = {"checkpoints": "checkpoints", "logs": "logs", "output": "predictions"}
    p.add_project(folders, "with checkpoints, logs and predictions", fixed=("checkpoints",))
    _add_watching(p)
    _add_max_ram(p)
    _add_windows(p)
    p.add_argument("--device", type=device_option, default="cpu", help="cpu (default) or cuda")
    p.add_argument("--threads", type=THREADS, metavar="N", help="threads to work with (default: physical cores)")
    _add_debug(p)
    return p


def _add_network(p: argparse.ArgumentParser) -> None:
    count = Whole(0, 1_000_000_000)
    p.add_argument("--dimensions", type=Whole(2, 3), metavar="2|3", help="2: every slice by itself (default: 3)")
    p.add_argument("--depth", type=Whole(1, 8), metavar="N", help="halvings of the resolution (default: 4)")
    p.add_argument(
        "--start-channels", type=Whole(1, 512), metavar="N", help="of the first layer (default: 4; micranet 32)"
    )
    p.add_argument("--num-stacks", type=Whole(1, 16), metavar="N", help="U-Nets in a row, of an hourglass (default: 1)")
    p.add_argument("--kernel-size", type=Whole(3, 7), metavar="N", help="of the convolutions, odd (default: 3)")
    p.add_argument("--norm", choices=NORMS, help="normalisation (default: batch)")
    p.add_argument("--max-params", type=count, metavar="N", help="refuse a network with more parameters")
    p.add_argument("--min-params", type=count, metavar="N", help="refuse a network with fewer parameters")


def _add_practice(p: argparse.ArgumentParser) -> None:
    number, rate = Whole(1, 1_000_000), Real(1e-9, 10)
    p.add_argument(
        "--crop-size",
        type=Sizes((2, 3)),
        metavar="Z,Y,X",
        help="of what a step sees (default: 64, where there is room)",
    )
    p.add_argument("--samples-per-volume", type=number, metavar="N", help="crops of each an epoch (default: 10)")
    p.add_argument("--batch-size", type=Whole(1, 4096), metavar="N", help="crops a step (default: 1; micranet 16)")
    p.add_argument("--loss", choices=LOSSES, help="default: dice; micranet weighted_bce")
    p.add_argument("--optimizer", choices=OPTIMIZERS, help="default: adam")
    p.add_argument("--lr", type=rate, metavar="X", help="learning rate at first (default: 0.001)")
    p.add_argument("--weight-decay", type=Real(0, 1), metavar="X", help="default: 0")
    p.add_argument("--schedule", choices=SCHEDULES, help="of the rate (default: plateau)")
    p.add_argument("--lr-factor", type=Real(1e-6, 1), metavar="X", help="the rate falls to this part (default: 0.1)")
    p.add_argument(
        "--lr-patience", type=number, metavar="N", help="after N validations (plateau) or epochs (step) (default: 10)"
    )
    p.add_argument("--min-lr", type=Real(0, 10), metavar="X", help="no rate is below (default: 5e-5)")
    p.add_argument(
        "--early-stopping-patience", type=number, metavar="N", help="end after N validations in vain (default: 15)"
    )


def _add_data(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--dataset", type=path_option, metavar="FILE", help="what to train on, a .toml (see datasets/README.md)"
    )
    p.add_argument(
        "--data",
        type=input_option,
        action="append",
        metavar="DIR",
        help="a further folder that the data set may name files in",
    )


def _add_running(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--run",
        type=commands_option,
        metavar="COMMANDS",
        help='carry out commands and leave, such as "123; val; finish"',
    )
    p.add_argument("--resume", action="store_true", help="first go on with the session that was last, as it was set")
    p.add_argument(
        "--accumulate",
        type=Whole(1, 100_000),
        metavar="K",
        help="a step takes the mean gradient of K volumes, or batches of crops (default: 1); torchrun shares them",
    )
    p.add_argument(
        "--seed",
        type=Whole(0, 2**31 - 1),
        metavar="N",
        help=f"of weights and order (default: {SEED}, as published)",
    )
    p.add_argument(
        "--validate-every", type=Whole(1, 1_000_000), metavar="N", help="steps between validations (default: 50)"
    )


def _add_watching(p: argparse.ArgumentParser) -> None:
    p.add_argument("--show", action="store_true", help="open the plot in a window each time it is drawn")
    p.add_argument("--tensorboard", action="store_true", help="write TensorBoard scalars into the log folder")


def search_parser() -> argparse.ArgumentParser:
    """Return the parser of ``search.py``."""
    p = _ProjectParser(description="Search for the settings that train a network best on a data set; needs Optuna.")
    number = Whole(1, 1_000_000)
    _add_data(p)
    p.add_argument("--network", choices=(*TITLES, *NETWORKS), required=True, help="what to train")
    p.add_argument("--dimensions", type=Whole(2, 3), metavar="2|3", help="of a larger network (default: 3)")
    p.add_argument("--trials", type=Whole(1, 100_000), default=100, metavar="N", help="of all processes (%(default)s)")
    p.add_argument("--epochs", type=number, default=30, metavar="N", help="of each trial (default: %(default)s)")
    p.add_argument(
        "--validate-every", type=number, default=50, metavar="N", help="steps between validations (%(default)s)"
    )
    p.add_argument(
        "--warm-up", type=Whole(0, 1_000_000), default=100, metavar="N", help="steps before pruning (%(default)s)"
    )
    p.add_argument(
        "--iterations", type=number, default=10, metavar="N", help="refinements of a µr-Net (default: %(default)s)"
    )
    p.add_argument(
        "--seed",
        type=Whole(0, 2**31 - 1),
        default=SEED,
        metavar="N",
        help="of the trials, their weights and order (default: %(default)s)",
    )
    p.add_project({"output": "search"}, "with the search: its journal, table and plots")
    p.add_argument("--device", type=device_option, default="cpu", help="of a larger network: cpu (default) or cuda")
    _add_computing(p)
    _add_debug(p)
    return p


def _add_refinement(p: argparse.ArgumentParser) -> None:
    p.add_argument("--iterations", type=Whole(1, 1_000_000), metavar="N", help="refinements of a µr-Net (default: 10)")
    p.add_argument("--until-stable", action="store_true", help="refine until the mask has settled (100 times at most)")
    p.add_argument(
        "--initial-mask",
        type=mask_option,
        metavar="FILE|previous|blank",
        help="start from this mask instead of a blank one; with --time-lapse from the last one's (default) or blank",
    )
    _add_threshold(p, "lumen is above it")


def _add_output(p: argparse.ArgumentParser, folder: str) -> None:
    p.add_argument("-o", "--output", type=path_option, default=Path(folder), metavar="DIR", help="default: %(default)s")


def _add_threshold(p: argparse.ArgumentParser, text: str) -> None:
    p.add_argument(
        "--threshold", type=Real(0, 1, below=True), default=0.5, metavar="P", help=f"{text} (default: %(default)s)"
    )


def _add_y_crop(p: argparse.ArgumentParser, text: str) -> None:
    p.add_argument("--y-crop", type=Whole(1, 1_000_000), metavar="N", help=text)


def _add_axes(p: argparse.ArgumentParser, text: str) -> None:
    p.add_argument("--axes", type=axes_option, metavar="ZYX", help=text)


def _add_spacing(p: argparse.ArgumentParser, text: str) -> None:
    p.add_argument("--spacing", dest="spacing_um", type=spacing_option, metavar="Z,Y,X", help=text)


def _add_headerless(p: argparse.ArgumentParser, sizes: Sizes, such_as: str) -> None:
    p.add_argument("--shape", type=sizes, metavar="A,B,C", help="sizes of a headerless .raw, slowest first")
    p.add_argument("--dtype", type=dtype_option, metavar="TYPE", help=f"number type of a headerless .raw, {such_as}")


def _add_segment(p: argparse.ArgumentParser, text: str) -> None:
    p.add_argument("--segment", type=text_option, metavar="NAME|INDEX", help=f"which segment of a .seg.nrrd {text}")


def _add_checked(p: argparse.ArgumentParser, text: str) -> None:
    p.add_argument("--checked", type=text_option, metavar="SEGMENT", help=f"segment {text}")


def _add_report(p: argparse.ArgumentParser) -> None:
    p.add_argument("--report", action="store_true", help="write a page too, with slices to scroll through (HTML)")


def _add_figure(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--figure", type=path_option, metavar="FILE", help="write pictures for a paper: NAME.svg, .pdf, .png"
    )
    p.add_argument(
        "--slice", type=plane_option, action="append", metavar="z=N", help="plane in it (default: middle); also y, x"
    )
    p.add_argument(
        "--crop", type=range_option, action="append", metavar="z=FROM:TO", help="show only these voxels; also y, x"
    )
    p.add_argument("--panel", choices=PANELS, help="one picture: the slice, or the maximum along (default: all six)")


def _add_measures(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--measures", action="store_true", help="write tables too: vessels, and their centrelines with radii"
    )


def _add_level(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--level", type=Whole(0, 100), default=0, metavar="N", help="scale of an OME-Zarr (default: 0, the finest)"
    )


def _add_max_ram(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--max-ram",
        type=bytes_option,
        metavar="SIZE",
        help=f"memory to take at most, such as 3GB (default: {100 * SHARE:.0f} %% of what is free)",
    )


def _add_windows(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--window", type=Whole(1, 1_000_000), metavar="N", help="larger networks: look at cubes of N voxels a side"
    )
    p.add_argument(
        "--overlap", type=Real(0, 0.9), metavar="PART", help="by which windows overlap and are averaged (default: 0.5)"
    )
    p.add_argument("--blend", choices=BLENDS, help="weights of their average (default: gaussian)")
    p.add_argument(
        "--border", type=Whole(0, 1_000_000), metavar="N", help="instead: inner cubes with N voxels around, no average"
    )


def _add_computing(p: argparse.ArgumentParser) -> None:
    p.add_argument("--threads", type=THREADS, metavar="N", help="threads to work with (default: physical cores)")
    p.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="who computes the networks: auto (default) takes numba on the CPU where it is installed",
    )


def _add_force(p: argparse.ArgumentParser, text: str) -> None:
    p.add_argument("--force", action="store_true", help=text)


def _add_debug(p: argparse.ArgumentParser) -> None:
    p.add_argument("--debug", action="store_true", help="show the whole traceback when something fails")
