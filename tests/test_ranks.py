"""Steps of several volumes, and trainings that several processes share."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forking import fork
from tiny_training import ROOT, write_dataset
from torch import nn

from micronet.app.sharing import place_of_process, usual_threads
from micronet.core.threads import physical_cores
from micronet.measure.overlap import Overlap
from micronet.networks.weights import load_state
from micronet.training.accumulation import Share, gradients_of, together
from micronet.training.recipe import Plan


class Normalised(nn.Module):
    """A batch normalisation with one weight behind it."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1, momentum=0.5)
        self.weight = nn.Parameter(torch.tensor([3.0]))
        self.unused = nn.Parameter(torch.tensor([1.0]))

    def forward(self, x):
        return self.norm(x) * self.weight


def test_gradients_and_running_means_of_a_step_are_the_means_over_its_volumes():
    model = Normalised()
    # Means 1 and 5, unbiased variances 2 and 8; momentum 1/2 from a mean of 0 and a variance of 1.
    batches = [torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [7.0]])]
    factors = [1.0, 4.0]

    def share(number):
        model.zero_grad()
        loss = factors[number] * model(batches[number]).pow(2).mean()
        loss.backward()
        return Share("v", loss.item(), Overlap(1, 0, 0))

    gradients_of(model, 2, share)
    # d/dw of f w² mean(z²), z normalised: 2 f w; (6 + 24) / 2.
    assert model.weight.grad.item() == pytest.approx(15, rel=1e-4)
    assert model.norm.running_mean.item() == pytest.approx((0.5 + 2.5) / 2)
    assert model.norm.running_var.item() == pytest.approx((1.5 + 4.5) / 2)
    assert model.norm.num_batches_tracked.item() == 1
    assert model.unused.grad is None


def test_shares_of_a_step_are_told_as_one_with_the_mean_loss_and_all_counts():
    two = [Share("a", 0.25, Overlap(1, 2, 3)), Share("b", 0.75, Overlap(10, 20, 30))]
    assert together(two) == Share("2 volumes", 0.5, Overlap(11, 22, 33))
    assert together(two[:1]) == two[0]


def test_the_last_step_of_a_pass_has_the_volumes_that_are_left():
    plan = Plan(rounds=2, passes=1, order=[4, 1, 3])
    assert plan.steps_left(5, 2) == 2 + 2 * 3
    assert plan.steps_left(5) == 3 + 2 * 5


def test_a_process_alone_takes_all_cores_and_one_of_several_its_share(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert place_of_process() == (0, 1)
    assert usual_threads() == physical_cores()
    for name, value in _environment(1, 3, 29500).items():
        monkeypatch.setenv(name, value)
    assert place_of_process() == (1, 3)
    assert usual_threads() == max(1, physical_cores() // 3)


def _environment(rank, size, port):
    """Return what torchrun sets."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _start(folder, script, *arguments, size=1):
    """Start the processes of a training; return their Popens, the first one's first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        fork(
            [ROOT / script, "--threads", "1", "--dataset", folder / "data" / "tiny.toml", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | (_environment(rank, size, port) if size > 1 else {}),
        )
        for rank in range(size)
    ]


def _same(folder: Path, one: str, two: str, name: str) -> bool:
    first, second = (load_state(folder / project / "checkpoints" / name) for project in (one, two))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


SMALL = ("--network", "unet", "--depth", "1", "--crop-size", "16,16,16", "--samples-per-volume", "2")


@pytest.mark.parametrize(
    ("script", "options", "name"),
    [
        ("train_network.py", SMALL, "unet_x.pt"),
        ("train_micrornet.py", ("--recipe", "published"), "ur-net_x.pt"),
    ],
    ids=["a network with batch normalisation", "a network whose masks come from one sequential generator"],
)
def test_two_processes_train_what_one_process_trains_to_the_bit(tmp_path, script, options, name):
    write_dataset(tmp_path / "data", train=2)
    run = ("--run", "1 2; save x" if "micror" in script else "1; save x", "--accumulate", "3", *options)
    alone = _start(tmp_path, script, "--project", "one", *run)
    together = _start(tmp_path, script, "--project", "two", *run, size=2)
    told = [process.communicate(timeout=200)[0] for process in (*alone, *together)]
    assert [process.returncode for process in (*alone, *together)] == [0, 0, 0], told
    assert "2 processes share every step of 3 volumes" in told[1]
    assert told[2].strip() == ""  # only the first one speaks
    assert _same(tmp_path, "one", "two", name)


def test_a_lost_process_ends_the_training_in_one_line_and_resume_gives_the_bits_of_one_that_was_not(tmp_path):
    write_dataset(tmp_path / "data", train=3)
    whole = _start(tmp_path, "train_micronet.py", "--project", "one", "--accumulate", "2", "--run", "4; save x")
    first, second = _start(
        tmp_path, "train_micronet.py", "--project", "two", "--accumulate", "2", "--run", "4; save x", size=2
    )
    log = tmp_path / "two" / "logs" / "u-net.csv"
    while first.poll() is None and not (log.is_file() and log.read_text().count("step,") > 3):
        time.sleep(0.05)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    told = first.communicate(timeout=200)[0]
    assert first.returncode == 2, told
    assert "error: another process of this training is gone; what was trained is kept" in told
    assert "Traceback" not in told
    again = _start(tmp_path, "train_micronet.py", "--project", "two", "--resume", "--run", "save x")[0]
    told = again.communicate(timeout=200)[0]
    assert again.returncode == 0, told
    whole[0].communicate(timeout=200)
    assert _same(tmp_path, "one", "two", "u-net_x.pt")


def test_a_session_with_other_volumes_a_step_is_refused_when_resumed(tmp_path):
    write_dataset(tmp_path / "data", train=2)
    (made,) = _start(tmp_path, "train_micronet.py", "--accumulate", "2", "--run", "1; finish")
    made.communicate(timeout=200)
    assert made.returncode == 0
    (resumed,) = _start(tmp_path, "train_micronet.py", "--accumulate", "1", "--run", "resume")
    told = resumed.communicate(timeout=200)[0]
    assert resumed.returncode == 2
    assert "the saved session has accumulate 2, this one 1" in told
    manifest = (tmp_path / "logs" / "u-net.json").read_text()
    assert '"accumulate": 2' in manifest


def test_a_step_of_two_volumes_moves_the_weights_by_their_mean_gradient(tmp_path):
    from dataclasses import replace

    from micronet.data.dataset import open_dataset
    from micronet.networks.models import MicroNet
    from micronet.training.recipe import RECIPES
    from micronet.training.trainer import Trainer

    _, samples = open_dataset(write_dataset(tmp_path / "data", train=2))
    torch.manual_seed(1)
    model = MicroNet()
    recipe = replace(RECIPES["published"], accumulate=2)
    trainer = Trainer(model, samples["train"], (), recipe)
    gradients = []
    for index in (0, 1):
        trainer.share(index, index)
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    reports = []
    trainer.begin(1)
    trainer.run(reports.append, lambda _: None)
    (report,) = reports
    assert report.volume == "2 volumes"
    mean = [(a + b) / 2 for a, b in zip(*gradients, strict=True)]
    # Adam's first step is the rate times the gradient's sign, but for its epsilon.
    for parameter, old, gradient in zip(model.parameters(), before, mean, strict=True):
        expected = old - report.learning_rate * gradient / (gradient.abs() + 1e-8)
        np.testing.assert_allclose(parameter.detach().numpy(), expected.numpy(), atol=2e-7)
