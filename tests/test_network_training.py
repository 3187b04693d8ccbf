"""Larger networks train by their options, each of which does what it says, and resume bit for bit."""

import copy
import csv
import io
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import call, call_for_last_line, read_json
from tiny_training import Y_CROP, kill, start, wait_for, write_dataset

import train_network
from micronet import read_volume
from micronet.core.errors import InputError
from micronet.core.volume import Volume, upright
from micronet.data.augmentation import CROPS
from micronet.data.dataset import Sample
from micronet.networks.library import LIBRARY, Build
from micronet.networks.weights import load_state
from micronet.training.losses import fbeta_loss
from micronet.training.network_losses import logits_of, loss_named
from micronet.training.practice import Course, Practice, new_optimizer
from micronet.training.rate_search import proposed, try_rates
from micronet.training.recipe import NETWORK_RECIPE, learning_rate
from micronet.training.soap import Soap
from micronet.training.trainer import Trainer

pytest.importorskip("monai")

pytestmark = pytest.mark.usefixtures("one_thread")

CROP = (8, 8, 8)


def sample(name, seed=0, shape=(10, 12, 11)):
    rng = np.random.default_rng(seed)
    _, y, x = np.indices(shape)
    tube = (y - rng.integers(4, 8)) ** 2 + (x - rng.integers(4, 8)) ** 2 < 8
    array = (60 + 70 * tube + rng.normal(0, 10, shape)).clip(0, 255).astype(np.uint8)
    return Sample.of(name, Volume(array, upright((1, 1, 1)), units="um"), tube)


SAMPLES = [sample("a", 1), sample("b", 2)]


def trainer(network="unet", build=None, validation=True, validate_every=50, **practice):
    torch.manual_seed(1)
    build = build or Build(depth=1, start_channels=2, num_stacks=2 if network == "hourglass" else 1)
    told = Practice(**{"crop_size": CROP, "samples_per_volume": 2, **practice})
    recipe = replace(
        NETWORK_RECIPE,
        augmentation=replace(CROPS, speckle=0.05),
        validate_every=validate_every,
        patience=told.early_stopping_patience,
    )
    model = LIBRARY[network](build)
    return Trainer(model, SAMPLES, SAMPLES[:1] if validation else (), recipe, 7, practice=told)


def work(one, steps=None):
    """Work through the plan, or so many steps of it; return the reports of both kinds."""
    steps_done, validations = [], []
    one.run(steps_done.append, validations.append, lambda: steps is not None and len(steps_done) >= steps)
    return steps_done, validations


def through_a_file(state):
    """What a session file gives back of a state."""
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def bits(one):
    return {key: tensor.numpy().tobytes() for key, tensor in one.model.state_dict().items()}


@pytest.mark.parametrize(
    ("network", "optimizer"),
    [*itertools.product(("unet", "hourglass"), ("adam", "sgd", "rmsprop", "soap")), ("vnet", "adam")],
)
def test_a_resumed_training_ends_with_the_same_bits_as_one_that_never_stopped(network, optimizer):
    small = {"crop_size": (1, 16, 8), "samples_per_volume": 1} if network == "vnet" else {"validate_every": 3}
    if network == "vnet":
        volumes = {"build": Build(dimensions=2), "validation": False}
        small["crop_size"] = (1, 12, 11)
    else:
        volumes = {}
    settings = {"optimizer": optimizer, "lr": 1e-2, "weight_decay": 1e-4, **small, **volumes}
    whole = trainer(network, **settings)
    whole.begin(2)
    work(whole)

    first = trainer(network, **settings)
    first.begin(2)
    work(first, steps=1 if network == "vnet" else 5)  # in the middle of a pass
    state, begun = through_a_file(first.state()), first.begun
    torch.manual_seed(99)
    again = trainer(network, **settings)
    again.restore(state, begun)
    torch.manual_seed(100)  # dropout does not depend on what was drawn meanwhile
    work(again)
    assert again.step == whole.step
    assert bits(again) == bits(whole)
    assert again.course == whole.course
    assert again.best_f == whole.best_f


