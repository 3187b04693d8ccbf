"""A training session: what each command does, and what it leaves on disk."""

import csv
import json
import os
import resource
import time
from dataclasses import replace

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from disks import fill
from tiny_training import SHAPE, Y_CROP, write_dataset

from micronet import MicroNet, MicroRNet, load_model
from micronet.core.errors import FileError, InputError
from micronet.data.dataset import load_split, read_dataset
from micronet.networks.kernels import jit
from micronet.networks.weights import bootstrap, load_session, load_state, save_session, save_state
from micronet.training.commands import parse_command
from micronet.training.ports import Ports, Settings, Wishes
from micronet.training.recipe import RECIPES
from micronet.training.run_files import Places
from micronet.training.session import Session
from micronet.training.trainer import Trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    dataset = read_dataset(write_dataset(tmp_path_factory.mktemp("data"), caution="not independent"))
    return dataset, load_split(dataset)


class Desk:
    """A session, and what it said."""

    def __init__(self, data, folder, network, recipe="default", wishes=None, validate_every=4, threads=1, **how):
        dataset, samples = data
        self.said = []
        self.bars = []
        settings = Settings(str(dataset.path), recipe, 5, 2, validate_every, threads)
        torch.manual_seed(settings.seed)
        chosen = replace(RECIPES[recipe], validate_every=validate_every, **how.pop("changes", {}))
        trainer = Trainer(network(), samples["train"], samples["validation"], chosen, 9, settings.iterations)
        self.session = Session(
            trainer,
            dataset,
            samples,
            Places(folder / "checkpoints", folder / "logs", folder / "predictions", (folder / "trained_models",)),
            settings,
            Ports(self.said.append, self.bar, wishes or Wishes(), how.pop("scalars", None), how.pop("show", None)),
            **how,
        )
        self.trainer = trainer

    def bar(self, total):
        self.bars.append(Bar(total))
        return self.bars[-1]

    def type(self, *lines):
        """Carry out lines; return what was said meanwhile."""
        before = len(self.said)
        for line in lines:
            self.session.execute(parse_command(line, self.session.network))
        return "\n".join(self.said[before:])


class Bar:
    def __init__(self, total):
        self.total, self.texts, self.closed = total, [], False

    def update(self, text):
        self.texts.append(text)

    def close(self):
        self.closed = True


class StopAfter(Wishes):
    """Presses Ctrl-C once, when a number of questions have been asked."""

    def __init__(self, questions):
        self.questions = questions

    @property
    def stop(self):
        self.questions -= 1
        return self.questions < 0


@pytest.fixture
def desk(data, tmp_path):
    torch.set_num_threads(1)
    return lambda network=MicroNet, **how: Desk(data, tmp_path, network, **how)


