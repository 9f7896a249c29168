"""The errors that a person can run into, and what to do about each.

WorkbenchError
├── InputError            what was typed or chosen cannot be used      (exit status 2)
│   ├── ModelError        a model cannot be opened
│   │   ├── UntrustedCode     it can run code and nobody has said that they trust it
│   │   ├── UnsafeFile        a file that is refused whatever the person says
│   │   └── WeightsMismatch   weights that do not belong to the module
│   ├── DataError         quality data cannot be read or used
│   ├── RecipeError       a recipe cannot be built
│   │   └── StepRefused       a technique's check says no
│   └── MissingPackage    an optional package is absent
└── JobError              work that was under way ended early          (exit status 1)
    ├── JobCrashed        the process died by a signal
    ├── OutOfMemory       the memory limit was reached
    ├── TimedOut          the time limit was reached
    ├── Cancelled         a person stopped it
    ├── JobLost           nobody knows how it ended (power cut, kill -9 of everything)
    ├── NumericalFailure  NaN, Inf or constant outputs
    ├── ExportFailed      an artifact could not be written or proved
    └── StorageFull       the disk has no room
"""

from __future__ import annotations


class WorkbenchError(Exception):
    """An error with a message of one line, and a hint that says what to do next."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail

    @property
    def kind(self) -> str:
        """The name of the leaf, as it stands in `error.kind` of the JSON output."""
        return type(self).__name__


class InputError(WorkbenchError):
    """What was typed or chosen cannot be used."""

    exit_status = 2


class ModelError(InputError):
    """A model cannot be opened."""


class UntrustedCode(ModelError):
    """A file that can run code was not trusted by the person."""


class UnsafeFile(ModelError):
    """A file that is refused whatever the person says."""


class WeightsMismatch(ModelError):
    """Weights that do not belong to the module."""


class DataError(InputError):
    """Quality data cannot be read or used."""


class RecipeError(InputError):
    """A recipe cannot be built."""


class StepRefused(RecipeError):
    """A technique's check says that it cannot run, or would change nothing, here."""


class MissingPackage(InputError):
    """An optional package is absent."""


class JobError(WorkbenchError):
    """Work that was under way ended early."""


class JobCrashed(JobError):
    """The process of a job died by a signal."""


class OutOfMemory(JobError):
    """The memory limit was reached."""


class TimedOut(JobError):
    """The time limit was reached."""


class Cancelled(JobError):
    """A person stopped the job."""


class JobLost(JobError):
    """Nobody knows how the job ended."""


class NumericalFailure(JobError):
    """Outputs are NaN, Inf or constant."""


class ExportFailed(JobError):
    """An artifact could not be written or proved."""


class StorageFull(JobError):
    """The disk has no room."""


def by_kind(kind: str) -> type[WorkbenchError]:
    """The error class called `kind`; WorkbenchError itself for a name that is not in the tree."""
    pending = [WorkbenchError]
    while pending:
        candidate = pending.pop()
        if candidate.__name__ == kind:
            return candidate
        pending.extend(candidate.__subclasses__())
    return WorkbenchError
