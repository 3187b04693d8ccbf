"""search.py: trials that several processes share, that outlive a kill, and the best of them as a command that runs."""

import csv
import json
import re
import shlex
import signal
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import running
import searching
from forking import fork
from PIL import Image
from tiny_training import ctrl_c_when, unfinished, wait_for, write_dataset

import search
import train_micronet
import train_network
from micronet.app.computing import set_threads
from micronet.app.options import search_parser
from micronet.app.searching import _Bar, _candidate
from micronet.core.errors import FileError, InputError
from micronet.data.augmentation import Augmentation
from micronet.data.dataset import open_dataset
from micronet.networks.registry import network_named
from micronet.training.search.spaces import OWN
from micronet.training.search.study import Search
from micronet.training.search.trials import PrunedError

call = partial(running.call, search)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begin(root, folder, trials, patient=True):
    """Start a process that takes part in the search of a folder."""
    command = [root / "tests" / "searching.py", folder, trials, "patient" if patient else "stays"]
    return fork(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def settings_of(told):
    return [one.settings for one in told]


class TestStudy:
    def test_the_same_seed_gives_the_same_trials_and_another_others(self, tmp_path):
        first, again, other = (
            settings_of(searching.search(tmp_path / name, 14, seed=seed)[0])
            for name, seed in (("a", 1), ("b", 1), ("c", 2))
        )
        assert first == again
        assert first[0] == other[0] == {"a": 0.5, "b": "x"}  # what is usual is tried first
        assert first[1:] != other[1:]
        assert len({one["a"] for one in first}) == 14

    def test_later_trials_are_better_than_the_first_which_are_drawn_blindly(self, tmp_path):
        scores = [one.score for one in searching.search(tmp_path, 50)[0]]
        assert max(scores[10:]) > max(scores[:10])
        assert sum(scores[-20:]) / 20 > sum(scores[:10]) / 10

    def test_two_processes_share_the_trials_of_one_search(self, root, tmp_path):
        both = [begin(root, tmp_path, 20) for _ in range(2)]
        wait_for(both[0], lambda: len(list(tmp_path.glob("ready*"))) == 2)
        (tmp_path / "go").touch()
        done = [process.communicate(timeout=120) for process in both]
        assert [process.returncode for process in both] == [0, 0], done
        one, two = ([int(number) for number in out.split()] for out, _ in done)
        assert one
        assert two
        assert sorted(one + two) == list(range(20))
        told, more = searching.search(tmp_path, 20)
        assert len({one.settings["a"] for one in told}) == 20
        assert more == []
        assert [path.name for path in tmp_path.glob(".*")] == [".a.journal.next.lock"]

    def test_one_that_was_killed_goes_on_as_if_it_had_not_been(self, root, tmp_path):
        killed = begin(root, tmp_path, 14, patient=False)
        (tmp_path / "go").touch()
        wait_for(killed, (tmp_path / "third").exists)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        told, mine = searching.search(tmp_path, 14)
        assert [one.number for one in told] == [0, 1, *range(3, 15)]  # the third was given up, and done again
        assert mine == list(range(3, 15))
        assert settings_of(told) == settings_of(searching.search(tmp_path / "never killed", 14)[0])

    def test_a_trial_of_a_process_that_lives_is_left_to_it(self, root, tmp_path):
        living = begin(root, tmp_path, 14, patient=False)
        (tmp_path / "go").touch()
        try:
            wait_for(living, (tmp_path / "third").exists)
            told, _ = searching.search(tmp_path, 6)
            assert [one.number for one in told] == [0, 1, 3, 4, 5]
        finally:
            living.kill()
            living.communicate()

    def test_a_trial_that_is_worse_than_most_is_pruned_after_the_warm_up(self, tmp_path):
        seen = {}

        def objective(settings, report):
            trial = len(seen)
            seen[trial] = []
            for step in (10, 20, 30, 40):
                seen[trial].append(step)
                report(step, 0.9 if trial < 5 else 0.1)
            return 0.9

        told, _ = searching.search(tmp_path, 7, objective, warm_up=30)
        assert [one.pruned for one in told] == [False] * 5 + [True] * 2
        assert [seen[trial] for trial in (4, 5)] == [[10, 20, 30, 40], [10, 20, 30]]
        assert told[5].score == 0.1

    def test_a_trial_whose_training_fails_is_done_again(self, tmp_path):
        def objective(settings, report):
            raise InputError("no room")

        with pytest.raises(InputError, match="no room"):
            searching.search(tmp_path, 3, objective)
        told, _ = searching.search(tmp_path, 3)
        assert [one.number for one in told] == [1, 2, 3]
        assert told[0].settings == {"a": 0.5, "b": "x"}

    @pytest.mark.parametrize("interrupted", [1, 3])
    def test_one_that_is_interrupted_while_its_settings_are_drawn_is_drawn_anew(self, tmp_path, interrupted):
        drawn = []

        def suggest(chooser):
            first = chooser.suggest_float("a", 1e-4, 1, log=True)
            drawn.append(first)
            if len(drawn) == interrupted:
                raise KeyboardInterrupt
            return {"a": first, "b": chooser.suggest_categorical("b", ["x", "y"])}

        candidate = replace(searching.candidate(), suggest=suggest)
        with Search(tmp_path / "a.journal", searching.ASKED, seed=1, warm_up=0) as study:
            with pytest.raises(KeyboardInterrupt):
                study.run(candidate, 6, lambda number, settings: None, lambda told: None)
            study.run(candidate, 6, lambda number, settings: None, lambda told: None)
            assert settings_of(study.told) == settings_of(searching.search(tmp_path / "whole", 6)[0])

    def test_a_score_that_is_no_number_counts_as_none_found(self, tmp_path):
        told, _ = searching.search(tmp_path, 1, lambda settings, report: float("nan"))
        assert told[0].score == 0

    def test_a_search_for_something_else_is_refused(self, tmp_path):
        searching.search(tmp_path, 1)
        with pytest.raises(InputError, match=r"network was none, now u-net\); ask the same, or search elsewhere"):
            searching.search(tmp_path, 1, asked={"network": "u-net"})

    @pytest.mark.parametrize("content", [b"mine", b"{}\n", b"[1]\n", b"\x00" * 99, b"7\n", b'"op_code"\n'])
    def test_a_file_that_is_no_journal_is_refused_and_stays(self, tmp_path, content):
        (tmp_path / "a.journal").write_bytes(content)
        with pytest.raises(FileError, match=r"a\.journal' is in the way: it is no journal of a search"):
            searching.search(tmp_path, 1)
        assert (tmp_path / "a.journal").read_bytes() == content

    def test_a_damaged_journal_is_told(self, tmp_path):
        searching.search(tmp_path, 2)
        journal = tmp_path / "a.journal"
        lines = journal.read_bytes().split(b"\n")
        journal.write_bytes(b"\n".join([*lines[:2], b'{"op_code":99,"worker_id":"x"}', b"no", *lines[2:]]))
        with pytest.raises(FileError, match=r"a\.journal' is damaged, or no journal of a search"):
            searching.search(tmp_path, 3)

    def test_a_line_that_was_being_written_when_the_power_went_is_cut_off(self, tmp_path):
        searching.search(tmp_path, 2)
        with (tmp_path / "a.journal").open("ab") as stream:
            stream.write(b'{"op_code":4,"study')
        told, _ = searching.search(tmp_path, 4)
        assert len(told) == 4

    def test_a_worker_of_a_crafted_journal_names_no_file_elsewhere(self, tmp_path):
        outside = tmp_path / "mine"
        outside.touch()

        def stop(number, settings):
            raise KeyboardInterrupt

        (tmp_path / "in").mkdir()
        with pytest.raises(KeyboardInterrupt):
            searching.search(tmp_path / "in", 1, begin=stop)
        journal = tmp_path / "in" / "a.journal"
        text = journal.read_text(encoding="utf-8")
        worker = re.search(r'"worker":"([^"]+)"', text)[1]
        # As it was while the trial ran, done by somebody with another name.
        running_still = [line for line in text.splitlines() if '"state":2' not in line and '"state":3' not in line]
        journal.write_text("\n".join(running_still).replace(f'"{worker}"', '"../mine"') + "\n", encoding="utf-8")
        searching.search(tmp_path / "in", 2)
        assert outside.exists()


class Noted(_Bar):
    """Keeps what each step reports."""

    def __init__(self):
        super().__init__()
        self.reports = []

    def step(self, report):
        self.reports.append(report)


@pytest.fixture
def trials(tmp_path):
    """Return a function that gives what is searched of a network on a small data set, and the steps of its trials."""

    def of(name, *options, own=None):
        fixed = ("--epochs", "1", "--validate-every", "1", "--iterations", "2", "--engine", "torch")
        path = write_dataset(tmp_path / "data")
        arguments = search_parser().parse_args(["--dataset", str(path), "--network", name, *fixed, *options])
        dataset, samples = open_dataset(path)
        set_threads(1)  # two on a machine that is busy are slower
        steps = Noted()
        found = _candidate(network_named(name), arguments, replace(dataset, augmentation=own), samples, steps)
        return found, steps.reports

    return of


def choose(candidate, folder, count, seed=3):
    """Return the settings of so many trials that are not trained."""
    found = []
    with Search(folder / "a.journal", {}, seed=seed, warm_up=0) as study:
        chosen = replace(candidate, objective=lambda settings, report: 0.5)
        study.run(chosen, count, lambda number, settings: found.append(settings), lambda told: None)
    return found


class TestMicroNets:
    def test_what_is_chosen_is_what_is_trained_with(self, trials):
        candidate, steps = trials("u-net")
        candidate.objective({"augmentation": "none", "beta_squared": 2.5, "rate": 0.004}, lambda *told: None)
        assert [(step.learning_rate, step.beta_squared) for step in steps] == [(0.004, 2.5)] * 2
        losses = []
        for augmentation in ("none", "full"):
            steps.clear()
            candidate.objective({"augmentation": augmentation, "beta_squared": 2.5}, lambda *told: None)
            assert steps[0].learning_rate == pytest.approx(8e-4)  # that of the recipe
            losses.append(steps[0].loss)
        assert losses[0] != losses[1]

    def test_everything_that_may_be_chosen_is_within_what_the_prompt_takes(self, trials, tmp_path):
        found = choose(trials("u-net", own=Augmentation(speckle=0.3))[0], tmp_path, 40)
        assert found[0] == {"augmentation": OWN, "beta_squared": 1.0}
        assert {one["augmentation"] for one in found} == {"none", "flips", "full", OWN}
        rates = [one["rate"] for one in found if "rate" in one]
        assert 0 < len(rates) < 40
        assert 1e-4 <= min(rates) < 1e-3 < max(rates) <= 0.03
        assert all(0.2 <= one["beta_squared"] <= 5 for one in found)

    def test_each_validation_is_told_and_the_best_is_the_score(self, trials):
        told = []
        settings = {"augmentation": "none", "beta_squared": 1.0, "rate": 0.01}
        best = trials("u-net")[0].objective(settings, lambda *one: told.append(one))
        assert [step for step, _ in told] == [1, 2]
        assert best == max(f for _, f in told) > 0

    def test_a_training_that_diverges_scores_nothing(self, trials):
        settings = {"augmentation": "none", "beta_squared": 1.0, "rate": 1e30}
        assert trials("u-net")[0].objective(settings, lambda *told: None) == 0

    def test_a_pruned_training_ends_at_once(self, trials):
        candidate, steps = trials("u-net")

        def report(step, score):
            raise PrunedError

        with pytest.raises(PrunedError):
            candidate.objective({"augmentation": "none", "beta_squared": 1.0}, report)
        assert len(steps) == 1


class TestLargerNetworks:
    def test_what_is_chosen_is_what_is_trained_with(self, trials):
        candidate, steps = trials("unet", "--dimensions", "2", "--validate-every", "1000")
        usual = dict(candidate.usual)
        assert usual["crop_size"] == "1,33,33"  # the volumes have 32, 33 and 33 voxels
        losses = []
        for changed in ({}, {"loss": "bce"}, {"lr": 0.002, "optimizer": "sgd"}):
            steps.clear()
            candidate.objective(usual | changed, lambda *told: None)
            assert len(steps) == 20
            assert steps[0].learning_rate == (usual | changed)["lr"]
            losses.append((steps[0].loss, steps[-1].loss))
        assert len({first for first, _ in losses}) == 2  # another loss changes the first step
        assert len({last for _, last in losses}) == 3

    def test_what_may_be_chosen_fits_one_class(self, trials, tmp_path):
        found = choose(trials("vnet")[0], tmp_path, 60)
        assert {one["loss"] for one in found} == {"dice", "bce", "weighted_bce", "boundary_dice", "focal", "fbeta"}
        assert {one["optimizer"] for one in found} == {"adam", "sgd", "rmsprop", "soap"}
        assert {one["schedule"] for one in found} == {"plateau", "step", "cosine", "published"}
        assert {one["crop_size"] for one in found} == {"32,32,32", "32,33,33"}
        assert all(1e-4 <= one["lr"] <= 1e-2 and 1e-7 <= one["weight_decay"] <= 1e-2 for one in found)


SHORT = ("--network", "u-net", "--epochs", 1, "--validate-every", 1, "--threads", 1, "--engine", "torch")


def best_f():
    """Return the best F of the validations that trainings logged; `load best` begins another run."""
    rows = []
    for path in Path("logs").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as stream:
            rows += csv.DictReader(stream)
    return max(float(row["f"]) for row in rows if row["kind"] == "validation")


class TestScript:
    def test_the_command_that_it_prints_runs_and_scores_the_same(self, folder, capsys):
        write_dataset(folder / "my data")
        arguments = ("--dataset", "my data/tiny.toml", *SHORT, "--trials", 3)
        code, out, err = call(*arguments, capsys=capsys)
        assert code == 0, err
        assert "0 of 3 trials are done" in out
        record = running.read_json("search/u-net_tiny.json")
        command = out.splitlines()[-1]
        assert command == record["command"]
        python, script, *words = shlex.split(command)
        assert (python, script) == ("python", "train_micronet.py")
        code, out, err = running.call(train_micronet, *words, capsys=capsys)
        assert code == 0, out + err
        assert Path("checkpoints/u-net_searched.pt").exists()
        assert best_f() == pytest.approx(record["best"]["f"], abs=1e-9)

        # The table and the plots, and the same command once more: nothing is left to do.
        lines = Path("search/u-net_tiny_trials.csv").read_text(encoding="utf-8").splitlines()
        rows = list(csv.DictReader(line for line in lines if line[0] != "#"))
        assert [row["trial"] for row in rows] == ["0", "1", "2"]
        assert max(float(row["f"]) for row in rows) == pytest.approx(record["best"]["f"], abs=1e-5)
        for name in ("history", "slice", "parallel", "intermediate"):
            with Image.open(f"search/u-net_tiny_{name}.png") as picture:
                assert min(picture.size) > 200
        code, out, err = call(*arguments, capsys=capsys)
        assert code == 0, err
        assert "3 of 3 trials are done" in out
        assert out.splitlines()[-1] == command

        # Another data set under that name is another search.
        toml = folder / "my data" / "tiny.toml"
        toml.write_text(toml.read_text(encoding="utf-8").replace("y_crop = 33", "y_crop = 32"), encoding="utf-8")
        code, _, err = call(*arguments, capsys=capsys)
        assert code == 2
        assert "something else was asked (data was" in err
        assert "search elsewhere (-o DIR)" in err
        assert err.count("\n") == 1

    def test_the_command_for_a_larger_network_runs_and_scores_the_same(self, folder, capsys):
        write_dataset(folder)
        shared = ("--validate-every", 10, "--threads", 1)
        arguments = ("--dataset", "tiny.toml", "--network", "unet", "--dimensions", 2, "--epochs", 1, *shared)
        code, out, err = call(*arguments, "--trials", 2, capsys=capsys)
        assert code == 0, err
        python, script, *words = shlex.split(out.splitlines()[-1])
        assert (python, script) == ("python", "train_network.py")
        code, out, err = running.call(train_network, *words, capsys=capsys)
        assert code == 0, out + err
        assert best_f() == pytest.approx(running.read_json("search/unet_tiny.json")["best"]["f"], abs=1e-9)

    def test_ctrl_c_in_a_trial_leaves_a_journal_from_which_the_same_search_goes_on(self, folder, capsys):
        write_dataset(folder)
        how = ("--dataset", "tiny.toml", "--network", "unet", "--dimensions", 2, "--epochs", 1, "--threads", 1)
        how = (*how, "--validate-every", 5, "--trials", 3)
        code, _, err = call(*how, "-o", "whole", capsys=capsys)
        assert code == 0, err
        journal = folder / "search" / "unet_tiny.journal"
        with ctrl_c_when(lambda: journal.is_file() and journal.read_text().count('"op_code":4,') > 1):
            code, _, err = call(*how, capsys=capsys)
        assert code == 130
        assert err.endswith("interrupted\n")
        assert not list(folder.glob("search/*.csv"))
        # Processes share one by that lock, which nobody can take away safely.
        assert {path.name for path in unfinished(folder)} <= {".unet_tiny.journal.next.lock"}
        code, out, err = call(*how, capsys=capsys)
        assert code == 0, err
        assert re.search(r"[12] of 3 trials are done", out)
        tables = []
        for place in ("whole", "search"):
            lines = (folder / place / "unet_tiny_trials.csv").read_text(encoding="utf-8").splitlines()
            rows = list(csv.DictReader(line for line in lines if line[0] != "#"))
            tables.append([{name: row[name] for name in ("state", "f", "steps", "lr", "loss")} for row in rows])
        assert tables[1] == tables[0]

    def test_without_optuna_one_line_says_what_to_install(self, folder, capsys, monkeypatch):
        monkeypatch.setattr("micronet.app.searching.find_spec", lambda name: None)
        code, _, err = call("--dataset", "a.toml", "--network", "u-net", capsys=capsys)
        assert (code, err) == (2, "error: search.py needs the package optuna: pip install optuna\n")

    def test_without_a_data_set_or_volumes_for_validation_nothing_is_searched(self, folder, capsys):
        code, _, err = call("--network", "u-net", capsys=capsys)
        assert (code, err.count("\n")) == (2, 1)
        assert "which data set? --dataset FILE" in err
        write_dataset(folder, validation=0)
        code, _, err = call("--dataset", "tiny.toml", "--network", "u-net", capsys=capsys)
        assert code == 2
        assert 'no volume with split = "validation", which scores the trials' in err
        assert not (folder / "search").exists()

    def test_what_a_micro_net_does_not_have_is_refused(self, folder, capsys):
        code, _, err = call("--dataset", "tiny.toml", "--network", "ur-net", "--dimensions", 2, capsys=capsys)
        assert code == 2
        assert "--dimensions and --device are for larger networks; µr-Net is 3-D, and on the CPU" in err

    def test_a_persons_table_is_not_replaced(self, folder, capsys):
        write_dataset(folder)
        (folder / "search").mkdir()
        (folder / "search" / "u-net_tiny_trials.csv").write_bytes(b"mine")
        code, _, err = call("--dataset", "tiny.toml", *SHORT, capsys=capsys)
        assert code == 2
        assert "u-net_tiny_trials.csv' is in the way" in err
        assert (folder / "search" / "u-net_tiny_trials.csv").read_bytes() == b"mine"


class TestAugmentationOption:
    @pytest.fixture
    def train(self, folder, capsys):
        write_dataset(folder / "data")
        fixed = ("--dataset", "data/tiny.toml", "--threads", 1, "--engine", "torch")
        return lambda *arguments: running.call(train_micronet, *fixed, *arguments, capsys=capsys)

    def test_it_takes_the_place_of_the_recipes_and_is_kept_for_a_resumed_run(self, train):
        code, out, err = train("--augmentation", "full", "--run", "1; finish")
        assert code == 0, err
        assert "augmentation as asked for: flips zx, smallest_crop 0.75" in out
        manifest = json.loads(next(Path("logs").glob("*.json")).read_text(encoding="utf-8"))
        assert manifest["recipe"]["augmentation"]["smallest_crop"] == 0.75
        code, out, err = train("--resume", "--run", "1; finish")
        assert code == 0, err
        assert "augmentation as asked for: flips zx, smallest_crop 0.75" in out
        code, out, _ = train("--resume", "--augmentation", "none", "--run", "1; finish")
        assert code == 2
        assert "saved session has augmentation" in out

    def test_the_published_recipe_has_none(self, train):
        code, _, err = train("--recipe", "published", "--augmentation", "flips", "--run", "1; finish")
        assert code == 2
        assert err == "error: --augmentation: recipe published shows every volume unchanged; it has none\n"
