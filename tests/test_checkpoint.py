"""Weight files: what is read, what is refused, and that nothing in them runs."""

import os
import pickle
import zipfile

import pytest
import torch

from micronet import load_model
from micronet.checkpoint import find_weights, load_state, save_state
from micronet.errors import FileError
from micronet.models import MicroNet, MicroRNet


@pytest.mark.parametrize("network", [MicroNet, MicroRNet])
def test_saved_weights_come_back_equal_as_the_right_network(tmp_path, network):
    model = network()
    save_state(tmp_path / "new" / "weights.pt", model.state_dict())

    loaded = load_model(tmp_path / "new" / "weights.pt")

    assert type(loaded) is network
    assert not loaded.training
    assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in model.state_dict().items())
    assert os.listdir(tmp_path / "new") == ["weights.pt"]


def test_saved_file_is_a_plain_ordered_dict_that_torch_alone_reads(tmp_path):
    save_state(tmp_path / "w.pt", MicroNet().double().state_dict())

    state = torch.load(tmp_path / "w.pt", weights_only=True)

    assert list(state) == list(MicroNet().state_dict())
    assert all(tensor.dtype == torch.float32 and not tensor.requires_grad for tensor in state.values())


def test_published_weights_load_and_decide_the_network(shared):
    folder = shared / "data" / "yolk_sac" / "trained_models"

    assert type(load_model(folder / "u-net_1600.pt")) is MicroNet
    assert type(load_model(folder / "ur-net_b0.5_1200.pt")) is MicroRNet


class _Code:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path, save):
    save({"down0.0.weight": _Code(str(tmp_path / "owned"))}, tmp_path / "evil.pt")

    with pytest.raises(FileError, match=r"evil.pt' .*(holds more than weights|not a weight file)"):
        load_model(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


def test_files_that_are_no_weights_are_refused_in_one_line(tmp_path):
    whole = tmp_path / "whole.pt"
    save_state(whole, MicroNet().state_dict())
    cases = {"empty.pt": b"", "text.pt": b"not weights at all", "cut.pt": whole.read_bytes()[:20_000]}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=rf"{name}'") as error:
            load_model(tmp_path / name)
        assert "\n" not in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileError, match=r"no weight file '.*absent.pt'"):
        load_model(tmp_path / "absent.pt")


def test_other_objects_are_refused(tmp_path):
    for number, thing in enumerate(([1, 2], {"step": 3}, {3: torch.zeros(2)}, {"a": torch.zeros(2, dtype=torch.int8)})):
        torch.save(thing, tmp_path / f"{number}.pt")
        with pytest.raises(FileError, match="is not a plain state dict"):
            load_state(tmp_path / f"{number}.pt")


def test_a_zip_bomb_and_a_huge_file_are_refused_before_they_are_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(60_000_000))
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000
    with pytest.raises(FileError, match=r"bomb.pt' unpacks to 60,000,000 bytes: too large"):
        load_state(tmp_path / "bomb.pt")

    with (tmp_path / "huge.pt").open("wb") as stream:
        stream.truncate(50_000_000)
    with pytest.raises(FileError, match=r"huge.pt' has 50,000,000 bytes: too large"):
        load_state(tmp_path / "huge.pt")


def test_weights_of_another_network_name_file_and_tensors(tmp_path):
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(FileError, match=r"other.pt': neither a µ-Net nor a µr-Net; against u-net: missing: down0.0.w"):
        load_model(tmp_path / "other.pt")


def test_weights_are_found_by_path_or_by_name_in_order_of_folders(tmp_path):
    first, second = tmp_path / "checkpoints", tmp_path / "trained_models"
    for folder in (first, second):
        save_state(folder / "u-net_1.pt", MicroNet().state_dict())
    save_state(second / "ur-net_b0.5_1200.pt", MicroRNet().state_dict())
    folders = [first, second]

    assert find_weights(str(second / "u-net_1.pt"), folders) == second / "u-net_1.pt"
    assert find_weights("u-net_1", folders) == first / "u-net_1.pt"
    assert find_weights("ur-net_b0.5_1200", folders) == second / "ur-net_b0.5_1200.pt"
    with pytest.raises(FileError, match=r"no weights 'x': .*one of: u-net_1, ur-net_b0.5_1200$"):
        find_weights("x", folders)
