"""What is made of a result that is there already."""

from __future__ import annotations

from collections.abc import Callable

from micronet.core.names import write_name
from micronet.core.outcome import Outcome
from micronet.core.ownership import RECORD_KEYS, Outputs
from micronet.io import read_annotation
from micronet.report.preview import write_paper_figure
from micronet.segment.plan import Plan, plan_room
from micronet.segment.reading import read_inputs
from micronet.segment.results import scene_of
from micronet.segment.settings import MADE_BY

__all__ = ["draw_figure"]


def draw_figure(plan: Plan, say: Callable[[str], None]) -> Outcome:
    """Draw the figure that is asked for of the segmentation that is there, and add it to the record.

    A segmentation that a person has changed since is drawn as it is now, and that is said.
    """
    task, job = plan.task, plan.task.job
    wish, done = job.figure, plan.done
    if wish is None or done is None:
        raise AssertionError("there is nothing to draw, or nothing to draw it of")
    plan_room(task)
    inputs = read_inputs(task, say)
    segmentation = job.output / f"{task.stem}.seg.nrrd"
    if not plan.outputs.owns(segmentation.name):
        say(f"              note: '{segmentation}' was changed since; drawn as it is now")
    scene = scene_of(inputs, read_annotation(segmentation).mask.array, job)
    outputs = Outputs(job.output, plan.outputs.record_path.name, MADE_BY, [wish.name], lasting=True)
    with outputs.staged() as folder:
        write_paper_figure(folder / wish.name, scene, wish)
    content = {key: value for key, value in done.items() if key not in RECORD_KEYS}
    outputs.finish(content | {"files": content["files"] | {"figure": write_name(wish.name)}})
    say(f"  wrote       {job.output / wish.name}")
    return Outcome(task.path, "done", f"{wish.name}, of the result that was there")
