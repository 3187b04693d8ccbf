"""Make a µr-Net that starts where a µ-Net ended.

python bootstrap_micrornet.py                                # published µ-Net if it is there, else the bundled one
python bootstrap_micrornet.py checkpoints/u-net_dice_1600.pt checkpoints/ur-net_mine.pt
"""

import argparse
from pathlib import Path

from micronet.app.option_types import path_option
from micronet.app.terminal import run, tell
from micronet.core.errors import FileError
from micronet.core.ownership import check_outputs
from micronet.core.provenance import sha256_of
from micronet.networks.card import card_path, planned_weights, record_weights
from micronet.networks.weights import bootstrap, load_state, save_state

ROOT = Path(__file__).resolve().parent
PUBLISHED = ROOT / "trained_models" / "u-net_1600.pt"
BUNDLED = ROOT / "trained_models" / "u-net_phantom.pt"
OUTPUT = Path("checkpoints") / "ur-net_bootstrap.pt"


def main(arguments: argparse.Namespace) -> int:
    """Read, bootstrap, write, say so."""
    source = arguments.input or (PUBLISHED if PUBLISHED.is_file() else BUNDLED)
    target = arguments.output
    outputs = planned_weights(target, advice="name another output")
    check_outputs([outputs], [source, card_path(source)])
    state = load_state(source, say=tell)
    try:
        result = bootstrap(state)
    except ValueError as error:
        raise FileError(f"'{source}': {error}") from error
    if target.exists() and not arguments.force:
        raise FileError(f"'{target}' exists; --force replaces it, or name another output")
    outputs.check_room()
    with outputs.staged() as folder:
        save_state(folder / target.name, result)
    record_weights(outputs, {"network": "ur-net", "bootstrapped": {"path": str(source), "sha256": sha256_of(source)}})
    tell(f"read   {source}  (µ-Net, {sum(t.numel() for t in state.values()):,} parameters)")
    tell(f"wrote  {target}  (µr-Net, {sum(t.numel() for t in result.values()):,} parameters; ignores its mask)")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    p = argparse.ArgumentParser(description="Turn the weights of a µ-Net into those of a µr-Net.")
    p.add_argument(
        "input",
        nargs="?",
        type=path_option,
        metavar="IN",
        help="µ-Net weights (default: trained_models/u-net_1600.pt when there, else the bundled u-net_phantom.pt)",
    )
    p.add_argument("output", nargs="?", type=path_option, default=OUTPUT, metavar="OUT", help="default: %(default)s")
    p.add_argument("--force", action="store_true", help="replace OUT when it exists")
    p.add_argument("--debug", action="store_true", help="show the whole traceback when something fails")
    return p


if __name__ == "__main__":
    run(build_parser(), main)
