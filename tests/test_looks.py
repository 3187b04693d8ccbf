"""Larger networks validate and test on volumes as infer.py looks at them: whole, or in windows."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from running import call, call_for_last_line, read_json
from tiny_training import Y_CROP, write_dataset

import evaluate
import infer
import train_network
from micronet import Volume, read_volume, write_volume
from micronet.core.volume import upright
from micronet.io import read_segmentation
from micronet.training import volume_loss
from micronet.training.network_losses import logits_of, loss_named
from micronet.training.volume_loss import loss_of_volume

pytest.importorskip("monai")

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ("--depth", "1", "--start-channels", "2", "--crop-size", "8,8,8", "--samples-per-volume", "2")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_dataset(tmp_path / "data", train=1)


@pytest.fixture
def light(monkeypatch):
    """Say that the program takes little before it holds a volume, so that small volumes count."""
    monkeypatch.setattr("micronet.core.ram.PROGRAM", 1_000_000)
    monkeypatch.setattr("micronet.segment.memory._MONAI", 0)
    monkeypatch.setattr("micronet.training.looks._TRAINING", 0)


def trained(dataset, *options, run, capsys, small=SMALL):
    script = ("--network", "unet", "--dataset", dataset, *small, "--threads", 1, *options, "--run", run)
    code, out, err = call(train_network, *script, capsys=capsys)
    assert code == 0, out + err
    return out


def read_rows(table):
    with open(table, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(line for line in stream if not line.startswith("#")))


@pytest.mark.parametrize(
    "options", [(), ("--window", 16), ("--window", 16, "--overlap", 0.25, "--blend", "constant"),
                ("--window", 16, "--border", 4)]
)  # fmt: skip
def test_val_says_what_infer_and_evaluate_say_of_the_volume(project, options, capsys):
    out = trained(project, *options, run="3; val; save a; finish", capsys=capsys)
    name = "predictions/unet_6_validation_0"
    script = ("data/validation_0.nrrd", "--model", "unet_a", "-o", "found", "--y-crop", Y_CROP, "--threads", 1)
    code, told, err = call(infer, *script, *options, capsys=capsys)
    assert code == 0, told + err
    ours, theirs = (read_segmentation(file).labels for file in (f"{name}.seg.nrrd", "found/validation_0.seg.nrrd"))
    assert np.array_equal(ours, theirs)
    assert 0 < np.count_nonzero(ours) < ours.size
    both = (f"{name}_probability.nrrd", "found/validation_0_probability.nrrd")
    assert np.array_equal(*(read_volume(file).array for file in both))
    pair = ("found/validation_0.seg.nrrd", "--annotation", "data/validation_0.seg.nrrd", "--y-crop", Y_CROP)
    assert call(evaluate, *pair, capsys=capsys)[0] == 0
    (scored,) = read_rows("scores/scores.csv")
    line = next(line for line in out.splitlines() if line.startswith("validation_0: F "))
    f, precision, recall = (float(scored[one]) for one in ("dice", "precision", "recall"))
    assert line == f"validation_0: F {f:.4f}  precision {precision:.4f}  recall {recall:.4f} (voxels, F is Dice)"
    windows = read_json(f"{name}.json").get("windows")
    assert windows == read_json("found/validation_0.json")["memory"].get("windows")
    assert (windows is None) == (not options)


def test_val_says_of_several_classes_what_infer_and_evaluate_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    for split in ("train", "val"):
        Path(split).mkdir()
        labels = np.zeros((6, 20, 22), np.uint8)
        labels[:, 4:12, 5:15], labels[:, 14:, :8] = 1, 2
        image = (np.array([120, 200, 40])[labels] + rng.normal(0, 8, labels.shape)).clip(0, 255).astype(np.uint8)
        np.save(f"{split}/data_{split}.npy", image)
        np.save(f"{split}/mask_{split}.npy", labels)
    Path("set.toml").write_text('folder = "."\nclasses = ["lumen", "wall"]\n')
    how = ("--window", 12, "--overlap", 0.25)
    small = (*SMALL[:4], "--crop-size", "4,8,8", "--lr", "0.01")
    out = trained("set.toml", *how, run="10; val; save a; finish", small=small, capsys=capsys)
    code, told, err = call(infer, "val/data_val.npy", "--model", "unet_a", *how, "-o", "found", capsys=capsys)
    assert code == 0, told + err
    (ours,) = Path("predictions").glob("*.seg.nrrd")
    found = [read_segmentation(file) for file in (ours, "found/data_val.seg.nrrd")]
    masks = [{one.name: each.labels[..., one.layer] == one.label_value for one in each.segments} for each in found]
    assert all(np.array_equal(masks[0][name], masks[1][name]) for name in ("lumen", "wall"))
    told = call(evaluate, "found/data_val.seg.nrrd", "--annotation", "val/mask_val.npy", capsys=capsys)[1]
    names = ("background ", "lumen ", "wall ", "mean ")
    table, theirs = ([line for line in text.splitlines() if line.startswith(names)] for text in (out, told))
    assert len(table) == 4
    assert table == theirs


@pytest.mark.usefixtures("light")
def test_a_volume_that_does_not_fit_is_validated_in_windows_whose_result_lies_on_disk(project, tmp_path, capsys):
    _, y, x = np.indices(shape := (64, 160, 160))
    tube = (y - 80) ** 2 + (x - 80) ** 2 < 900
    image = (60 + 70 * tube + np.random.default_rng(1).normal(0, 10, shape)).clip(0, 255).astype(np.uint8)
    write_volume(tmp_path / "data" / "test_0.nrrd", Volume(image, upright((4.5, 4.5, 4.5)), units="um"))
    np.save(tmp_path / "data" / "test_0.npy", tube.astype(np.uint8))
    project.write_text(project.read_text().replace("test_0.seg.nrrd", "test_0.npy").replace(f"y_crop = {Y_CROP}", ""))
    limit = ("--max-ram", "30MB")
    out = trained(project, *limit, run="1; test; save a; finish", capsys=capsys)
    assert "MB would be needed whole: " in out
    assert "MB of intermediate files in predictions/" in out
    assert not list(Path("predictions").glob("*.tmp*"))
    windows = read_json("predictions/unet_2_test_0.json")["windows"]
    assert windows["count"] > 1
    side = ("--window", windows["sides_zyx"][1], "--threads", 1)
    code, told, err = call(infer, "data/test_0.nrrd", "--model", "unet_a", *side, "-o", "found", capsys=capsys)
    assert code == 0, told + err
    ours, theirs = (read_volume(f).array for f in ("predictions/unet_2_test_0_probability.nrrd",
                                                   "found/test_0_probability.nrrd"))  # fmt: skip
    assert np.array_equal(ours, theirs)


def test_validations_of_a_training_are_of_the_same_windows_and_a_resumed_one_keeps_them(project, capsys):
    how = ("--window", 16, "--border", 4, "--validate-every", 2)
    out = trained(project, *how, run="1; val; finish", capsys=capsys)
    assert (
        "validation_0: 100 windows of 16 x 16 x 16 voxels, of each the inner 8 x 8 x 8, nothing averaged: about" in out
    )
    validated = [row for row in read_rows("logs/unet.csv") if row["kind"] == "validation"]
    assert f"validation_0: F {float(validated[-1]['f']):.4f}" in out
    code, out, err = call(
        train_network, "--network", "unet", "--resume", "--threads", 1, "--run", "val; finish", capsys=capsys
    )
    assert code == 0, out + err
    assert "nothing averaged" in out
    other = ("--network", "unet", "--resume", "--window", 12, "--run", "1")
    code, out, err = call(train_network, *other, capsys=capsys)
    assert code == 2
    assert "the saved session has windows {'window': 16, 'border': 4}" in out + err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--network unet --window 16 --border 8",
            "have nothing inside a border of 8 on each side (--window, --border)",
        ),
        ("--network unet --overlap 0.5 --border 8", "leave one out (--border, --overlap)"),
        ("--network micranet --window 16", "MICRA-Net sees images in crops of its own: leave out --window"),
        ("--network micranet --max-ram 2GB", "leave out --max-ram"),
    ],
)
def test_windows_that_make_no_sense_are_told_before_anything_is_loaded(tmp_path, monkeypatch, options, message, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, line = call_for_last_line(train_network, *options.split(), "--dataset", "not_there.toml", capsys=capsys)
    assert (code, message in line) == (2, True), line


@pytest.mark.usefixtures("light")
def test_a_volume_that_does_not_fit_in_the_smallest_windows_is_told_before_training(project, capsys):
    script = ("--network", "unet", "--dataset", project, *SMALL, "--max-ram", "2MB", "--run", "1")
    code, _, line = call_for_last_line(train_network, *script, capsys=capsys)
    assert code == 2
    assert "volume validation_0: about" in line
    assert "of memory needed even in 4 windows of 32 x 32 x 32 voxels, 2 MB allowed (--max-ram)" in line


STEP = """
import json, re, sys, torch
from micronet.networks.library import LIBRARY, Build
from micronet.training.network_losses import loss_named
from micronet.training.volume_loss import loss_bytes, loss_of_volume
def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
def taken(work, told):
    open("/proc/self/clear_refs", "w").write("5")
    before = kilobytes("VmRSS")
    work()
    print((kilobytes("VmHWM") - before) * 1024 / told)