def test_a_session_of_another_practice_is_refused():
    other = trainer(lr=1e-2).state()
    with pytest.raises(InputError, match=r"the saved session has practice .*'lr': 0.01"):
        trainer(lr=1e-3).restore(other)


def test_every_output_of_an_hourglass_is_trained():
    one = trainer("hourglass")
    before = copy.deepcopy([head.weight for head in one.model.heads])
    one.begin(1)
    reports, _ = work(one, steps=1)
    assert reports[0].loss > 1  # two Dice losses, each near 1 at first
    assert all(not torch.equal(head.weight, old) for head, old in zip(one.model.heads, before, strict=True))


def test_training_learns_a_tube_and_validates_without_augmentation():
    one = trainer(build=Build(depth=2), samples_per_volume=10, lr=2e-2)
    one.begin(5)
    _, validations = work(one)
    assert validations[-1].f > 0.8
    assert validations[-1] == replace(one.validate(), seconds=validations[-1].seconds, best=validations[-1].best)


class TestLosses:
    """Numbers worked by hand: four voxels, one channel."""

    PROBABILITY = torch.tensor([0.9, 0.6, 0.2, 0.3]).reshape(1, 1, 1, 2, 2)
    TARGET = torch.tensor([1, 1, 0, 0]).reshape(1, 1, 1, 2, 2).bool()
    WEIGHT = torch.tensor([1.0, 0.0, 1.0, 1.0]).reshape(1, 1, 1, 2, 2)

    def loss(self, name, weight=None, share=0.25, beta=1.0):
        return loss_named(name, 1, share)(logits_of(self.PROBABILITY, 1), self.TARGET, weight, beta).item()

    def test_dice(self):
        assert self.loss("dice") == pytest.approx(1 - 2 * 1.5 / (2 + 2), abs=1e-5)
        assert self.loss("dice", self.WEIGHT) == pytest.approx(1 - 2 * 0.9 / (1.4 + 1), abs=1e-5)

    def test_bce(self):
        each = -np.log([0.9, 0.6, 0.8, 0.7])
        assert self.loss("bce") == pytest.approx(each.mean(), abs=1e-5)
        assert self.loss("bce", self.WEIGHT) == pytest.approx(each[[0, 2, 3]].mean(), abs=1e-5)

    def test_weighted_bce_counts_rare_lumen_more(self):
        each = -np.log([0.9, 0.6, 0.8, 0.7]) * [3, 3, 1, 1]
        assert self.loss("weighted_bce", share=0.25) == pytest.approx(each.mean(), abs=1e-5)

    def test_focal_counts_what_is_right_already_less(self):
        right = np.array([0.9, 0.6, 0.8, 0.7])
        assert self.loss("focal") == pytest.approx((-np.log(right) * (1 - right) ** 2).mean(), abs=1e-5)

    def test_fbeta_is_that_of_the_µ_nets(self):
        assert self.loss("fbeta", beta=2.0) == pytest.approx(fbeta_loss(self.PROBABILITY, self.TARGET, 2.0).item())

    def test_boundary_dice_adds_the_probability_times_the_distance_to_the_boundary(self):
        # Distances: 0 inside (one voxel thick), 1 outside: the mean of 0, 0, 0.2, 0.3.
        assert self.loss("boundary_dice") == pytest.approx(self.loss("dice") + 0.5 / 4, abs=1e-5)

    #: Two voxels, the first background, the second of the second class; what is not said here is background's.
    SEVERAL = torch.tensor([[0.2, 0.5], [0.1, 0.3]]).reshape(1, 2, 1, 1, 2)
    CLASSES = torch.tensor([0, 2], dtype=torch.uint8).reshape(1, 1, 1, 1, 2)
    FIRST = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 1, 2)

    def of_several(self, name, weight=None):
        return loss_named(name, 3)(logits_of(self.SEVERAL, 3), self.CLASSES, weight, 1.0).item()

    def test_cross_entropy_of_several_classes(self):
        assert self.of_several("cross_entropy") == pytest.approx(-np.log([0.7, 0.3]).mean(), abs=1e-5)
        assert self.of_several("cross_entropy", self.FIRST) == pytest.approx(-np.log(0.7), abs=1e-5)

    def test_dice_of_several_classes_is_the_mean_over_them_and_background(self):
        dice = 1 - np.mean([1.4 / 1.9, 0, 0.6 / 1.4])
        assert self.of_several("dice") == pytest.approx(dice, abs=1e-4)
        assert self.of_several("dice", self.FIRST) == pytest.approx(1 - 1.4 / 1.7 / 3, abs=1e-4)

    def test_focal_of_several_classes_is_that_of_the_true_one(self):
        each = -np.log([0.7, 0.3]) * np.array([0.3, 0.7]) ** 2
        assert self.of_several("focal") == pytest.approx(each.sum() / 6, abs=1e-5)  # 2 voxels, 3 channels
        assert self.of_several("focal", self.FIRST) == pytest.approx(each[0] / 3, abs=1e-5)

    def test_boundary_dice_of_several_classes_has_a_boundary_each(self):
        # Background and the second class have one voxel each: distance 0 inside, 1 outside. The first has none.
        outside = 0.2 + 0.1
        assert self.of_several("boundary_dice") == pytest.approx(self.of_several("dice") + outside / 6, abs=1e-4)

    @pytest.mark.parametrize(
        ("name", "channels", "message"),
        [
            ("cross_entropy", 1, r"cross_entropy is of several exclusive classes, the data set has one: bce is .*loss"),
            ("bce", 3, "the loss bce is of one class, the data set has 2"),
            ("fbeta", 2, "the loss fbeta is of one class"),
        ],
    )
    def test_a_loss_that_does_not_fit_the_classes_is_refused(self, name, channels, message):
        with pytest.raises(InputError, match=message):
            loss_named(name, channels)


