"""The pieces of benchmarks/real.py: annotations that a person could have made, every method, scores worked by hand."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from micronet.core.volume import Volume, upright
from micronet.io import write_volume

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "real.py"


@pytest.fixture(scope="module")
def real():
    pytest.importorskip("sklearn", reason="benchmarks need scikit-learn")
    pytest.importorskip("monai", reason="benchmarks need MONAI")
    spec = importlib.util.spec_from_file_location("real", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "real", module)  # where its dataclass looks for names
        spec.loader.exec_module(module)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield module
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def case(real):
    """A bright tube along x, in noise, known everywhere."""
    z, y, _ = np.indices((16, 40, 48))
    inside = (z - 8) ** 2 + (y - 20) ** 2 < 36
    image = 100 + 100 * inside + np.random.default_rng(0).normal(0, 10, inside.shape)
    return real.Case("tube", image.astype(np.uint16), np.where(inside, 1, 2).astype(np.uint8), (1.0, 1.0, 1.0))


METHODS = ("forest", "otsu", "sato", "pixel", "trees", "even trees", "chosen", "u-net", "ur-net", "monai")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_a_mask_of_the_volume_from_one_slice(real, case, method, monkeypatch):
    assert set(METHODS) == set(real.METHODS)
    monkeypatch.setattr(real, "_STEPS", {"pixel": 30, "u-net": 1, "ur-net": 2})
    labels = real.annotate(case, "one slice", 0)
    # Seconds of MONAI's network: as the µ-Net's steps too few.
    monkeypatch.setitem(real._CPU, real._key(case, labels, 0), 0.2)
    found, took = real.timed(method, case, labels, 0)
    assert (found.shape, found.dtype) == (case.image.shape, bool)
    if method == "chosen":
        assert real._CPU[real._key(case, labels, 0)] == took["cpu_seconds"]  # what MONAI's network is given
    if method in ("forest", "otsu", "pixel", "trees", "chosen"):
        assert real.score(case, labels, found)["dice"] > 0.9


def test_slices_are_annotated_whole_and_strokes_in_five_planes(real, case):
    one, three = (real.annotate(case, task, 0) for task in ("one slice", "three slices"))
    assert [np.flatnonzero(labels.any(axis=(1, 2))).tolist() for labels in (one, three)] == [[8], [4, 8, 12]]
    assert (three[4] == case.truth[4]).all()
    strokes = real.annotate(case, "strokes", 0)
    painted = np.flatnonzero(strokes.any(axis=(1, 2)))
    assert len(painted) == 5
    assert (strokes == case.truth)[strokes > 0].all()
    assert 0 < np.count_nonzero(strokes) < 0.5 * strokes[painted].size
    assert (real.annotate(case, "strokes", 1) != strokes).any()


def test_a_correction_is_the_largest_error_of_each_of_three_planes(real, case):
    labels = real.annotate(case, "one slice", 0)
    predicted = case.truth == 1
    predicted[[1, 2, 8], 0, 0:9] = True  # plane 8 is annotated: nobody corrects it
    predicted[1, 30, 0:5] = True
    predicted[3, 20, 40:43] ^= True
    found = real.correct(case, labels, predicted, np.random.default_rng(0))
    added = (found > 0) & (labels == 0)
    expected = np.zeros_like(added)
    expected[[1, 2], 0, 0:9] = True
    expected[3, 20, 40:43] = True
    assert (added == expected).all()
    assert (found == case.truth)[added].all()


def test_what_was_annotated_does_not_count(real, case):
    labels = np.zeros_like(case.truth)
    labels[:8] = case.truth[:8]
    truth = case.truth == 1
    predicted = truth.copy()
    predicted[:8] = ~truth[:8]
    assert real.score(case, labels, predicted) == {"dice": 1.0, "cldice": 1.0}
    predicted[8:] = False
    predicted[8] = truth[8]
    planes = truth.sum(axis=(1, 2))
    assert real.score(case, labels, predicted)["dice"] == pytest.approx(2 * planes[8] / (planes[8] + planes[8:].sum()))


def test_a_run_prints_a_table_and_writes_every_score(real, tmp_path, monkeypatch, capsys, case):
    (tmp_path / "lightsheet").mkdir()
    (tmp_path / "two_photon").mkdir()
    tifffile.imwrite(tmp_path / "lightsheet" / "brain_vessels.tif", case.image)
    tifffile.imwrite(tmp_path / "lightsheet" / "brain_vessels_sparse.tif", case.truth)
    for name in real.TWO_PHOTON[:2]:
        for end, array in (("", case.image), ("_label", (case.truth == 1).astype(np.uint8))):
            volume = Volume(array, upright((5.0, 1.0, 1.0)), units="um")
            write_volume(tmp_path / "two_photon" / f"{name}{end}.nrrd", volume)
    out = tmp_path / "scores.json"
    volumes = ["lightsheet", *real.TWO_PHOTON[:2]]
    argv = [str(SCRIPT), str(tmp_path), "--only", "otsu", "--tasks", "one slice", "--volumes", *volumes]
    monkeypatch.setattr(sys, "argv", [*argv, "--seeds", "1", "--threads", "1", "-o", str(out)])
    real.main()
    scores = json.loads(out.read_text())["scores"]
    assert [score["volume"] for score in scores] == volumes
    assert all(score["dice"] > 0.95 for score in scores)
    lines = out.with_suffix(".md").read_text().splitlines()
    told = ", ".join(f"{scores[0][key]:.3f}" for key in ("dice", "cldice"))
    assert lines[2] == f"| lightsheet | otsu | {told}, {scores[0]['seconds']:.1f} |"
    assert lines[-1].startswith("| mean of 2 two-photon | otsu | ")
    assert lines[-1] in capsys.readouterr().out
    table = out.with_suffix(".md").read_text()
    real.main()  # what is there is not done again
    assert capsys.readouterr().out.startswith("3 scores are there\n\n|")
    assert (json.loads(out.read_text())["scores"], out.with_suffix(".md").read_text()) == (scores, table)
    monkeypatch.setattr(sys, "argv", [*argv, "--seeds", "1", "--threads", "2", "-o", str(out)])
    with pytest.raises(SystemExit, match=r"scores\.json' holds scores of other versions, crop or threads"):
        real.main()