torch.set_num_threads(1)
for kind, build, count, crop, loss in json.loads(sys.argv[1]):
    model = LIBRARY[kind](Build(**build)).train()
    optimizer = torch.optim.Adam(model.parameters())
    channels = model.build.out_channels
    rate = loss_named(loss, channels)
    def step():
        x = torch.randn(count, 1, *crop)
        target = torch.randint(0, max(2, channels), x.shape).to(torch.uint8 if channels > 1 else torch.bool)
        optimizer.zero_grad()
        sum(rate(one, target, None, 1.0) for one in model.scores(x)).backward()
        optimizer.step()
    step()
    taken(step, count * model.step_bytes(crop))
    found = torch.rand(max(1, channels - 1), *crop).numpy() / channels
    target = (torch.rand(crop) < 0.4).numpy().astype("uint8" if channels > 1 else "bool")
    taken(lambda: loss_of_volume(loss, rate, found, target, None, 1.0), loss_bytes(loss, channels, crop))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc to measure memory")
def test_a_step_and_the_loss_of_a_volume_take_no_more_than_they_are_said_to_take(root):
    cases = [
        ("unet", {}, 2, (32, 64, 64), "boundary_dice"),
        ("unet", {"start_channels": 16, "norm": "group", "out_channels": 3}, 1, (32, 64, 64), "cross_entropy"),
        ("unet", {"dimensions": 2, "start_channels": 16}, 8, (1, 128, 128), "dice"),
        ("hourglass", {"num_stacks": 3}, 1, (32, 64, 64), "focal"),
        ("vnet", {"dimensions": 2}, 2, (1, 128, 128), "bce"),
    ]
    ran = subprocess.run(
        [sys.executable, "-c", STEP, json.dumps(cases)],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed goes back at once
    )
    ratios = [float(line) for line in ran.stdout.split()]
    told = dict(zip([f"{case} {what}" for case in cases for what in ("step", "loss")], ratios, strict=True))
    assert {what: ratio for what, ratio in told.items() if ratio > 1.05} == {}
    assert min(ratio for what, ratio in told.items() if what.endswith("step")) > 0.1


