"""The one loop over inputs: each is a job of its own, what goes wrong with one is told, and the others go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from micronet.app.terminal import reason, tell
from micronet.core.outcome import Outcome

__all__ = ["run_batch", "status_lines"]

_Input = TypeVar("_Input")


def run_batch(
    inputs: Sequence[_Input],
    job: Callable[[_Input], Outcome],
    path_of: Callable[[_Input], Path],
    *,
    debug: bool = False,
    note: Callable[[Outcome], None] = lambda _: None,
    table: Callable[[Sequence[Outcome]], list[str]] | None = None,
) -> int:
    """Do a job for each input, print what became of them, and return the exit code.

    Parameters
    ----------
    inputs : sequence
        At least one, in their order.
    job : callable
        Does one, and returns its outcome. What it must not lose when a later one ends the process it has on disk when
        it returns.
    path_of : callable
        What an input is called, before its job and where that failed.
    debug : bool
        Let the first error through with its traceback.
    note : callable
        Receives each outcome, as it comes.
    table : callable
        Returns the lines that are told in the end, before the counts; by default `status_lines`.

    Returns
    -------
    int
        0; 2 if any failed, for a reason of its own or by a fault of ours; else 3 if any has not settled.

    Raises
    ------
    Exception
        What goes wrong with the only input: there is no other to go on with, and its error says all. KeyboardInterrupt
        and the signals that end a script, and a reader of the output that has gone, end the whole run.
    """
    outcomes = []
    for number, one in enumerate(inputs, 1):
        tell(f"[{number}/{len(inputs)}] {path_of(one)}")
        try:
            outcome = job(one)
        except BrokenPipeError:
            raise
        except Exception as error:
            if debug or len(inputs) == 1:
                raise
            outcome = Outcome(path_of(one), "failed", reason(error))
            tell(f"  FAILED      {outcome.message}")
        outcomes.append(outcome)
        note(outcome)
    counts = Counter(outcome.status for outcome in outcomes)
    lines = [line.replace("\n", "\\n") for line in (table or status_lines)(outcomes)]
    tell("\n".join([*lines, ", ".join(f"{number} {status}" for status, number in counts.items())]))
    return 2 if counts["failed"] else 3 if counts["not settled"] else 0


def status_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Return one line per input: status, file, what came of it."""
    first = max(8, *(len(outcome.status) + 2 for outcome in outcomes))
    width = max(len(outcome.path.name) for outcome in outcomes)
    return [f"{outcome.status:<{first}}{outcome.path.name:<{width}}  {outcome.message}" for outcome in outcomes]
