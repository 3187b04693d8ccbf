"""Boosted trees on the features of a voxel, or a sloping plane: training from histograms, and application row by row.

A tree is symmetric: all nodes of a level ask the same question, is feature f above a threshold, so that its answers are
the bits of a number that points into a table of 2**depth values (Kohavi 1994: oblivious decision graphs; Prokhorenkova
et al. 2018). The sum of all trees' values is a logit. Trees are added one after the other, each fitted to gradient g
and curvature h of the cross-entropy at the sum so far (Friedman 2001): a level takes the question with the largest sum
over its leaves of ``G² / (H + penalty)``, G and H summed in a leaf, and a leaf's value is ``-rate G / (H + penalty)``.
A logistic regression is the same without trees: a slope for each feature.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.networks.kernels.jit import jit

__all__ = ["Trees", "add_trees", "boost", "check_classes", "logits"]

#: Thresholds of a feature that are tried: quantiles.
_BINS = 64
#: Share of the places whose voxels a tree is grown on, and how many voxels that has to be.
_SHARE, _LEAST = 0.15, 20


class Trees(NamedTuple):
    """Symmetric trees, and the logit that they are added to: a start, and a slope for each of the first features."""

    feature: NDArray[np.int32]  # (trees, depth)
    threshold: NDArray[np.float32]  # (trees, depth): above it a bit is set
    value: NDArray[np.float32]  # (trees, 2**depth); the first question is bit 0
    start: float
    slope: NDArray[np.float32] = np.empty(0, np.float32)  # (features,)


def boost(
    features: NDArray[np.float32],
    lumen: NDArray[np.bool_ | np.float32],
    *,
    weight: NDArray[np.float32] | None = None,
    trees: int = 150,
    depth: int = 5,
    rate: float = 0.1,
    penalty: float = 3.0,
    batch: int = 20_000,
    places: NDArray[np.intp] | None = None,
    seed: int = 0,
) -> Trees:
    """Fit trees to annotated voxels, in one thread: of 20,000 voxels to wake another takes longer than it saves.

    Parameters
    ----------
    features : ndarray of shape (voxels, features), float32
    lumen : ndarray of bool, or of float32 from 0 to 1, shape (voxels,)
        What they are, or how likely they are lumen.
    weight : ndarray of float32, shape (voxels,), optional
        What each counts; default: 1.
    trees, depth : int
    rate : float
        What is taken of a leaf's best value.
    penalty : float
        Added to the curvature of a leaf: leaves of few voxels say little.
    batch : int
        Voxels that a tree is grown on, drawn without replacement; all take part in its values.
    places : ndarray of whole numbers from 0, shape (voxels,), optional
        Where each lies: a tree is grown on voxels of a few places, so that trees do not all ask what one stroke tells.
    seed : int

    Returns
    -------
    Trees

    Raises
    ------
    InputError
        If a class is missing.
    """
    count, width = features.shape
    truth = lumen.astype(np.float32)
    check_classes(truth > 0.5)
    rng = np.random.default_rng([seed, 7])
    cuts = np.quantile(features, np.arange(1, _BINS) / _BINS, axis=0).astype(np.float32).T.copy()  # (features, 63)
    binned = np.empty((width, count), np.uint8)
    for column in range(width):  # bin b lies above cut b - 1 and not above cut b
        binned[column] = np.searchsorted(cuts[column], features[:, column], side="left")
    each = np.ones(count, np.float32) if weight is None else weight.astype(np.float32)
    share = truth.mean() if weight is None else np.average(truth, weights=weight)
    start = float(np.log(share / (1 - share)))
    total = np.full(count, start, np.float32)
    found = Trees(
        np.empty((trees, depth), np.int32), np.empty((trees, depth), np.float32),
        np.empty((trees, 2**depth), np.float32), start,
    )  # fmt: skip
    slope, bend = np.empty(count, np.float32), np.empty(count, np.float32)
    gains, sums = np.empty((width, _BINS - 1)), np.empty((width, 2 ** (depth - 1), _BINS, 2))
    for tree in range(trees):
        _slopes(total, truth, each, slope, bend)
        drawn = _drawn(rng, count, batch, places)
        leaf, everywhere = np.zeros(len(drawn), np.uint8), np.zeros(count, np.uint8)
        for level in range(depth):
            counted = _smaller(leaf, level)
            among = counted[leaf]
            rows, at = drawn[among], leaf[among]
            _gains(binned, rows, at, slope[rows], bend[rows], counted, sums, penalty, gains)
            column, cut = map(int, np.unravel_index(np.argmax(gains), gains.shape))
            found.feature[tree, level], found.threshold[tree, level] = column, cuts[column, cut]
            everywhere |= (binned[column] > cut).astype(np.uint8) << level
            leaf = everywhere[drawn]
        _grow(everywhere, slope, bend, rate, penalty, found.value[tree], total)
    return found


def check_classes(lumen: NDArray[np.bool_]) -> None:
    """InputError if one of the classes is missing."""
    if not lumen.any() or lumen.all():
        missing = "background" if lumen.any() else "lumen"
        raise InputError(f"no voxel is annotated as {missing}; lumen and background are needed")


def _drawn(rng: np.random.Generator, count: int, batch: int, places: NDArray[np.intp] | None) -> NDArray[np.intp]:
    """Return the voxels that a tree is grown on."""
    among = np.arange(count)
    if places is not None:
        seen = np.flatnonzero((rng.random(int(places.max()) + 1) < _SHARE)[places])
        among = seen if len(seen) >= _LEAST else among
    return np.sort(rng.choice(among, batch, replace=False)) if batch < len(among) else among


def _smaller(leaf: NDArray[np.uint8], level: int) -> NDArray[np.bool_]:
    """Return of every leaf whether it has fewer voxels than the other that its parent became."""
    if not level:
        return np.ones(1, bool)
    below, above = np.bincount(leaf, minlength=2**level).reshape(2, -1)
    return np.concatenate([below <= above, below > above])


def logits(features: NDArray[np.float32], trees: Trees) -> NDArray[np.float32]:
    """Return the logit of each row of features (voxels, features)."""
    total = np.empty(len(features), np.float32)
    add_trees(np.ascontiguousarray(features.T), trees, np.empty(len(total), np.uint8), total)
    return total


@jit
def _slopes(total, truth, weight, slope, bend):  # type: ignore[no-untyped-def]
    for i in range(len(total)):
        p = np.float32(1) / (np.float32(1) + np.exp(-total[i]))
        slope[i] = weight[i] * (p - truth[i])
        bend[i] = weight[i] * p * (np.float32(1) - p)


@jit
def _gains(binned, rows, leaf, slope, bend, counted, sums, penalty, gains):  # type: ignore[no-untyped-def]
    """Write what every threshold of every feature would be worth.

    `sums` (features, leaves, bins, 2) holds gradients and curvatures of the leaves that were divided last. Of each two
    that one became, the voxels of one are counted, `rows`: the other has the rest.
    """
    leaves, bins = len(counted), gains.shape[1] + 1
    half = leaves // 2
    for column in range(len(binned)):
        found, row = sums[column], binned[column]
        if not half:
            found[0] = 0
        for parent in range(half):
            if counted[parent]:
                found[parent + half] = found[parent]
                found[parent] = 0
            else:
                found[parent + half] = 0
        for k in range(len(rows)):
            b = row[rows[k]]
            found[leaf[k], b, 0] += slope[k]
            found[leaf[k], b, 1] += bend[k]
        for parent in range(half):
            if counted[parent]:
                found[parent + half] -= found[parent]
            else:
                found[parent] -= found[parent + half]
        gains[column] = 0
        for each in range(leaves):
            whole_g, whole_h = 0.0, 0.0
            for b in range(bins):
                whole_g += found[each, b, 0]
                whole_h += found[each, b, 1]
            g, h = 0.0, 0.0
            for b in range(bins - 1):
                g += found[each, b, 0]
                h += found[each, b, 1]
                rest_g, rest_h = whole_g - g, whole_h - h
                gains[column, b] += g * g / (h + penalty) + rest_g * rest_g / (rest_h + penalty)


@jit
def _grow(leaf, slope, bend, rate, penalty, value, total):  # type: ignore[no-untyped-def]
    """Write the values of the leaves and add them to the logits."""
    g, h = np.zeros(len(value)), np.zeros(len(value))
    for i in range(len(leaf)):
        g[leaf[i]] += slope[i]
        h[leaf[i]] += bend[i]
    for each in range(len(value)):
        value[each] = -rate * g[each] / (h[each] + penalty)
    for i in range(len(leaf)):
        total[i] += value[leaf[i]]


@jit
def add_trees(rows, trees, leaf, total):  # type: ignore[no-untyped-def]
    """Write the logits of columns of rows (features, voxels); `leaf` is room for as many uint8."""
    total[:] = trees.start
    for f in range(len(trees.slope)):
        row, times = rows[f], trees.slope[f]
        for x in range(len(total)):
            total[x] += times * row[x]
    for tree in range(len(trees.feature)):
        leaf[:] = 0
        for level in range(trees.feature.shape[1]):
            row, above = rows[trees.feature[tree, level]], trees.threshold[tree, level]
            bit = np.uint8(1 << level)
            for x in range(len(leaf)):
                leaf[x] |= bit if row[x] > above else np.uint8(0)
        table = trees.value[tree]
        for x in range(len(total)):
            total[x] += table[leaf[x]]
