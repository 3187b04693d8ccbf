"""The centreline of a lumen as branches between end points and branch points, with the radius along them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, distance_transform_edt, maximum_filter
from skimage.graph import MCP_Geometric

from micronet.core.volume import is_isotropic
from micronet.measure.isotropic import IsotropicGrid
from micronet.measure.open_ends import ended, least_around
from micronet.measure.topology import skeleton

__all__ = ["LEAST_RADIUS", "Branch", "Centreline", "centreline"]

#: From so many coarse steps on is a radius known; measured: benchmarks/README.md.
LEAST_RADIUS = 0.6

# Points averaged along a branch: a path from voxel to voxel zigzags and is up to 8 % too long.
_SMOOTHED_OVER = 5

# A line reaches as far as so many times the radius and so many voxels.
_REACH = 2.0

# From the middle of a flat end to its rim is so many times the radius, and a little more.
_CORNER = 1.5

# An end branch is a vessel when it leaves the lumen that it forks from by more than so many voxels.
_STUB = 2.0

_OFFSETS = [offset for offset in product((-1, 0, 1), repeat=3) if offset > (0, 0, 0)]


@dataclass(frozen=True, eq=False)
class Branch:
    """A piece of centreline that does not fork.

    Parameters
    ----------
    points : ndarray of float64, shape (N, 3)
        Positions (Z, Y, X) in voxels, smoothed, from one end to the other; a closed loop ends where it begins.
    radii : ndarray of float64, shape (N,)
        Radius of the lumen at each point, in the unit of the spacing; NaN where nothing bounds it.
    length : float
        Of the path through the points, in the unit of the spacing.
    """

    points: NDArray[np.float64]
    radii: NDArray[np.float64]
    length: float


@dataclass(frozen=True, eq=False)
class Centreline:
    """Branches, and the numbers of points where three or more of them meet and where one ends."""

    branches: tuple[Branch, ...]
    branch_points: int
    end_points: int

    @property
    def length(self) -> float:
        """Sum over the branches, in the unit of the spacing."""
        return sum(branch.length for branch in self.branches)

    def moved(self, start: Sequence[int]) -> Centreline:
        """Return it in voxels of an array of which this one began at `start`."""
        branches = tuple(replace(branch, points=branch.points + start) for branch in self.branches)
        return replace(self, branches=branches)


def centreline(
    piece: NDArray[np.bool_], spacing: Sequence[float] = (1.0, 1.0, 1.0), *, spurs: bool = False
) -> Centreline:
    """Return the centreline of one connected lumen.

    Parameters
    ----------
    piece : ndarray of bool, shape (Z, Y, X)
        The lumen, with the background around it; where it reaches the end of the array the lumen is taken to go on.
    spacing : sequence of three floats
        Distance between voxels along (Z, Y, X).
    spurs : bool
        Keep end branches that leave the lumen that they fork from by two voxels or less: they come from a rough wall.

    Returns
    -------
    Centreline
        A lumen of the size of a few voxels has one branch of one point and length 0.

    Notes
    -----
    The skeleton of `measure.topology.skeleton`, cavities filled, so that a hollow does not turn the line into a
    shell. Thinning eats up vessels that run diagonally; where the lumen goes on farther than twice the radius and two
    voxels from the line, a path along its middle is added from the farthest voxel (the idea of TEASAR: Sato et al.
    2000). The radius is the distance from the middle of the lumen, within one voxel of the point, to the nearest voxel
    outside. At an open end the line stops about a radius before the wall.

    Where voxels are no cubes, the lumen is thinned on a grid of the finest spacing (`measure.isotropic`, which tells of
    the memory), on which its wall is interpolated; the radius is the least within half a coarse step along the line,
    and an open end lies a radius before the wall (`measure.open_ends`). Length and radius are then within 10 % up to
    8 : 1 for radii of at least `LEAST_RADIUS` coarse steps; thinner lumens may fall to pieces. Where a lumen ends is
    known to half a coarse step.
    """
    filled = binary_fill_holes(piece)
    if is_isotropic(spacing):
        depth = None if filled.all() else distance_transform_edt(filled, sampling=spacing)
        return _thinned(filled, depth, np.asarray(spacing, dtype=np.float64), spurs=spurs)
    grid = IsotropicGrid(filled, spacing)
    line = _thinned(grid.resampled(), grid.depth(), np.full(3, grid.step), spurs=spurs, grid=grid)
    branches = (Branch(grid.voxels(b.points), b.radii, b.length) for b in line.branches)
    return replace(line, branches=tuple(branches))


def _thinned(
    lumen: NDArray[np.bool_],
    depth: NDArray[np.float64] | None,
    steps: NDArray[np.float64],
    *,
    spurs: bool,
    grid: IsotropicGrid | None = None,
) -> Centreline:
    """Return the centreline of a lumen without cavities; `depth` is the distance to what is outside.

    `grid` is that of the lumen where it was brought there from a coarser one.
    """
    line = skeleton(lumen)
    radius = np.full(lumen.shape, np.nan)
    if depth is not None:
        radius = maximum_filter(depth, 3)
        line = _completed(line, lumen, depth, radius, steps)
    while True:
        graph = _Graph(line)
        paths = list(graph.paths())
        shortest: dict[int, tuple[float, _Path]] = {}
        for path in () if spurs else paths:
            if path.fork is None or not path.inner:
                continue
            length = _length(graph.points(path), steps)
            reach = max(radius[tuple(graph.voxels[v])] for v in graph.forks[path.fork]) + _STUB * steps.max()
            if not length >= reach and length < shortest.get(path.fork, (np.inf, path))[0]:
                shortest[path.fork] = (length, path)
        if not shortest:
            break
        for _, path in shortest.values():  # one at each fork, then look again: two that remain are no fork
            line[tuple(graph.voxels[path.inner].T)] = False
    branches = []
    for path in paths:
        points = _smoothed(graph.points(path), path.closed)
        radii = radius[tuple(np.rint(points).astype(np.intp).T)]
        if grid is not None:
            wide = least_around(points, radii / grid.step, grid)
            if not path.closed:
                points, wide = ended(points, wide, (path.first is None, path.last is None), grid)
            radii = wide * grid.step
        branches.append(Branch(points, radii, _length(points, steps)))
    meeting = Counter(end for path in paths for end in (path.first, path.last) if end is not None)
    return Centreline(tuple(branches), sum(count > 2 for count in meeting.values()), graph.ends)


def _completed(
    line: NDArray[np.bool_],
    lumen: NDArray[np.bool_],
    depth: NDArray[np.float64],
    radius: NDArray[np.float64],
    steps: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return a line with paths to the parts of the lumen that it does not reach."""
    sources = np.argwhere(line)
    away, _ = MCP_Geometric(np.where(lumen, 1.0, -1.0), sampling=tuple(steps.tolist())).find_costs(sources)
    nearest = distance_transform_edt(~line, sampling=steps, return_distances=False, return_indices=True)
    reach = _REACH * radius[tuple(nearest)] + _REACH * steps.max()
    missed = np.argwhere(lumen & np.isfinite(away) & (away > reach))
    if not len(missed):
        return line
    missed = missed[np.argsort(-away[tuple(missed.T)], kind="stable")]
    # Twice as deep is four times as cheap: a path keeps to the middle.
    middle = MCP_Geometric(np.where(lumen, depth.clip(steps.min()) ** -2.0, -1.0), sampling=tuple(steps.tolist()))
    middle.find_costs(sources)
    whole = line.copy()
    while len(missed):
        path = np.array(middle.traceback(missed[0]))
        reaches = _CORNER * depth[tuple(path.T)] >= np.linalg.norm((path - missed[0]) * steps, axis=1)
        path = path[: np.flatnonzero(reaches)[0] + 1]
        whole[tuple(path.T)] = True
        apart = np.linalg.norm((missed[:, None] - path) * steps, axis=2)
        left = (apart > _REACH * radius[tuple(path.T)] + _REACH * steps.max()).all(axis=1)
        left[0] = False
        missed = missed[left]
    return skeleton(whole)  # where a path runs beside the line both become one


