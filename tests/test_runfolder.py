"""What a training session keeps on disk."""

import os
import subprocess
import sys

import pytest
import torch

from micronet.core.errors import FileError, InputError
from micronet.networks.models import MicroNet
from micronet.networks.weights import load_state, save_session
from micronet.training import lock
from micronet.training.lock import FolderLock
from micronet.training.run_files import (
    LogRow,
    Places,
    Run,
    latest_session,
    loss_label,
    session_path,
    sessions,
    set_aside,
    sweep,
    weights_named,
)

STATE = {"anything": [1, 2.5, "three", None, torch.arange(3)]}


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "checkpoints", tmp_path / "logs", tmp_path / "predictions", (tmp_path / "trained",))


@pytest.fixture
def weights():
    torch.manual_seed(1)
    return MicroNet().state_dict()


def row(step, kind="step", f=0.5):
    if kind == "validation":
        return LogRow(step, kind, None, None, 1.0, 0.25, 0.5, 0.5, f, 1, 0.125)
    return LogRow(step, kind, "a, quoted", 1e-4, 1.0, 0.25, 0.5, 0.5, f, None, 0.125)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_only_last_best_and_regular_weights_stay(places, weights):
    run = Run.fresh("u-net", places, keep_every=4)
    for step in range(1, 10):
        if step == 3:
            run.keep_best(weights, step, "dice")
        run.keep(weights, step, "dice", STATE)

    assert files(places.checkpoints) == [
        "u-net.session",
        "u-net.session.json",
        "u-net_dice_3.pt",
        "u-net_dice_4.pt",
        "u-net_dice_8.pt",
        "u-net_dice_9.pt",
    ]
    assert load_state(places.checkpoints / "u-net_dice_9.pt").keys() == weights.keys()


def test_thinning_leaves_saved_weights_and_those_of_other_runs_alone(places, weights):
    other = Run.fresh("u-net", places)
    other.keep(weights, 7, "dice", STATE)
    (places.checkpoints / "u-net_mine.pt").write_bytes(b"")
    (places.checkpoints / "ur-net_dice-2_7.pt").write_bytes(b"")
    run = Run.fresh("u-net", places)
    for step in (1, 2):
        run.keep(weights, step, "dice", STATE)

    assert set(files(places.checkpoints)) == {
        "u-net.session",
        "u-net.session.json",
        "u-net_dice_7.pt",
        "u-net_mine.pt",
        "ur-net_dice-2_7.pt",
        "u-net-2.session",
        "u-net-2.session.json",
        "u-net_dice-2_2.pt",
    }


@pytest.mark.parametrize(
    ("beta_squared", "expected"),
    [(1.0, "dice"), (0.5, "diceb0.5"), (2.0, "diceb2"), (0.00125, "diceb0.00125"), (1000.0, "diceb1000")],
)
def test_the_label_of_weights_states_beta_squared_unless_it_is_one(places, beta_squared, expected):
    label = loss_label("dice", beta_squared)
    assert Run("ur-net", 1, places).weights_path(12, label).name == f"ur-net_{expected}_12.pt"
    assert Run("ur-net", 3, places).weights_path(12, label).name == f"ur-net_{expected}-3_12.pt"


@pytest.mark.parametrize(
    ("place", "name", "number"),
    [
        ("checkpoints", "u-net_dice_50.pt", 2),
        ("checkpoints", "u-net_diceb0.5_50.pt", 2),
        ("checkpoints", "u-net_diceb0.5-7_50.pt", 8),
        ("checkpoints", "u-net-3.session", 4),
        ("logs", "u-net-9.csv", 10),
        ("logs", "u-net.json", 2),
        ("checkpoints", "u-net_mine.pt", 1),
        ("checkpoints", "ur-net-3.session", 1),
    ],
)
def test_a_fresh_run_uses_no_name_that_is_taken(places, place, name, number):
    folder = getattr(places, place)
    folder.mkdir()
    (folder / name).write_bytes(b"")
    assert Run.fresh("u-net", places).number == number


def test_a_run_is_reopened_with_its_log_and_state(places, weights):
    run = Run.fresh("u-net", places)
    run.log(row(0))
    run.log(row(1, "validation"))
    run.keep(weights, 2, "dice", STATE)
    run.log(row(2))  # lost when the process is killed here
    reopened, state = Run.reopen(latest_session("u-net", places), places)

    assert state["anything"][:4] == STATE["anything"][:4]
    assert torch.equal(state["anything"][4], torch.arange(3))
    assert reopened.rows == [row(0), row(1, "validation")]
    reopened.write_log()
    text = run.log_path.read_text(encoding="utf-8").splitlines()
    assert text == [
        "step,kind,volume,learning_rate,beta_squared,loss,precision,recall,f,best,seconds",
        '0,step,"a, quoted",0.0001,1.0,0.25,0.5,0.5,0.5,,0.125',
        "1,validation,,,1.0,0.25,0.5,0.5,0.5,1,0.125",
    ]


