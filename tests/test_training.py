"""The training loop: order, schedule, sparse labels, validation, and resuming bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume
from micronet.data.dataset import Sample
from micronet.networks.models import MicroNet, MicroRNet
from micronet.training.recipe import RECIPES, Plan, learning_rate
from micronet.training.trainer import Trainer

SHAPE = (32, 33, 34)


@pytest.fixture
def samples(rng):
    """Three small volumes with a bright tube each."""
    return [make_sample(f"v{number}", rng) for number in range(3)]


def make_sample(name, rng, weight=None):
    _, y, x = np.indices(SHAPE)
    mask = (y - rng.integers(12, 20)) ** 2 + (x - rng.integers(12, 20)) ** 2 < 30
    image = (60 + 70 * mask + rng.normal(0, 10, SHAPE)).clip(0, 255).astype(np.uint8)
    return Sample.of(name, Volume(image), mask, weight)


def make_trainer(network, samples, recipe="default", validation=(), **changes):
    torch.manual_seed(3)
    chosen = replace(RECIPES[recipe], **({"validate_every": 4} | changes))
    return Trainer(network(), samples, validation, chosen, iterations=2)


def run(trainer, most=None):
    """Run to the end of the plan, or for `most` steps; return step and validation reports."""
    steps, validations = [], []
    trainer.run(steps.append, validations.append, lambda: most is not None and len(steps) >= most)
    return steps, validations


def test_learning_rate_is_the_published_one():
    assert [learning_rate(s) for s in (0, 100, 200)] == pytest.approx([1e-4, 1.9257e-3, 1e-4], rel=1e-4)
    assert learning_rate(50) == pytest.approx(6.585e-4, rel=1e-4)


def test_published_order_is_that_of_the_published_seed(samples):
    trainer = make_trainer(MicroNet, samples * 4 + samples[:1], "published")
    trainer.begin(1)
    trainer._begin_pass()

    assert trainer.plan.order == [7, 6, 10, 1, 4, 9, 3, 11, 5, 8, 0, 2, 12]


def test_an_epoch_shows_every_volume_once_in_another_order_each_time(samples):
    trainer = make_trainer(MicroNet, samples)
    trainer.begin(4)
    steps, _ = run(trainer)

    names = [step.volume for step in steps]
    epochs = [names[start : start + 3] for start in range(0, 12, 3)]
    assert all(sorted(epoch) == ["v0", "v1", "v2"] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [step.step for step in steps] == list(range(12))


def test_rounds_and_passes_make_that_many_steps(samples):
    trainer = make_trainer(MicroRNet, samples[:2], own_masks=0.0)
    trainer.begin(2, 3)
    assert trainer.plan.steps_left(2) == 12

    steps, _ = run(trainer, most=5)
    assert trainer.plan.steps_left(2) == 7
    more, _ = run(trainer)
    assert len(steps) + len(more) == 12
    assert trainer.plan.done


def test_a_saved_plan_knows_its_steps_and_a_damaged_one_is_refused():
    saved = {"rounds": 2, "passes": 3, "passes_left": 1, "order": [1]}
    assert Plan.from_state(saved, 2).steps_left(2) == 1 + 2 * (1 + 2 * 3)
    for damage in ({"order": [2]}, {"order": None}, {"rounds": -1}, {"passes": "3"}, {"more": 1}):
        with pytest.raises(FileError, match="the saved plan is damaged"):
            Plan.from_state(saved | damage, 2)
    with pytest.raises(FileError, match="the saved plan is damaged"):
        Plan.from_state(None, 2)


def test_an_abandoned_plan_leaves_nothing_to_do(samples):
    trainer = make_trainer(MicroNet, samples[:2])
    trainer.begin(3)
    run(trainer, most=1)
    assert trainer.steps_left == 5
    trainer.abandon_plan()
    assert (trainer.steps_left, trainer.step, trainer.plan.done) == (0, 1, True)


def test_training_lowers_the_loss(samples):
    trainer = make_trainer(MicroNet, samples, "published")
    trainer.fixed_rate = 3e-3
    trainer.begin(12)
    steps, _ = run(trainer)

    assert np.mean([s.loss for s in steps[-6:]]) < 0.7 * np.mean([s.loss for s in steps[:6]])
    assert {s.learning_rate for s in steps} == {3e-3}


def test_validation_comes_after_every_fourth_step_and_at_the_end_and_keeps_the_best_weights(samples):
    trainer = make_trainer(MicroRNet, samples[:1], validation=samples[1:2])
    trainer.begin(9)
    _, validations = run(trainer)

    assert [report.step for report in validations] == [4, 8, 9]
    best = max(validations, key=lambda report: report.f)
    assert (trainer.best_f, trainer.best_step) == (best.f, best.step)
    assert validations[0].best
    trainer.model.load_state_dict(trainer.best_state)
    assert trainer.score(samples[1:2])[0].f_score() == best.f


def test_the_published_recipe_validates_a_step_earlier_as_published(samples):
    trainer = make_trainer(MicroNet, samples[:1], "published", validation=samples[1:2])
    trainer.begin(9)
    _, validations = run(trainer)
    assert [report.step for report in validations] == [3, 7, 9]


def test_a_short_training_validates_at_its_end_once(samples):
    trainer = make_trainer(MicroNet, samples[:1], validation=samples[1:2])
    trainer.begin(2)
    _, validations = run(trainer)
    assert [report.step for report in validations] == [2]
    assert (trainer.best_step, trainer.present_f) == (2, validations[0].f)
    assert run(trainer) == ([], [])  # nothing is left to do, nor to validate


def test_weights_that_start_afresh_keep_their_step_and_the_schedule_begins_there(samples):
    trainer = make_trainer(MicroNet, samples[:1], validation=samples[1:2])
    first = trainer.rate
    trainer.begin(5)
    run(trainer)
    assert trainer.rate != first
    best, step = trainer.best_f, trainer.best_step
    trainer.start_afresh(trainer.best_state, step)
    assert (trainer.step, trainer.rate, trainer.present_f, trainer.best_f) == (step, first, best, best)
    trainer.start_afresh(make_trainer(MicroNet, samples[:1]).model.state_dict())
    assert (trainer.step, trainer.rate, trainer.present_f, trainer.best_f) == (0, first, None, None)


def test_a_run_without_a_better_validation_counts_as_stalled(samples):
    trainer = make_trainer(MicroNet, samples, patience=2)
    trainer.best_step, trainer.step = 3, 10
    assert not trainer.stalled
    trainer.step = 11
    assert trainer.stalled
    trainer.begin(1)  # who trains on is given the whole patience again
    assert not trainer.stalled
    assert not make_trainer(MicroNet, samples, "published").stalled


@pytest.mark.parametrize("recipe", ["default", "published"])
@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_resumed_run_equals_one_never_stopped_bit_for_bit(samples, tmp_path, recipe, stop):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = make_trainer(MicroRNet, samples[:2], recipe, validation=samples[2:])
    whole.begin(2, 2)
    expected, _ = run(whole)

    first = make_trainer(MicroRNet, samples[:2], recipe, validation=samples[2:])
    first.begin(2, 2)
    steps, _ = run(first, most=stop)
    torch.save(first.state(), tmp_path / "session")
    second = make_trainer(MicroRNet, samples[:2], recipe, validation=samples[2:])
    second.restore(torch.load(tmp_path / "session", weights_only=True))
    rest, _ = run(second)
    torch.set_num_threads(threads)

    assert [step.loss for step in steps + rest] == [step.loss for step in expected]
    for key, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[key]), key
    assert (second.best_f, second.best_step) == (whole.best_f, whole.best_step)


def test_a_state_of_another_session_is_refused(samples):
    state = make_trainer(MicroNet, samples).state()

    with pytest.raises(InputError, match="the saved session has network u-net, this one ur-net"):
        make_trainer(MicroRNet, samples).restore(state)
    with pytest.raises(InputError, match="the saved session has recipe default, this one published"):
        make_trainer(MicroNet, samples, "published").restore(state)
    with pytest.raises(InputError, match=r"the saved session has volumes \['v0', 'v1', 'v2'\], this one \['v0'\]"):
        make_trainer(MicroNet, samples[:1]).restore(state)


def test_bare_weights_start_optimiser_and_schedule_afresh(samples):
    trainer = make_trainer(MicroNet, samples)
    trainer.begin(1)
    run(trainer)
    weights = MicroNet().state_dict()

    trainer.start_afresh(weights)

    assert trainer.step == 0
    assert trainer.plan.done
    assert not trainer.optimizer.state
    assert torch.equal(trainer.model.state_dict()["down0.0.weight"], weights["down0.0.weight"])


def test_voxels_that_are_not_annotated_change_nothing(rng):
    weight = np.zeros(SHAPE, bool)
    weight[:16] = True
    sample = make_sample("sparse", rng, weight)
    wrong = replace(sample, mask=sample.mask ^ ~weight)  # turned over wherever nothing is annotated
    losses = []
    for one in (sample, wrong):
        trainer = make_trainer(MicroNet, [one])
        trainer.begin(3)
        steps, _ = run(trainer)
        losses.append([(step.loss, step.precision, step.recall) for step in steps])
        losses[-1].append(trainer.score([one])[0])

    assert losses[0] == losses[1]


def test_nothing_to_train_on_and_empty_plans_are_refused(samples):
    with pytest.raises(InputError, match="there is no volume to train on"):
        make_trainer(MicroNet, [])
    with pytest.raises(InputError, match="rounds and passes must be at least 1, found 0 and 1"):
        make_trainer(MicroNet, samples).begin(0)


def test_an_empty_plan_is_done():
    assert Plan().done
    assert not Plan(order=[1]).done


def test_a_validation_that_is_stopped_is_done_again_and_nothing_else_changes(rng):
    samples = [make_sample("a", rng), make_sample("b", rng)]
    whole = make_trainer(MicroRNet, samples[:1], validation=samples[1:])
    whole.begin(6)
    validations = []
    whole.run(lambda _: None, validations.append)

    trainer = make_trainer(MicroRNet, samples[:1], validation=samples[1:])
    trainer.begin(6)
    asked = []

    def in_the_validation():
        asked.append(trainer.step)
        return len(asked) == 6  # once before each of the steps 0 to 3, before the validation, in its first refinement

    again = []
    trainer.run(lambda _: None, again.append, in_the_validation)
    assert (trainer.step, again) == (4, [])
    trainer.run(lambda _: None, again.append)
    assert [report.step for report in again] == [report.step for report in validations] == [4, 6]
    assert again[0].f == validations[0].f
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, trainer.model.state_dict()[name])