def files(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def rows(folder, run="u-net"):
    with (folder / "logs" / f"{run}.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def manifest(folder, run="u-net"):
    return json.loads((folder / "logs" / f"{run}.json").read_text(encoding="utf-8"))


def untimed(found):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_training_leaves_weights_session_log_manifest_and_plot(desk, tmp_path):
    d = desk()
    said = d.type("4")

    assert "8 steps in" in said
    assert "now at step 8; over the last 2 steps: loss 0." in said
    assert said.count("validation F") == 2
    assert "best so far" in said
    assert [bar.total for bar in d.bars] == [8]
    assert d.bars[0].closed
    assert len(d.bars[0].texts) == 8
    for word in ("loss", "prec", "rec", "F", "rate"):
        assert word in d.bars[0].texts[0]
    best = d.trainer.best_step
    kept = {"u-net.session", "u-net.session.json", f"u-net_dice_{best}.pt", "u-net_dice_8.pt"}
    assert set(files(tmp_path / "checkpoints")) == kept
    assert files(tmp_path / "logs") == ["u-net.csv", "u-net.json", "u-net.png"]
    assert same(load_state(tmp_path / "checkpoints" / "u-net_dice_8.pt"), d.trainer.model.state_dict())
    assert same(load_state(tmp_path / "checkpoints" / f"u-net_dice_{best}.pt"), d.trainer.best_state)
    assert (tmp_path / "logs" / "u-net.png").read_bytes()[:4] == b"\x89PNG"


def test_the_log_has_a_line_for_each_step_and_each_validation(desk, tmp_path):
    d = desk()
    d.type("rp 0.5", "4")
    found = rows(tmp_path)

    assert [(row["kind"], int(row["step"])) for row in found] == [
        ("step", 0), ("step", 1), ("step", 2), ("step", 3), ("validation", 4),
        ("step", 4), ("step", 5), ("step", 6), ("step", 7), ("validation", 8),
    ]  # fmt: skip
    assert {row["volume"] for row in found if row["kind"] == "step"} == {"train_0", "train_1"}
    assert float(found[0]["learning_rate"]) == 8e-4
    assert {row["beta_squared"] for row in found} == {"0.5"}
    assert found[4]["best"] == "1"
    for row in found:
        assert 0 <= float(row["f"]) <= 1
        assert float(row["loss"]) > 0


def test_the_manifest_tells_data_versions_seed_recipe_and_what_was_typed(desk, tmp_path, data):
    d = desk()
    d.type("lr 0.001", "1", "save mine")
    with pytest.raises(FileError, match="no weights u-net_nothing"):
        d.type("load nothing")
    found = manifest(tmp_path)

    assert found["run"] == "u-net"
    assert set(found["dataset"]["volumes"]) == {
        "train/train_0",
        "train/train_1",
        "validation/validation_0",
        "test/test_0",
    }
    assert len(found["dataset"]["volumes"]["train/train_0"]["image"]) == 64
    assert found["versions"]["torch"] == torch.__version__
    assert found["seed"] == {"torch": 5, "numpy": 9}
    assert found["recipe"]["name"] == "default"
    assert found["threads"] == 1
    typed = [(entry["command"], entry["step"], entry["outcome"]) for entry in found["commands"]]
    assert typed[:3] == [("lr 0.001", 0, "done"), ("1", 0, "done"), ("save mine", 2, "done")]
    assert typed[3][2].startswith("failed: no weights")
    assert found["commands"][1]["ended at step"] == 2


def test_the_plot_is_told_where_rate_and_beta_were_set(data, tmp_path):
    d = Desk(data, tmp_path, MicroNet)
    d.type("1", "rp 0.5", "1", "lr 0.001", "1", "LR 0", "1")
    assert d.session._recorder.changes == [(2, "β² 0.5"), (4, "rate 0.001"), (6, "rate as planned")]


def test_nothing_is_written_before_there_is_something_to_keep(desk, tmp_path):
    d = desk()
    d.type("help", "status", "lr 0.001", "rp 2", "threshold 0.4", "log")
    d.session.close()
    assert list(tmp_path.iterdir()) == []
    assert (d.trainer.fixed_rate, d.trainer.beta_squared, d.trainer.threshold) == (0.001, 2.0, 0.4)
    assert d.type("lr 0") == "learning rate 0.0008 (schedule)"
    assert d.trainer.fixed_rate is None


@pytest.mark.parametrize("network", [MicroNet, MicroRNet])
@pytest.mark.parametrize("recipe", ["default", "published"])
def test_a_resumed_session_ends_with_the_same_bits_as_one_that_never_stopped(data, tmp_path, network, recipe):
    torch.set_num_threads(1)
    command = "6" if network is MicroNet else "3 2"
    whole = Desk(data, tmp_path / "whole", network, recipe)
    whole.type(command)

    asked_in_validation = 1 if network is MicroNet else 2
    stopped = Desk(data, tmp_path / "stopped", network, recipe, wishes=StopAfter(6 + asked_in_validation))
    said = stopped.type(command)
    assert "resume does the 7 steps that are left" in said
    del stopped  # as if killed: nothing but the files is left
    again = Desk(data, tmp_path / "stopped", network, recipe)
    assert "was interrupted in" in again.session.greeting()
    said = again.type("resume")

    assert f"going on with '{command}': 7 steps left" in said
    assert same(whole.trainer.model.state_dict(), again.trainer.model.state_dict())
    assert same(whole.trainer.best_state, again.trainer.best_state)
    name = network.name
    assert files(tmp_path / "whole" / "checkpoints") == files(tmp_path / "stopped" / "checkpoints")
    assert untimed(rows(tmp_path / "whole", name)) == untimed(rows(tmp_path / "stopped", name))
    assert [entry["command"] for entry in manifest(tmp_path / "stopped", name)["commands"]] == [command, "resume"]


def test_an_interrupted_command_goes_on_in_the_same_session_with_what_was_set_since(desk, tmp_path):
    d = desk(wishes=StopAfter(3))
    d.type("3")
    d.session.wishes.questions = 1000
    assert "4 steps left of '3'" in d.type("status") or "3 steps left of '3'" in d.type("status")
    d.type("rp 0.5", "resume")
    assert d.trainer.step == 6
    assert [row["beta_squared"] for row in rows(tmp_path) if row["kind"] == "step"][-1] == "0.5"
    assert "u-net_diceb0.5_6.pt" in files(tmp_path / "checkpoints")


def test_a_later_session_meets_no_earlier_name(desk, tmp_path):
    desk().type("1")
    first = {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    second = desk()
    assert "u-net was done with its last command (step 2)" in second.session.greeting()
    second.type("1")

    for path, content in first.items():
        assert path.read_bytes() == content
    assert files(tmp_path / "checkpoints") == [
        "u-net-2.session", "u-net-2.session.json", "u-net.session", "u-net.session.json",
        "u-net_dice-2_2.pt", "u-net_dice_2.pt",
    ]  # fmt: skip
    assert files(tmp_path / "logs") == [f"u-net{n}.{kind}" for n in ("-2", "") for kind in ("csv", "json", "png")]


def test_an_older_run_can_be_resumed_by_name(desk):
    desk().type("1")
    desk().type("2")
    third = desk()
    assert third.session.runs() == ["u-net", "u-net-2"]
    assert "resumed u-net at step 2" in third.type("resume u-net")
    assert third.session.run.name == "u-net"
    with pytest.raises(FileError, match="no session file"):
        third.type("resume u-net-7")


def test_save_never_loses_what_had_the_name(desk, tmp_path):
    d = desk()
    said = d.type("save mine", "save mine")
    assert "was there already" not in said  # the same weights
    d.type("1")
    path = tmp_path / "checkpoints" / "u-net_mine.pt"
    said = d.type("save mine").splitlines()
    assert said[0] == f"{path} was there already, with other weights: they are now {path.with_stem('u-net_mine.1')}"
    assert said[1] == f"wrote {path} (step 2)"
    assert {"u-net_mine.pt", "u-net_mine.1.pt"} <= set(files(tmp_path / "checkpoints"))
    assert same(load_state(tmp_path / "checkpoints" / "u-net_mine.pt"), d.trainer.model.state_dict())


def with_a_better_past(d):
    """Train a little, then let the best validation so far be one that the present weights do not come up to."""
    d.type("2")
    d.trainer.best_f, d.trainer.best_step = 0.99, 4
    d.type("1")


def test_a_training_ends_with_its_best_validation_and_the_way_to_it(desk):
    d = desk()
    last = d.type("1").splitlines()[-1]  # too short for a validation on its way
    assert last == f"best validation {d.trainer.best_f:.3f} at step 2: these weights"
    d.trainer.best_f, d.trainer.best_step = 0.99, 1
    last = d.type("1").splitlines()[-1]
    assert last == f"best validation 0.990 at step 1, now {d.trainer.present_f:.3f}: load best"


def test_weights_that_were_not_validated_are_said_to_be_so(desk):
    d = desk(wishes=StopAfter(1))
    d.trainer.best_f, d.trainer.best_step = 0.99, 4
    last = d.type("1").splitlines()[-1]
    assert last == "best validation 0.990 at step 4, these weights not validated: load best"
    assert "the weights of step 1 (not validated), not the best, of step 4" in d.type("save mine")


@pytest.mark.parametrize("command", ["save mine", "bootstrap", "finish"])
def test_the_last_weights_are_used_only_after_it_is_said_that_they_are_not_the_best(desk, command):
    d = desk()
    with_a_better_past(d)
    now = f"{d.trainer.present_f:.3f}"
    assert d.type(command).splitlines()[0] == (
        f"note: these are the weights of step 6 (now {now}), not the best, of step 4 (0.990): load best takes those"
    )


def test_load_best_keeps_the_step_and_says_nothing_more(desk, tmp_path):
    d = desk()
    with_a_better_past(d)
    assert "loaded the best of u-net, step 4;" in d.type("load best")
    assert d.trainer.step == 4
    assert d.type("save mine").splitlines() == [f"wrote {tmp_path / 'checkpoints' / 'u-net_mine.pt'} (step 4)"]
    said = d.type("val")
    assert "u-net-2_4_validation_0" in said
    d.type("1")
    assert d.trainer.step == 6
    assert "u-net_dice-2_6.pt" in files(tmp_path / "checkpoints")


def test_a_saved_name_that_hides_weights_that_were_there_is_told(desk, tmp_path):
    save_state(tmp_path / "trained_models" / "u-net_1600.pt", MicroNet().state_dict())
    said = desk().type("save 1600")
    assert said.splitlines()[-1].endswith(
        "load takes it from now on, not " + str(tmp_path / "trained_models/u-net_1600.pt")
    )


def test_the_greeting_speaks_only_of_runs_on_the_same_data_set(data, desk, tmp_path):
    first = desk()
    first.type("1")
    other = read_dataset(write_dataset(tmp_path / "other"))
    second = Desk((other, load_split(other)), tmp_path, MicroNet)
    assert second.session.greeting() == ""
    second.type("1")
    assert second.session.greeting().endswith("(step 2): resume goes on from there")
    assert desk().session.greeting() == "u-net was done with its last command (step 2): resume u-net goes on from there"


def test_ctrl_c_in_the_validation_at_the_end_leaves_it_to_resume(desk):
    d = desk(MicroRNet, wishes=StopAfter(2 + 1 + 1))  # two steps, before the validation, in its first refinement
    said = d.type("1")
    assert "interrupted in the validation at the end, everything is kept: resume does it" in said
    assert said.splitlines()[-1] == "nothing has been validated yet"
    again = desk(MicroRNet)
    assert "best validation" in again.type("resume").splitlines()[-1]
    assert again.trainer.best_step == 2


def test_a_first_step_that_has_to_compile_says_so_and_no_other(desk, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cold"))
    jit.cache_folder.cache_clear()
    d = desk(MicroRNet)
    told = "the first step compiles the distortion of masks, once on this machine: up to half a minute"
    try:
        assert told in d.type("1")
        assert told not in d.type("1")
    finally:
        jit.cache_folder.cache_clear()
    assert told not in desk().type("1")  # of a network that distorts nothing


def test_load_takes_checkpoints_before_trained_models_and_starts_the_schedule_afresh(desk, tmp_path):
    torch.manual_seed(77)
    ours, theirs = MicroNet().state_dict(), MicroNet().state_dict()
    save_state(tmp_path / "trained_models" / "u-net_1600.pt", theirs)
    d = desk()
    d.type("1")
    assert "optimiser and schedule start afresh" in d.type("load 1600")
    assert same(d.trainer.model.state_dict(), theirs)
    assert d.trainer.step == 0
    save_state(tmp_path / "checkpoints" / "u-net_1600.pt", ours)
    d.type("load 1600")
    assert same(d.trainer.model.state_dict(), ours)
    d.type(f"load {tmp_path / 'trained_models' / 'u-net_1600.pt'}")
    assert same(d.trainer.model.state_dict(), theirs)
    assert d.session.versions()[:2] == ["best", "last"]
    assert "1600" in d.session.versions()

    d.type("1")  # steps count from 0 again, so this is another run
    assert d.session.run.name == "u-net-2"
    assert "u-net_dice_2.pt" in files(tmp_path / "checkpoints")
    assert "u-net_dice-2_2.pt" in files(tmp_path / "checkpoints")
    start = manifest(tmp_path, "u-net-2")["start"]
    assert start["weights"].endswith("trained_models/u-net_1600.pt")
    assert len(start["sha256"]) == 64


def test_load_refuses_the_other_network_and_files_that_hold_none(desk, tmp_path):
    save_state(tmp_path / "checkpoints" / "u-net_wrong.pt", MicroRNet().state_dict())
    (tmp_path / "checkpoints" / "u-net_torn.pt").write_bytes(b"torn")
    d = desk()
    with pytest.raises(FileError, match=r"u-net_wrong.pt holds a ur-net, this session trains a u-net"):
        d.type("load wrong")
    with pytest.raises(FileError, match="is not a weight file that PyTorch can read"):
        d.type("load torn")
    with pytest.raises(FileError, match=r"no weights u-net_best2.pt in .*; give load V, V one of: torn, wrong"):
        d.type("load best2")
    with pytest.raises(FileError, match="there is no earlier session of u-net"):
        d.type("load last")


def test_load_best_and_last_also_reach_into_the_session_before(desk):
    first = desk()
    first.type("4")
    best, last = first.trainer.best_state, first.trainer.model.state_dict()
    second = desk()
    assert "loaded the last of u-net, step 8" in second.type("load last")
    assert same(second.trainer.model.state_dict(), last)
    assert "loaded the best of u-net, step" in second.type("load best")
    assert same(second.trainer.model.state_dict(), best)
    first.type("load best")
    assert same(first.trainer.model.state_dict(), best)


def test_bootstrap_gives_the_micrornet_of_these_weights(desk, tmp_path):
    d = desk()
    d.type("1", "bootstrap")
    path = tmp_path / "checkpoints" / "ur-net_bootstrap.pt"
    assert same(load_state(path), bootstrap(d.trainer.model.state_dict()))

    other = desk(MicroRNet)
    other.type("load bootstrap")
    assert isinstance(load_model(path), MicroRNet)
    assert same(other.trainer.model.state_dict(), load_state(path))


@pytest.mark.parametrize(("network", "suffix"), [(MicroNet, ""), (MicroRNet, "_2")])
def test_val_and_test_write_prediction_segmentation_and_preview_on_the_grid_of_the_input(
    desk, tmp_path, data, network, suffix
):
    d = desk(network)
    d.type("threshold 0.4", "1")
    said = d.type("val", "test")
    for volume in ("validation_0", "test_0"):
        stem = f"{network.name}_2_{volume}{suffix}"
        assert {f"{stem}_probability.nrrd", f"{stem}.seg.nrrd", f"{stem}_preview.png"} <= set(
            files(tmp_path / "predictions")
        )
    assert "caution: not independent" in said
    sample = data[1]["test"][0]
    expected = np.rint(255 * d.trainer.predict(sample)).astype(np.uint8)
    source = sitk.ReadImage(str(sample.entry.image))
    stem = str(tmp_path / "predictions" / f"{network.name}_2_test_0{suffix}")
    found = sitk.ReadImage(f"{stem}_probability.nrrd")
    assert (found.GetSpacing(), found.GetOrigin(), found.GetSize()) == (
        source.GetSpacing(),
        source.GetOrigin(),
        SHAPE[::-1],
    )
    array = sitk.GetArrayFromImage(found)
    assert np.array_equal(array[:, :Y_CROP], expected)
    assert not array[:, Y_CROP:].any()
    mask, _ = nrrd.read(f"{stem}.seg.nrrd", index_order="C")
    assert np.array_equal(mask[:, :Y_CROP] > 0, d.trainer.predict(sample) > 0.4)
    assert f"F {2 * _dice(mask[:, :Y_CROP] > 0, sample.mask):.4f}" in said
    assert [bar.total for bar in d.bars[1:]] == [2, 2] if suffix else [1, 1]


def _dice(one, other):
    return np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


@pytest.mark.parametrize(("command", "split"), [("val", "validation"), ("test", "test")])
def test_ctrl_c_while_volumes_are_segmented_is_recorded_as_interrupted(tmp_path, command, split):
    dataset = read_dataset(write_dataset(tmp_path / "data", train=1, validation=2, test=2))
    d = Desk((dataset, load_split(dataset)), tmp_path, MicroRNet, wishes=StopAfter(2))  # two refinements a volume
    said = d.type(command)
    assert said.splitlines()[0].startswith(f"{split}_0: F ")
    assert said.splitlines()[-1] == "interrupted: the volumes that were not reported were not written"
    assert "all 2" not in said
    assert d.bars[0].closed
    (entry,) = manifest(tmp_path, "ur-net")["commands"]
    assert (entry["command"], entry["outcome"], entry["ended at step"]) == (command, "interrupted", 0)
    stem = f"ur-net_0_{split}_0_2"
    assert files(tmp_path / "predictions") == [
        f"{stem}.json",
        f"{stem}.seg.nrrd",
        f"{stem}_preview.png",
        f"{stem}_probability.nrrd",
    ]


def test_ctrl_c_that_does_not_wait_for_the_step_is_recorded_as_interrupted(desk, tmp_path):
    class Impatient(Wishes):
        @property
        def stop(self):
            raise KeyboardInterrupt  # what the third Ctrl-C does, wherever it comes

    d = desk(wishes=Impatient())
    with pytest.raises(KeyboardInterrupt):
        d.type("val")
    assert [entry["outcome"] for entry in manifest(tmp_path)["commands"]] == ["interrupted"]


def test_what_a_damaged_session_left_is_told_as_unreadable(desk, tmp_path):
    desk().type("1")
    path = tmp_path / "checkpoints" / "u-net.session"
    content = load_session(path)
    content["state"]["trainer"]["plan"]["order"] = [7]
    save_session(path, content)
    assert desk().session.greeting() == f"an earlier session left '{path}', which cannot be read"


def test_a_split_without_volumes_is_told(tmp_path):
    dataset = read_dataset(write_dataset(tmp_path / "data", train=1, validation=0, test=0))
    d = Desk((dataset, load_split(dataset)), tmp_path, MicroNet)
    with pytest.raises(InputError, match=r"tiny.toml' lists no validation volume"):
        d.type("val")
    assert "validation" not in d.type("5")  # no validation, and the session is kept all the same
    assert "u-net_dice_5.pt" in files(tmp_path / "checkpoints")


def test_a_stalled_training_ends_early_and_names_the_way_to_the_best_weights(desk):
    d = desk(changes={"patience": 2})
    said = d.type("lr 1e-12", "threshold 0.999", "40")  # nothing is learned, so no validation is better than the first
    assert d.trainer.step == 12
    assert "stopped early, 68 steps before the end: no better validation in the last 2\n" in said
    assert said.splitlines()[-1] == "best validation 0.000 at step 4, now as good"
    assert d.trainer.plan.done
    d.type("40")  # a person who insists gets the whole patience again
    assert d.trainer.step == 20


def test_a_diverged_training_is_not_kept(desk, tmp_path):
    d = desk()
    d.type("2")
    good = d.trainer.model.state_dict()["up0.4.bias"].clone()
    with torch.no_grad():
        d.trainer.model.up0[4].bias.fill_(float("nan"))
    with pytest.raises(InputError, match=r"training diverged at step .* load last takes the last good weights"):
        d.type("3")
    with pytest.raises(InputError, match="load last takes the last good ones"):
        d.type("save broken")
    with pytest.raises(InputError, match="load last takes the last good ones"):
        d.type("1")
    assert "training went wrong" in d.type("status")
    d.session.close()
    d.type("load last")
    assert torch.equal(d.trainer.model.state_dict()["up0.4.bias"], good)
    d.type("1")


def test_every_nth_step_is_kept_on_demand(desk, tmp_path):
    d = desk(keep_every=3)
    d.type("5")
    assert {"u-net_dice_3.pt", "u-net_dice_6.pt", "u-net_dice_9.pt", "u-net_dice_10.pt"} <= set(
        files(tmp_path / "checkpoints")
    )


def test_other_settings_are_refused_and_name_the_way_out(desk, tmp_path, data):
    desk().type("1")
    with pytest.raises(
        InputError, match=r"has validate_every 4, this one 5; start again with the saved settings \(setting: resume\)"
    ):
        desk(validate_every=5).type("resume")
    with pytest.raises(InputError, match="the saved session has recipe default, this one published"):
        desk(recipe="published").type("resume")


def test_changed_data_threads_and_a_lost_manifest_are_noted_on_resume(desk, tmp_path, data):
    desk(threads=64).type("1")
    image = data[0].entries[1].image
    before = image.read_bytes()
    image.write_bytes(before + b"\0")
    said = desk().type("resume")
    image.write_bytes(before)
    assert "not what the run was trained on before: train/train_1" in said
    assert "it ran with 64 threads, this session has 1" in said

    path = tmp_path / "logs" / "u-net.json"
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(FileError, match=r"u-net.json' is in the way: .* it was changed since"):
        desk().type("resume")
    for name in ("u-net.json", "u-net.csv", "u-net.png"):  # of whose they are nothing is known without it
        (tmp_path / "logs" / name).unlink()
    assert "the manifest starts anew" in desk().type("resume")
    assert manifest(tmp_path)["commands"][0]["command"] == "resume"


def test_a_damaged_trainer_state_is_told_and_not_kept(desk, tmp_path):
    desk().type("1")
    path = tmp_path / "checkpoints" / "u-net.session"
    content = load_session(path)
    del content["state"]["trainer"]["optimizer"]
    save_session(path, content)
    before = path.read_bytes()
    d = desk()
    with pytest.raises(FileError, match=r"u-net.session' is in the way: .* it was changed since"):
        d.type("resume")
    d.session.close()
    assert path.read_bytes() == before


def test_log_plot_help_and_status_answer(desk, tmp_path):
    d = desk()
    with pytest.raises(InputError, match="nothing to plot"):
        d.type("plot")
    assert "nothing has been trained" in d.type("log")
    d.type("2")
    said = d.type("log")
    assert said.splitlines()[0].startswith("train_0     step")
    assert said.splitlines()[2].startswith("validation  step      4")
    assert "u-net.csv" in said
    assert "wrote" in d.type("plot")
    assert d.type("help rp").startswith("rp X  set β² of the loss")
    assert d.type("help 5").startswith("N  train N epochs")
    assert len(d.type("help").splitlines()) == 16
    said = d.type("status")
    for part in ("step 4", "rate 0.00083", "β² 1", "threshold 0.5", "best validation: F 0.", "1 test"):
        assert part in said


def test_the_plot_is_shown_and_scalars_are_written_only_on_demand(desk, tmp_path):
    shown, points = [], []

    class Writer:
        def add_scalar(self, tag, value, step):
            points.append((tag, step))

        def add_image(self, tag, picture, step, dataformats):
            assert (picture.ndim, picture.shape[-1], dataformats) == (3, 3, "HWC")
            points.append((tag, step))

        def close(self):
            points.append("closed")

    d = desk(show=shown.append, scalars=lambda folder, step: (points.append((folder.name, step)), Writer())[1])
    d.type("2")
    d.session.close()
    assert shown == [tmp_path / "logs" / "u-net.png"]
    assert points[0] == ("u-net", 0)
    assert ("train/loss", 0) in points
    assert ("validation/f", 4) in points
    assert ("validation/validation_0", 4) in points
    assert points[-1] == "closed"


@pytest.fixture
def full_disk():
    """A limit on the size of files: past it, writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_training_and_leaves_the_last_good_files(desk, tmp_path, full_disk):
    d = desk()
    d.type("2")
    kept = {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    full_disk(30_000)
    with pytest.raises(FileError, match="cannot write"):
        d.type("4")
    full_disk(resource.RLIM_INFINITY)

    assert {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == kept
    d.type("resume")
    assert d.trainer.step == 12


def test_a_disk_that_fills_up_during_training_stops_it_between_two_steps(desk, tmp_path, full_disk):
    class FillDisk(Wishes):
        questions = 0

        @property
        def stop(self):
            self.questions += 1
            if self.questions == 3:
                full_disk((tmp_path / "logs" / "u-net.csv").stat().st_size + 150)
            return False

    d = desk(wishes=FillDisk(), validate_every=100)
    with pytest.raises(FileError, match=r"u-net.csv.*training stopped at step 4, .* make room, then resume goes on"):
        d.type("4")
    full_disk(resource.RLIM_INFINITY)

    assert load_session(tmp_path / "checkpoints" / "u-net.session")["state"]["trainer"]["step"] == 0
    d.type("resume")
    assert d.trainer.step == 8
    assert [int(row["step"]) for row in rows(tmp_path) if row["kind"] == "step"] == list(range(8))


def test_weights_are_not_lost_on_a_disk_that_is_really_full(desk, tmp_path, small_disk):
    folder = small_disk(tmp_path / "checkpoints", "6m")
    d = desk()
    d.type("2")
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    ballast = fill(folder, left=20_000)
    with pytest.raises(FileError, match=r"cannot write '.*checkpoints/.*': No space left on device"):
        d.type("4")
    assert {path: path.read_bytes() for path in folder.iterdir() if path != ballast} == kept
    ballast.unlink()
    d.type("resume")
    assert d.trainer.step == 12


def test_a_log_on_a_disk_that_is_really_full_stops_training_between_two_steps(desk, tmp_path, small_disk):
    folder = small_disk(tmp_path / "logs", "400k")

    class FillDisk(Wishes):
        questions = 0

        @property
        def stop(self):
            self.questions += 1
            if self.questions == 3:
                fill(folder)
            return False

    d = desk(wishes=FillDisk(), validate_every=1000)
    with pytest.raises(FileError, match=r"u-net.csv': No space left .*make room, then resume goes on"):
        d.type("40")  # what is left of the log's last page still takes some lines
    stopped = d.trainer.step
    (folder / "ballast").unlink()
    d.type("lr 0", "resume")
    assert stopped < 80
    assert d.trainer.step == 80
    assert [int(row["step"]) for row in rows(tmp_path) if row["kind"] == "step"] == list(range(80))


def test_predictions_on_a_disk_that_is_really_full_are_told_and_done_again(desk, tmp_path, small_disk):
    folder = small_disk(tmp_path / "predictions", "400k")
    d = desk()
    ballast = fill(folder, left=5000)
    with pytest.raises(FileError, match=r"cannot write '.*predictions/.*': No space left on device"):
        d.type("val")
    assert not [path for path in folder.iterdir() if ".tmp." in path.name]
    ballast.unlink()
    assert "wrote" in d.type("val")


@pytest.mark.parametrize(("place", "command"), [("checkpoints", "1"), ("logs", "1"), ("predictions", "val")])
def test_a_read_only_folder_is_told_in_one_line_and_nothing_is_left_in_it(desk, tmp_path, read_only, place, command):
    read_only(tmp_path / place)
    d = desk()
    with pytest.raises(FileError, match=rf"cannot write into '.*{place}': Read-only file system"):
        d.type(command)
    assert list((tmp_path / place).iterdir()) == []


def test_a_clock_that_has_gone_back_does_not_make_an_older_session_the_latest(desk, tmp_path):
    desk().type("1")
    tomorrow = time.time() + 86400
    for path in (tmp_path / "checkpoints").iterdir():  # written before the clock was set right
        os.utime(path, (tomorrow, tomorrow))
    desk().type("2")
    third = desk()
    assert third.session.runs() == ["u-net", "u-net-2"]
    assert "resumed u-net-2 at step 4" in third.type("resume")
