"""Trains a program's weights towards the model that it was made from."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from engine.errors import NumericalFailure, StepRefused
from engine.models.quality import Example
from engine.optimize.technique import BuildContext
from engine.optimize.train.keeping import Keeper, fits
from engine.optimize.train.losses import Objective, objective_for
from engine.optimize.train.preparing import (
    calibration_rows,
    memory_notes,
    reach_notes,
    taught_rows,
)
from engine.optimize.train.rows import Rows, row_count
from engine.optimize.train.schedule import learning_rate, thinned
from engine.optimize.train.stack import Watcher
from engine.optimize.train.through import differentiable
from engine.optimize.train.variation import varied
from engine.optimize.train.weights import Weights, trainable
from engine.program import Program, call, to_device
from engine.records import TrainingCurve

CHECKPOINT_SECONDS = 15.0
# A KL divergence of float32 logits from themselves is this small or less.
_NOTHING = 1e-9


@dataclass
class Training:
    """One training that is under way.

    Attributes:
        program: what is trained, in place.
        teacher: what it is trained towards.
        pairs: block of the student to the block of the teacher whose outputs it learns.
        losses: of every step so far.
        seconds: that the steps so far took, those before an interruption included.
    """

    owner: str
    program: Program
    teacher: Program
    context: BuildContext
    objective: Objective
    rows: Rows
    weights: Weights
    keeper: Keeper
    pairs: Mapping[str, str] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def run(self) -> None:
        """All steps that are left.

        Raises:
            NumericalFailure: the loss is NaN or Inf; the last checkpoint stays.
            StepRefused: no gradient reaches any weight.
        """
        config = self.context.config
        self._resume()
        first = len(self.losses)
        batches = self.rows.batches(config.batch, seed=config.seed, skip=first)
        kept = time.monotonic()
        for step in range(first, config.steps):
            begun = time.perf_counter()
            rate = learning_rate(
                step, config.steps, peak=config.learning_rate, warmup=config.warmup
            )
            self.losses.append(self._step(next(batches), rate))
            self.seconds += time.perf_counter() - begun
            if time.monotonic() - kept >= CHECKPOINT_SECONDS:
                self._keep()
                kept = time.monotonic()
            self._tell()

    def curve(self) -> TrainingCurve:
        """The loss over the steps in a few points, each a mean."""
        return thinned(self.losses)

    def _step(self, batch: Sequence[Example], rate: float) -> float:
        total = sum(_rows_in(each) for each in batch)
        value = 0.0
        for each in batch:
            share = _rows_in(each) / total
            loss = share * self._loss(each)
            value += float(loss.detach())
            if not math.isfinite(value):
                self._stop(value)
            if not self.losses and abs(value) < _NOTHING:
                raise StepRefused(
                    f"{self.owner}: there is nothing to learn: the model gives the teacher's"
                    " answers, and no labels say more.",
                    hint="Put it behind a step that changes the model, or give labelled data.",
                )
            if not loss.requires_grad:
                raise StepRefused(f"{self.owner}: no gradient reaches a weight of this model.")
            loss.backward()  # type: ignore[no-untyped-call]
        if not self.weights.step(rate, clip=self.context.config.clip):
            self._stop(math.nan)
        return value

    def _loss(self, example: Example) -> Tensor:
        device = self.program.context.device
        inputs = to_device(example.inputs, device)
        placed = Example(inputs, to_device(example.labels, device))
        config = self.context.config
        # The first time a row comes as it is.
        if config.vary and len(self.losses) * config.batch >= self.rows.total:
            seed = config.seed + len(self.losses)
            placed = varied(placed, self.teacher, share=config.vary, seed=seed)
            inputs = placed.inputs
        ours = Watcher(self.program.module, tuple(self.pairs))
        theirs = Watcher(self.teacher.module, tuple(self.pairs.values()))
        with torch.no_grad(), theirs.watching():
            target = call(self.teacher.module, inputs)
        with ours.watching():
            given = call(self.program.module, inputs)
        hidden = [(ours.states[name], theirs.states[other]) for name, other in self.pairs.items()]
        return self.objective(given, target, placed, hidden)

    def _stop(self, value: float) -> None:
        word = "Inf" if math.isinf(value) else "NaN"
        step = len(self.losses) + 1
        steps = self.context.config.steps
        last = f" It was {self.losses[-1]:.4g} before." if self.losses else ""
        raise NumericalFailure(
            f"{self.owner}: the loss is {word} at step {step} of {steps}.{last}",
            hint="Lower its learning_rate, or raise its warmup; nothing else was changed.",
        )

    def _resume(self) -> None:
        state = self.keeper.checkpoint()
        if state is None or not fits(self.weights.state(), state["weights"]):
            return
        self.weights.load(state["weights"])
        self.weights.optimizer.load_state_dict(state["optimizer"])
        self.losses, self.seconds = list(state["losses"]), float(state["seconds"])
        torch.set_rng_state(state["random"])

    def _keep(self) -> None:
        self.keeper.keep_checkpoint(
            {
                "weights": self.weights.state(), "optimizer": self.weights.optimizer.state_dict(),
                "losses": self.losses, "seconds": self.seconds, "random": torch.get_rng_state(),
            }
        )  # fmt: skip

    def _tell(self) -> None:
        done, steps = len(self.losses), self.context.config.steps
        left = self.seconds / done * (steps - done)
        self.context.progress(
            done / steps,
            f"{self.owner}: step {done} of {steps}, loss {self.losses[-1]:.4g}, about"
            f" {left:.0f} s left",
        )


def train_(
    owner: str, program: Program, context: BuildContext, *, pairs: Mapping[str, str] | None = None
) -> None:
    """Trains the program towards the teacher, or takes over what the same training came to.

    The loss curve goes to `context.curves`, what the person should know to the program's notes.

    Args:
        owner: the technique, for messages.
        program: trained in place.
        context: its config is a `TrainingConfig`.
        pairs: blocks of the student and of the teacher, for the hidden states' error.

    Raises:
        StepRefused: too little data, no weight that can be trained, no teacher.
        NumericalFailure: the loss is NaN or Inf.
    """
    held = trainable(program.module)
    if not held:
        raise StepRefused(
            f"{owner}: no weight of this model can be trained: all are frozen or in integers."
        )
    rows = calibration_rows(owner, context)
    keeper = Keeper(context.cache, context.identity)
    kept = keeper.result()
    weights = Weights(held)
    notes = reach_notes(program, held)
    if kept is not None and fits(weights.state(), kept["weights"]):
        weights.load(kept["weights"])
        losses, seconds = list(kept["losses"]), float(kept["seconds"])
        total = int(kept["rows"])
        notes.append("Trained before: its weights were taken over.")
    else:
        training, more = _prepared(owner, program, context, weights, rows, keeper, pairs or {})
        notes += more
        with _learning(program):
            training.run()
        losses, seconds = training.losses, training.seconds
        total = training.rows.total
        keeper.keep_result(
            {"weights": weights.state(), "losses": losses, "seconds": seconds, "rows": total}
        )
        weights.release_()
    times = context.config.steps * context.config.batch / total
    last = thinned(losses).loss[-1]
    notes.insert(
        0,
        f"Loss {losses[0]:.4g} to {last:.4g} in {len(losses)} steps, {seconds:.0f} s;"
        f" {times:.1f} times over {total} rows, {rows.total} of them calibration data.",
    )
    program.notes += notes
    context.curves.append(thinned(losses))


def _prepared(
    owner: str,
    program: Program,
    context: BuildContext,
    weights: Weights,
    rows: Rows,
    keeper: Keeper,
    pairs: Mapping[str, str],
) -> tuple[Training, list[str]]:
    if context.teacher is None:
        keeper.forget()
        raise StepRefused(
            f"{owner}: there is no teacher, or a kept training that could not be read.",
            hint="Build it again, as a step of a recipe.",
        )
    teacher = context.teacher
    objective, notes = objective_for(program, context.config, context.metric, rows.examples)
    notes += memory_notes(owner, program, teacher, weights)
    taught, more = taught_rows(owner, teacher, rows, context)
    made = Training(owner, program, teacher, context, objective, taught, weights, keeper, pairs)
    return made, [*notes, *more]


@contextlib.contextmanager
def _learning(program: Program) -> Iterator[None]:
    """Gradients on and the program's threads; dropout and batch statistics as when it runs."""
    inside = Program(program.module, context=replace(program.context, gradients=True))
    was = {each: each.training for each in program.module.modules()}
    recurrent = any(isinstance(each, nn.RNNBase) for each in program.module.modules())
    program.module.eval()
    # cuDNN has no gradients of recurrent layers in evaluation mode; torch's own kernels have.
    with (
        torch.backends.cudnn.flags(enabled=not recurrent),
        inside.entered(),
        differentiable(program.module),
    ):
        try:
            yield
        finally:
            for each, value in was.items():
                each.training = value


def _rows_in(example: Example) -> int:
    return max(1, row_count(example))
