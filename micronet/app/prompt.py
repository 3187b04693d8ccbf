"""The terminal of a training session: the loop that reads and prints, line editing, signals, the bar."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from micronet.app.signals import postponed
from micronet.app.terminal import reason, with_options
from micronet.core.errors import MicronetError, printable
from micronet.training.commands import forms, parse_command
from micronet.training.ports import Wishes
from micronet.training.session import Session

__all__ = ["Interrupts", "TerminalBar", "converse", "line_editing", "say", "show_file"]

_INTERRUPTED = 130


def say(text: str) -> None:
    """Print above a bar that may be there; a terminal that has gone never stops a training."""
    with contextlib.suppress(OSError, ValueError):
        tqdm.write(printable(with_options(text)), file=sys.stdout)
        sys.stdout.flush()


class TerminalBar:
    """One tqdm bar, on a terminal only."""

    def __init__(self, total: int) -> None:
        self._bar = tqdm(
            total=total,
            disable=None,
            leave=False,
            ncols=_bar_width(),
            bar_format="{n_fmt}/{total_fmt} |{bar}| {remaining} left {desc}",
            smoothing=0.1,
        )

    def update(self, text: str) -> None:
        """Advance by one and show a text."""
        with contextlib.suppress(OSError, ValueError):
            self._bar.ncols = _bar_width()
            self._bar.set_description_str(printable(text), refresh=False)
            self._bar.update()

    def close(self) -> None:
        """Remove the bar, and what Ctrl-C left behind it."""
        with contextlib.suppress(OSError, ValueError):
            self._bar.close()
            if not self._bar.disable:
                sys.stderr.write("\x1b[K")
                sys.stderr.flush()


def _bar_width() -> int:
    """Return the width of the terminal less the room for the ``^C`` that it shows, which would break the line."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return (columns or 80) - 3