PROCESS = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="ru_maxrss is in kilobytes on Linux")
def test_a_training_process_takes_no_more_than_it_is_allowed(tmp_path, root):
    """Before, PyTorch's optimisers and the loss of the validation were not counted: 883 MB of 700 with this loss."""
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        shape = (64, 160, 160)
        _, y, x = np.indices(shape, np.int16)
        tube = (y - 80) ** 2 + (x - 80) ** 2 < 900
        image = (60 + 70 * tube + np.random.default_rng(1).normal(0, 10, shape)).clip(0, 255).astype(np.uint8)
        np.save(tmp_path / split / "data_a.npy", image)
        np.save(tmp_path / split / "mask_a.npy", tube.astype(np.uint8))
    (tmp_path / "set.toml").write_text('folder = "."\n')
    command = [sys.executable, str(root / "train_network.py"), "--network", "unet", "--dataset", "set.toml"]
    command += ["--loss", "boundary_dice", "--samples-per-volume", "2", "--threads", "1", "--run", "1; finish"]
    command += ["--max-ram", "860MB", "--overlap", "0"]
    ran = subprocess.run(
        [sys.executable, "-c", PROCESS, *command], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert re.search(r"a: \d+ windows of 64 x \d+ x \d+ voxels, overlap 0", ran.stdout)
    assert "step      2  validation F" in ran.stdout
    assert int(ran.stdout.splitlines()[-1]) <= 860_000_000


def test_a_step_that_does_not_fit_is_told_before_training(project, capsys):
    how = (*SMALL[:4], "--crop-size", "32,32,32", "--samples-per-volume", 1, "--batch-size", 4000)
    script = ("--network", "unet", "--dataset", project, *how, "--max-ram", "2GB", "--run", "1")
    code, _, line = call_for_last_line(train_network, *script, capsys=capsys)
    assert code == 2
    assert "a step of 4000 crops of 32 x 32 x 32 voxels takes up to " in line
    assert "2.00 GB allowed (--max-ram); see less at once (--batch-size, --crop-size) or allow more" in line


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", ["dice", "bce", "weighted_bce", "focal", "fbeta", "cross_entropy", "boundary_dice"])
def test_the_loss_of_a_volume_is_the_same_in_parts(monkeypatch, name, sparse):
    rng = np.random.default_rng(5)
    shape = (9, 6, 7)
    for classes in (1, 2):
        channels = 1 if classes == 1 else 3
        try:
            loss = loss_named(name, channels, 0.3)
        except ValueError:
            continue
        found = rng.dirichlet(np.ones(classes + 1), shape).astype(np.float32).transpose(3, 0, 1, 2)[:classes]
        target = rng.random(shape) < 0.4 if classes == 1 else rng.integers(0, 3, shape).astype(np.uint8)
        weight = rng.random(shape) < 0.7 if sparse else None
        counted = None if weight is None else torch.from_numpy(weight)[None, None].float()
        logits = logits_of(torch.from_numpy(found)[None], channels)
        whole = loss(logits, torch.from_numpy(target)[None, None], counted, 2.0).item()
        for part in (10**6, 2 * 42) if name != "boundary_dice" else (10**6,):
            monkeypatch.setattr(volume_loss, "PART", part)
            assert loss_of_volume(name, loss, found, target, weight, 2.0) == pytest.approx(whole, abs=2e-6)