class TestOptimizers:
    """One step from weight 2 with gradient 0.5, rate 0.1."""

    def stepped(self, name, decay=0.0):
        weight = torch.nn.Parameter(torch.tensor([2.0]))
        weight.grad = torch.tensor([0.5])
        new_optimizer(Practice(CROP, optimizer=name, lr=0.1, weight_decay=decay), [weight]).step()
        return weight.item()

    @pytest.mark.parametrize(
        ("name", "expected", "decayed"),
        [
            ("sgd", 2 - 0.1 * 0.5, 2 - 0.1 * (0.5 + 0.1 * 2)),
            ("adam", 2 - 0.1, 2 - 0.1),  # scaled to 1 whatever the gradient
            ("rmsprop", 2 - 0.1 / 0.01**0.5, 2 - 0.1 / 0.01**0.5),
            ("soap", 2 - 0.1, 2 * (1 - 0.1 * 0.1) - 0.1),
        ],
    )
    def test_a_step_goes_as_far_as_its_optimizer_says(self, name, expected, decayed):
        assert self.stepped(name) == pytest.approx(expected, abs=1e-4)
        assert self.stepped(name, decay=0.1) == pytest.approx(decayed, abs=1e-4)

    def test_soap_leaves_axes_alone_that_are_too_long_to_turn(self):
        weight = torch.nn.Parameter(torch.ones(3, 1100))
        optimizer = Soap([weight], lr=0.1)
        for _ in range(3):
            weight.grad = weight.detach().clone()
            optimizer.step()
        assert {"left", "left axes"} <= set(optimizer.state[weight]) >= {"mean", "squares"}
        assert "right" not in optimizer.state[weight]
        assert weight.abs().max() < 1


