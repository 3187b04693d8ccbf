"""Sees whether a network is still as its class builds it.

The numba engine computes that network and no other. What people make of a module (another last layer, hooks, weight
normalisation, pruning) shows in its layers' attributes; they are compared with those of one that was just built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Layout", "layout_of", "unchanged_parameters"]

# What says nothing of the numbers that a layer computes.
_BESIDE = {
    "training",
    "_is_full_backward_hook",
    "_load_state_dict_post_hooks",
    "_load_state_dict_pre_hooks",
    "_modules",
    "_non_persistent_buffers_set",
    "_parameters",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Layout:
    """A network without its numbers.

    Parameters
    ----------
    layers : dict
        Of every layer, by its name: its type, how many attributes it has, and those that decide what it computes.
    parameters : list of (str, str, str, Size)
        Of every parameter: its name in the state dict, its layer's, its name there, and its shape.
    """

    layers: dict[str, tuple[type, int, dict[str, Any]]]
    parameters: list[tuple[str, str, str, torch.Size]]


def layout_of(network: nn.Module) -> Layout:
    """Return the layout of a network that was just built."""
    layers: dict[str, tuple[type, int, dict[str, Any]]] = {}
    parameters: list[tuple[str, str, str, torch.Size]] = []
    for name, layer in network.named_modules():
        if name:
            own = vars(layer)
            layers[name] = type(layer), len(own), {key: own[key] for key in own.keys() - _BESIDE}
            parameters += [(f"{name}.{key}", name, key, p.shape) for key, p in layer.named_parameters(recurse=False)]
    return Layout(layers, parameters)


def unchanged_parameters(network: nn.Module, layout: Layout, *, alone: bool) -> dict[str, Tensor]:
    """Return the parameters by the names of the state dict; none at all where the layers are not those of `layout`.

    Parameters
    ----------
    network : Module
    layout : Layout
    alone : bool
        Whether the network's own ``forward`` and hooks would not be called, and there must be none either.
    """
    hooks = [vars(nn.modules.module)[f"_global{kind}"] for kind in _HOOKS]
    if alone:
        hooks += [vars(network)[kind] for kind in _HOOKS]
    if any(hooks) or (alone and "forward" in vars(network)):
        return {}
    layers = dict(network.named_modules())
    if len(layers) != 1 + len(layout.layers):
        return {}
    for name, (type_, count, settings) in layout.layers.items():
        layer = layers.get(name)
        if type(layer) is not type_:
            return {}
        own = vars(layer)  # torch.jit.script leaves something empty there
        if len(own) - ("__overloads__" in own) != count or not settings.items() <= own.items():
            return {}
    found: dict[str, Tensor] = {}
    for name, layer_name, key, shape in layout.parameters:
        tensor = layers[layer_name]._parameters.get(key)
        if tensor is None or tensor.shape != shape:
            return {}
        found[name] = tensor
    return found
