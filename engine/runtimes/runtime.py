"""The contract of a runtime: what executes a program.

A runtime is one file in `engine/runtimes`, holding one class named like the file. The technique
of the same stage asks it whether it can run here, and lets it prepare the program as the last
step of a recipe. Writing its file format is the work of `engine/export/formats`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from engine.optimize.technique import BuildContext
    from engine.program import Program
    from engine.records import Machine


class Runtime:
    """What executes a program."""

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]] = ()

    def check(self, machine: Machine) -> tuple[str, ...]:
        """Why it cannot run on this machine, one line each."""
        return ()

    def prepare(self, program: Program, context: BuildContext) -> Program:
        """The program ready to be called by this runtime; consumes the one that it gets.

        Raises:
            StepRefused: the program cannot be run so, with the reason.
        """
        raise NotImplementedError