class Interrupts(Wishes):
    """Signals as wishes: Ctrl-C once to stop, twice to leave; SIGTERM and SIGHUP to leave.

    A session at work looks at them between steps and refinements. At the prompt a signal breaks off the reading of the
    line. A third Ctrl-C does not wait for the step in hand: the session then ends as it was last saved.
    """

    def __init__(self) -> None:
        self._presses = 0
        self._signal: int | None = None
        self._at_prompt = False

    @property
    def exit_code(self) -> int | None:
        """What the shell is told when a signal ended the session: 128 and its number."""
        if self._signal is not None:
            return 128 + self._signal
        return _INTERRUPTED if self.leave else None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Take the signals over; give them back at the end."""
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        # What whoever started us wants ignored (nohup: SIGHUP) stays ignored.
        taken = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._handle) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._presses += 1
            self.leave = self.leave or self._presses > 1
            if not self._at_prompt:
                _answer_ctrl_c(self._presses)
        else:
            self._signal = number
            self.leave = True
        self.stop = True
        if self._at_prompt or (self._presses > 2 and not postponed(number, frame)):
            raise KeyboardInterrupt

    def read(self, read: Callable[[], str]) -> str:
        """Read a line; KeyboardInterrupt when a signal comes meanwhile. The line makes up for earlier Ctrl-C."""
        self._at_prompt = True
        try:
            if self.leave:
                raise KeyboardInterrupt
            line = read()
        finally:
            self._at_prompt = False
        self._presses, self.stop = 0, self.leave
        return line


def _answer_ctrl_c(presses: int) -> None:
    """Say at once, on a terminal, what pressing Ctrl-C does: the step in hand may take long.

    Written past Python's streams, which may be in the middle of a line of their own when a signal comes.
    """
    answers = {1: "stopping after this step", 2: "saving and leaving after this step; once more does not wait for it"}
    if presses in answers:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            descriptor = sys.stderr.fileno()
            if os.isatty(descriptor):
                os.write(descriptor, f"\r\x1b[K{answers[presses]}\n".encode())


def converse(
    session: Session, interrupts: Interrupts, commands: Sequence[str] = (), *, alone: bool = False, debug: bool = False
) -> int:
    """Read commands and carry them out until the session is over; return the exit code.

    Parameters
    ----------
    session : Session
    interrupts : Interrupts
        Those of the session; they must be watching.
    commands : sequence of str
        Carried out first.
    alone : bool
        Leave after them; else go on with standard input.
    debug : bool
        Let errors through with their traceback.

    Returns
    -------
    int
        0; 2 when a command failed and nobody sat at the terminal to see it, or when the end could not be saved;
        128 and the number of the signal that ended the session.
    """
    talk = _Conversation(session, interrupts, list(commands), alone, debug)
    if talk.person:
        say("type help for the commands")
    while not session.done:
        line = talk.next_line()
        if line is None or (line and not talk.carry_out(line)):
            break
    return talk.end()


@dataclass
class _Conversation:
    """What `converse` goes by: who speaks, what was given beforehand, and whether something failed."""

    session: Session
    interrupts: Interrupts
    given: list[str]
    alone: bool
    debug: bool
    failed: bool = False
    person: bool = field(init=False)

    def __post_init__(self) -> None:
        self.person = not self.alone and sys.stdin.isatty()
        self._line_was_given = False

    def next_line(self) -> str | None:
        """Return the next line, empty where there is nothing to do, None at the end."""
        self._line_was_given = bool(self.given)
        try:
            return self.interrupts.read(self._read).strip()
        except EOFError:
            if self.person:
                say("")
            return None
        except KeyboardInterrupt:
            if self.person:
                say("")
            if self.interrupts.leave or not self.person:
                return None
            say("Ctrl-C again, finish or Ctrl-D saves and leaves")
            return ""

    def _read(self) -> str:
        if self.given:
            line = self.given.pop(0)
        elif self.person:
            return input("> ")
        else:
            line = "" if self.alone else sys.stdin.readline()
            if not line:
                raise EOFError
        say(f"> {line.strip()}")
        return line

    def carry_out(self, line: str) -> bool:
        """Carry out a line, and say why it could not be done; return whether the conversation goes on."""
        try:
            self.session.execute(parse_command(line, self.session.network))
        except MicronetError as error:
            if self.debug:
                raise
            self.failed = True
            say(f"error: {error}")
            if not self.person and (self.alone or self._line_was_given):
                return False  # what follows was meant to build on it
        except Exception as error:
            if self.debug or not self.person:
                raise
            say(reason(error))
        return not (self.interrupts.stop and (self.interrupts.leave or not self.person))

    def end(self) -> int:
        """Close the session; return the exit code."""
        try:
            self.session.close()
        except MicronetError as error:
            self.failed, self.person = True, False
            say(f"error: {error}")
        if self.interrupts.stop and not self.person and self.interrupts.exit_code is None:
            return _INTERRUPTED
        return self.interrupts.exit_code or (2 if self.failed and not self.person else 0)


@contextlib.contextmanager
def line_editing(session: Session, history: Path) -> Iterator[None]:
    """Give the prompt editing, history and completion where readline is present and a person sits at it."""
    try:
        import readline
    except ImportError:  # Windows: the console edits lines itself
        yield
        return
    if not sys.stdin.isatty():
        yield
        return

    def complete(text: str, state: int) -> str | None:
        found = completions(session, readline.get_line_buffer()[: readline.get_begidx()], text)
        return found[state] if state < len(found) else None

    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    known = readline.get_current_history_length()
    readline.set_completer_delims(" \t\n")
    readline.set_completer(complete)
    editline = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if editline else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer(None)
        with contextlib.suppress(OSError):  # appended to: nothing that stands there is lost
            history.touch()
            readline.append_history_file(readline.get_current_history_length() - known, history)


def completions(session: Session, before: str, text: str) -> list[str]:
    """Return what may stand where `text` is being typed after `before`."""
    words = before.split()
    known = [verb for verb in forms(session.network) if verb != "train"]
    if not words:
        options = known
    elif len(words) == 1:
        options = {"load": session.versions(), "resume": session.runs(), "help": known}.get(words[0].lower(), [])
    else:
        options = []
    return [f"{option} " for option in options if option.startswith(text)]


def show_file(path: Path) -> None:
    """Open a file with the viewer that the system has for it; without one, do nothing."""
    if sys.platform == "win32":
        os.startfile(path)
        return
    viewer = "open" if sys.platform == "darwin" else "xdg-open"
    if shutil.which(viewer) and (viewer == "open" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ):
        subprocess.Popen(
            [viewer, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