@dataclass(frozen=True)
class _Path:
    """Voxels of a branch in order, without those of the forks at its ends.

    `first` and `last` are forks, None at an open end; `closed` loops have neither.
    """

    inner: list[int]
    first: int | None
    last: int | None
    closed: bool = False

    @property
    def fork(self) -> int | None:
        """The fork of a branch with one open end."""
        ends = [end for end in (self.first, self.last) if end is not None]
        return ends[0] if len(ends) == 1 else None


class _Graph:
    """Skeleton voxels, joined to their neighbours; adjacent voxels with three neighbours or more make one fork."""

    def __init__(self, line: NDArray[np.bool_]) -> None:
        self.voxels = np.argwhere(line)
        self.neighbours = _neighbours(line, len(self.voxels))
        self.fork_of: dict[int, int] = {}
        self.forks: list[list[int]] = []
        for voxel, around in enumerate(self.neighbours):
            if len(around) > 2 and voxel not in self.fork_of:
                self._gather(voxel)
        self.ends = sum(len(around) == 1 for around in self.neighbours)

    def _gather(self, voxel: int) -> None:
        number = len(self.forks)
        self.fork_of[voxel] = number
        self.forks.append([voxel])
        for member in self.forks[number]:  # grows while it is walked
            for other in self.neighbours[member]:
                if len(self.neighbours[other]) > 2 and other not in self.fork_of:
                    self.fork_of[other] = number
                    self.forks[number].append(other)

    def paths(self) -> Iterator[_Path]:
        """Return the branches, each once: from forks, from open ends, then the closed loops.

        A knot of voxels from which nothing leads away is a branch without inner voxels.
        """
        seen: set[int] = set()
        for number, members in enumerate(self.forks):
            if all(other in self.fork_of for member in members for other in self.neighbours[member]):
                yield _Path([], number, None)
            for member in members:
                for start in self.neighbours[member]:
                    if start not in self.fork_of and start not in seen:
                        inner, last = self._follow(start, member)
                        seen.update(inner)
                        # A voxel beside a fork that touches it twice is no branch.
                        if len(inner) > 1 or last != number:
                            yield _Path(inner, number, last)
        for voxel, around in enumerate(self.neighbours):
            if voxel not in seen and len(around) < 2 and voxel not in self.fork_of:
                inner, last = self._follow(voxel, None)
                seen.update(inner)
                yield _Path(inner, None, last)
        for voxel in range(len(self.neighbours)):
            if voxel not in seen and voxel not in self.fork_of:
                inner, _ = self._follow(voxel, self.neighbours[voxel][0])
                seen.update(inner)
                yield _Path(inner, None, None, closed=True)

    def _follow(self, start: int, before: int | None) -> tuple[list[int], int | None]:
        """Return the voxels from `start` on, away from `before`, and the fork they end at."""
        inner, here, came = [start], start, before
        while True:
            onward = [voxel for voxel in self.neighbours[here] if voxel != came]
            if not onward or onward[0] == start:
                return inner, None
            if onward[0] in self.fork_of:
                return inner, self.fork_of[onward[0]]
            came, here = here, onward[0]
            inner.append(here)

    def points(self, path: _Path) -> NDArray[np.float64]:
        """Return the positions along a path; a fork lies in the middle of its voxels."""
        parts = [self.voxels[path.inner].astype(np.float64)]
        if path.first is not None:
            parts.insert(0, self.voxels[self.forks[path.first]].mean(axis=0, keepdims=True))
        if path.last is not None:
            parts.append(self.voxels[self.forks[path.last]].mean(axis=0, keepdims=True))
        if path.closed:
            parts.append(parts[0][:1])
        return np.concatenate(parts)


