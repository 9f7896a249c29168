"""A device for the whole model, or a device map with offload."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.optimize.costs import CostTable
from engine.optimize.technique import BuildContext, Target, Technique
from engine.params import param
from engine.records import (
    BuildForecast,
    Evidence,
    Fingerprint,
    Realness,
    Step,
    Suggestion,
    Workload,
)

if TYPE_CHECKING:
    from engine.program import Inputs, Program

_MIB = 1 << 20
# Sequential reads of a cold file, from a hard disk to a fast solid-state one.
_DISK_BYTES_PER_S = (0.15e9, 6e9)


class DevicePlacement(Technique):
    """Place the model on a device, or across device, memory and disk.

    `device` is where the model computes: auto takes the first GPU where there is one. With
    `budget_mib` only so many MiB of weights stay there; the rest lies in main memory, or on disk
    where the device is the CPU, and is fetched when it is called. That makes a model run that does
    not fit, at the price of the fetching: it is slower, and says so.
    """

    name = "device_placement"
    stage = "context"
    requires = ("accelerate",)
    sources = (
        "https://huggingface.co/docs/accelerate/concept_guides/big_model_inference",
        "Sheng et al. 2023, FlexGen",
    )
    theory = (
        "A decoder reads every weight for each token, so weights that are fetched over a slower"
        " link set the pace: a token takes at least the offloaded bytes over its bandwidth."
    )

    @dataclass(frozen=True)
    class Config:
        """Where, and how much of it."""

        device: str = param(
            "auto", "where the model computes", choices=("auto", "cpu", "cuda", "mps", "xpu")
        )
        budget_mib: int | None = param(
            None, "weights that stay on the device; the rest is offloaded", low=1, unit="MiB"
        )

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The device, the devices that torch sees, and the bytes of the weights."""
        import torch

        from engine.program import held_bytes

        found = [
            name
            for name in ("cuda", "mps", "xpu")
            if (torch.accelerator.is_available() and torch.accelerator.current_accelerator())
            and str(torch.accelerator.current_accelerator()).startswith(name)
        ]
        return {
            "device": program.context.device,
            "accelerators": found,
            "weight_bytes": sum(held_bytes(program.module).values()),
            "placed": program.context.device_map is not None,
        }

    def check(self, target: Target) -> tuple[str, ...]:
        """Needs the device, and something to change."""
        config, facts = target.config, target.facts
        found = list(facts.get("accelerators", ["cuda"] if target.machine.gpus else []))
        if config.device not in ("auto", "cpu") and config.device not in found:
            return (f"this machine has no {config.device} device.",)
        if facts.get("placed"):
            return ("the model already has a device map.",)
        held = facts.get("weight_bytes")
        if config.budget_mib is not None:
            if held is not None and held <= config.budget_mib * _MIB:
                return (
                    f"all {held / _MIB:.3g} MiB of weights fit into the budget of"
                    f" {config.budget_mib} MiB: nothing would be offloaded.",
                )
            return ()
        wanted = _device(config.device, found)
        if str(facts.get("device", "cpu")).partition(":")[0] == wanted:
            words = (
                "no accelerator here, and no budget_mib"
                if wanted == "cpu"
                else f"on {wanted} already"
            )
            return (f"{words}: it would change nothing.",)
        return ()

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Adds the fetching of what is offloaded; a GPU, not measured, is only bounded."""
        config = target.config
        if config.budget_mib is None:
            table = costs.change(lambda each: True, low=0.01, high=1.0)
            basis = "device_placement: an accelerator that was not measured"
            return dataclasses.replace(table, basis=(*costs.basis, basis))
        away = max(0.0, costs.weight_bytes - config.budget_mib * _MIB)
        calls = max((each.calls for each in costs.operators if each.weight_bytes), default=1.0)
        slow, fast = _DISK_BYTES_PER_S
        return dataclasses.replace(
            costs,
            rest_low_ms=costs.rest_low_ms + 1e3 * away * calls / fast,
            rest_high_ms=costs.rest_high_ms + 1e3 * away * calls / slow,
            weight_bytes=costs.weight_bytes - away,
            peak_low_bytes=max(0.0, costs.peak_low_bytes - away),
            basis=(*costs.basis, "device_placement: offloaded bytes over the bandwidth of a disk"),
        )

    def forecast(self, target: Target) -> BuildForecast:
        """What is moved: at most a copy of the weights, at the pace of a disk."""
        from engine.optimize.needs import needs

        return needs(target, copies=(0.0, 1.0), seconds=(0.0, 1.0), seconds_per_gb=(0.1, 10.0))

    def suggest(self, target: Target) -> Suggestion | None:
        """Where there is a GPU that the model does not use, or where the weights hardly fit."""
        facts = target.facts
        held = float(facts.get("weight_bytes", 0))
        if facts.get("accelerators") and facts.get("device") == "cpu":
            device = str(facts["accelerators"][0])
            return Suggestion(
                rule="unused accelerator",
                title=f"Move the model to {device}",
                summary=f"This machine has a {device} device and the model runs on the CPU.",
                steps=(Step(self.name, {"device": device}),),
                evidence=(Evidence("weights on the CPU", held, "bytes"),),
                risk="low",
                next_step="Add it and measure; small models may be too small for a GPU to pay.",
                theory=self.theory,
            )
        memory = target.machine.memory_bytes
        if held < 0.7 * memory:
            return None
        return Suggestion(
            rule="weights hardly fit",
            title="Offload part of the weights to disk",
            summary=f"The weights take {held / memory:.0%} of this machine's memory.",
            steps=(Step(self.name, {"budget_mib": int(0.5 * memory / _MIB)}),),
            evidence=(
                Evidence("weights", held, "bytes"),
                Evidence("memory of this machine", float(memory), "bytes"),
            ),
            risk="low",
            next_step="Prefer fewer bytes a weight (dynamic_int8) where that suffices.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Moves the model, or dispatches it by a device map."""
        from engine.place.offloading import dispatch, plan

        config = context.config
        found = self.inspect(program, context.inputs, context.workload)["accelerators"]
        device = _device(config.device, found)
        if config.budget_mib is None:
            placed = dataclasses.replace(program.context, device=device)
            return dataclasses.replace(program, module=program.module.to(device), context=placed)
        device_map = plan(program.module, device=device, budget_bytes=config.budget_mib * _MIB)
        folder = Path(tempfile.mkdtemp(prefix="workbench-offload-", dir=context.cache))
        module = dispatch(program.module, device_map, folder)
        away = sum(place != device for place in device_map.values())
        program.notes.append(f"device_placement: {away} of {len(device_map)} parts are offloaded.")
        placed = dataclasses.replace(program.context, device=device, device_map=device_map)
        return dataclasses.replace(program, module=module, context=placed)

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Real where the devices are others than before."""
        if before.devices == after.devices:
            return Realness("NO-OP", f"everything is still on {', '.join(before.devices)}.", 0.0)
        saved = 1 - after.bytes_held / max(1, before.bytes_held)
        words = f"on {', '.join(after.devices)}"
        if saved > 0:
            return Realness(
                "REAL", f"{words}; {saved:.0%} of the weights are not in memory.", saved
            )
        return Realness("REAL", f"{words}.")


def _device(asked: str, found: list[str]) -> str:
    if asked != "auto":
        return asked
    return found[0] if found else "cpu"
