"""Scores of a pair of masks, their medians, and threshold sweeps: worked out by hand, MONAI, SciPy."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, FBetaScore, MeanIoU, get_confusion_matrix
from scipy.stats import bootstrap
from shapes import ball, moved, shell, torus

from micronet.core.errors import InputError
from micronet.io import read_annotation
from micronet.measure.scores import DEFINITIONS, Scores, Scoring, score_masks, summarise
from micronet.measure.thresholds import mask_above, threshold_sweep

UM = (4.5, 4.5, 4.5)


def test_two_rods_worked_out_by_hand():
    truth, found = np.zeros((2, 5, 5, 12), bool)
    truth[2, 2, 1:11] = True  # 10 voxels
    found[2, 2, 3:11] = True  # 8 of them
    found[2, 4, 3:5] = True  # and 2 beside
    scores = score_masks(found, truth, UM)
    assert (scores.precision, scores.recall, scores.dice) == pytest.approx((0.8, 0.8, 0.8))
    assert scores.iou == pytest.approx(8 / 12)
    assert scores.f_beta == pytest.approx(0.8)
    assert (scores.cl_precision, scores.cl_sensitivity) == pytest.approx((0.8, 0.8))
    assert (scores.betti0_predicted, scores.betti0_annotated, scores.betti0_error) == (2, 1, 1)
    assert (scores.betti1_predicted, scores.betti1_annotated, scores.betti1_error) == (0, 0, 0)
    # One voxel of the truth is two away, all others one or none; both voxels beside are two away.
    assert scores.nsd == pytest.approx((9 + 8) / 20)
    assert scores.assd_um == pytest.approx(4.5 * (1 + 2 + 2 + 2) / 20)
    assert scores.hd95_um == pytest.approx(4.5 * 2)
    assert scores.predicted_um3 == scores.annotated_um3 == 10 * 4.5**3
    assert scores.volume_ratio == 1


def test_recall_counts_beta_squared_times_as_much():
    truth, found = np.zeros((2, 3, 3, 12), bool)
    truth[1, 1, :10] = True
    found[1, 1, :5] = True
    by_beta = [score_masks(found, truth, UM, Scoring(beta=beta)).f_beta for beta in (0.5, 1, 2)]
    assert by_beta == pytest.approx([5 / 6, 2 / 3, 5 / 9])  # precision 1, recall 0.5


@pytest.mark.parametrize("mask", [ball(6), shell(8, 4), torus(9, 3)], ids=["ball", "shell", "torus"])
def test_a_shape_against_itself_is_perfect_and_one_voxel_off_is_near(mask):
    same = score_masks(mask, mask, UM)
    for name in ("dice", "iou", "precision", "recall", "f_beta", "cl_dice", "nsd", "volume_ratio"):
        assert getattr(same, name) == 1
    for name in ("betti0_error", "betti1_error", "hd95_um", "assd_um"):
        assert getattr(same, name) == 0
    off = score_masks(moved(mask, 0, 1, 0), mask, UM)
    assert off.dice < 1
    assert (off.nsd, off.hd95_um, off.volume_ratio) == (1, 4.5, 1)
    assert (off.betti0_error, off.betti1_error) == (0, 0)


def test_a_torus_cut_open_misses_a_tunnel():
    whole = torus(9, 3)
    cut = whole.copy()
    middle = whole.shape[1] // 2
    cut[:, :middle, middle - 1 : middle + 2] = False
    scores = score_masks(cut, whole, UM)
    assert (scores.betti1_predicted, scores.betti1_annotated, scores.betti1_error) == (0, 1, 1)
    assert scores.betti0_error == 0
    assert scores.precision == scores.cl_precision == 1
    assert 0.9 < scores.cl_sensitivity < 1


def test_a_filled_shell_differs_in_volume_and_not_in_pieces():
    hollow = shell(8, 4)
    scores = score_masks(ball(8), hollow, UM)
    assert (scores.betti0_error, scores.betti1_error) == (0, 0)
    assert scores.volume_ratio == ball(8).sum() / hollow.sum()
    assert scores.recall == 1


def test_empty_masks_are_defined():
    empty, full = np.zeros((5, 5, 5), bool), np.ones((5, 5, 5), bool)
    ones = ("dice", "iou", "precision", "recall", "f_beta", "cl_dice", "nsd", "volume_ratio")
    both = score_masks(empty, empty, UM).values()
    assert [both[name] for name in ones] == [1] * len(ones)
    assert both["hd95_um"] == both["assd_um"] == both["predicted_um3"] == 0
    missed = score_masks(empty, full, UM).values()
    assert [missed[name] for name in ones] == [0] * len(ones)
    invented = score_masks(full, empty, UM).values()
    assert [invented[name] for name in ones] == [0] * (len(ones) - 1) + [math.inf]
    for one in (missed, invented):
        assert one["hd95_um"] == one["assd_um"] == math.inf
        assert one["betti0_error"] == 1


def test_without_spacing_nothing_is_in_um():
    scores = score_masks(ball(4), ball(4), None)
    assert all(math.isnan(scores.values()[name]) for name in DEFINITIONS if "_um" in name)
    assert (scores.dice, scores.nsd) == (1, 1)
    with pytest.raises(InputError, match="needs the spacing of the masks"):
        score_masks(ball(4), ball(4), None, Scoring(tolerance_um=4.5))


def test_one_voxel_of_an_anisotropic_grid_is_the_longest_step():
    mask = ball(5)
    for step in ((1, 0, 0), (0, 1, 0)):
        assert score_masks(moved(mask, *step), mask, (6.0, 2.0, 2.0)).nsd == 1
    assert score_masks(moved(mask, 1, 0, 0), mask, (6.0, 2.0, 2.0), Scoring(tolerance_um=2.0)).nsd < 1


def test_every_score_is_defined_and_choices_are_checked():
    assert list(DEFINITIONS) == list(score_masks(ball(2), ball(2), UM).values())
    told = Scoring(beta=0.5, tolerance_um=9).definitions()
    assert "beta = 0.5" in told["f_beta"]
    assert "at most 9 µm" in told["nsd"]
    with pytest.raises(InputError, match="beta must be a positive number, found 0"):
        Scoring(beta=0)
    with pytest.raises(InputError, match="tolerance must be a length in µm, found -1"):
        Scoring(tolerance_um=-1)


def test_real_masks_overlap_as_monai_counts(shared):
    annotations = shared / "data/yolk_sac/annotations"
    truth, found = (
        read_annotation(annotations / f"annotation_082616_{name}_iso_full.seg.nrrd").mask.array[:64, 60:160, 60:160]
        for name in ("07_T15", "08_T39")
    )
    scores = score_masks(found, truth, UM, Scoring(beta=2))
    pair = [torch.from_numpy(np.ascontiguousarray(mask))[None, None].float() for mask in (found, truth)]
    tp, fp, tn, fn = get_confusion_matrix(*pair)[0, 0].tolist()
    assert min(tp, fp, tn, fn) > 1000
    assert scores.dice == pytest.approx(DiceMetric()(*pair).item())
    assert scores.iou == pytest.approx(MeanIoU()(*pair).item())
    metric = FBetaScore(beta=2)
    metric(*pair)
    assert scores.f_beta == pytest.approx(metric.aggregate()[0].item())
    assert (scores.precision, scores.recall) == pytest.approx((tp / (tp + fp), tp / (tp + fn)))
    assert scores.volume_ratio == pytest.approx((tp + fp) / (tp + fn))


def _scores(**values):
    return Scores(**{name: values.get(name, 0.5) for name in DEFINITIONS})


def test_the_median_and_its_interval_agree_with_scipy(rng):
    dices = rng.beta(8, 2, 15)
    by_name = {one.name: one for one in summarise([_scores(dice=dice) for dice in dices], np.random.default_rng(1))}
    found = by_name["dice"]
    assert (found.count, found.median) == (15, np.median(dices))
    expected = bootstrap(
        (dices,), np.median, method="percentile", n_resamples=10_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.01)
    assert found.low < found.median < found.high
    assert (by_name["nsd"].low, by_name["nsd"].high) == (0.5, 0.5)


def test_medians_stand_infinite_and_missing_values():
    scores = [_scores(hd95_um=value) for value in (4.0, 5.0, 6.0, 7.0, math.inf)]
    found = {one.name: one for one in summarise(scores, np.random.default_rng(1))}["hd95_um"]
    assert (found.count, found.median, found.low, found.high) == (5, 6.0, 4.0, math.inf)
    found = {one.name: one for one in summarise([*scores, _scores(hd95_um=math.nan)], np.random.default_rng(1))}
    assert (found["hd95_um"].count, found["hd95_um"].median, found["dice"].count) == (5, 6.0, 6)


def test_one_volume_has_no_interval():
    found = summarise([_scores(dice=0.9)], np.random.default_rng(1))[0]
    assert (found.count, found.median) == (1, 0.9)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


class TestSweep:
    def test_four_voxels_worked_out_by_hand(self):
        probability = np.array([[[0, 51, 102, 255]]], np.uint8)  # 0, 0.2, 0.4, 1
        truth = np.array([[[False, False, True, True]]])
        sweep = threshold_sweep(probability, truth)
        by_threshold = dict(zip(np.round(sweep.thresholds, 6), sweep.counts, strict=True))
        assert by_threshold[0].precision == pytest.approx(2 / 3)
        assert by_threshold[0.2].precision == by_threshold[0.2].recall == 1  # above 0.2 lie only the true two
        assert by_threshold[0.4].recall == 0.5
        assert sweep.thresholds[sweep.best] == pytest.approx(0.2)
        assert sweep.average_precision == 1

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
    def test_each_threshold_counts_what_its_mask_scores(self, rng, dtype):
        truth = rng.random((6, 7, 8)) < 0.3
        probability = np.clip(0.3 * truth + rng.random(truth.shape) * 0.7, 0, 1)
        stored = np.rint(255 * probability).astype(np.uint8) if dtype is np.uint8 else probability.astype(dtype)
        sweep = threshold_sweep(stored, truth)
        for index in (0, 1, 60, 127, 200, 254):
            mask = mask_above(stored, sweep.thresholds[index])
            scores = score_masks(mask, truth, None)
            counts = sweep.counts[index]
            assert (counts.f_score(), counts.precision, counts.recall) == (scores.dice, scores.precision, scores.recall)

    def test_average_precision_is_the_mean_precision_at_each_true_voxel(self, rng):
        # With all values different: the definition of information retrieval.
        order = rng.permutation(200).astype(np.uint8) + 1
        truth = rng.random(200) < 0.2
        ranked = truth[np.argsort(-order.astype(int))]
        at_each = (np.cumsum(ranked) / np.arange(1, 201))[ranked]
        sweep = threshold_sweep(order.reshape(1, 10, 20), truth.reshape(1, 10, 20))
        assert sweep.average_precision == pytest.approx(at_each.mean())

    def test_nothing_annotated_is_defined(self):
        nothing = np.zeros((2, 2, 2), bool)
        assert threshold_sweep(np.zeros((2, 2, 2), np.uint8), nothing).average_precision == 1
        assert threshold_sweep(np.full((2, 2, 2), 9, np.uint8), nothing).average_precision == 0

    def test_what_is_no_probability_is_refused(self):
        truth = np.ones((2, 2, 2), bool)
        with pytest.raises(InputError, match="no probabilities: int16 from 7 to 7, expected uint8"):
            threshold_sweep(np.full((2, 2, 2), 7, np.int16), truth)
        for bad in (1.5, -0.1, np.nan):
            with pytest.raises(InputError, match="no probabilities: float64"):
                mask_above(np.full((2, 2, 2), bad), 0.5)
        with pytest.raises(InputError, match=r"of one shape, found uint8 \(2, 2, 3\), bool \(2, 2, 2\)"):
            threshold_sweep(np.zeros((2, 2, 3), np.uint8), truth)
