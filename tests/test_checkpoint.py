"""Weight files: what is read, what is refused, and that nothing in them runs."""

import os
import pickle
import pickletools
import random
import re
import struct
import time
import tracemalloc
import zipfile

import pytest
import torch

from micronet import load_model
from micronet.core.errors import FileError
from micronet.networks.models import MicroNet, MicroRNet
from micronet.networks.weights import find_weights, load_session, load_state, save_session, save_state


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
        stream.truncate(600_000_000)
    with pytest.raises(FileError, match=r"huge.pt' has 600,000,000 bytes: too large"):
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
    # Two folders of one name, such as a person's and micronet's own, are told apart.
    folders.append(tmp_path / "micronet" / "trained_models")
    places = ", ".join(f"{folder}/" for folder in folders)
    listed = f"no weights 'x': no such file, nor in {places}; "
    with pytest.raises(FileError, match=re.escape(listed) + ".*one of: u-net_1, ur-net_b0.5_1200$"):
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
    with pytest.raises(FileError, match=r"a.pt': 'up0.0.weight' has 1,000,000,000 elements: too large for a network"):
        load_model(tmp_path / "a.pt")


def test_the_format_of_pytorch_before_1_6_is_refused_and_names_the_way_out(tmp_path):
    torch.save(MicroNet().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(
        FileError, match=r"old.pt' is not a weight file that is read: .* before 1.6; save it again with"
    ):
        load_model(tmp_path / "old.pt")


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    for value, why in (
        (float("nan"), "that are not finite"),
        (float("inf"), "that are not finite"),
        (3e38, "above 1e+30"),
    ):
        state = MicroNet().state_dict()
        state["up0.4.bias"] = torch.tensor([value])
        save_state(tmp_path / "a.pt", state)
        with pytest.raises(FileError, match=re.escape(f"a.pt': weights hold values {why}, first in 'up0.4.bias'")):
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


def _entries(path):
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: (archive.read(entry), entry.header_offset) for entry in archive.infolist()}


def _two_directories(path):
    """Write weights whose list of entries two readers see differently; return what only PyTorch's sees as the pickle.

    Python's zipfile takes the list that lies right before the end record, PyTorch's reader the one whose place is
    stated there. Of both, the entries have the same names, so that the lists are equally long.
    """
    huge = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."  # 2 GiB when it is built
    save_state(path, MicroNet().state_dict())
    seen = {f"archive/{name.partition('/')[2]}": content for name, (content, _) in _entries(path).items()}
    halves = []
    for entries in (seen | {"archive/data.pkl": huge, "archive/data/0": bytes(60_000)}, seen):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        content = path.read_bytes()
        size, start = struct.unpack_from("<II", content, len(content) - 10)
        halves.append((content[:start], content[start : start + size], content[start + size :]))
    (files, listed, end), (more_files, more_listed, _) = halves
    assert len(listed) == len(more_listed)
    moved = bytearray(more_listed)  # Python adds how far the list lies from where it is stated to be
    at = 0
    while at < len(moved):
        (name_length, offset) = (*struct.unpack_from("<H", moved, at + 28), *struct.unpack_from("<I", moved, at + 42))
        struct.pack_into("<I", moved, at + 42, offset + len(files) - len(more_files))
        at += 46 + name_length
    path.write_bytes(files + listed + more_files + moved + end)
    return huge


