"""The plot of a threshold sweep: zoomed to the curve, thresholds along it."""

import numpy as np
import pytest

from micronet.measure.thresholds import threshold_sweep
from micronet.measure.thresholds_plot import sweep_figure


def sweep(noise):
    truth = np.zeros((30, 30, 30), bool)
    truth[8:22, 8:22, 8:22] = True
    probability = 0.2 + 0.6 * truth + np.random.default_rng(1).normal(0, noise, truth.shape)
    return threshold_sweep(probability.clip(0, 1).astype(np.float32), truth)


def words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("noise", [0.35, 0.15])
def test_axes_end_where_the_curve_does(noise):
    found = sweep(noise)
    axes = sweep_figure(found, 0.5).axes[0]
    for limits, shares in (
        (axes.get_xlim(), [counts.recall for counts in found.counts]),
        (axes.get_ylim(), [counts.precision for counts in found.counts]),
    ):
        span = max(shares) - min(shares)
        assert limits[0] < min(shares)
        assert max(shares) < limits[1]
        assert limits[1] - limits[0] < 1.3 * span


def test_thresholds_stand_along_the_curve_and_apart():
    figure = sweep_figure(sweep(0.35), 0.5)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    named = [text for text in axes.texts if not text.get_text().startswith("Dice")]
    assert {"0.1", "0.3", "0.5", "0.7", "0.9"} <= {text.get_text() for text in named}
    boxes = [text.get_window_extent() for text in named]
    assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k])
    inside = figure.bbox
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)


def test_the_best_dice_has_three_digits_and_lines_of_equal_dice_are_named():
    found = sweep(0.35)
    figure = sweep_figure(found, 0.5)
    [legend] = figure.legends
    best = found.counts[found.best].f_score()
    told = [text.get_text() for text in legend.get_texts()]
    assert told[0] == f"best Dice: above {found.thresholds[found.best]:.3f}, Dice {best:.3f}"
    assert told[1].startswith("in use: above 0.5, Dice ")  # as asked, not the level of 8 bits next to it
    assert sum(word.startswith("Dice 0.") for word in words(figure)) >= 3


def test_nothing_predicted_is_drawn_without_complaint():
    nothing = threshold_sweep(np.zeros((4, 4, 4), np.uint8), np.ones((4, 4, 4), bool))
    assert sweep_figure(nothing, 0.5).axes[0].get_xlim() == (-0.02, 1.02)
