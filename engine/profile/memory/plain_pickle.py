"""Reads a pickle that holds plain values only; anything that could run code is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from engine.errors import InputError, UnsafeFile

_MAX_BYTES = 4 << 30


class _Plain(pickle.Unpickler):
    """An unpickler that knows no class and no function."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise UnsafeFile(
            f"This pickle asks for {module}.{name}: a memory snapshot holds plain values only.",
            hint="Do not open it; make the snapshot again with torch.cuda.memory._dump_snapshot.",
        )

    def persistent_load(self, pid: Any) -> NoReturn:
        raise UnsafeFile("This pickle refers to objects outside of it: it is no memory snapshot.")


def read_plain_pickle(path: Path) -> Any:
    """What a pickle of dicts, lists, tuples, texts and numbers holds.

    Raises:
        UnsafeFile: it holds anything else.
        InputError: it is missing, cut short, too large or no pickle.
    """
    try:
        if not path.is_file():
            raise InputError(f"There is no file {path.name}.")
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(
                f"{path.name} is larger than 4 GiB.",
                hint="Record less: _record_memory_history(max_entries=100_000).",
            )
        with path.open("rb") as file:
            return _Plain(file).load()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path.name} cannot be read: {reason}.") from error
    except (EOFError, pickle.UnpicklingError) as error:
        words = (str(error).splitlines() or ["it is cut short"])[0]
        raise InputError(f"{path.name} is no whole pickle: {words}.".replace("..", ".")) from error
    except (AttributeError, TypeError, ValueError, KeyError, IndexError, OverflowError,
            MemoryError, RecursionError, UnicodeDecodeError) as error:  # fmt: skip
        raise InputError(f"{path.name} is no memory snapshot: its pickle is malformed.") from error