class TestSchedules:
    def rates(self, steps, one, **how):
        return [one.rate(Practice(CROP, **how), step, step, 4) for step in range(steps)]

    def torchs(self, kind, steps, **how):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
        schedule, rates = kind(optimizer, **how), []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return rates

    def test_step_falls_every_so_many_epochs_as_torchs_and_not_below_the_least(self):
        found = self.rates(30, Course(), schedule="step", lr=1e-2, lr_factor=0.5, lr_patience=2, min_lr=2e-3)
        expected = self.torchs(torch.optim.lr_scheduler.StepLR, 30, step_size=8, gamma=0.5)
        np.testing.assert_allclose(found, np.maximum(expected, 2e-3))

    def test_cosine_is_torchs_over_the_command_in_hand(self):
        found = self.rates(20, Course(planned=20), schedule="cosine", lr=1e-2, min_lr=1e-4)
        kind = torch.optim.lr_scheduler.CosineAnnealingLR
        np.testing.assert_allclose(found, self.torchs(kind, 20, T_max=20, eta_min=1e-4), rtol=1e-6)

    def test_plateau_falls_with_the_validation_loss_as_torchs(self):
        losses = [1.0, 0.9, 0.9, 0.95, 0.89995, 0.91, 0.8, 0.81, 0.82, 0.83, 0.84, 0.85, 0.86, 0.7]
        how = {"lr": 1e-2, "lr_factor": 0.1, "lr_patience": 2, "min_lr": 5e-5}
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=2, min_lr=5e-5)
        course, found, expected = Course(), [], []
        for loss in losses:
            theirs.step(loss)
            course.note_validation(loss, Practice(CROP, **how))
            expected.append(optimizer.param_groups[0]["lr"])
            found.append(course.rate(Practice(CROP, **how), 5, 5, 4))
        np.testing.assert_allclose(found, expected)
        assert min(found) == 5e-5

    def test_published_is_that_of_the_µ_nets_times_the_rate(self):
        found = self.rates(300, Course(), schedule="published", lr=2e-3)
        np.testing.assert_allclose(found, [2 * learning_rate(step) for step in range(300)])

    def test_a_trainer_goes_by_the_rate_that_it_is_given_and_by_its_schedule(self):
        one = trainer(lr=0.02, schedule="cosine", min_lr=0.0)
        one.begin(2)
        reports, _ = work(one)
        assert reports[0].learning_rate == 0.02
        assert reports[4].learning_rate == pytest.approx(0.01)

    def test_a_plateau_of_the_trainers_validations_lowers_its_rate(self):
        one = trainer(lr=1e-9, min_lr=0.0, lr_patience=1, lr_factor=0.5, validate_every=1)
        one.begin(2)
        reports, _ = work(one)
        assert reports[0].learning_rate == 1e-9
        assert reports[-1].learning_rate < 1e-9

    def test_a_rate_below_the_least_is_refused(self):
        with pytest.raises(
            InputError, match=r"the rate begins at 1e-05, below its least, 5e-05 \(settings: lr, min_lr"
        ):
            Practice(CROP, lr=1e-5)


def test_training_stalls_after_as_many_validations_in_vain_as_it_was_told():
    one = trainer(early_stopping_patience=3, validate_every=1, lr=1e-9, min_lr=0.0)
    one.begin(50)
    stalled = []
    one.run(lambda _: None, lambda report: stalled.append(report.stalled), lambda: any(stalled))
    assert stalled == [False, False, False, True]


def test_a_search_for_a_rate_leaves_everything_as_it_was_and_proposes_below_the_best():
    one = trainer(samples_per_volume=5)
    one.begin(1)
    work(one, steps=2)
    before = through_a_file(one.state())
    tried = try_rates(one, lambda _: True)
    after = through_a_file(one.state())
    assert str(after) == str(before)
    rates = [rate for rate, _ in tried]
    assert rates[0] == pytest.approx(1e-6)
    assert rates == sorted(rates)
    assert len(rates) > 30
    assert proposed([(rate, 1.0) for rate in rates]) is None


# --- the script ---


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_dataset(tmp_path / "data", train=1)


SMALL = ("--depth", "1", "--start-channels", "2", "--crop-size", "8,8,8", "--samples-per-volume", "2")


def trained(dataset, *options, run, capsys, network="unet"):
    return call(
        train_network, "--network", network, "--dataset", dataset, *SMALL, "--threads", 1, *options, "--run", run,
        capsys=capsys,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ("last", ["unet_dice_6.pt"]),
        ("best", ["unet_dice_2.pt", "unet_dice_6.pt"]),
        ("all", ["unet_dice_2.pt", "unet_dice_4.pt", "unet_dice_6.pt"]),
    ],
)
def test_weights_are_kept_as_asked_for(project, tmp_path, kept, expected, capsys):
    # At this rate the first validation stays the best; a running mean of the batches would change with every step.
    code, out, err = trained(
        project, "--checkpoints", kept, "--validate-every", 2, "--lr", "1e-9", "--min-lr", "0", "--norm", "instance",
        run="3; finish",
        capsys=capsys,
    )  # fmt: skip
    assert code == 0, out + err
    assert out.count("best so far") == 1
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*.pt")) == expected


