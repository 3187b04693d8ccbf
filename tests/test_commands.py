"""The language of the prompt."""

import pytest

from micronet.core.errors import InputError
from micronet.training.commands import Command, forms, parse_command


@pytest.mark.parametrize(
    ("network", "line", "expected"),
    [
        ("u-net", "123", Command("train", "123", rounds=123)),
        ("u-net", "  7  ", Command("train", "7", rounds=7)),
        ("ur-net", "159 4", Command("train", "159 4", rounds=159, passes=4)),
        ("ur-net", "23", Command("train", "23", rounds=23, passes=1)),
        ("u-net", "save best_of_3", Command("save", "save best_of_3", word="best_of_3")),
        ("u-net", "load 1600", Command("load", "load 1600", word="1600")),
        ("ur-net", "load b0.5_1200", Command("load", "load b0.5_1200", word="b0.5_1200")),
        ("ur-net", "load bootstrap", Command("load", "load bootstrap", word="bootstrap")),
        ("u-net", "lr 0.002", Command("lr", "lr 0.002", number=0.002)),
        ("u-net", "lr 0", Command("lr", "lr 0", number=0.0)),
        ("u-net", "rp 0.5", Command("rp", "rp 0.5", number=0.5)),
        ("u-net", "threshold .3", Command("threshold", "threshold .3", number=0.3)),
        ("u-net", "bootstrap", Command("bootstrap", "bootstrap")),
        ("u-net", "VAL", Command("val", "VAL")),
        ("u-net", "test", Command("test", "test")),
        ("u-net", "log", Command("log", "log")),
        ("u-net", "plot", Command("plot", "plot")),
        ("u-net", "status", Command("status", "status")),
        ("u-net", "resume", Command("resume", "resume")),
        ("u-net", "resume u-net-2", Command("resume", "resume u-net-2", word="u-net-2")),
        ("u-net", "help", Command("help", "help")),
        ("u-net", "help rp", Command("help", "help rp", word="rp")),
        ("u-net", "help 5", Command("help", "help 5", word="train")),
        ("u-net", "help N", Command("help", "help N", word="train")),
        ("ur-net", "help n k", Command("help", "help n k", word="train")),
        ("ur-net", "help 159 4", Command("help", "help 159 4", word="train")),
        ("u-net", "?", Command("help", "?")),
        ("u-net", "? rp", Command("help", "? rp", word="rp")),
        ("u-net", "help exit", Command("help", "help exit", word="quit")),
        ("u-net", "exit", Command("quit", "exit")),
        ("u-net", "finish", Command("finish", "finish")),
        ("u-net", "quit", Command("quit", "quit")),
    ],
)
def test_published_and_further_commands_are_understood(network, line, expected):
    assert parse_command(line, network) == expected


@pytest.mark.parametrize(
    ("network", "line", "message"),
    [
        ("u-net", "", "empty line; help lists"),
        ("u-net", "0", r"give N, whole numbers from 1, found '0'"),
        ("u-net", "-3", r"give N, whole numbers"),
        ("u-net", "2.5", r"give N, whole numbers"),
        ("u-net", "1e3", r"give N, whole numbers"),
        ("u-net", "12 4", r"give N, whole numbers from 1, found '12 4'"),
        ("u-net", "9999999999", r"give N, whole numbers"),
        ("ur-net", "12 0", r"give N K, whole numbers"),
        ("ur-net", "12 4 2", r"give N K, whole numbers"),
        ("ur-net", "12 x", r"give N K, whole numbers"),
        ("u-net", "save", r"give save V, found 'save'"),
        ("u-net", "save a b", r"give save V, found 'save a b'"),
        ("u-net", "save ../x", r"give save V with letters, digits"),
        ("u-net", "save .x", r"give save V with letters, digits"),
        ("u-net", "save best", r"'best' is a name that sessions use"),
        ("u-net", "save dice_50", r"'dice_50' is a name that sessions use"),
        ("u-net", "save diceb0.5-2_50", r"is a name that sessions use"),
        ("u-net", "load", r"give load V, found 'load'"),
        ("u-net", "lr", r"give lr X, found 'lr'"),
        ("u-net", "lr fast", r"give lr X with a number, found 'fast'"),
        ("u-net", "lr -1", r"give lr X with a number from 0 to 1, found '-1'"),
        ("u-net", "lr nan", r"give lr X with a number from 0 to 1, found 'nan'"),
        ("u-net", "rp 0", r"give rp X with a number from 0.001 to 1000, found '0'"),
        ("u-net", "rp inf", r"give rp X with a number from 0.001 to 1000"),
        ("u-net", "threshold 1", r"give threshold X with a number at least 0 and below 1, found '1'"),
        ("u-net", "val now", r"val stands alone, found 'val now'"),
        ("u-net", "help me out", r"give help \[COMMAND\], found"),
        ("u-net", "help rq", r"unknown command 'rq'"),
        ("u-net", "resume a b", r"give resume \[RUN\], found"),
        ("u-net", "finsh", r"unknown command 'finsh': did you mean finish\? N trains, help lists the commands"),
        ("ur-net", "xyzzy", r"unknown command 'xyzzy': N K trains, help lists"),
        ("u-net", "train", r"unknown command 'train'"),
        ("ur-net", "bootstrap", r"bootstrap is a command of train_micronet.py"),
    ],
)
def test_a_bad_line_is_answered_in_one_line_with_the_accepted_form(network, line, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_command(line, network)
    assert "\n" not in str(caught.value)


def test_every_command_has_a_form_and_only_u_net_bootstraps():
    assert "bootstrap" in forms("u-net")
    assert "bootstrap" not in forms("ur-net")
    assert forms("ur-net")["train"].usage == "N K"
