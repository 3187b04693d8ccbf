"""Weight files: what is read, what is refused, and that nothing in them runs."""

import os
import pickle
import pickletools
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


@pytest.mark.parametrize(
    "thing",
    [
        bytearray(10),
        torch.zeros(3, device="meta"),
        torch.eye(3).to_sparse(),
        MicroNet(),
    ],
    ids=["bytes", "without data", "sparse", "network"],
)
def test_what_no_state_dict_needs_is_refused_by_name_before_pytorch_builds_it(tmp_path, thing):
    torch.save({"down0.0.weight": thing}, tmp_path / "x.pt")
    with pytest.raises(
        FileError, match=r"x.pt' holds more than weights \(a pickle with code or foreign objects: [a-z_]"
    ):
        load_model(tmp_path / "x.pt")


def _archive(path, pickled, *more):
    """Write what `torch.save` would write around a pickle made by hand."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n"), *more):
            archive.writestr(f"archive/{name}", content)
    return path


def test_a_byte_array_of_gigabytes_and_a_key_that_takes_years_are_not_built(tmp_path):
    huge = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
    with pytest.raises(FileError, match=r"foreign objects: builtins bytearray\)"):
        load_model(_archive(tmp_path / "huge.pt", huge))
    # a = (), then a = (a, a) fifty times, and a dictionary with that as its key
    levels = b"".join(b"h%c" % n * 2 + b"\x86q%c" % (n + 1) for n in range(50))
    slow = b"\x80\x02}(K\x01\x85q\x00" + levels.replace(b"h\x00h\x00", b"h\x00", 1) + b"K\x01u."
    with pytest.raises(FileError, match=r"foreign objects: tuples of tuples\)"):
        load_model(_archive(tmp_path / "slow.pt", slow))


def test_an_archive_with_two_pickles_of_one_name_is_refused(tmp_path):
    save_state(tmp_path / "a.pt", MicroNet().state_dict())
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    with pytest.raises(FileError, match=r"a.pt' is not a weight file that is read: a name stands twice in it"):
        load_model(tmp_path / "a.pt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_tensor_of_a_billion_elements_in_a_small_file_is_refused(tmp_path, dtype):
    """Its one element is repeated, which takes no room before somebody looks at it."""
    state = MicroNet().state_dict() | {"up0.0.weight": torch.zeros(1, dtype=dtype).expand(1_000_000_000)}
    torch.save(state, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 100_000
    with pytest.raises(FileError, match=r"a.pt': 'up0.0.weight' has 1,000,000,000 elements: too large for a µ-Net"):
        load_model(tmp_path / "a.pt")


def test_the_format_of_pytorch_before_1_6_is_refused_and_names_the_way_out(tmp_path):
    torch.save(MicroNet().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(
        FileError, match=r"old.pt' is not a weight file that is read: .* before 1.6; save it again with"
    ):
        load_model(tmp_path / "old.pt")


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    for value in (float("nan"), float("inf")):
        state = MicroNet().state_dict()
        state["up0.4.bias"] = torch.tensor([value])
        save_state(tmp_path / "a.pt", state)
        with pytest.raises(FileError, match=r"a.pt': weights hold values that are not finite, first in 'up0.4.bias'"):
            load_model(tmp_path / "a.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_converted_and_told(tmp_path, dtype):
    state = MicroNet().to(dtype).state_dict()
    torch.save(state, tmp_path / "a.pt")
    said = []
    model = load_model(tmp_path / "a.pt", said.append)
    assert said == [f"'{tmp_path / 'a.pt'}' holds {str(dtype)[6:]}: converted to float32"]
    assert all(torch.equal(model.state_dict()[key], tensor.float()) for key, tensor in state.items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.net."])
def test_names_with_a_prefix_are_converted_and_told(tmp_path, prefix):
    state = MicroRNet().state_dict()
    torch.save({f"{prefix}{key}": tensor for key, tensor in state.items()}, tmp_path / "a.pt")
    said = []
    model = load_model(tmp_path / "a.pt", said.append)
    assert said == [f"'{tmp_path / 'a.pt'}': every name begins with '{prefix}', which is left away"]
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in state.items())
    torch.save(
        {f"{prefix}{key}": tensor for key, tensor in state.items()} | {"more": torch.zeros(1)}, tmp_path / "b.pt"
    )
    with pytest.raises(FileError, match=r"b.pt': neither a µ-Net nor a µr-Net"):
        load_model(tmp_path / "b.pt")


def test_a_tensor_that_is_called_is_refused_without_a_warning_of_pytorch(tmp_path, capfd):
    save_state(tmp_path / "a.pt", MicroNet().state_dict())
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    calls = [at for opcode, _, at in pickletools.genops(entries[pickled]) if opcode.name == "REDUCE"]
    first_tensor = calls[2] + 1  # after the state dict itself and the hooks of the first tensor
    entries[pickled] = entries[pickled][:first_tensor] + b")R" + entries[pickled][first_tensor:]
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(FileError, match=r"b.pt' is not a weight file that PyTorch can read") as refused:
        load_state(tmp_path / "b.pt")
    assert "unrecognized function tensor" in str(refused.value.__cause__)
    assert capfd.readouterr() == ("", "")
