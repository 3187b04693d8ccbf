"""Scripts run inside the process of a test."""

import json
from pathlib import Path

import pytest

from micronet.app.terminal import run


def exit_code(script, *arguments):
    """Run a script; return its exit code."""
    with pytest.raises(SystemExit) as left:
        run(script.build_parser(), script.main, [str(argument) for argument in arguments])
    return left.value.code


def call(script, *arguments, capsys):
    """Run a script; return (exit code, standard output, standard error)."""
    code = exit_code(script, *arguments)
    out, err = capsys.readouterr()
    return code, out, err


def call_for_last_line(script, *arguments, capsys):
    """Run a script; return (exit code, standard output, last line of standard error)."""
    code, out, err = call(script, *arguments, capsys=capsys)
    return code, out, err.splitlines()[-1] if err else ""


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))
