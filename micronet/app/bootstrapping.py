"""What ``bootstrap_micrornet.py`` does: the weights of a µ-Net become those of a µr-Net."""

from __future__ import annotations

import argparse
from pathlib import Path

from micronet.app.terminal import tell
from micronet.core.errors import FileError
from micronet.core.ownership import check_outputs
from micronet.core.provenance import sha256_of
from micronet.networks.card import card_path, planned_weights, record_weights
from micronet.networks.weights import bootstrap, load_state, save_state

__all__ = ["bootstrap_weights"]


def bootstrap_weights(source: Path, arguments: argparse.Namespace) -> int:
    """Read, bootstrap, write, say so. Returns the exit code."""
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