def _neighbours(line: NDArray[np.bool_], count: int) -> list[list[int]]:
    """Return the neighbours of each voxel; a diagonal step that two shorter ones replace is none."""
    number = np.full(np.array(line.shape) + 4, -1, dtype=np.intp)
    number[2:-2, 2:-2, 2:-2][line] = np.arange(count)
    at = np.argwhere(number >= 0)
    found: list[list[int]] = [[] for _ in range(count)]
    for offset in _OFFSETS:
        there = number[tuple((at + offset).T)]
        joined = there >= 0
        size = sum(step * step for step in offset)
        for by in product((-1, 0, 1), repeat=3):
            rest = tuple(a - b for a, b in zip(offset, by, strict=True))
            if all(0 < sum(step * step for step in part) < size for part in (by, rest)):
                joined &= number[tuple((at + by).T)] < 0
        for here, other in zip(np.flatnonzero(joined).tolist(), there[joined].tolist(), strict=True):
            found[here].append(other)
            found[other].append(here)
    return found


def _smoothed(points: NDArray[np.float64], closed: bool) -> NDArray[np.float64]:
    """Return the running mean along a path whose ends stay where they are."""
    half = _SMOOTHED_OVER // 2
    count = len(points)
    if closed:
        ring = points[:-1]
        mean = np.mean([np.roll(ring, shift, axis=0) for shift in range(-half, half + 1)], axis=0)
        return np.concatenate([mean, mean[:1]])
    return np.array(
        [
            points[i - reach : i + reach + 1].mean(axis=0)
            for i, reach in ((i, min(half, i, count - 1 - i)) for i in range(count))
        ]
    )


def _length(points: NDArray[np.float64], steps: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0) * steps, axis=1).sum())
