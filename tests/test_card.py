"""Model cards: infer.py says where an image is not what its weights were trained on, and nothing where it is."""

import json
import re

import numpy as np
import pytest

import infer
from micronet import MicroNet, Volume, read_volume, write_volume
from micronet.app.terminal import run, with_options
from micronet.core.errors import FileError
from micronet.core.provenance import sha256_of
from micronet.core.volume import upright
from micronet.networks import engine
from micronet.networks.card import (
    Expected,
    Look,
    card_line,
    card_path,
    expected,
    planned_weights,
    read_card,
    write_card,
)
from micronet.networks.weights import save_state

SHAPE = (32, 34, 36)


def image(seed=1, mean=100.0, sd=40.0):
    return np.random.default_rng(seed).normal(mean, sd, SHAPE).clip(0, 255).astype(np.uint8)


def volume(array=None, spacing=4.5):
    return Volume(image() if array is None else array, upright((spacing,) * 3), units="um")


@pytest.fixture
def weights(tmp_path):
    """Weights with a card that was made from images of mean 100 and standard deviation 40."""
    path = tmp_path / "u-net_test.pt"
    outputs = planned_weights(path, advice="")
    with outputs.staged() as folder:
        save_state(folder / path.name, MicroNet().state_dict())
    looks = [Look.of(image(seed, 100 + seed, 40 + 0.5 * seed)) for seed in range(4)]
    write_card(
        outputs,
        spacing_um=4.5,
        intensity_domain="log",
        dtype="uint8",
        look=expected(looks),
        more={"network": "u-net", "steps": 7},
    )
    return path


def line(weights, given, path=None, **how):
    return card_line(weights, sha256_of(weights), path or weights.with_name("scan.nrrd"), given, **how)


def test_look_is_mean_sd_and_normalised_percentiles():
    ramp = np.broadcast_to(np.arange(101.0), (4, 4, 101))[:, :, ::-1]
    look = Look.of(np.repeat(ramp, 3, axis=2))
    sd = np.std(np.arange(101), ddof=0)
    assert look.mean == pytest.approx(50)
    assert look.sd == pytest.approx(sd, rel=1e-3)
    assert look.darkest == pytest.approx(-49 / sd, rel=1e-3)
    assert look.brightest == pytest.approx(49 / sd, rel=1e-3)


def test_card_is_read_as_it_was_written(weights):
    card = read_card(weights)
    assert card.sha256 == sha256_of(weights)
    assert (card.spacing_um, card.intensity_domain, card.dtype) == ((4.5, 4.5, 4.5), "log", "uint8")
    assert card.record["steps"] == 7
    assert card.look["mean"].least < 100 < card.look["mean"].most
    assert Expected.of([10.0]) == Expected(10.0, 7.5, 12.5)


def test_image_like_those_trained_on_is_passed_over_in_silence(weights):
    assert line(weights, volume()) is None
    assert line(weights, volume(spacing=4.9)) is None


def test_other_spacing_and_unknown_spacing_are_told(weights):
    found = line(weights, volume(spacing=9.0))
    assert "voxels of 9 x 9 x 9 µm, not 4.5: bring them there (setting: resample_um)" in found
    assert "voxels of unknown size" in line(weights, Volume(image()))


def test_other_mean_and_spread_are_told_for_the_same_kind_of_numbers_only(weights):
    dark = (image() // 4).astype(np.uint8)
    found = line(weights, volume(dark))
    assert re.search(r"darker \(mean 2\d(\.\d)?, those have \S+ to \S+\); flatter \(SD 9", found)
    assert "\n" not in found
    # The same picture in other units is the same to the network.
    assert line(weights, volume(dark.astype(np.float32) / 7)) is None


def test_linear_intensities_are_told_in_any_type(weights):
    linear = np.exp(image().astype(np.float64) / 20)
    found = line(weights, volume(linear.astype(np.float32)))
    assert found.endswith(": looks like linear intensities: try their logarithm (setting: intensity)")
    assert with_options(found).endswith("try their logarithm (--intensity log)")
    assert line(weights, volume(np.log(linear).astype(np.float32)), log_taken=True) is None


def test_sidecar_that_names_another_domain_is_told_and_db_is_a_logarithm(weights):
    scan = weights.with_name("scan.nrrd")
    for domain, told in (("log", False), ("dB", False), ("intensity", True), ("amplitude", True)):
        scan.with_suffix(".json").write_text(json.dumps({"domain": domain}), encoding="utf-8")
        found = line(weights, volume(), scan)
        assert (found is not None) == told
        if told:
            assert f"intensities are '{domain}' by the file beside it, not 'log'" in found
            assert line(weights, volume(), scan, log_taken=True) is None


def test_weights_without_card_or_with_another_json_say_nothing(weights):
    assert card_path(weights).name == "u-net_test.json"
    card_path(weights).write_text('{"run": "mine"}', encoding="utf-8")
    assert line(weights, volume(spacing=9.0)) is None
    card_path(weights).unlink()
    assert line(weights, volume(spacing=9.0)) is None


def test_card_of_other_weights_is_ignored_in_one_line(weights):
    save_state(weights, MicroNet().state_dict())
    found = line(weights, volume(spacing=9.0))
    assert "ignored: it belongs to other weights than 'u-net_test.pt'" in found
    assert "µm" not in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": 5}, "sha256 must be a text, found 5"),
        ({"expects": []}, "expects must be an object, found \\[\\]"),
        ({"expects": {"spacing_um": -1}}, "spacing_um must be positive, found -1"),
        ({"expects": {"spacing_um": 10**400}}, "spacing_um must be a number"),
        ({"expects": {"spacing_um": True}}, "spacing_um must be a number, found True"),
    ],
)
def test_damaged_card_is_told_and_ignored(weights, change, message):
    path = card_path(weights)
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | change), encoding="utf-8")
    with pytest.raises(FileError, match=message):
        read_card(weights)
    assert line(weights, volume(spacing=9.0)).startswith("model card ignored: ")


def test_card_that_is_no_json_or_too_large_is_told(weights):
    path = card_path(weights)
    for text, message in (("{", "is not valid JSON"), ("[" * 100_000, "is not valid JSON"), (" " * 1_000_001, "large")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(FileError, match=message):
            read_card(weights)


def test_infer_warns_once_and_records_it(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_volume(tmp_path / "good.nrrd", volume())
    write_volume(tmp_path / "bad.nrrd", volume(image() // 4, spacing=9.0))
    for name, warnings in (("good", 0), ("bad", 1)):
        with pytest.raises(SystemExit) as left:
            run(infer.build_parser(), infer.main, [f"{name}.nrrd", "--model", str(weights), "--engine", "torch"])
        assert left.value.code == 0
        out = capsys.readouterr().out
        assert out.count("outside of what 'u-net_test.pt' was trained on") == warnings
        record = json.loads((tmp_path / "predictions" / f"{name}.json").read_text(encoding="utf-8"))
        assert sum("outside of what" in warning for warning in record["result"]["warnings"]) == warnings
    engine.choose("auto")


@pytest.mark.parametrize("name", ["u-net_phantom", "ur-net_phantom"])
def test_bundled_weights_have_a_card_that_the_demo_fits(root, name):
    path = root / "trained_models" / f"{name}.pt"
    card = read_card(path)
    if card is None:
        pytest.skip("these weights were made before there were cards")
    assert card.sha256 == sha256_of(path)
    assert card.record["scores"]["unseen_full_size"]["f"]["volumes"] == 8
    demo = root / "struct_iso" / "E5D_phantom_demo.nrrd"
    assert card_line(path, card.sha256, demo, read_volume(demo)) is None
