"""The training loop: steps, validation and a state that resumes bit for bit. No terminal, no files."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from micronet.core.classes import BACKGROUND
from micronet.core.errors import InputError
from micronet.core.planes import Planes
from micronet.data.augmentation import View
from micronet.data.dataset import Sample
from micronet.measure.confusion import Confusion
from micronet.measure.presence import ClassScore
from micronet.networks import engine
from micronet.networks.library import LibraryNetwork, probability_of
from micronet.networks.normalize import normalize_mask, standardize
from micronet.networks.padding import Padding
from micronet.networks.registry import classes_of, network_of
from micronet.report.outline import outlined
from micronet.segment.refine import look_for_classes, refine
from micronet.segment.window_plan import Windows
from micronet.training.accumulation import Share, gradients_of, together
from micronet.training.crops import Batch, Crops
from micronet.training.image_crops import ImageCrops
from micronet.training.looks import Looks
from micronet.training.losses import fbeta_loss
from micronet.training.network_losses import loss_named
from micronet.training.optimisers import Adam
from micronet.training.ports import Ranks
from micronet.training.practice import Course, Practice, new_optimizer
from micronet.training.recipe import NUMPY_SEED, RECIPES, Plan, Recipe, learning_rate
from micronet.training.round_masks import RoundMasks
from micronet.training.scoring import Scored, batch_scores, compared, found_in, pooled
from micronet.training.soap import Soap
from micronet.training.streams import DROPOUT, ORDER, OWN_MASK, VIEW, stream
from micronet.training.volume_loss import loss_of_volume

__all__ = ["StepReport", "Trainer", "ValidationReport"]


class _StoppedError(Exception):
    """A validation was ended before it had a score."""


@dataclass(frozen=True)
class StepReport:
    """One optimisation step; `step` counts from 0, scores are at 0.5 on the voxels that the step saw.

    Of several classes they are means over the classes, here and in a validation.
    """

    step: int
    volume: str
    learning_rate: float
    beta_squared: float
    loss: float
    precision: float
    recall: float
    f: float
    seconds: float


@dataclass(frozen=True)
class ValidationReport:
    """Scores on the validation volumes after `step` steps: pooled over volumes, µr-Net refined from blank.

    `stalled` is `Trainer.stalled` after it; `classes` are the counts of several classes, None of lumen alone;
    `presence` are the scores of a network that tells what images hold.
    """

    step: int
    precision: float
    recall: float
    f: float
    loss: float
    best: bool
    stalled: bool
    seconds: float
    classes: Confusion | None = None
    presence: tuple[ClassScore, ...] = ()


class Trainer:
    """Trains one network on loaded volumes; alone owns the state of the computation: step, plan, best validation.

    Parameters
    ----------
    model : torch.nn.Module
        Trained in place.
    train, validation : sequence of Sample
        Volumes; `validation` may be empty, then nothing is validated.
    recipe : Recipe
    seed : int
        Of order, distortion and augmentation. The published one by default.
    iterations : int
        Refinements in validation.
    practice : Practice, optional
        How a larger network is trained, in crops; without one whole volumes are seen, as a µ-Net is trained.

    Attributes
    ----------
    step : int
        Steps completed.
    begun : int
        The step at which the plan in hand was begun.
    plan : Plan
        What is left to do; `begin` and `abandon_plan` change it.
    best_f, best_step, best_state : float, int, dict of Tensor or None
        Of the best validation so far.
    last_f, last_step : float, int or None
        Of the last validation.
    best_counts, last_counts : Confusion or None
        Of both, where there are several classes.
    names : tuple of str
        Of background and what the network tells apart from it.
    seen : (str, ndarray of shape (Y, X, 3), uint8) or None
        Name of the first validation volume, and a slice of it with what was found at the last validation.
    class_scores : tuple of ClassScore
        Of the last validation, where there are any.
    schedule_from : int
        The step at which the schedule of the rate began.
    beta_squared : float
        Of the loss.
    fixed_rate : float or None
        None follows the published schedule.
    threshold : float
        For validation scores.
    ranks : Ranks or None
        The other processes that take shares of every step.
    looks : Looks or None
        Which volumes a larger network looks at in windows; None: it sees all of them whole.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Sequence[Sample],
        validation: Sequence[Sample] = (),
        recipe: Recipe = RECIPES["default"],
        seed: int = NUMPY_SEED,
        iterations: int = 10,
        practice: Practice | None = None,
    ) -> None:
        if not train:
            raise InputError("there is no volume to train on")
        self.model = model
        self.network = network_of(model)
        self.names = (BACKGROUND, *classes_of(model))
        if not self.network.of_images:
            _check_names([*train, *validation], self.names)
        self.train_samples = list(train)
        self.validation_samples = list(validation)
        self.recipe = recipe
        self.seed = seed
        self.iterations = iterations
        self.practice = practice
        self.ranks: Ranks | None = None
        self.looks: Looks | None = None
        self.course = Course()
        self.step = 0
        self.begun = 0
        self.rounds_begun = 0
        self.passes_begun = 0
        self.beta_squared = 1.0
        self.fixed_rate: float | None = None
        self.threshold = 0.5
        self.plan = Plan()
        self.best_f: float | None = None
        self.best_step: int | None = None
        self.best_state: dict[str, torch.Tensor] | None = None
        self.last_f: float | None = None
        self.last_step: int | None = None
        self.best_counts: Confusion | None = None
        self.last_counts: Confusion | None = None
        self.seen: tuple[str, NDArray[np.uint8]] | None = None
        self.schedule_from = 0
        self.class_scores: tuple[ClassScore, ...] = ()
        self.optimizer = self._new_optimizer()
        self._refines = self.network.refines
        self._begin_practice()
        self._legacy = np.random.RandomState(seed)
        self._legacy_at_round = self._legacy.get_state(legacy=True)
        masks = [sample.mask for sample in self.train_samples] if self._refines else []
        self._rounds = RoundMasks(masks, recipe.distortion, seed)

    def _begin_practice(self) -> None:
        """Prepare the crops and the loss of a larger network."""
        practice = self.practice
        self._crops: Crops | ImageCrops | None = None
        if practice is not None:
            crops = self._crops = Crops(
                self.train_samples,
                practice.crop_size,
                practice.samples_per_volume,
                practice.batch_size,
                self.recipe.augmentation,
                self.seed,
            )
            voxels = crops.voxels
            self._loss = loss_named(practice.loss, self._channels, voxels[1:].sum() / voxels.sum())

    @property
    def _channels(self) -> int:
        return cast(LibraryNetwork, self.model).build.out_channels

    def _new_optimizer(self) -> torch.optim.Optimizer:
        if self.practice is not None:
            return new_optimizer(self.practice, self.model.parameters())
        kind = Soap if self.recipe.optimizer == "soap" else Adam
        return kind(self.model.parameters(), lr=learning_rate(0))

    @property
    def _augmentation(self) -> dict[str, Any] | None:
        if self.recipe.augmentation is None:
            return None
        return {name: value for name, value in asdict(self.recipe.augmentation).items() if _LATER.get(name) != value}

    @property
    def _practised(self) -> dict[str, Any] | None:
        return None if self.practice is None else asdict(self.practice) | {"crop_size": [*self.practice.crop_size]}

    @property
    def rate(self) -> float:
        """The rate of the next step."""
        if self.fixed_rate is not None:
            return self.fixed_rate
        if self.practice is not None:
            since = (self.step - self.schedule_from, self.step - self.begun)
            return self.course.rate(self.practice, *since, self.steps_a_pass)
        return self.recipe.rate_factor * learning_rate(self.step - self.schedule_from)

    @property
    def stalled(self) -> bool:
        """Whether `Recipe.patience` validations of the plan in hand have passed without a better one.

        Who trains on after a stall is given the whole patience again.
        """
        if self.recipe.patience is None or self.best_step is None:
            return False
        return self.step - max(self.best_step, self.begun) >= self.recipe.patience * self.recipe.validate_every

    @property
    def validation_due(self) -> bool:
        """Whether the present weights are to be validated before anything else: at a multiple, and when all is done."""
        if not self.validation_samples or self.last_step == self.step:
            return False
        ahead = self.step + self.recipe.validate_ahead
        return (ahead > 0 and ahead % self.recipe.validate_every == 0) or (self.plan.done and self.step > self.begun)

    @property
    def present_f(self) -> float | None:
        """F of the present weights, None where they were not validated."""
        return self.last_f if self.last_step == self.step else None

    @property
    def several(self) -> bool:
        """Whether it tells several classes apart, and not lumen from background."""
        return len(self.names) > _LUMEN_ALONE

    @property
    def present_counts(self) -> Confusion | None:
        """Counts of several classes at the validation of the present weights, None where there was none."""
        return self.last_counts if self.last_step == self.step else None

    @property
    def _shares_a_pass(self) -> int:
        """Volumes, or batches of crops, of a pass."""
        return len(self.train_samples) if self._crops is None else self._crops.batches_a_pass

    @property
    def steps_a_pass(self) -> int:
        """Steps of a pass over the training volumes."""
        return -(-self._shares_a_pass // self.recipe.accumulate)

    @property
    def steps_left(self) -> int:
        """Steps of the plan in hand that are still to be done."""
        return self.plan.steps_left(self._shares_a_pass, self.recipe.accumulate)

    def begin(self, rounds: int, passes: int = 1) -> None:
        """Add work: `rounds` times (distort every mask once, then `passes` over all volumes)."""
        if rounds < 1 or passes < 1:
            raise InputError(f"rounds and passes must be at least 1, found {rounds} and {passes}")
        self.plan = Plan(rounds=rounds, passes=passes)
        self.begun = self.step
        self.course.planned = self.steps_left

    def abandon_plan(self) -> None:
        """Give up what is left of the plan in hand."""
        self.plan = Plan()

    def run(
        self,
        on_step: Callable[[StepReport], None],
        on_validation: Callable[[ValidationReport], None],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Work through the plan; between steps `should_stop` may end it, and a later `run` goes on from there.

        In a validation it is asked after every refinement; a validation that it ends is done again by the later `run`.
        """
        try:
            while not should_stop():
                if self.validation_due:
                    try:
                        report = self.validate(should_stop)
                    except _StoppedError:
                        return
                    on_validation(report)
                    continue  # whoever was told may wish to stop
                if self.plan.done:
                    return
                if not self.plan.order:
                    self._begin_pass()
                on_step(self._take_step())
                del self.plan.order[: self.recipe.accumulate]
        finally:
            engine.forget_memory()

    def rehearse(self, rates: Iterable[float], on_step: Callable[[StepReport], bool]) -> None:
        """Take a step at each of these rates while whoever is told returns True; then all is as it was before."""
        before, begun = copy.deepcopy(self.state()), self.begun
        try:
            for rate in rates:
                self.fixed_rate = rate
                if not self.plan.order:
                    self.begin(1)
                    self._begin_pass()
                if not on_step(self._take_step()):
                    return
                del self.plan.order[: self.recipe.accumulate]
        finally:
            self.restore(before, begun)
            engine.forget_memory()

    def _begin_pass(self) -> None:
        if self.plan.passes_left == 0:
            self.plan.rounds -= 1
            self.plan.passes_left = self.plan.passes
            self.rounds_begun += 1
            self._rounds.present = None
            if self._refines and self.recipe.published_draws:
                self._legacy_at_round = self._legacy.get_state(legacy=True)
                self._rounds.draw_published(self._legacy)
        self.plan.passes_left -= 1
        self.passes_begun += 1
        volumes = len(self.train_samples)
        if self._crops is not None:
            self.plan.order = list(range(self._shares_a_pass))
            return
        if self.recipe.published_draws:
            order = np.arange(volumes)
            self._legacy.shuffle(order)
        else:
            order = stream(self.seed, ORDER, self.passes_begun).permutation(volumes)
        self.plan.order = order.tolist()

    def _take_step(self) -> StepReport:
        began = time.perf_counter()
        rate = self.rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        indices = self.plan.order[: self.recipe.accumulate]
        if self.ranks is None:
            shares = gradients_of(self.model, len(indices), lambda number: self.share(indices[number], number))
        else:
            shares = self.ranks.gradients(self, indices)
        self.optimizer.step()
        share = together(shares)
        scores = share.scores
        report = StepReport(
            self.step,
            share.name,
            rate,
            self.beta_squared,
            share.loss,
            scores.precision,
            scores.recall,
            scores.f_score(),
            time.perf_counter() - began,
        )
        self.step += 1
        return report

    def share(self, index: int, number: int) -> Share:
        """Leave the gradients of one volume, or batch of crops, in the network: the `number`-th of the present step."""
        drawn = self.step * self.recipe.accumulate + number
        x, target, weight, name = self._batch(index, drawn)
        self.optimizer.zero_grad()
        probability, loss = self._looked(x, target, weight, drawn)
        loss.backward()  # type: ignore[no-untyped-call]
        return Share(name, loss.item(), self._step_scores(probability.detach(), target, weight))

    def _step_scores(self, probability: Tensor, target: Tensor, weight: Tensor | None) -> Scored:
        return batch_scores(probability, target, weight, self.names)

    def place(self) -> dict[str, Any]:
        """Return where the training is, as far as what a step sees depends on it; of types that JSON has."""
        place: dict[str, Any] = {name: getattr(self, name) for name in _PLACE}
        place["another round"] = self.plan.rounds > 0
        if self._refines and self.recipe.published_draws:
            kind, keys, *rest = _packed(self._legacy_at_round)
            place["legacy"] = [kind, keys.tolist(), *rest]
        return place

    def go_to(self, place: Mapping[str, Any]) -> None:
        """Take over where the training of another process is; its weights come otherwise."""
        anew = place["rounds_begun"] != self.rounds_begun or place.get("legacy") != self.place().get("legacy")
        if place["rounds_begun"] == self.rounds_begun + 1 and not self.recipe.published_draws:
            self._rounds.present = None  # what was made of it meanwhile stays
        elif anew:
            self._rounds.forget()
        for name in _PLACE:
            setattr(self, name, place[name])
        self.plan = Plan(rounds=int(place["another round"]))
        if "legacy" in place:
            kind, keys, *rest = place["legacy"]
            self._legacy_at_round = _unpacked([kind, torch.tensor(keys), *rest])

    def _batch(self, index: int, drawn: int) -> Batch:
        """Return what a share sees, the one of this index in the pass; `drawn` numbers what is drawn for it."""
        return self._inputs(index, drawn) if self._crops is None else self._crops.batch(self.passes_begun, index, drawn)

    def _looked(self, x: Tensor, target: Tensor, weight: Tensor | None, drawn: int) -> tuple[Tensor, Tensor]:
        """Return what the network says of a batch, and the loss; of several outputs each has its own, added up."""
        if self.practice is None:
            probability = self.model(x)
            return probability, fbeta_loss(probability, target, self.beta_squared, weight)
        place = next(self.model.parameters()).device
        x, target = x.to(place), target.to(place)
        weight = None if weight is None else weight.to(place)
        self.model.train()
        with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):  # dropout draws from it
            torch.manual_seed(int(stream(self.seed, DROPOUT, drawn).integers(2**63)))
            scores = cast(LibraryNetwork, self.model).scores(x)
        losses = [self._loss(one, target, weight, self.beta_squared) for one in scores]
        return probability_of(scores[-1]), torch.stack(losses).sum()

    def _inputs(self, index: int, drawn: int) -> Batch:
        """Return network input, target and weight, each (1, C, D, H, W), of one whole volume."""
        sample = self.train_samples[index]
        view = self._view(sample, drawn)
        truth = view.place(sample.mask)
        padding = Padding(truth.shape, self.network.smallest_axis)
        x = engine.kept_array((1, 2 if self._refines else 1, *padding.shape))
        image = np.empty(truth.shape, np.float32) if padding.needed else x[0, 0]
        view.tone(standardize(view.place(sample.image), sample.mean, sample.sd, out=image))
        if padding.needed:
            x[0, 0] = padding.pad(image)
        if self._refines:
            mask = view.place(self._round_masks()[index])
            start = mask.astype(np.float32)
            if mask.dtype == np.uint8:
                start /= 255
            rng = stream(self.seed, OWN_MASK, drawn)
            if rng.random() < self.recipe.own_masks:
                if rng.random() < 0.5:
                    start = np.zeros_like(start)
                start = refine(image, start, self.model, int(rng.integers(1, self.recipe.own_passes + 1)))
            x[0, 1] = padding.pad(normalize_mask(start))
        target = torch.from_numpy(padding.pad(truth))[None, None]
        counted = None if sample.weight is None else view.place(sample.weight)
        if padding.needed:  # a mirrored voxel is one that nobody annotated
            counted = padding.inset(np.ones(truth.shape, bool) if counted is None else counted)
        if counted is None:
            return Batch(torch.from_numpy(x), target, None, sample.entry.name)
        weight = torch.from_numpy(counted.astype(np.float32))[None, None]
        return Batch(torch.from_numpy(x), target, weight, sample.entry.name)

    def _view(self, sample: Sample, drawn: int) -> View:
        if self.recipe.augmentation is None:
            return View.whole(sample.image.shape)
        rng = stream(self.seed, VIEW, drawn)
        counted = sample.mask if sample.weight is None else sample.mask & sample.weight
        for _ in range(20):
            view = self.recipe.augmentation.draw(sample.image.shape, rng)
            if view.place(counted).any():  # a crop without annotated lumen teaches nothing
                return view
        return View.whole(sample.image.shape)

    def _round_masks(self) -> list[NDArray[Any]]:
        """Return the distorted masks of the present round."""
        if self._rounds.present is not None:
            return self._rounds.present
        if self.recipe.published_draws:  # resumed in the middle of a round: draw again what it had drawn
            again = np.random.RandomState()
            again.set_state(self._legacy_at_round)
            return self._rounds.draw_published(again)
        return self._rounds.draw(self.rounds_begun, another=self.plan.rounds > 0)

    def validate(self, should_stop: Callable[[], bool] = lambda: False) -> ValidationReport:
        """Score the validation volumes, and keep the weights if they are the best so far.

        A µr-Net refines from a blank mask, as in use. Counts are pooled over the volumes.
        """
        began = time.perf_counter()

        def look(_: object) -> None:
            if should_stop():
                raise _StoppedError

        scores, loss = self.score(self.validation_samples, look)
        counts = scores if isinstance(scores, Confusion) else None
        self.last_f, self.last_step, self.last_counts = scores.f_score(), self.step, counts
        if self.practice is not None:
            self.course.note_validation(loss, self.practice)
        best = self.best_f is None or scores.f_score() > self.best_f
        if best:
            self.best_f, self.best_step, self.best_counts = scores.f_score(), self.step, counts
            self.best_state = {key: tensor.detach().clone() for key, tensor in self.model.state_dict().items()}
        return ValidationReport(
            self.step,
            scores.precision,
            scores.recall,
            scores.f_score(),
            loss,
            best,
            self.stalled,
            time.perf_counter() - began,
            counts,
            self.class_scores,
        )

    def looks_at(self, sample: Sample) -> int:
        """Return how often the network looks at a volume: its windows, or refinements."""
        if (windows := self.windows_of(sample)) is not None:
            return windows.count
        return self.network.passes(self.iterations)

    @contextmanager
    def looking_at(self, sample: Sample, on_look: Callable[[object], None] | None = None) -> Iterator[Sequence[Planes]]:
        """Give the probability of lumen, or of each class, (Z, Y, X) each, on the cropped volume.

        A µr-Net refines from a blank mask. `on_look` is called after each look; what lies on the disk is gone after the
        block.
        """
        self.model.eval()
        windows = self.windows_of(sample)
        if windows is not None and self.looks is not None:
            with self.looks.through(sample, self.model, windows, on_look) as found:
                yield found
            return
        image = sample.normalized()
        if sample.classes is None:
            yield [refine(image, np.zeros_like(image), self.model, self.iterations, on_look)]
            return
        of_classes = look_for_classes(image, self.model)
        if on_look is not None:
            on_look(None)
        yield list(of_classes)

    def windows_of(self, sample: Sample) -> Windows | None:
        """Return the windows in which the network looks at a volume; None where it sees it whole."""
        return None if self.looks is None else self.looks.memory(sample, self.model).windows

    @property
    def windows(self) -> dict[str, Any]:
        """How the validation volumes are looked at, by name, as records have it; empty where all are seen whole."""
        each = {sample.entry.name: self.windows_of(sample) for sample in self.validation_samples if self.looks}
        return {name: one.record for name, one in each.items() if one is not None}

    def predict(self, sample: Sample) -> NDArray[np.float32]:
        """Return the probability on the cropped volume, (Z, Y, X); of several classes (classes, Z, Y, X)."""
        with self.looking_at(sample) as found:
            return found[0][:] if sample.classes is None else np.stack([one[:] for one in found])

    def score(self, samples: Sequence[Sample], on_look: Callable[[object], None] | None = None) -> tuple[Scored, float]:
        """Return pooled counts at `threshold`, and the mean loss over the volumes."""
        counts, losses = [], []
        for sample in samples:
            with self.looking_at(sample, on_look) as probability:
                found = found_in(probability, self.threshold)
                if self.validation_samples and sample is self.validation_samples[0]:
                    self.seen = sample.entry.name, _slice_of(sample, found != 0)
                counts.append(compared(found, sample.target, sample.weight, self.names))
                losses.append(self._validation_loss(sample, probability))
        return pooled(counts), float(np.mean(losses))

    def _validation_loss(self, sample: Sample, probability: Sequence[Planes]) -> float:
        target, weight, beta = sample.target, sample.weight, self.beta_squared
        if self.practice is not None:
            return loss_of_volume(self.practice.loss, self._loss, probability, target, weight, beta)
        counted = None if weight is None else torch.from_numpy(weight)
        return fbeta_loss(torch.from_numpy(probability[0][:]), torch.from_numpy(target), beta, counted).item()

    def state(self) -> dict[str, Any]:
        """Return all that a run needs to go on bit for bit, of types that `torch.load(weights_only=True)` reads."""
        return {
            "network": self.network.name,
            "recipe": self.recipe.name,
            "augmentation": self._augmentation,
            "optimizer kind": self.recipe.optimizer,
            "practice": self._practised,
            "accumulate": self.recipe.accumulate,
            "shares_a_pass": self._shares_a_pass,
            "course": asdict(self.course),
            "seed": self.seed,
            "volumes": [sample.entry.name for sample in self.train_samples],
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "best_state": self.best_state,
            "plan": asdict(self.plan),
            "windows": self.windows,
            "legacy": _packed(self._legacy.get_state(legacy=True)),
            "legacy_at_round": _packed(self._legacy_at_round),
            **{name: getattr(self, name) for name in (*_COUNTERS, *_LATER_COUNTERS)},
            **{name: counts.counts for name in _COUNTS if (counts := getattr(self, name)) is not None},
        }

    def restore(self, state: Mapping[str, Any], begun: int | None = None) -> None:
        """Go back to a `state` whose plan was begun at step `begun` (default: it begins here).

        InputError when it is of another network, recipe, seed or other volumes.
        """
        volumes = [sample.entry.name for sample in self.train_samples]
        here: dict[str, Any] = {"network": self.network.name, "recipe": self.recipe.name, "seed": self.seed}
        here |= {"volumes": volumes, "augmentation": self._augmentation, "optimizer kind": self.recipe.optimizer}
        here |= {"practice": self._practised, "accumulate": self.recipe.accumulate}
        state = {"accumulate": 1} | dict(state)  # of before there was any
        for name, value in here.items():
            if state.get(name) != value:
                raise InputError(f"the saved session has {name} {state.get(name)}, this one {value}")
        plan = Plan.from_state(state["plan"], self._shares_a_pass)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_state = state["best_state"]
        self.plan = plan
        self.course = Course(**state.get("course", {}))
        self._legacy.set_state(_unpacked(state["legacy"]))
        self._legacy_at_round = _unpacked(state["legacy_at_round"])
        self._rounds.forget()
        for name in _COUNTERS:
            setattr(self, name, state[name])
        for name, unsaid in _LATER_COUNTERS.items():
            setattr(self, name, state.get(name, unsaid))
        for name in _COUNTS:
            setattr(self, name, Confusion.of(self.names, state[name]) if name in state else None)
        self.begun = self.step if begun is None else begun

    def start_afresh(self, state: Mapping[str, Tensor], step: int = 0) -> None:
        """Take bare weights that have had so many steps: optimiser, schedule and best validation start anew.

        The best validation stays where these are its weights.
        """
        self.model.load_state_dict(state)
        self.optimizer, self.course = self._new_optimizer(), Course()
        self.step = self.begun = self.schedule_from = step
        self.abandon_plan()
        if state is self.best_state:
            self.last_f, self.last_step, self.last_counts = self.best_f, step, self.best_counts
            return
        self.best_f, self.best_step, self.best_state, self.best_counts = None, None, None, None
        self.last_f, self.last_step, self.last_counts = None, None, None


def _check_names(samples: Sequence[Sample], names: Sequence[str]) -> None:
    """Raise InputError where a volume has other classes than the network."""
    for sample in samples:
        if sample.names != names:
            here, there = (", ".join(one[1:]) for one in (names, sample.names))
            raise InputError(f"the network tells {here} from background, volume {sample.entry.name} has {there}")


def _slice_of(sample: Sample, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the slice with most annotated lumen, with the outlines of the mask and of the annotation."""
    z = int(np.argmax(np.count_nonzero(sample.mask, axis=(1, 2))))
    return outlined(sample.image[z], mask[z], sample.mask[z])


# Names where lumen is told from background.
_LUMEN_ALONE = 2
_COUNTERS = (
    "step",
    "rounds_begun",
    "passes_begun",
    "beta_squared",
    "fixed_rate",
    "threshold",
    "best_f",
    "best_step",
)
# Of several classes only.
_COUNTS = ("best_counts", "last_counts")
# What a step sees depends on these counters, beside the weights.
_PLACE = ("step", "rounds_begun", "passes_begun", "beta_squared")
# What augmentations of earlier sessions did not have: left out where it changes nothing.
_LATER = {"gamma": 0.0, "chance": 1.0}
# What earlier sessions did not save, and what they had.
_LATER_COUNTERS = {"last_f": None, "last_step": None, "schedule_from": 0}


def _packed(legacy: Any) -> list[Any]:
    kind, keys, position, has_gauss, gauss = legacy
    return [str(kind), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)]


def _unpacked(packed: Sequence[Any]) -> Any:
    kind, keys, position, has_gauss, gauss = packed
    return (kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss)
