"""Optuna's plots of a search, as PNG."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from optuna.study import Study
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots

from micronet.report.figure import write_figure

__all__ = ["PICTURES", "write_pictures"]

_DPI = 110
_SLICE_WIDTH, _SLICE_HEIGHT = 3.2, 4.0  # inches, of each setting
_Draw = Callable[[Study], Any]
_DRAWN: Mapping[str, _Draw] = {
    "history": plots.plot_optimization_history,
    "importances": plots.plot_param_importances,
    "slice": plots.plot_slice,
    "parallel": plots.plot_parallel_coordinate,
    "intermediate": plots.plot_intermediate_values,
}
#: Names of the plots; each goes into ``<stem>_<name>.png``.
PICTURES = tuple(_DRAWN)
_COMPARED = 2  # whole trials that importances need


def write_pictures(folder: Path, stem: str, study: Study) -> None:
    """Write what can be drawn: nothing without a whole trial, no importances where all scores are the same."""
    scores = [one.value for one in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])]
    if not scores:
        return
    plt.switch_backend("agg")
    for name, draw in _DRAWN.items():
        if name == "importances" and (len(scores) < _COMPARED or len(set(scores)) == 1):
            continue
        with warnings.catch_warnings(), plt.rc_context():  # they set a style for all that is drawn later
            warnings.simplefilter("ignore")  # Optuna's plots are marked as experimental
            axes = draw(study)
            figure = np.ravel(axes)[0].figure
            if not isinstance(figure, Figure):
                raise TypeError(f"{name} is drawn on {type(figure).__name__}")
            if name == "slice":
                figure.set_size_inches(_SLICE_WIDTH * np.size(axes), _SLICE_HEIGHT)
            write_figure(folder / f"{stem}_{name}.png", figure, dpi=_DPI, bbox_inches="tight")
        plt.close(figure)
