"""Tube responses of a voxel: what the eigenvalues of its Hessian say at the scale where they say most.

They follow the features of scale_space.py, from whose eigenvalues ``a <= b <= c`` at each scale they are the largest
over all scales, 0 where none is positive:

====================  =====================================================================================
bright structures     ``-b`` (Sato et al. 1998), ``sqrt(a b)`` of negative a and b, ``-a``: of a tube two eigenvalues
                      are negative, of a sheet one
dark structures       ``b``, ``sqrt(b c)``, ``c``
====================  =====================================================================================

Trees would need a question for each scale to ask the same, and strokes are too few to learn them (docs/teach.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micronet.networks.kernels.jit import jit

__all__ = ["TUBES", "fill_tubes", "with_tubes"]

#: Tube responses of a voxel.
TUBES = 6


def with_tubes(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return features with tube responses after them.

    Parameters
    ----------
    rows : ndarray of shape (1 + 5 scales, voxels), float32
        As `micronet.networks.kernels.scale_space.features` gives them.

    Returns
    -------
    ndarray of shape (1 + 5 scales + 6, voxels), float32
    """
    found = np.empty((len(rows) + TUBES, rows.shape[1]), np.float32)
    found[: len(rows)] = rows
    fill_tubes(found)
    return found


@jit
def fill_tubes(rows):  # type: ignore[no-untyped-def]
    """Write the last six of rows (features, voxels) from those before them."""
    nothing, first = np.float32(0), len(rows) - 6
    rows[first:] = nothing
    tube, round_tube, sheet = rows[first], rows[first + 1], rows[first + 2]
    dark_tube, round_dark_tube, dark_sheet = rows[first + 3], rows[first + 4], rows[first + 5]
    for scale in range((first - 1) // 5):
        least, middle, most = rows[5 * scale + 3], rows[5 * scale + 4], rows[5 * scale + 5]
        for x in range(len(least)):
            a, b = max(-least[x], nothing), max(-middle[x], nothing)
            tube[x] = max(tube[x], b)
            round_tube[x] = max(round_tube[x], np.sqrt(a * b))
            sheet[x] = max(sheet[x], a)
            b, c = max(middle[x], nothing), max(most[x], nothing)
            dark_tube[x] = max(dark_tube[x], b)
            round_dark_tube[x] = max(round_dark_tube[x], np.sqrt(b * c))
            dark_sheet[x] = max(dark_sheet[x], c)
