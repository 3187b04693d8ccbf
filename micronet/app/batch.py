"""The one loop over inputs: each is a job of its own, what goes wrong with one is told, and the others go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from micronet.app.terminal import reason, tell
from micronet.core.outcome import Outcome

__all__ = ["run_batch", "status_table"]

_Input = TypeVar("_Input")


def run_batch(
    inputs: Sequence[_Input],
    job: Callable[[_Input], Outcome],
    path_of: Callable[[_Input], Path],
    *,
    debug: bool = False,
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

    Returns
    -------
    int
        0; 2 if any failed, for a reason of its own or by a fault of ours.

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
    tell(status_table(outcomes))
    return 2 if any(outcome.status == "failed" for outcome in outcomes) else 0


def status_table(outcomes: Sequence[Outcome]) -> str:
    """Return one line per input: status, file, what came of it; then the count of each status."""
    width = max(len(outcome.path.name) for outcome in outcomes)
    lines = [f"{outcome.status:<8}{outcome.path.name:<{width}}  {outcome.message}" for outcome in outcomes]
    counts = Counter(outcome.status for outcome in outcomes)
    return "\n".join(
        [
            *(line.replace("\n", "\\n") for line in lines),
            ", ".join(f"{number} {status}" for status, number in counts.items()),
        ]
    )
