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
from engine.optimize.train.rows import FEWEST_ROWS, Rows, rows_of
from engine.optimize.train.stack import Watcher
from engine.optimize.train.through import differentiable
from engine.optimize.train.variation import varied
from engine.optimize.train.weights import Weights, trainable
from engine.optimize.train.writing import written_rows
from engine.program import Program, call, to_device
from engine.records import TrainingCurve

CHECKPOINT_SECONDS = 15.0
_POINTS = 60
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
    rows = _rows(owner, context)
    keeper = Keeper(context.cache, context.identity)
    kept = keeper.result()
    weights = Weights(held)
    notes = _reach(program, held)
    if kept is not None and fits(weights.state(), kept["weights"]):
        weights.load(kept["weights"])
        losses, seconds = list(kept["losses"]), float(kept["seconds"])
        notes.append("Trained before: its weights were taken over.")
    else:
        training, more = _prepared(owner, program, context, weights, rows, keeper, pairs or {})
        notes += more
        with _learning(program):
            training.run()
        losses, seconds = training.losses, training.seconds
        keeper.keep_result({"weights": weights.state(), "losses": losses, "seconds": seconds})
        weights.release_()
    times = context.config.steps * context.config.batch / rows.total
    last = thinned(losses).loss[-1]
    notes.insert(
        0,
        f"Loss {losses[0]:.4g} to {last:.4g} in {len(losses)} steps, {seconds:.0f} s;"
        f" {times:.1f} times over {rows.total} rows of calibration data.",
    )
    program.notes += notes
    context.curves.append(thinned(losses))


def learning_rate(step: int, steps: int, *, peak: float, warmup: float) -> float:
    """A linear rise to the peak, then a half cosine down to zero after the last step.

    Source: Loshchilov and Hutter 2017, SGDR, equation 5.
    """
    rising = round(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def thinned(losses: Sequence[float]) -> TrainingCurve:
    """At most 60 points, each the mean over the steps since the one before."""
    size = max(1, -(-len(losses) // _POINTS))
    ends = [min(start + size, len(losses)) for start in range(0, len(losses), size)]
    starts = [0, *ends[:-1]]
    means = [
        sum(losses[first:end]) / (end - first) for first, end in zip(starts, ends, strict=True)
    ]
    return TrainingCurve(tuple(ends), tuple(round(each, 6) for each in means))


def _rows(owner: str, context: BuildContext) -> Rows:
    rows = rows_of(context.calibration)
    if rows.total < FEWEST_ROWS:
        raise StepRefused(
            f"{owner}: training needs at least {FEWEST_ROWS} rows of calibration data, got"
            f" {rows.total}.",
            hint="Name a file of quality data with more rows: a quarter of it is set apart.",
        )
    return rows


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
    notes += _memory(owner, program, teacher, weights)
    if not _batches_work(teacher, rows, context.config.batch):
        rows = rows_of(context.calibration, splits=False)
        notes.append("The model takes no other batch: one example of calibration data at a time.")
    else:
        rows, more = _with_written(owner, teacher, rows, context)
        notes += more
    made = Training(owner, program, teacher, context, objective, rows, weights, keeper, pairs)
    return made, notes


def _with_written(
    owner: str, teacher: Program, rows: Rows, context: BuildContext
) -> tuple[Rows, list[str]]:
    """The rows with those that the teacher writes, where a training needs more than there are."""
    config = context.config
    count = min(config.written, max(0, config.steps * config.batch - rows.total))
    made = written_rows(
        teacher, rows, count, seed=config.seed, max_length=context.max_length,
        tell=lambda share: context.progress(0.0, f"{owner}: the teacher writes, {share:.0%}"),
    )  # fmt: skip
    if not made:
        return rows, []
    told = f"The teacher wrote {len(made)} more rows of text to learn from."
    return rows_of([*rows.examples, *made]), [told]


def _batches_work(teacher: Program, rows: Rows, batch: int) -> bool:
    first = next(rows.batches(batch, seed=0))[0]
    try:
        with torch.no_grad():
            call(teacher.module, to_device(first.inputs, teacher.context.device))
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    return True


def _memory(owner: str, program: Program, teacher: Program, weights: Weights) -> list[str]:
    from engine.measure.lifetime import available_bytes
    from engine.program import held_bytes

    needed = weights.training_bytes
    beside = sum(held_bytes(teacher.module).values())
    if program.context.device == "cpu" and needed > available_bytes():
        raise StepRefused(
            f"{owner}: gradients and averages need {needed / 2**20:.0f} MiB, and"
            f" {available_bytes() / 2**20:.0f} MiB are free.",
            hint="Choose a smaller model, or a machine with more memory.",
        )
    return [
        f"Held while training: {beside / 2**20:.0f} MiB of the teacher, {needed / 2**20:.0f} MiB"
        " of gradients and averages."
    ]


def _reach(program: Program, held: Mapping[str, nn.Parameter]) -> list[str]:
    """What is not trained, and why."""
    every = dict(program.module.named_parameters())
    frozen = sum(each.numel() for name, each in every.items() if name not in held)
    packed = sum(
        sum(getattr(each, "packed_bytes", {}).values()) for each in program.module.modules()
    )
    integers = packed + sum(
        each.numel() for each in program.module.buffers() if not each.is_floating_point()
        and each.dtype in (torch.int8, torch.uint8)
    )  # fmt: skip
    notes = []
    if integers:
        count = sum(each.numel() for each in held.values())
        notes.append(
            f"Trained: the {count:,} weights in floating point (norms, biases, embeddings, float"
            f" layers); {integers / 2**20:.1f} MiB of integer weights stay as they are."
        )
    if frozen:
        notes.append(f"Left as they are: {frozen:,} weights that are frozen.")
    return notes


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
    from engine.optimize.train.rows import row_count

    return max(1, row_count(example))
