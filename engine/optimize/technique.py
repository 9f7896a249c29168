"""The contract of a technique.

A technique is one file in `engine/optimize/techniques`, holding one class that is named like the
file. Its docstring is its title (first line) and help. torch is imported inside the methods only,
so that the app reads every declaration without it.

The stages run in a fixed order, since each stands on what the one before it leaves; inside a stage
the person's order holds and a technique may come twice:

    reduce     fewer parameters or channels          (structured_prune, distill)
    rewrite    the same answer by other operators    (fuse_attention, kv_cache)
    precision  other number formats                  (reduced_precision, dynamic_int8)
    storage    how an export writes the weights      (compress_weights)
    context    how it is run                         (inference_mode, cpu_threads, device_placement)
    runtime    what executes it, at most one         (torch_compile, aot_inductor)

A technique that repairs what others did (recover) has no stage of its own: it is built right after
the step of the stages reduce or precision that stands before it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from engine.discovery import discover
from engine.errors import RecipeError
from engine.optimize.costs import CostTable, OperatorCost
from engine.params import config_values, make_config
from engine.records import (
    BuildForecast,
    Fingerprint,
    Machine,
    Product,
    Profile,
    Range,
    Realness,
    Step,
    Study,
    Suggestion,
    TrainingCurve,
    Workload,
)

if TYPE_CHECKING:
    from engine.models.quality import Example
    from engine.optimize.rates import Rates
    from engine.program import Inputs, Program

Stage = Literal["reduce", "rewrite", "precision", "storage", "context", "runtime"]
STAGES: tuple[Stage, ...] = ("reduce", "rewrite", "precision", "storage", "context", "runtime")


@dataclass(frozen=True)
class Target:
    """What a check, an estimate or a suggestion may look at; no torch.

    `facts` is what this technique's `inspect` found: in the baseline (from the profile) or, while
    a recipe is being built, in the program as the earlier steps left it. `steps` are those before
    this one. `weight_bytes` are those that the model holds, `run_seconds` what one run of the
    workload takes; 0 where it is not known.
    `rates` is what was measured on this machine; None where nothing was.
    """

    study: Study | None
    machine: Machine
    config: Any
    profile: Profile | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    weight_bytes: float = 0.0
    run_seconds: float = 0.0
    rates: Rates | None = None

    def measured_ratio(self, owner: Technique, row: OperatorCost) -> Range | None:
        """The row's time after over before this step, as timed here; None where it was not."""
        return self.rates.ratio(owner, self.config, row) if self.rates else None


@dataclass
class BuildContext:
    """What a technique may use while it works.

    Attributes:
        config: the technique's own Config.
        workload: what will be run.
        inputs: inputs of one run of the workload, on the workload's device.
        calibration: quality data set apart for calibration; empty where there is none.
        cache: a folder for deterministic results (compiled packages), kept between runs.
        progress: called with a fraction 0 to 1 and a few words.
        metric: what the quality data is measured by.
        teacher: the original model, for techniques that train; None where its training is kept.
        identity: content id of the model, its data and the steps up to this one.
        curves: where a technique that trains leaves its loss curve.
    """

    config: Any
    workload: Workload
    inputs: Inputs
    machine: Machine
    calibration: list[Example] = field(default_factory=list)
    cache: Path | None = None
    seed: int = 0
    max_length: int | None = None
    progress: Callable[[float, str], None] = lambda fraction, words: None
    metric: str = "fidelity"
    teacher: Program | None = None
    identity: str = ""
    curves: list[TrainingCurve] = field(default_factory=list)


class Technique:
    """One way to make a model cheaper.

    Attributes:
        repeats: whether it may stand in a recipe twice.
        trains: whether it trains weights: it gets a teacher, its result is kept, and a comparison
            puts the whole model beside it, trained as long.
        follows: whether it is built right after the step of the stages reduce or precision that
            stands before it.
        sample: the sample on which it pays.
        example: the recipe that is measured there for its page in the docs; its name alone where it
            is empty.
        example_workload: fields of `WorkloadRequest` for that measurement.
        probed_kinds: the kinds of `Product` that `probe` is asked for when a model is profiled;
            none where `estimate` does not read the rates that come of it.
        probed_by: the parameters that the pace of a product depends on; None for all of them.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]
    conflicts: ClassVar[tuple[str, ...]] = ()
    after: ClassVar[tuple[str, ...]] = ()
    repeats: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    follows: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ()
    sources: ClassVar[tuple[str, ...]] = ()
    theory: ClassVar[str] = ""
    sample: ClassVar[str] = "tiny_gpt"
    example: ClassVar[str] = ""
    example_workload: ClassVar[Mapping[str, Any]] = {}
    max_relative_error: ClassVar[float] = 1e-4
    probed_kinds: ClassVar[tuple[str, ...]] = ()
    probed_by: ClassVar[tuple[str, ...] | None] = None

    @dataclass(frozen=True)
    class Config:
        """No parameters."""

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """Plain facts of a live program that `check`, `estimate` and `suggest` read later; JSON."""
        return {}

    def check(self, target: Target) -> tuple[str, ...]:
        """Why it cannot run, or would change nothing, here; one line each, empty where it can."""
        return ()

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """The cost table after this step."""
        return costs

    def forecast(self, target: Target) -> BuildForecast:
        """What building this step takes; by default at most one more copy of the weights.

        Weights are read and written at 0.1 GB/s at worst, and the model is run up to ten times.
        """
        held = target.weight_bytes
        return BuildForecast(
            Range(0.0, held), Range(0.0, 1.0 + held / 1e8 + 10 * target.run_seconds)
        )

    def probe(self, product: Product, config: Any) -> Callable[[], Any] | None:
        """The product as this step computes it, on made-up data, each call one product.

        Predictions time it on this machine. None where the step leaves such a product as it is.
        """
        return None

    def suggest(self, target: Target) -> Suggestion | None:
        """A suggestion with its evidence where this pays; its `prediction` is filled later."""
        return None

    def apply(self, program: Program, context: BuildContext) -> Program:
        """The program after this step; it consumes the one that it gets."""
        raise NotImplementedError

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Whether the step did what it says, from what was really held and run."""
        raise NotImplementedError

    @classmethod
    def title(cls) -> str:
        """The first line of the docstring, without its full stop."""
        return inspect.getdoc(cls).splitlines()[0].rstrip(".")  # type: ignore[union-attr]

    @classmethod
    def help(cls) -> str:
        """The docstring after its first line."""
        return "\n".join(inspect.getdoc(cls).splitlines()[1:]).strip()  # type: ignore[union-attr]

    @classmethod
    def configure(cls, params: Mapping[str, Any]) -> Any:
        """A validated Config; a bad value is refused with a message that names it."""
        return make_config(cls.Config, params, owner=cls.name)

    @classmethod
    def full_params(cls, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters with every default filled in."""
        return config_values(cls.configure(params))


def techniques() -> dict[str, Technique]:
    """Every technique by name, in the order of the stages."""
    found: list[Technique] = [cls() for cls in discover("engine.optimize.techniques").values()]
    ordered = sorted(found, key=lambda each: (STAGES.index(each.stage), each.name))
    return {each.name: each for each in ordered}


def technique(name: str) -> Technique:
    """The technique of that name.

    Raises:
        RecipeError: there is none.
    """
    known = techniques()
    if name not in known:
        raise RecipeError(
            f"No technique is called {name!r}.", hint=f"There are: {', '.join(known)}."
        )
    return known[name]
