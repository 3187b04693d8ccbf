"""Weights in an HDF5 file that holds many networks: the one that is named, and nothing that is not an array."""

import numpy as np
import pytest
import torch

from micronet.core.errors import FileError
from micronet.io.hdf5_tensors import weights_sha256
from micronet.networks.micranet import MicraNet
from micronet.networks.weights import find_weights, load_model

h5py = pytest.importorskip("h5py")


@pytest.fixture
def zoo(tmp_path):
    torch.manual_seed(0)
    model = MicraNet(2, ("ring", "fibre"), 2).eval()
    with h5py.File(tmp_path / "zoo.h5", "w") as file:
        for name in ("one", "two"):
            for key, tensor in model.state_dict().items():
                file[f"micranet/{name}/{key}"] = tensor.numpy()
        for key, tensor in model.state_dict().items():  # groups in groups are names with points
            file[f"nested/one/{key.replace('.', '/')}"] = tensor.numpy()
    return tmp_path / "zoo.h5", model


@pytest.mark.parametrize("name", ["micranet/one", "nested/one"])
def test_a_network_of_a_zoo_is_that_which_was_put_in(zoo, name):
    path, model = zoo
    found = load_model(find_weights(f"{path}:{name}", []))
    assert found.classes == ("ring", "fibre")
    for key, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[key], tensor.float())


@pytest.mark.parametrize("name", ["", ":micranet/three", ":micranet", ":micranet/one/linear"])
def test_one_that_is_not_there_is_told_with_those_that_are(zoo, name):
    path, _ = zoo
    with pytest.raises(FileError, match=r"no model .* there are zoo\.h5:micranet/one, zoo\.h5:micranet/two"):
        load_model(find_weights(f"{path}{name}", []))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda group: group.__setitem__("x", b"text"), "x is no array of numbers"),
        (lambda group: group.__setitem__("x", h5py.SoftLink("/micranet/two")), "x is a link"),
        (lambda group: group.__setitem__("x", h5py.ExternalLink("other.h5", "/")), "x is a link"),
        (lambda group: group.create_dataset("x", (10**6, 10**6), "f4"), "too large for a network"),
        (lambda group: group.create_dataset("x", (2,), "f4", external=[("x.raw", 0, 8)]), "lies in another file"),
        (lambda group: group.__setitem__("x", np.ones(3)), "not a MICRA-Net; .* extra: x"),
        (  # a type that NumPy has not: before, an internal error
            lambda group: h5py.h5d.create(group.id, b"x", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((4,))),
            "is no HDF5 file that can be read",
        ),
    ],
)
def test_what_is_no_tensor_of_the_network_is_refused_in_one_line(zoo, spoil, message):
    path, _ = zoo
    with h5py.File(path, "a") as file:
        spoil(file["micranet/one"])
    with pytest.raises(FileError, match=message) as caught:
        load_model(find_weights(f"{path}:micranet/one", []))
    assert "\n" not in str(caught.value)


def test_networks_of_one_file_are_told_apart_by_their_weights(zoo):
    """Before, their hash was that of the file: what one had found counted as what another was asked for."""
    path, _ = zoo
    one, other, same = (
        weights_sha256(find_weights(f"{path}:{name}", [])) for name in ("micranet/one", "micranet/two", "nested/one")
    )
    assert one == other == same  # the same numbers under the same names
    with h5py.File(path, "a") as file:
        file["micranet/two/linear.bias"][0] += 1
    assert weights_sha256(find_weights(f"{path}:micranet/one", [])) == one
    assert weights_sha256(find_weights(f"{path}:micranet/two", [])) != one


def test_a_file_that_is_no_hdf5_is_refused(tmp_path):
    (tmp_path / "zoo.h5").write_bytes(b"no")
    with pytest.raises(FileError, match="is no HDF5 file that can be read"):
        load_model(find_weights(f"{tmp_path / 'zoo.h5'}:a/b", []))


def test_without_h5py_the_file_that_needs_it_is_told(zoo, monkeypatch):
    """Before, an option of the phantoms was named, which other scripts do not have."""
    path, _ = zoo
    monkeypatch.setattr("micronet.io.hdf5.find_spec", lambda name: None)
    with pytest.raises(FileError, match=r"zoo\.h5:micranet/one': HDF5 needs the package h5py: pip install h5py"):
        load_model(find_weights(f"{path}:micranet/one", []))
