"""What the published code computed, with the tolerances that its float32 rounding supports."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from micronet import MicroNet, Volume, bootstrap, fbeta_loss, load_model, normalize_mask, predict
from micronet.data.dataset import Entry, Sample
from micronet.networks.normalize import image_statistics
from micronet.networks.registry import model_for_state
from micronet.networks.weights import load_state
from micronet.training.recipe import RECIPES, TORCH_SEED, learning_rate
from micronet.training.trainer import Trainer

FORWARD = ["forward_109x75x103.npz", "forward_64x96x112.npz"]
ONE_VOXEL_IN = 20_000


@pytest.fixture(scope="module")
def published(shared: Path):
    folder = shared / "data" / "yolk_sac" / "trained_models"
    return load_model(folder / "u-net_1600.pt"), load_model(folder / "ur-net_b0.5_1200.pt")


@pytest.mark.parametrize("name", FORWARD)
def test_one_pass_of_both_networks(shared, published, name):
    golden = np.load(shared / "golden" / name)
    micro, refiner = published

    u = predict(golden["image"], micro)
    ur = predict(golden["image"], refiner, 1, golden["mask"])

    assert np.abs(u - golden["u_net_probability"]).max() < 1e-4
    assert np.abs(ur - golden["ur_net_probability"]).max() < 1e-4


@pytest.mark.parametrize("name", FORWARD)
def test_refinement_from_blank(shared, published, name):
    golden = np.load(shared / "golden" / name)
    for iterations, tolerance in ((1, 1e-4), (3, 5e-4), (10, 2e-3)):
        expected = golden[f"refined_{iterations}"]
        probability = predict(golden["image"], published[1], iterations)

        assert np.abs(probability - expected).max() < tolerance
        crossed = np.count_nonzero((probability > 0.5) != (expected > 0.5))
        assert crossed <= expected.size / ONE_VOXEL_IN


def test_bootstrapped_published_u_net_gives_its_output_for_any_mask(shared, published):
    golden = np.load(shared / "golden" / FORWARD[1])
    refiner = model_for_state(bootstrap(published[0].state_dict()))

    for mask in (None, golden["mask"]):
        probability = predict(golden["image"], refiner, 1, mask)
        assert np.abs(probability - golden["u_net_probability"]).max() < 1e-4
        assert np.abs(probability - predict(golden["image"], published[0])).max() < 1e-6


def _state(golden, prefix):
    return OrderedDict((k.removeprefix(prefix), torch.from_numpy(golden[k])) for k in golden if k.startswith(prefix))


def _sample(golden, suffix=""):
    image, crop = golden[f"image{suffix}"], int(golden["y_crop"])
    mask = golden[f"annotation{suffix}"][:, :crop] > 0
    entry = Entry(f"volume{suffix}", "train", Path(), Path())
    return Sample(entry, Volume(image), image[:, :crop].copy(), mask.copy(), None, *image_statistics(image))


def test_published_u_net_training_trajectory(shared):
    golden = np.load(shared / "golden" / "train_u_net.npz")
    torch.manual_seed(TORCH_SEED)
    model = MicroNet()
    for key, initial in _state(golden, "initial.").items():
        assert torch.equal(model.state_dict()[key], initial), key
    trainer = Trainer(model, [_sample(golden, f"_{i}") for i in range(3)], recipe=RECIPES["published"])
    reports = []

    trainer.begin(8)
    trainer.run(reports.append, reports.append)

    assert len(reports) == len(golden["log"])
    for report, (step, volume, rate, loss, precision, recall) in zip(reports, golden["log"], strict=True):
        assert (report.step, report.volume) == (step, f"volume_{volume:.0f}")
        assert report.learning_rate == pytest.approx(rate, rel=1e-6)
        assert report.loss == pytest.approx(loss, abs=1e-3)
        if not np.isnan(precision):  # the published scores are NaN where nothing is predicted
            assert report.precision == pytest.approx(precision, abs=5e-3)
            assert report.recall == pytest.approx(recall, abs=5e-3)
    for key, final in _state(golden, "final.").items():
        assert torch.allclose(model.state_dict()[key], final, atol=2e-3), key


def test_published_ur_net_training_trajectory(shared):
    golden = np.load(shared / "golden" / "train_ur_net.npz")
    sample = _sample(golden)
    x = torch.from_numpy(np.stack([sample.normalized(), normalize_mask(golden["distorted_mask"])]))[None]
    target = torch.from_numpy(sample.mask)[None, None]
    start = load_state(shared / "data" / "yolk_sac" / "trained_models" / "u-net_1600.pt")
    model = model_for_state(bootstrap(start))
    optimiser = torch.optim.Adam(model.parameters())

    for step, rate, loss in golden["log"]:
        assert learning_rate(int(step)) == pytest.approx(rate, rel=1e-6)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        found = fbeta_loss(model(x), target, float(golden["beta_squared"]))
        found.backward()
        optimiser.step()
        assert found.item() == pytest.approx(loss, abs=1e-3)

    for key, final in _state(golden, "final.").items():
        assert torch.allclose(model.state_dict()[key], final, atol=2e-3), key
