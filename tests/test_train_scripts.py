"""train_micronet.py and train_micrornet.py as a person, a pipe and a batch system run them."""

import csv
import importlib.util
import io
import json
import os
import pty
import select
import signal
import sys
import termios
import threading
import time

import pytest
import torch
from forking import fork
from tiny_training import ROOT, finish, kill, start, wait_for, write_dataset

import train_micronet
import train_micrornet
from micronet.app.launch import choose_dataset
from micronet.app.prompt import Interrupts, completions
from micronet.app.terminal import run
from micronet.networks.registry import model_for_state
from micronet.networks.weights import load_session, load_state

pytestmark = pytest.mark.usefixtures("engine_ready")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with a small data set."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data")
    return tmp_path


def call(script, *arguments, typed=None, capsys, monkeypatch):
    """Run a script in this process; return (exit code, standard output, standard error)."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("" if typed is None else typed))
    with pytest.raises(SystemExit) as left:
        run(
            script.build_parser(),
            script.main,
            ["--dataset", "data/tiny.toml", "--threads", "1", "--iterations", "2", *map(str, arguments)],
        )
    out, err = capsys.readouterr()
    return left.value.code, out, err


@pytest.fixture
def train(folder, capsys, monkeypatch):
    return lambda script, *arguments, typed=None: call(
        script, *arguments, typed=typed, capsys=capsys, monkeypatch=monkeypatch
    )


@pytest.fixture
def begin(folder):
    """Start train_micronet.py in a process of its own, which does not outlive the test."""
    processes = []

    def begin(*arguments):
        processes.append(start("train_micronet.py", *arguments, cwd=folder))
        return processes[-1]

    yield begin
    for process in processes:
        kill(process)


def files(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def steps_of(folder, run_name="u-net"):
    with (folder / "logs" / f"{run_name}.csv").open(encoding="utf-8") as stream:
        return [int(row["step"]) for row in csv.DictReader(stream) if row["kind"] == "step"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("recipe", ["default", "published"])
def test_the_whole_published_recipe_runs_unattended(train, folder, recipe):
    options = ("--recipe", recipe, "--validate-every", 4)
    code, out, err = train(train_micronet, *options, typed="3\nbootstrap\nfinish\n")
    assert (code, err) == (0, "")
    assert "data set data/tiny.toml: 2 train, 1 validation, 1 test volumes" in out
    assert "now at step 6" in out
    code, out, err = train(train_micrornet, *options, "--run", "load bootstrap; 2 2; rp 0.5; 1 2; val; test; finish")
    assert (code, err) == (0, "")
    assert "now at step 12" in out

    checkpoints = files(folder / "checkpoints")
    assert {"u-net_dice_6.pt", "ur-net_bootstrap.pt", "ur-net_diceb0.5_12.pt"} <= set(checkpoints)
    assert model_for_state(load_state("checkpoints/ur-net_diceb0.5_12.pt")).name == "ur-net"
    assert {"ur-net_12_validation_0_2_probability.nrrd", "ur-net_12_test_0_2.seg.nrrd"} <= set(
        files(folder / "predictions")
    )
    typed = json.loads((folder / "logs" / "ur-net.json").read_text(encoding="utf-8"))["commands"]
    assert [entry["command"] for entry in typed] == [
        "load bootstrap", "2 2", "rp 0.5", "1 2", "val", "test", "finish",
    ]  # fmt: skip


def test_in_a_pipe_a_bad_line_costs_one_line_and_the_exit_code(train, folder):
    code, out, _ = train(train_micronet, typed="frobnicate\n\nsave\nload nothing\n1\nsave mine\n")
    assert code == 2
    lines = out.splitlines()
    assert (
        lines[lines.index("> frobnicate") + 1]
        == "error: unknown command 'frobnicate': N trains, help lists the commands"
    )
    assert lines[lines.index("> save") + 1].startswith("error: give save V, found 'save'")
    assert lines[lines.index("> load nothing") + 1].startswith("error: no weights u-net_nothing.pt in checkpoints")
    assert (folder / "checkpoints" / "u-net_mine.pt").is_file()  # end of input saves and leaves
    assert load_session("checkpoints/u-net.session")["state"]["trainer"]["step"] == 2


def test_an_empty_pipe_is_no_error_and_leaves_nothing(train, folder):
    code, _, _ = train(train_micronet, typed="")
    assert code == 0
    assert files(folder) == ["checkpoints", "data"]
    assert files(folder / "checkpoints") == []


def test_run_checks_its_commands_before_it_does_any_and_stops_at_the_first_that_fails(train, folder):
    code, out, err = train(train_micronet, "--run", "1; finsh")
    assert (code, out) == (2, "")
    assert "did you mean finish?" in err
    assert not (folder / "checkpoints").exists()

    code, out, _ = train(train_micronet, "--run", "load bootstrp; 1; finish")
    assert code == 2
    assert "error: no weights u-net_bootstrp.pt" in out
    assert "> 1" not in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--iterations", 0), "--iterations: '0': expected a whole number from 1 to 1000"),
        (("--validate-every", 0), "--validate-every: '0': expected a whole number from 1 to 1000000"),
        (("--keep-every", 0), "--keep-every: '0': expected a whole number from 1 to 1000000"),
        (("--threads", 0), "--threads: '0': expected a whole number from 1 to 1024"),
        (("--seed", -1), "--seed: '-1': expected a whole number from 0 to 2147483647"),
        (("--dataset", "missing.toml"), "cannot read data set 'missing.toml'"),
        (("--resume",), "there is no earlier session of u-net in 'checkpoints'"),
        (("--checkpoints", "data/tiny.toml"), "cannot write 'data/tiny.toml/.u-net.lock'"),
    ],
)
def test_bad_options_are_told_in_one_line_with_exit_code_2(train, options, message):
    code, _, err = train(train_micronet, *options, "--run", "1")
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_resume_takes_over_the_settings_of_the_session(train, folder):
    code, _, _ = train(
        train_micronet, "--recipe", "published", "--seed", 7, "--validate-every", 3, "--run", "2", "--keep-every", 4
    )
    assert code == 0
    (folder / "data").rename(folder / "elsewhere")
    (folder / "elsewhere").rename(folder / "data")
    code, out, err = train(train_micronet, "--resume", "--run", "1; finish")
    assert (code, err) == (0, "")
    assert "recipe published, seed 7" in out
    assert "resumed u-net at step 4" in out
    assert steps_of(folder) == list(range(6))
    assert "u-net_dice_4.pt" in files(folder / "checkpoints")

    code, out, _ = train(train_micronet, "--resume", "--seed", 8, "--run", "1; finish")
    assert code == 2
    assert "error: the saved session has seed 7, this one 8" in out


def test_the_augmentation_of_the_data_set_is_used_told_and_part_of_the_session(train, folder):
    path = folder / "data" / "tiny.toml"
    plain = path.read_text(encoding="utf-8")
    path.write_text(plain + '\n[augmentation]\nflips = "y"\n', encoding="utf-8")
    code, out, _ = train(train_micronet, "--run", "1; finish")
    assert code == 0
    assert "augmentation of the data set: flips y, smallest_crop 1.0, shortest_axis 32, contrast 0.0" in out
    manifest = json.loads((folder / "logs" / "u-net.json").read_text(encoding="utf-8"))
    assert manifest["recipe"]["augmentation"]["flips"] == "y"
    code, out, _ = train(train_micronet, "--recipe", "published", "--run", "1; finish")
    assert code == 0
    assert "the data set's [augmentation] is not used: recipe published shows every volume unchanged" in out

    path.write_text(plain, encoding="utf-8")
    code, out, _ = train(train_micronet, "--resume", "--recipe", "default", "--run", "finish")
    assert code == 2


def test_seeds_decide_the_initial_weights_and_the_published_one_is_the_default(train, folder):
    for options in ((), ("--seed", 43283), ("--seed", 1)):
        assert train(train_micronet, *options, "--run", "save start")[0] == 0
    weights = [load_state(f"checkpoints/u-net_start{n}.pt") for n in (".1", "")]
    assert not same(*weights)
    assert not (folder / "checkpoints" / "u-net_start.2.pt").exists()  # twice the same weights
    first = weights[0]["down0.0.weight"].flatten()[:4].tolist()
    assert first == pytest.approx([-0.210431, 0.018289, -0.313787, 0.198351], abs=1e-6)


def test_without_a_data_set_the_published_one_is_taken_when_it_is_there(tmp_path):
    for name, volumes in (("yolk_sac", ("a", "b")), ("phantom", ("c",))):
        write_dataset(tmp_path / name, train=len(volumes), validation=0, test=0)
        (tmp_path / "datasets").mkdir(exist_ok=True)
        text = (tmp_path / name / "tiny.toml").read_text(encoding="utf-8")
        text = text.replace('"train_', f'"../{name}/train_').replace(f'name = "../{name}/', 'name = "')
        (tmp_path / "datasets" / f"{name}.toml").write_text(text, encoding="utf-8")
    assert choose_dataset(tmp_path) == (tmp_path / "datasets" / "yolk_sac.toml", "the published data")
    (tmp_path / "yolk_sac" / "train_1.nrrd").unlink()
    path, why = choose_dataset(tmp_path)
    assert path == tmp_path / "datasets" / "phantom.toml"
    assert why == "the bundled phantoms, as 1 of the 2 published volumes are in place"


def test_tensorboard_is_asked_for_when_it_is_missing_and_written_when_it_is_there(train, folder):
    code, _, err = train(train_micronet, "--tensorboard", "--run", "1")
    if importlib.util.find_spec("tensorboard") is None:
        assert code == 2
        assert "--tensorboard needs the package tensorboard: pip install tensorboard" in err
    else:
        assert code == 0
        assert list((folder / "logs" / "u-net").glob("events.*"))


def test_killed_at_any_moment_a_session_resumes_and_ends_with_the_same_bits(train, folder, begin):
    options = ("--dataset", "data/tiny.toml", "--validate-every", 5, "--iterations", 2, "--run", "16; finish")
    assert train(train_micronet, *options, "--checkpoints", "whole", "--logs", "whole")[0] == 0
    session = folder / "checkpoints" / "u-net.session"

    def saved_step():
        return load_session(session)["state"]["trainer"]["step"] if session.is_file() else -1

    seen = 0
    for times in range(2):  # killed, resumed, killed again
        process = begin(*(("--resume", "--run", "") if times else options))
        wait_for(process, lambda seen=seen: saved_step() > seen)
        kill(process)
        seen = saved_step()
        trained = (folder / "logs" / "u-net.csv").read_text(encoding="utf-8").count("step,train")
        assert trained - seen <= 5
    assert 0 < seen < 32
    code, out, err = train(train_micronet, "--resume", "--run", "finish")
    assert code == 0, err
    assert f"going on with '16': {32 - seen} steps left" in out

    assert files(folder / "whole") == sorted([*files(folder / "checkpoints"), *files(folder / "logs")])
    for name in files(folder / "checkpoints"):
        if name.endswith(".pt"):
            assert same(load_state(folder / "whole" / name), load_state(folder / "checkpoints" / name))
    one, other = (
        [line.rsplit(",", 1)[0] for line in (folder / place / "u-net.csv").read_text(encoding="utf-8").splitlines()]
        for place in ("whole", "logs")
    )
    assert one == other


def check_saved_at_the_last_step(folder):
    trained = steps_of(folder)
    assert load_session("checkpoints/u-net.session")["state"]["trainer"]["step"] == len(trained)
    assert f"u-net_dice_{len(trained)}.pt" in files(folder / "checkpoints")


def has_trained(folder):
    log = folder / "logs" / "u-net.csv"
    return log.is_file() and log.read_text(encoding="utf-8").count("\n") > 3


def test_sigterm_ends_the_step_in_hand_saves_and_leaves(folder, begin):
    process = begin("--dataset", "data/tiny.toml", "--run", "900; finish")
    wait_for(process, lambda: has_trained(folder))
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert (code, err) == (143, "")
    assert "> finish" not in out
    check_saved_at_the_last_step(folder)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_other_signals_do_the_same(train, folder, number, expected):
    def send():
        while not has_trained(folder):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    code, out, err = train(train_micronet, "--run", "900; finish")
    sender.join()
    assert (code, err) == (expected, "")
    assert "> finish" not in out
    check_saved_at_the_last_step(folder)


def test_a_signal_also_ends_a_session_that_waits_for_a_pipe_and_another_session_is_told(train, folder, begin):
    process = begin("--dataset", "data/tiny.toml")
    process.stdin.write("1\n")
    process.stdin.flush()
    wait_for(process, lambda: (folder / "logs" / "u-net.png").is_file())
    code, _, err = train(train_micronet, "--run", "1")
    assert code == 2
    assert f"error: another session (process {process.pid}) trains u-net in 'checkpoints'; end it first" in err
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, *arguments, cwd):
        self._own, other = pty.openpty()
        termios.tcsetwinsize(other, (30, 120))
        self.process = fork(
            [ROOT / "train_micronet.py", "--threads", "1", *arguments],
            cwd=cwd,
            stdin=other,
            stdout=other,
            stderr=other,
            env=os.environ | {"TERM": "xterm"},
            terminal=True,
        )
        os.close(other)
        self._unread = ""

    def until(self, text, seconds=60):
        """Read on until a text appears; return what came before it."""
        end = time.monotonic() + seconds
        while text not in self._unread:
            assert time.monotonic() < end, f"no {text!r} in {self._unread!r}"
            if select.select([self._own], [], [], 0.1)[0]:
                self._unread += os.read(self._own, 4096).decode("utf-8", "replace")
        before, _, self._unread = self._unread.partition(text)
        return before

    def press_ctrl_c(self):
        """Press Ctrl-C as a person does: not in the instant in which the prompt appears, before readline waits."""
        time.sleep(0.5)
        os.write(self._own, b"\x03")  # the terminal turns it into SIGINT

    def type(self, text):
        os.write(self._own, text.encode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._own)

    def leave(self):
        """Collect the exit code, reading on so that the process is never held up."""
        end = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self._own], [], [], 0.1)[0]:
                try:
                    os.read(self._own, 4096)
                except OSError:
                    time.sleep(0.05)
        return self.process.poll()


def test_at_a_terminal_ctrl_c_returns_to_the_prompt_and_everything_can_go_on(folder):
    with Terminal("--dataset", "data/tiny.toml", "--validate-every", "100", cwd=folder) as terminal:
        terminal.until("type help for the commands")
        terminal.until("> ")
        terminal.type("900\n")
        assert "/1800 |" in terminal.until(" left loss 0.")
        assert " prec 0." in terminal.until("rate")
        terminal.press_ctrl_c()
        terminal.until("stopping after this step")
        assert "interrupted, everything is kept: resume does the" in terminal.until("steps that are left")
        terminal.until("> ")
        terminal.type("stat\t\n")
        assert "steps left of '900'" in terminal.until("data set:")
        terminal.until("> ")
        terminal.type("resume\n")
        terminal.until("loss 0.")
        terminal.press_ctrl_c()
        terminal.until("steps that are left")
        terminal.until("> ")
        terminal.type("save\n")
        terminal.until("error: give save V")
        terminal.until("> ")
        terminal.type("finish\n")
        assert terminal.leave() == 0
    assert len(steps_of(folder)) == load_session("checkpoints/u-net.session")["state"]["trainer"]["step"]


def test_at_a_terminal_a_second_ctrl_c_and_ctrl_d_leave(folder):
    with Terminal("--dataset", "data/tiny.toml", cwd=folder) as terminal:
        terminal.until("> ")
        terminal.press_ctrl_c()
        terminal.until("Ctrl-C again, finish or Ctrl-D saves and leaves")
        terminal.until("> ")
        terminal.type("1\n")
        terminal.until("now at step 2")
        terminal.until("> ")
        terminal.press_ctrl_c()
        terminal.until("Ctrl-C again")
        terminal.until("> ")
        terminal.press_ctrl_c()
        assert terminal.leave() == 130

    with Terminal("--dataset", "data/tiny.toml", cwd=folder) as terminal:
        terminal.until("resume goes on from there")
        terminal.until("> ")
        terminal.type("\x1b[A")  # history of the session before
        terminal.until("1")
        terminal.type("\x15\x04")  # clear the line, end of input
        assert terminal.leave() == 0


def test_completion_knows_commands_versions_and_runs():
    class Session:
        network = "u-net"

        def versions(self):
            return ["best", "last", "1600", "bootstrap"]

        def runs(self):
            return ["u-net", "u-net-2"]

    session = Session()
    assert completions(session, "", "st") == ["status "]
    assert completions(session, "", "re") == ["resume "]
    assert completions(session, "load ", "b") == ["best ", "bootstrap "]
    assert completions(session, "resume ", "") == ["u-net ", "u-net-2 "]
    assert completions(session, "help ", "boot") == ["bootstrap "]
    assert completions(session, "lr ", "") == []
    assert completions(session, "load best ", "") == []


def test_signals_that_the_caller_ignores_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    try:
        with Interrupts().watching():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
