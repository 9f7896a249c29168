"""Weights compressed on disk, without loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable
from engine.optimize.technique import BuildContext, Stage, Target, Technique, technique
from engine.params import param
from engine.records import BuildForecast, Evidence, Fingerprint, Range, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

# A sample of a few tensors against all of them.
_AROUND = 0.04
# Below this nothing is worth decoding for: a file's own header and padding weigh more.
_LEAST_RATIO, _WORTH_RATIO, _WORTH_BYTES = 1.01, 1.05, 1 << 20


class CompressWeights(Technique):
    """Store the weights compressed, without loss.

    Weights lie on disk with their exponents apart and entropy coded; every bit comes back when
    they are loaded. Nothing of what runs changes: the same tensors are held in memory, at the same
    speed. What is won is disk and transfer, what it costs is decoding once at load. The loader that
    an export carries reads it without this project; formats that another tool reads (ONNX, .pt2,
    Hugging Face folders) cannot hold it and say so.
    """

    name: ClassVar[str] = "compress_weights"
    stage: ClassVar[Stage] = "storage"
    sources: ClassVar[tuple[str, ...]] = (
        "Hershcovitch et al. 2024, ZipNN: Lossless Compression for AI Models, section 3",
        "Zhang et al. 2025, 70% Size, 100% Accuracy: Lossless LLM Compression via Dynamic-Length"
        " Float (DFloat11), section 2",
    )
    theory: ClassVar[str] = (
        "The sign and the mantissa of a trained weight are as good as random, but its exponent is"
        " not: nearly all weights of a layer lie within a few powers of two, so that 8 bits of"
        " exponent carry about 2.6. Entropy coding takes what is left over: a third of bfloat16,"
        " a sixth of float32. Looking for repeats, as zip does, finds none."
    )
    sample: ClassVar[str] = "random_llama"
    example: ClassVar[str] = "reduced_precision,compress_weights"
    example_workload: ClassVar[Mapping[str, Any]] = {
        "kind": "generate", "prompt_tokens": 8, "new_tokens": 8, "threads": 1,
    }  # fmt: skip
    max_relative_error: ClassVar[float] = 0.0

    @dataclass(frozen=True)
    class Config:
        """Which code."""

        codec: str = param(
            "zstd",
            "zstd decodes twice as fast and needs the package zstandard or pyarrow where it is"
            " loaded; zlib needs nothing beside Python.", choices=("zstd", "zlib"),
        )  # fmt: skip

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The weights' bytes, and how far a sample of them shrinks in each format."""
        from engine.optimize.storage import describe_weights

        return describe_weights(program.module)

    def check(self, target: Target) -> tuple[str, ...]:
        """No without weights, without the codec, or where they do not get smaller."""
        facts, codec = target.facts, target.config.codec
        if not facts:
            return ()
        if facts.get("error"):
            return ()
        if not facts.get("bytes"):
            return ("the model holds no weights that can be stored compressed.",)
        if facts.get("is_meta"):
            return ("the weights lie on disk already, offloaded or never loaded.",)
        if codec == "zstd" and not facts.get("zstd"):
            return ("no package reads zstd here: pip install zstandard, or set codec=zlib.",)
        best = _sampled(target).high
        if best < _LEAST_RATIO:
            return (f"the weights do not get smaller ({best:.2f}x on a sample).",)
        return ()

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """The same time and memory; fewer bytes in an export."""
        ratio = _ratio(target)
        if ratio.high == 1:
            return costs
        seconds = costs.weight_bytes / max(1.0, target.facts.get("unpack_bytes_per_s") or 1e9)
        return dataclasses.replace(
            costs,
            stored_ratio=ratio,
            basis=(
                *costs.basis,
                f"compress_weights: a sample of the tensors shrinks {ratio.low:.2f} to"
                f" {ratio.high:.2f} times; about {seconds:.2g} s more to load with one thread",
            ),
        )

    def forecast(self, target: Target) -> BuildForecast:
        """One tensor and its packed form at a time."""
        from engine.optimize.needs import needs

        # Measured on a 60 M decoder: 0.42 copies, 7.6 s on a busy machine.
        return needs(target, copies=(0.0, 1.0), seconds=(0.0, 1.0), seconds_per_gb=(3.0, 60.0))

    def suggest(self, target: Target) -> Suggestion | None:
        """Where an export gets 5 % smaller or more, and at least a megabyte."""
        held, ratio = float(target.facts.get("bytes") or 0), _ratio(target)
        saved = held * (1 - 1 / ratio.low)
        if ratio.low < _WORTH_RATIO or saved < _WORTH_BYTES:
            return None
        return Suggestion(
            rule="exponents that take few values",
            title="Store the weights compressed, without loss",
            summary=(
                f"An export's weights get {ratio.low:.2f} to {ratio.high:.2f} times smaller on"
                " disk; what runs, and its memory, stay the same to the last bit."
            ),
            steps=(Step(self.name),),
            evidence=(
                Evidence("weights held", held, "bytes"),
                Evidence("bytes that an export saves", saved, "bytes"),
            ),
            risk="none",
            next_step="Add compress_weights last, after what changes the numbers' format, and"
            " export as safetensors.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """The same program, its weights packed once, read back and held bit against bit."""
        from engine.optimize.storage import stored_weights

        stored = stored_weights(program.module, context.config.codec, progress=context.progress)
        note = (
            f"{self.name}: {stored.raw_bytes / 1e6:.1f} MB of weights are"
            f" {stored.stored_bytes / 1e6:.1f} MB on disk"
            f" ({stored.raw_bytes / stored.stored_bytes:.2f}x), decoded in"
            f" {stored.unpack_seconds:.2g} s; memory holds them as before."
        )
        return dataclasses.replace(program, stored=stored, notes=[*program.notes, note])

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Fewer bytes are written than are held."""
        if not after.stored_bytes or after.stored_bytes == before.stored_bytes:
            return Realness("NO-OP", "the weights are stored as they are held", 0.0)
        if after.stored_bytes >= after.bytes_held:
            return Realness("NO-OP", "the weights did not get smaller", 0.0)
        return Realness(
            "REAL",
            f"{after.bytes_held / 1e6:.1f} MB held are {after.stored_bytes / 1e6:.1f} MB stored"
            f" ({after.bytes_held / after.stored_bytes:.2f}x), every bit came back",
        )


def _sampled(target: Target) -> Range:
    """How far a sample shrinks, in the format that the steps before leave it in."""
    ratios: dict[str, float] = target.facts.get("ratios") or {}
    found = ratios.get("held")
    if not found:
        return Range(1.0, 1.0)
    low = high = found
    for step in target.steps:
        if step.technique == "reduced_precision":
            low = high = ratios.get(str(step.params.get("dtype", "bfloat16")), found)
        elif technique(step.technique).stage == "precision":
            low, high = min(low, ratios.get("int8", low)), max(high, ratios.get("int8", high))
    return Range(low, high)


def _ratio(target: Target) -> Range:
    found = _sampled(target)
    if found.high < _LEAST_RATIO:
        return Range(1.0, 1.0)
    return Range(max(1.0, found.low * (1 - _AROUND)), found.high * (1 + _AROUND))
