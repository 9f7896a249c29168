"""How a model is trained: what every technique that trains can be told; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from engine.params import param


@dataclass(frozen=True)
class TrainingConfig:
    """Steps, batches, schedule and what the loss is made of."""

    steps: int = param(
        300, "Optimizer steps.", low=1, high=1_000_000, step=50, unit="steps"
    )  # fmt: skip
    batch: int = param(8, "Rows of calibration data a step.", low=1, high=4096, unit="rows")
    learning_rate: float = param(
        5e-4, "Peak learning rate of AdamW, after the warm-up; a half cosine leads down to zero.",
        low=1e-8, high=1.0, step=1e-4,
    )  # fmt: skip
    warmup: float = param(
        0.1, "Share of the steps in which the learning rate rises to its peak.",
        low=0.0, high=0.9, step=0.05,
    )  # fmt: skip
    task: float = param(
        0.1, "Share of the task's own loss, where there are labels; the rest asks for the"
        " teacher's answers.", low=0.0, high=1.0, step=0.1,
    )  # fmt: skip
    temperature: float = param(
        1.0, "Softens the teacher's and the student's classes before they are compared.",
        low=0.1, high=20.0, step=0.5,
    )  # fmt: skip
    hidden: float = param(
        0.0, "Weight of the hidden states' error after each block, beside the answers'.",
        low=0.0, high=100.0, step=0.1,
    )  # fmt: skip
    vary: float = param(
        0.5, "Share of the tokens that the teacher draws anew whenever a row comes again; images"
        " and other numbers are mixed with other rows, up to half of it.",
        low=0.0, high=1.0, step=0.1,
    )  # fmt: skip
    written: int = param(
        1024, "Rows of text that the teacher writes itself, beside the calibration data.",
        low=0, high=100_000, step=64, unit="rows",
    )  # fmt: skip
    clip: float = param(
        1.0, "Gradients longer than this are scaled down to it.", low=1e-3, high=1e3, step=0.5
    )
    seed: int = param(0, "Decides the order of the rows.", low=0, high=2**31 - 1)


def shared_with(config: TrainingConfig) -> dict[str, object]:
    """The parameters that every training has, as plain values."""
    from engine.params import declared_params

    return {each.name: getattr(config, each.name) for each in declared_params(TrainingConfig)}