def test_thinning_goes_on_after_reopening(places, weights):
    run = Run.fresh("u-net", places)
    run.keep_best(weights, 1, "dice")
    run.keep(weights, 2, "dice", STATE)
    run.keep_best(weights, 9, "dice")  # killed here: of a lost future
    run.weights_path(10, "dice").write_bytes(b"of a person")
    again, _ = Run.reopen(latest_session("u-net", places), places)
    again.keep(weights, 3, "dice", STATE)

    assert files(places.checkpoints) == [
        "u-net.session",
        "u-net.session.json",
        "u-net_dice_1.pt",
        "u-net_dice_10.pt",
        "u-net_dice_3.pt",
    ]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"format": 1, "network": "u-net"},
        {"format": 1, "network": "u-net", "number": 1, "log": "nonsense", "kept": {}, "state": {}},
        {"format": 1, "network": "u-net", "number": 1, "log": "", "kept": {"what": 1}, "state": {}},
    ],
)
def test_a_damaged_session_file_is_told(places, content):
    path = session_path(places, "u-net")
    save_session(path, content)
    with pytest.raises(FileError, match=r"is not a session file of micronet, or is damaged"):
        Run.reopen(path, places)


def test_session_files_of_other_formats_and_other_kinds_are_told(places):
    path = session_path(places, "u-net")
    save_session(path, {"format": 99})
    with pytest.raises(FileError, match="is of format 99, this micronet reads 1"):
        Run.reopen(path, places)
    path.write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(FileError, match="is not a session file that PyTorch can read"):
        Run.reopen(path, places)
    with pytest.raises(FileError, match="no session file"):
        Run.reopen(session_path(places, "u-net-5"), places)


def test_the_session_written_last_is_the_latest(places, weights):
    with pytest.raises(FileError, match="there is no earlier session of u-net"):
        latest_session("u-net", places)
    for number in (1, 2):
        Run("u-net", number, places).keep(weights, 1, "dice", STATE)
    os.utime(session_path(places, "u-net-2"), (1, 1))
    Run("ur-net", 1, places).keep(weights, 1, "dice", STATE)

    assert latest_session("u-net", places).stem == "u-net"
    assert [path.stem for path in sessions("u-net", places)] == ["u-net-2", "u-net"]


def test_versions_are_found_in_both_folders_and_checkpoints_win(places, weights):
    for folder in (places.checkpoints, places.trained[0]):
        folder.mkdir()
        (folder / "u-net_1600.pt").write_bytes(b"")
    (places.trained[0] / "u-net_phantom.pt").write_bytes(b"")
    (places.trained[0] / "ur-net_b0.5_1200.pt").write_bytes(b"")

    assert weights_named("u-net", places) == {
        "1600": places.checkpoints / "u-net_1600.pt",
        "phantom": places.trained[0] / "u-net_phantom.pt",
    }
    assert list(weights_named("ur-net", places)) == ["b0.5_1200"]


def test_what_is_replaced_is_set_aside_under_a_free_name(tmp_path):
    path = tmp_path / "u-net_mine.pt"
    assert set_aside(path) is None
    for content, name in (("first", "u-net_mine.1.pt"), ("second", "u-net_mine.2.pt")):
        path.write_text(content)
        assert set_aside(path) == tmp_path / name
        assert (tmp_path / name).read_text() == content
    assert not path.exists()


def test_half_written_files_of_a_killed_session_are_swept(places):
    others = [".0a1b2c3d.tmp..ur-net.json.writing", ".0a1b2c3d.tmp.ur-net.session", "u"]
    ours = [".0a1b2c3d.tmp..u-net.json.writing", ".0a1b2c3d.tmp.u-net.session", ".0a1b2c3d.tmp.u-net_dice_5.pt"]
    for folder in (places.checkpoints, places.logs):
        folder.mkdir()
        for name in (*others, *ours):
            (folder / name).write_bytes(b"")
    sweep("u-net", places)
    assert files(places.checkpoints) == files(places.logs) == others


def test_keep_every_must_be_positive(places):
    with pytest.raises(InputError, match=r"weights are kept every 1 step or more, found 0 \(setting: keep_every\)"):
        Run.fresh("u-net", places, 0)


def test_a_second_process_is_told_who_trains_here_and_a_dead_one_holds_nothing(tmp_path):
    hold = "import sys; from micronet.training.lock import FolderLock; l = FolderLock({!r}, 'u-net'); l.__enter__(); {}"
    code = "import pathlib;" + hold.format(str(tmp_path), "print('held', flush=True); sys.stdin.read()").replace(
        f"'{tmp_path}'", f"pathlib.Path('{tmp_path}')"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            FileError, match=rf"another session \(process {holder.pid}\) trains u-net.*setting: checkpoints"
        ):
            FolderLock(tmp_path, "u-net").__enter__()
        with FolderLock(tmp_path, "ur-net"):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with FolderLock(tmp_path, "u-net"):  # the dead process left its file, not its lock
        assert (tmp_path / ".u-net.lock").read_text() == f"\nprocess {os.getpid()}\n"
    assert files(tmp_path) == []
    with FolderLock(tmp_path, "u-net"):
        pass


def test_a_lock_that_was_removed_while_it_was_opened_is_none(tmp_path, monkeypatch):
    """Else two sessions would hold one each: of the file that is there, and of the one that is gone."""
    taken = []

    def removed_first(descriptor):
        if not taken:
            (tmp_path / ".u-net.lock").unlink()
        taken.append(descriptor)
        return True

    monkeypatch.setattr(lock, "_lock", removed_first)
    with FolderLock(tmp_path, "u-net"):
        assert len(taken) == 2
        assert (tmp_path / ".u-net.lock").read_text() == f"\nprocess {os.getpid()}\n"