def test_a_session_finds_a_rate_resumes_as_it_was_set_and_saves_its_build(project, tmp_path, capsys):
    run = "1; find lr; val; save a; finish"
    code, out, err = trained(project, "--loss", "bce", "--optimizer", "sgd", "--norm", "group", run=run, capsys=capsys)
    assert code == 0, out + err
    assert "wrote logs/unet_find_lr.png" in out
    assert read_json("logs/unet_find_lr.json")["outputs"][0]["name"] == "unet_find_lr.png"
    assert read_json("logs/unet.json")["practice"]["loss"] == "bce"
    assert read_json("checkpoints/unet_a.json")["build"]["norm"] == "group"
    assert (tmp_path / "checkpoints" / "unet_bce_2.pt").is_file()
    code, out, err = call(train_network, "--network", "unet", "--resume", "--run", "1; rp 2", capsys=capsys)
    assert code == 2
    assert "loss bce, sgd, schedule plateau" in out
    assert "now at step 4" in out
    assert "β² is of the loss fbeta, this session trains with bce (--loss)" in out
    code, out, err = call(train_network, "--network", "unet", "--resume", "--lr", "0.01", "--run", "1", capsys=capsys)
    assert code == 2
    assert "the saved session has practice" in out + err


def test_every_option_reaches_the_network_and_its_training(project, capsys):
    """What each of them does is shown above, and in test_networks, test_crops and test_looks."""
    build = {"depth": 2, "start_channels": 4, "kernel_size": 5, "norm": "instance", "num_stacks": 2}
    practice = {
        "samples_per_volume": 3, "batch_size": 2, "loss": "focal", "optimizer": "rmsprop", "lr": 0.002,
        "weight_decay": 0.01, "schedule": "step", "lr_factor": 0.5, "lr_patience": 2, "min_lr": 0.0001,
        "early_stopping_patience": 4,
    }  # fmt: skip
    options = [word for name, value in (build | practice).items() for word in (f"--{name.replace('_', '-')}", value)]
    how = ("--network", "hourglass", "--dataset", project, "--crop-size", "8,12,16", "--threads", 1)
    code, out, err = call(train_network, *how, *options, "--run", "5; save a; finish", capsys=capsys)
    assert code == 0, out + err
    assert read_json("logs/hourglass.json")["practice"] == practice | {"crop_size": [8, 12, 16]}
    assert build.items() <= read_json("checkpoints/hourglass_a.json")["build"].items()
    rows = list(csv.DictReader(Path("logs/hourglass.csv").read_text(encoding="utf-8").splitlines()))
    rates = [float(row["learning_rate"]) for row in rows if row["kind"] == "step"]
    assert len(rates) == 5 * 2  # 3 crops in steps of 2
    assert rates == pytest.approx([0.002] * 4 + [0.001] * 4 + [0.0005] * 2)


