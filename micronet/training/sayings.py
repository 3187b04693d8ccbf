"""How a training session words what happened: numbers and rows in, lines out."""

from __future__ import annotations

from collections.abc import Sequence

from micronet.core.words import counted
from micronet.measure.confusion import Confusion
from micronet.segment.outputs import score_line
from micronet.training.run_files import LogRow
from micronet.training.scoring import Scored
from micronet.training.trainer import StepReport, Trainer, ValidationReport

__all__ = [
    "bar_text",
    "best_line",
    "clock",
    "last_pass",
    "log_lines",
    "not_the_best",
    "rate_in_use",
    "scores_line",
    "time_for",
    "validation_line",
]

# How many of the last rows tell how long a step takes; how many of the last validations are listed.
_RECENT, _VALIDATIONS = 100, 8


def bar_text(report: StepReport) -> str:
    """Return what stands beside the bar after a step."""
    r = report
    return f"loss {r.loss:.3f} prec {r.precision:.2f} rec {r.recall:.2f} F {r.f:.2f} rate {r.learning_rate:.1e}"


def validation_line(report: ValidationReport) -> str:
    """Return the line of a validation."""
    r = report
    classes = ""
    if r.classes is not None:
        each = zip(r.classes.names[1:], r.classes.overlaps[1:], strict=True)
        classes = f"  mean IoU {r.classes.mean_iou:.4f} ({', '.join(f'{name} {one.iou:.3f}' for name, one in each)})"
    return (
        f"step {r.step:>6,}  validation F {r.f:.4f}  precision {r.precision:.4f}  recall {r.recall:.4f}  "
        f"loss {r.loss:.4f}{classes}{'  best so far' if r.best else ''}"
    )


def scores_line(scores: Scored) -> str:
    """Return the scores of a volume: of several classes their means."""
    if isinstance(scores, Confusion):
        return f"mean IoU {scores.mean_iou:.4f} (without background {scores.iou:.4f}), mean Dice {scores.f_score():.4f}"
    return score_line(scores)


def best_line(trainer: Trainer) -> str:
    """Return what a person is to know at the end of a training: how good the weights are, and which are the best."""
    if not trainer.validation_samples:
        return "how good these weights are is not known: the data set has no volume to validate on"
    if trainer.best_f is None:
        return "nothing has been validated yet"
    best = f"best validation {trainer.best_f:.3f} at step {trainer.best_step:,}"
    if trainer.step == trainer.best_step:
        return f"{best}: these weights"
    if trainer.present_f == trainer.best_f:
        return f"{best}, now as good"
    return f"{best}, {'these weights ' if trainer.present_f is None else ''}{_present(trainer)}: load best"


def not_the_best(trainer: Trainer) -> str:
    """Return a line that says that the present weights are not the best there were; empty where they are."""
    if trainer.best_f is None or trainer.step == trainer.best_step or trainer.present_f == trainer.best_f:
        return ""
    return (
        f"note: these are the weights of step {trainer.step:,} ({_present(trainer)}), not the best, of step "
        f"{trainer.best_step:,} ({trainer.best_f:.3f}): load best takes those"
    )


def _present(trainer: Trainer) -> str:
    return "not validated" if trainer.present_f is None else f"now {trainer.present_f:.3f}"


def rate_in_use(trainer: Trainer) -> str:
    """Return the rate of the next step, and who set it."""
    return f"{trainer.rate:.3g} ({'schedule' if trainer.fixed_rate is None else 'fixed'})"


def clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds.

    >>> clock(61), clock(7384)
    ('1:01', '2:03:04')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def time_for(steps: int, rows: Sequence[LogRow]) -> str:
    """Return how long so many steps will take, by the last rows of the log."""
    recent = rows[-_RECENT:]
    taken = sum(row.kind == "step" for row in recent)
    return f"about {clock(sum(row.seconds for row in recent) / taken * steps)}" if taken else "time unknown"


def last_pass(rows: Sequence[LogRow], volumes: int) -> str:
    """Return the mean scores of the last step of each of so many volumes, or an empty string."""
    steps = [row for row in rows[-2 * volumes :] if row.kind == "step"][-volumes:]
    if not steps:
        return ""
    loss, f = (sum(getattr(row, name) for row in steps) / len(steps) for name in ("loss", "f"))
    return f"; over the last {counted(len(steps), 'step')}: loss {loss:.4f}, F {f:.4f}"


def log_lines(rows: Sequence[LogRow]) -> list[str]:
    """Return the last scores of every volume, and the last validations."""
    latest = {str(row.volume): row for row in rows if row.kind == "step"}
    validations = [row for row in rows if row.kind == "validation"][-_VALIDATIONS:]
    shown = [*sorted(latest.items()), *(("validation", row) for row in validations)]
    width = max((len(name) for name, _ in shown), default=0)
    return [f"{name:<{width}}  step {row.step:>6,}  loss {row.loss:.4f}  F {row.f:.4f}" for name, row in shown]
