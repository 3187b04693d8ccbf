"""A network comes in with one entry: everything else asks the registry."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from running import call, call_for_last_line, read_json
from tiny_training import write_dataset
from torch import nn

import infer
import train_micronet
from micronet import load_model
from micronet.app.launch import train
from micronet.core.errors import InputError
from micronet.networks.models import MicroNet, MicroRNet
from micronet.networks.registry import Network, entries, network_named, network_of, register, registered


class Blur(nn.Module):
    """One convolution: nobody's idea of a good network."""

    def __init__(self):
        super().__init__()
        self.smooth = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x):
        return torch.sigmoid(self.smooth(x))


TOY = Network(
    name="blur",
    title="Blur",
    module=Blur,
    build=Blur,
    refines=False,
    smallest_axis=4,
    receptive_field=1,
    tiling="whole",
    torch_bytes=60,
    recipe="default",
    script="train_blur.py",
)


def test_every_network_has_its_entry():
    assert [(entry.name, entry.title, entry.refines, entry.script) for entry in entries()] == [
        ("u-net", "µ-Net", False, "train_micronet.py"),
        ("ur-net", "µr-Net", True, "train_micrornet.py"),
        ("taught", "taught network", False, "teach.py"),
        ("unet", "U-Net", False, "train_network.py"),
        ("vnet", "V-Net", False, "train_network.py"),
        ("hourglass", "stacked hourglass", False, "train_network.py"),
        ("micranet", "MICRA-Net", False, "train_network.py"),
    ]
    assert network_of(MicroNet()).name == "u-net"
    assert network_of(MicroRNet()).name == "ur-net"
    assert [entry.passes(10) for entry in entries()] == [1, 10, 1, 1, 1, 1, 1]


def test_a_class_derived_from_a_network_is_that_network():
    class Changed(MicroRNet):
        pass

    assert network_of(Changed()).name == "ur-net"


def test_what_is_no_network_is_refused_with_the_known_names():
    with pytest.raises(
        InputError, match="Linear is no network that micronet knows; known are u-net, ur-net, taught, un"
    ):
        network_of(nn.Linear(1, 1))
    with pytest.raises(InputError, match="no network 'v-net'; known are u-net, ur-net, taught, unet"):
        network_named("v-net")
    with pytest.raises(InputError, match="there is a network 'u-net' of MicroNet already"):
        register(entries()[0])


def test_a_toy_network_trains_saves_loads_and_segments_with_one_entry(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset = write_dataset(tmp_path / "data")
    image = tmp_path / "data" / "test_0.nrrd"

    class Script:
        build_parser = staticmethod(train_micronet.build_parser)

        @staticmethod
        def main(arguments):
            return train("blur", arguments, tmp_path)

    with registered(TOY):
        code, out, err = call(
            Script, "--dataset", dataset, "--run", "3; val; save a; status; finish", "--validate-every", "2",
            "--threads", "1", capsys=capsys,
        )  # fmt: skip
        assert code == 0, err
        assert "wrote checkpoints/blur_a.pt" in out
        assert type(load_model("checkpoints/blur_a.pt")) is Blur
        code, out, err = call(infer, image, "--model", "blur_a", "--threads", "1", capsys=capsys)
        assert code == 0, err
        assert "(blur)" in out
        assert "PyTorch" in out
        assert read_json("predictions/test_0.json")["weights"]["network"] == "blur"
        assert sorted(path.name for path in Path("predictions").glob("test_0*")) == [
            "test_0.json",
            "test_0.seg.nrrd",
            "test_0_preview.png",
            "test_0_probability.nrrd",
        ]
        code, _, err = call_for_last_line(
            infer, image, "--model", "blur_a", "--max-ram", "300MB", "-o", "small", capsys=capsys
        )
        assert code == 2
        assert "in slabs" in err
        code, _, err = call(Script, "--resume", "--run", "2; finish", "--threads", "1", capsys=capsys)
        assert code == 0, err
    code, _, err = call_for_last_line(infer, image, "--model", "blur_a", "-o", "again", capsys=capsys)
    assert code == 2
    assert "neither a µ-Net nor a µr-Net" in err


def test_a_toy_network_takes_axes_as_short_as_its_entry_says(tmp_path):
    from micronet import predict

    with registered(TOY):
        probability = predict(np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6), Blur())
    assert probability.shape == (4, 5, 6)


def test_no_module_outside_networks_asks_what_class_a_network_is(root):
    asked = []
    for path in (root / "micronet").rglob("*.py"):
        if path.relative_to(root / "micronet").parts[0] == "networks":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                if {getattr(name, "id", "") for name in ast.walk(node.args[1])} & {"MicroNet", "MicroRNet"}:
                    asked.append(str(path))
    assert not asked