def test_an_archive_whose_list_two_readers_see_differently_is_refused_at_once(tmp_path):
    path = tmp_path / "two.pt"
    huge = _two_directories(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("archive/data.pkl") != huge
    assert torch._C.PyTorchFileReader(str(path)).get_record("data.pkl") == huge

    tracemalloc.start()
    begun = time.perf_counter()
    try:
        with pytest.raises(FileError, match=r"two.pt' is not a weight file that is read: there are bytes in it that"):
            load_model(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - begun < 2
    assert peak < 2 * path.stat().st_size + (16 << 20)


def _flipped(content, bit):
    spoilt = bytearray(content)
    spoilt[bit // 8] ^= 1 << bit % 8
    return bytes(spoilt)


@pytest.mark.parametrize(("save", "load"), [(save_state, load_state), (save_session, load_session)])
def test_a_flipped_bit_in_a_tensor_is_refused_in_one_line(tmp_path, save, load):
    save(tmp_path / "a", MicroRNet().state_dict())
    content = (tmp_path / "a").read_bytes()
    places = []  # of every tensor's bytes in the file
    for name, (stored, offset) in _entries(tmp_path / "a").items():
        if "/data/" in name:
            start = offset + 30 + sum(struct.unpack_from("<HH", content, offset + 26))
            assert content[start : start + len(stored)] == stored
            places += range(8 * start, 8 * (start + len(stored)))
    for bit in random.Random(16).sample(places, 160):
        (tmp_path / "b").write_bytes(_flipped(content, bit))
        with pytest.raises(FileError, match=r"b' is damaged: '\w+/data/\d+' in it is not what was written") as error:
            load(tmp_path / "b")
        assert "\n" not in str(error.value)


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path):
    state = MicroNet().state_dict()
    save_state(tmp_path / "a.pt", state)
    content = (tmp_path / "a.pt").read_bytes()
    refused = 0
    for bit in random.Random(17).sample(range(8 * len(content)), 100):
        (tmp_path / "b.pt").write_bytes(_flipped(content, bit))
        try:
            found = load_state(tmp_path / "b.pt")
        except FileError:
            refused += 1
        else:
            assert all(torch.equal(found[key], tensor) for key, tensor in state.items())
    assert refused > 50  # the rest is room between the entries


def test_archives_that_zip_has_packed_again_load_with_the_same_bits(tmp_path):
    state = MicroNet().state_dict()
    save_state(tmp_path / "a.pt", state)
    with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (content, _) in _entries(tmp_path / "a.pt").items():
            archive.writestr(name, content)
    assert all(torch.equal(load_state(tmp_path / "b.pt")[key], tensor) for key, tensor in state.items())
    with zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("c/data.pkl", b"\x80\x02}.")
    with pytest.raises(FileError, match=r"c.pt' is not a weight file that is read: .* packed as zip rarely is"):
        load_state(tmp_path / "c.pt")


def test_published_weights_load_with_the_bits_that_pytorch_alone_reads(shared):
    for path in sorted((shared / "data" / "yolk_sac" / "trained_models").glob("*.pt")):
        found, expected = load_state(path), torch.load(path, weights_only=True)
        assert list(found) == list(expected)
        assert all(found[key].numpy().tobytes() == tensor.numpy().tobytes() for key, tensor in expected.items())


def test_an_entry_that_unpacks_to_more_than_it_states_takes_no_more_memory(tmp_path):
    path = tmp_path / "lie.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(100_000_000))
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 100_000_000), struct.pack("<I", 1000)))

    tracemalloc.start()
    try:
        with pytest.raises(FileError, match=r"lie.pt' is damaged: 'a/data.pkl' in it is not what was written"):
            load_state(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_name_that_pytorch_reads_as_another_is_not_given_to_it(tmp_path):
    """It takes names without regard to case, and up to a zero byte."""
    harmful = b"\x80\x02cbuiltins\nbytearray\nK\x05\x85R."
    with zipfile.ZipFile(tmp_path / "case.pt", "w") as archive:
        archive.writestr("a/DATA.PKL", harmful)
        archive.writestr("a/version", "3\n")
        archive.writestr("a/byteorder", "little")
    assert torch.load(tmp_path / "case.pt", weights_only=True) == bytearray(5)
    with pytest.raises(FileError, match=r"case.pt' is not a weight file that PyTorch can read"):
        load_state(tmp_path / "case.pt")

    save_state(tmp_path / "a.pt", {"x": torch.ones(3)})
    entries = {name: content for name, (content, _) in _entries(tmp_path / "a.pt").items()}
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    entries[pickled] = entries[pickled].replace(b"X\x01\0\0\x000", b"X\x03\0\0\x000\0a")
    with zipfile.ZipFile(tmp_path / "zero.pt", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(FileError, match=r"zero.pt' holds more than weights .*: a text that is cut short\)"):
        load_state(tmp_path / "zero.pt")


def test_too_many_entries_objects_or_folders_are_refused_before_they_are_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "entries.pt", "w") as archive:
        for number in range(10_001):
            archive.writestr(f"a/{number}", b"")
    with pytest.raises(FileError, match=r"entries.pt' is not a weight file that is read: more than 10,000 files in it"):
        load_state(tmp_path / "entries.pt")

    _archive(tmp_path / "objects.pt", b"\x80\x02" + b"N" * 200_000 + b".")
    with pytest.raises(FileError, match=r"objects.pt' holds more than weights .*: more than 100,000 objects\)"):
        load_state(tmp_path / "objects.pt")

    _archive(tmp_path / "list.pt", bytes(10_000_001))
    with pytest.raises(FileError, match=r"list.pt': the list of what is in it has 10,000,001 bytes: too large"):
        load_state(tmp_path / "list.pt")

    with zipfile.ZipFile(tmp_path / "folders.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("b/version", b"3\n")
    with pytest.raises(FileError, match=r"folders.pt' is not a weight file .*: its files lie in no common folder"):
        load_state(tmp_path / "folders.pt")


def test_weights_that_may_not_be_opened_are_told_with_the_reason(tmp_path):
    save_state(tmp_path / "a.pt", MicroNet().state_dict())
    (tmp_path / "a.pt").chmod(0)
    if os.access(tmp_path / "a.pt", os.R_OK):
        pytest.skip("the superuser may read everything")
    with pytest.raises(FileError, match=r"a.pt' cannot be read: Permission denied"):
        load_state(tmp_path / "a.pt")
