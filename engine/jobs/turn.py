"""The one lock of this machine that everything that measures holds, one after the other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_FLAGS = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)


class Turn:
    """The right to measure; the operating system takes it back when its holder dies.

    Args:
        path: the lock file; default $WORKBENCH_LOCK, else one in the machine's temporary folder.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or lock_path()
        self._descriptor: int | None = None

    def take(self, holder: str) -> bool:
        """Takes the lock and says who holds it; False at once where another holds it."""
        descriptor = _opened(self.path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # another person's file may be read-only for us
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode()[:200], 0)
        return True

    def give_back(self) -> None:
        """Lets the next one in; nothing happens where it is not held."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> str:
        """Who said last that they hold it; empty where that is unknown."""
        with contextlib.suppress(OSError):
            return self.path.read_text(errors="replace")[:200]
        return ""

    @contextlib.contextmanager
    def shared(self) -> Iterator[bool]:
        """True while nobody measures, and keeps it so; False at once where somebody does."""
        descriptor = _opened(self.path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
        finally:
            os.close(descriptor)


def lock_path() -> Path:
    """$WORKBENCH_LOCK, else a file that every user of this machine shares."""
    chosen = os.environ.get("WORKBENCH_LOCK")
    if chosen:
        return Path(chosen)
    folder = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    return folder / "model-workbench-measuring.lock"


def _opened(path: Path) -> int:
    for flags in (os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            descriptor = os.open(path, flags | _FLAGS, 0o666)
            if flags & os.O_CREAT:
                with contextlib.suppress(OSError):  # the umask took away what others need
                    os.fchmod(descriptor, 0o666)
            return descriptor
    raise PermissionError(f"{path} cannot be opened to wait for a turn to measure.")