def test_a_killed_training_is_resumed_to_the_same_bits(project, tmp_path, capsys):
    how = ("--validate-every", 10, "--optimizer", "soap", "--schedule", "cosine")
    code, out, err = trained(project, *how, "--project", tmp_path / "whole", run="30; finish", capsys=capsys)
    assert code == 0, out + err
    script = ("train_network.py", "--network", "unet", "--dataset", project, *SMALL, *how, "--run", "30; finish")
    process = start(*script, cwd=tmp_path)
    log = tmp_path / "logs" / "unet.csv"
    wait_for(process, lambda: log.is_file() and len(log.read_text().splitlines()) > 24)
    kill(process)
    code, out, err = call(
        train_network, "--network", "unet", "--resume", "--threads", 1, "--run", "finish", capsys=capsys
    )
    assert code == 0, out + err
    whole, resumed = (
        load_state(folder / "checkpoints" / "unet_dice_60.pt") for folder in (tmp_path / "whole", tmp_path)
    )
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--network vnet --depth 3 --norm group", "V-Net has no --depth, --norm"),
        ("--network vnet --start-channels 8 --kernel-size 5", "V-Net has no --start-channels, --kernel-size"),
        ("--network unet --num-stacks 2", "U-Net has no --num-stacks"),
        ("--network unet --max-params 1000", "parameters, more than --max-params 1,000"),
        (
            "--network unet --min-params 1000000",
            "the network has 124,341 parameters, fewer than --min-params 1,000,000",
        ),
        ("--network unet --depth 8 --start-channels 512", "parameters, at most 100,000,000 are built: make it smaller"),
        ("--network unet --kernel-size 4", "kernel_size must be odd, found 4 (--kernel-size)"),
        ("--network unet --crop-size 8,8", "a crop of a 3-D network is Z,Y,X, found 8,8 --crop-size"),
        ("--network unet --dimensions 2 --crop-size 8,8,8", "a crop of a 2-D network is Y,X"),
        ("--network unet --lr 1e-5", "the rate begins at 1e-05, below its least, 5e-05 (--lr, --min-lr)"),
        ("--network unet --device cuda:9", "argument --device: 'cuda:9'"),
        ("--network unet --run rate", "unknown command 'rate'"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_loaded(tmp_path, monkeypatch, options, message, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = call_for_last_line(train_network, *options.split(), "--dataset", "not_there.toml", capsys=capsys)
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--loss", "cross_entropy"), "the loss cross_entropy is of several exclusive classes, the data set has one"),
        (("--crop-size", "40,8,8"), "fewer than a crop of 40 x 8 x 8 (--crop-size)"),
    ],
)
def test_what_does_not_fit_the_data_costs_a_line(project, options, message, capsys):
    code, _, err = trained(project, *options, run="1", capsys=capsys)
    assert code == 2
    assert message in err.splitlines()[-1]
    assert not list(Path("checkpoints").iterdir())  # before, the lock stayed


def test_without_monai_a_line_says_what_to_install(monkeypatch):
    import sys

    for name in [name for name in sys.modules if name == "monai" or name.startswith("monai.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="which is not installed: pip install monai"):
        LIBRARY["unet"](Build(depth=1))


def test_help_says_what_an_epoch_is_of():
    """Before, it was said to show every volume once."""
    from micronet.training.commands import forms

    assert "crops of every training volume" in forms("unet")["train"].does
    assert "every training image, or crop of one, once" in forms("micranet")["train"].does
    assert "every training volume once" in forms("u-net")["train"].does
    assert all(next(iter(forms(name))) == "train" for name in ("unet", "micranet", "u-net", "ur-net"))


def test_find_lr_is_a_command_of_larger_networks_only():
    from micronet.training.commands import forms, parse_command

    assert parse_command("find lr", "unet").verb == "find"
    assert "find" not in forms("u-net")
    for line in ("find", "find rate"):
        with pytest.raises(InputError, match="give find lr"):
            parse_command(line, "unet")


def test_tensorboard_gets_the_slice_with_most_lumen_of_the_first_validation_volume_with_its_outlines(project, capsys):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    code, out, err = trained(project, "--tensorboard", "--validate-every", 2, run="2; finish", capsys=capsys)
    assert code == 0, out + err
    events = accumulator.EventAccumulator("logs/unet")
    events.Reload()
    assert [event.step for event in events.Scalars("validation/f")] == [2, 4]
    pictures = events.Images("validation/validation_0")
    assert [picture.step for picture in pictures] == [2, 4]
    pixels = np.asarray(Image.open(io.BytesIO(pictures[-1].encoded_image_string)).convert("RGB")).astype(int)
    image = read_volume("data/validation_0.nrrd").array[:, :Y_CROP]
    assert pixels.shape == (*image.shape[1:], 3)
    annotated = (abs(pixels - [0x56, 0xB4, 0xE9]) <= 2).all(-1)  # the blue of annotations
    assert 10 < np.count_nonzero(annotated) < 80


@pytest.mark.gpu
def test_a_network_trains_on_a_gpu(project, capsys):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    code, out, err = trained(project, "--device", "cuda", run="2; val; finish", capsys=capsys)
    assert code == 0, out + err
