"""Passes the turn from one variant's process to the next and keeps every sample; no torch."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.measure.variant_process import VariantFailed, VariantProcess
from engine.records import ErrorRecord

# A block is at least 5 ms, also where runs get somewhat faster. Longer ones are no better: with
# blocks of four runs of 7 ms a ratio was 1.6 to 2.4 times as uncertain as with blocks of one in the
# same time, since noise comes in stretches that two neighbouring short blocks share.
BLOCK_MS = 6.0
# The others had the caches: the first run of a turn took about 13.8 ms, the next 12.2 (tiny_gpt, 4
# tokens, machine busy).
_SETTLE_BELOW_MS = 200.0
_BLOCK_TIMEOUT_SECONDS = 120.0


@dataclass
class Samples:
    """What was timed, by variant.

    Attributes:
        rounds: the mean run of each block, in ms, by round; a round that a variant did not play in
            is absent.
        copies: which of a variant's processes played in a round.
        runs_ms: every single run.
        prefill_ms, step_ms: of generation: until the first token, and for each further one.
    """

    rounds: dict[str, dict[int, float]] = field(default_factory=dict)
    copies: dict[str, dict[int, int]] = field(default_factory=dict)
    runs_ms: dict[str, list[float]] = field(default_factory=dict)
    prefill_ms: dict[str, list[float]] = field(default_factory=dict)
    step_ms: dict[str, list[float]] = field(default_factory=dict)

    def paired(self, first: str, second: str) -> tuple[list[float], list[float]]:
        """The times of two variants in the rounds that both played, in order."""
        ours, theirs = self.rounds.get(first, {}), self.rounds.get(second, {})
        both = sorted(ours.keys() & theirs.keys())
        return [ours[each] for each in both], [theirs[each] for each in both]

    def processes(self, first: str, second: str) -> list[tuple[int, int]]:
        """For each of the rounds of `paired`, which process of each of the two played in it."""
        ours, theirs = self.copies.get(first, {}), self.copies.get(second, {})
        both = sorted(self.rounds.get(first, {}).keys() & self.rounds.get(second, {}).keys())
        return [(ours.get(each, 0), theirs.get(each, 0)) for each in both]

    def add(self, name: str, number: int, answer: dict[str, list[float]], copy: int = 0) -> None:
        """Keeps a block's answer."""
        self.copies.setdefault(name, {})[number] = copy
        self.rounds.setdefault(name, {})[number] = statistics.fmean(answer["runs_ms"])
        for kept, key in (
            (self.runs_ms, "runs_ms"), (self.prefill_ms, "prefill_ms"), (self.step_ms, "step_ms"),
        ):  # fmt: skip
            kept.setdefault(name, []).extend(answer[key])


class Conductor:
    """Interleaves processes that are loaded and checked.

    Processes of one name are copies of one variant: they take turns, one a round, and meet each of
    another variant's equally often.
    """

    def __init__(
        self,
        processes: Sequence[VariantProcess],
        *,
        seed: int = 0,
        run_ms: Mapping[str, float] | None = None,
        shadow: tuple[str, str] | None = None,
    ) -> None:
        """Takes the turns over.

        Args:
            processes: loaded and checked.
            seed: of the order.
            run_ms: how long a run takes, of processes that are warm already.
            shadow: a name under which a variant plays once more, with another of its copies.
        """
        self.samples = Samples()
        self.failures: dict[str, ErrorRecord] = {}
        self.played = 0
        self._copies: dict[str, list[VariantProcess]] = {}
        for each in processes:
            self._copies.setdefault(each.name, []).append(each)
        self._first = processes[0].name if processes else ""
        self._shadow = shadow
        self._run_ms = dict(run_ms or {})
        self._order = random.Random(seed)

    def warm(self) -> None:
        """Warms every process up, so that a block's length is known."""
        for name, copies in list(self._copies.items()):
            for process in copies:
                self._attempt(name, process, self._keep_warm)

    @property
    def run_ms(self) -> Mapping[str, float]:
        """How long a run of each variant takes, as far as it has been seen."""
        return dict(self._run_ms)

    def round_seconds(self) -> float:
        """What one round of all is expected to take."""
        return 1e-3 * sum(max(BLOCK_MS, each) for each in self._run_ms.values())

    def play(
        self,
        rounds: int,
        *,
        only: Sequence[str] | None = None,
        on_round: Callable[[int], None] = lambda done: None,
        until: float = math.inf,
    ) -> int:
        """Plays rounds, each in a random order of its own, and gives how many were whole.

        Args:
            rounds: how many.
            only: the variants that play; all where it is None.
            on_round: called after each with the number done.
            until: `time.monotonic()` after which no round starts.
        """
        for done in range(rounds):
            if time.monotonic() > until:
                return done
            names = [each for each in self._players() if only is None or each in only]
            self._order.shuffle(names)
            for name in names:
                self._play_one(name)
            self.played += 1
            on_round(done + 1)
        return rounds

    def _players(self) -> list[str]:
        names = list(self._run_ms)
        # With one copy the shadow would be the same process, which says nothing of another.
        if self._shadow is not None and len(self._copies.get(self._shadow[1], ())) > 1:
            names.append(self._shadow[0])
        return names

    def _play_one(self, name: str) -> None:
        is_shadow = self._shadow is not None and name == self._shadow[0]
        variant = self._shadow[1] if self._shadow is not None and is_shadow else name
        copies = self._copies.get(variant)
        if not copies:
            return
        copy = self._whose_turn(name, len(copies), is_shadow)
        self._attempt(variant, copies[copy], lambda process: self._time_block(process, name, copy))

    def _whose_turn(self, name: str, copies: int, is_shadow: bool) -> int:
        """The baseline's go around once a cycle; the others fall behind by one each cycle."""
        cycle, place = divmod(self.played, copies)
        if is_shadow:  # never the process that plays for the baseline in this round
            return (place + 1 + cycle % (copies - 1)) % copies
        return (place + (0 if name == self._first else cycle)) % copies

    def _attempt(
        self, name: str, process: VariantProcess, ask: Callable[[VariantProcess], None]
    ) -> None:
        if name not in self._copies:
            return
        try:
            ask(process)
        except VariantFailed as failure:
            self.failures[name] = failure.record
            for each in self._copies.pop(name):
                each.kill()
            self._run_ms.pop(name, None)

    def _keep_warm(self, process: VariantProcess) -> None:
        answer = process.ask("warm", timeout=_BLOCK_TIMEOUT_SECONDS * 10)
        run_ms = max(1e-4, answer["run_ms"])
        self._run_ms[process.name] = min(run_ms, self._run_ms.get(process.name, run_ms))

    def _time_block(self, process: VariantProcess, name: str, copy: int) -> None:
        run_ms = self._run_ms[process.name]
        answer = process.ask(
            "block",
            timeout=max(_BLOCK_TIMEOUT_SECONDS, 1e-3 * run_ms * 50),
            repeats=max(1, math.ceil(BLOCK_MS / run_ms)),
            settle=run_ms < _SETTLE_BELOW_MS,
        )
        self.samples.add(name, self.played, answer, copy)
        self._run_ms[process.name] = min(run_ms, statistics.fmean(answer["runs_ms"]))
