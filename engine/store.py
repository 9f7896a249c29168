"""Studies, profiles, comparisons, artifacts and trust on disk; no torch.

Records are rows of one SQLite database, large content is files named by their SHA-256. Any number
of processes may use one store.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from engine.durable import PART, storage_errors, sync_folder
from engine.errors import InputError, StorageFull, WorkbenchError
from engine.jobs.limits import Limits
from engine.records import from_json, to_json

R = TypeVar("R")
SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE records (
    kind TEXT NOT NULL, id TEXT NOT NULL, study TEXT, created REAL NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE INDEX records_by_study ON records (kind, study, created);
CREATE TABLE trust (hash TEXT PRIMARY KEY, name TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE durations (work TEXT NOT NULL, seconds REAL NOT NULL, created REAL NOT NULL);
CREATE INDEX durations_by_work ON durations (work, created);
"""
_WAIT_MS = 30_000
_LEFTOVER_SECONDS = 3600.0


class Store:
    """What this installation remembers.

    Args:
        root: the folder; default $WORKBENCH_HOME, else the platform's folder for data.
        limits: memory and time that a job may take; default from the environment.
    """

    def __init__(self, root: Path | str | None = None, *, limits: Limits | None = None) -> None:
        self.root = Path(root).absolute() if root else default_root()
        self.limits = limits or Limits.from_environment()
        self.jobs_folder = self.root / "jobs"
        self.traces_folder = self.root / "traces"
        self.artifacts_folder = self.root / "artifacts"
        self.cache_folder = self.root / "cache"
        self.files_folder = self.root / "files"
        self.spares_folder = self.root / "spares"
        self._parts_folder = self.root / "parts"
        self._database = self.root / "store.sqlite3"
        self._prepare()

    # ---- records -----------------------------------------------------------------------------

    def put(self, kind: str, id: str, record: Any, study: str | None = None) -> None:
        """Keeps a record; when this returns, it outlives a power cut. The same id is replaced."""
        row = (kind, id, study, time.time(), to_json(record))
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", row)

    def get(self, kind: str, id: str, type: type[R]) -> R | None:
        """The record of that id; None where there is none, or an older version of us wrote it."""
        with self._connected() as database:
            row = database.execute(
                "SELECT body FROM records WHERE kind = ? AND id = ?", (kind, id)
            ).fetchone()
        return _readable(row[0], type) if row else None

    def list(self, kind: str, type: type[R], study: str | None = None) -> tuple[R, ...]:
        """Every record of a kind, or those of one study, the newest first."""
        where, values = "kind = ?", [kind]
        if study is not None:
            where, values = "kind = ? AND study = ?", [kind, study]
        with self._connected() as database:
            rows = database.execute(
                f"SELECT body FROM records WHERE {where} ORDER BY created DESC, id", values
            ).fetchall()
        found = (_readable(body, type) for (body,) in rows)
        return tuple(each for each in found if each is not None)

    def remove(self, kind: str, id: str) -> None:
        """Forgets a record; nothing happens where there is none."""
        with self._transaction() as database:
            database.execute("DELETE FROM records WHERE kind = ? AND id = ?", (kind, id))

    # ---- trust -------------------------------------------------------------------------------

    def trust(self, hash: str, name: str) -> None:
        """Remembers that the person trusts code with this content hash."""
        with self._transaction() as database:
            database.execute(
                "INSERT OR IGNORE INTO trust VALUES (?, ?, ?)", (hash, name, time.time())
            )

    def distrust(self, hash: str) -> None:
        """Takes the trust in a content hash back."""
        with self._transaction() as database:
            database.execute("DELETE FROM trust WHERE hash = ?", (hash,))

    def is_trusted(self, hash: str) -> bool:
        """Whether the person has said that they trust code with this content hash."""
        with self._connected() as database:
            found = database.execute("SELECT 1 FROM trust WHERE hash = ?", (hash,)).fetchone()
        return found is not None

    # ---- durations ---------------------------------------------------------------------------

    def add_duration(self, work: str, seconds: float) -> None:
        """Remembers how long a piece of work took."""
        with self._transaction() as database:
            database.execute("INSERT INTO durations VALUES (?, ?, ?)", (work, seconds, time.time()))

    def expected_seconds(self, work: str) -> float | None:
        """The median of the last five times that this work was done; None for the first time."""
        with self._connected() as database:
            rows = database.execute(
                "SELECT seconds FROM durations WHERE work = ? ORDER BY created DESC LIMIT 5",
                (work,),
            ).fetchall()
        taken = sorted(seconds for (seconds,) in rows)
        return float(taken[len(taken) // 2]) if taken else None

    # ---- files -------------------------------------------------------------------------------

    def add_file(self, path: Path | str) -> str:
        """Keeps a copy of a file under the SHA-256 of its content, which it returns."""
        part = self._parts_folder / f"{os.getpid()}-{uuid.uuid4().hex}{PART}"
        digest = hashlib.sha256()
        with storage_errors(self.root):
            try:
                with Path(path).open("rb") as source, part.open("wb") as copy:
                    while chunk := source.read(1 << 20):
                        digest.update(chunk)
                        copy.write(chunk)
                    copy.flush()
                    os.fsync(copy.fileno())
                kept = self.file(digest.hexdigest())
                if not kept.exists():
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    part.replace(kept)
                    sync_folder(kept.parent)
            finally:
                part.unlink(missing_ok=True)
        return digest.hexdigest()

    def file(self, hash: str) -> Path:
        """Where a file of that content is, or would be, kept."""
        return self.files_folder / hash[:2] / hash

    def sweep(self) -> tuple[str, ...]:
        """Removes what dead processes left behind, and marks jobs that died with the machine.

        Returns:
            the ids of jobs that are now lost.
        """
        from engine.jobs.folder import sweep_jobs
        from engine.jobs.spare import sweep_spares

        oldest = time.time() - _LEFTOVER_SECONDS
        for part in self._parts_folder.glob(f"*{PART}"):
            if part.stat().st_mtime < oldest:
                part.unlink(missing_ok=True)
        sweep_spares(self.spares_folder)
        return sweep_jobs(self.jobs_folder)

    # ---- the database ------------------------------------------------------------------------

    def _prepare(self) -> None:
        with storage_errors(self.root):
            for folder in (
                self.jobs_folder, self.traces_folder, self.artifacts_folder, self.cache_folder,
                self.files_folder, self.spares_folder, self._parts_folder,
            ):  # fmt: skip
                try:
                    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                except (FileExistsError, NotADirectoryError, PermissionError) as error:
                    raise InputError(
                        f"{self.root} cannot be used as the store: {error.strerror}.",
                        hint="Set WORKBENCH_HOME to a folder that you can write to.",
                    ) from error
        with self._connected() as database:
            if _version(database) == SCHEMA_VERSION:
                return
        with self._transaction() as database:
            version = _version(database)  # another process may have been quicker
            if version > SCHEMA_VERSION:
                raise WorkbenchError(
                    f"{self.root} was written by a newer version of the workbench.",
                    hint="Update this one, or set WORKBENCH_HOME to another folder.",
                )
            if version == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        # One short connection for each use: threads of the app and jobs share nothing.
        try:
            database = sqlite3.connect(self._database, timeout=_WAIT_MS / 1e3, isolation_level=None)
            try:
                database.execute(f"PRAGMA busy_timeout = {_WAIT_MS}")
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = FULL")
                yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            raise self._meaning(error) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connected() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    def _meaning(self, error: sqlite3.Error) -> WorkbenchError:
        code = getattr(error, "sqlite_errorcode", 0)
        full = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC)
        if code in full or "full" in str(error):
            return StorageFull(
                f"The disk that holds {self.root} is full.",
                hint="Free some space, or set WORKBENCH_HOME to a folder on another disk.",
            )
        return WorkbenchError(
            f"The store in {self.root} cannot be used: {error}.",
            hint="Move the folder away, or set WORKBENCH_HOME to another one.",
        )


def default_root() -> Path:
    """$WORKBENCH_HOME, else the folder where this platform keeps a program's data."""
    chosen = os.environ.get("WORKBENCH_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "model-workbench"
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "model-workbench"


def used_bytes(folder: Path) -> int:
    """Bytes of every file below a folder."""
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())


def free_bytes(folder: Path) -> int:
    """Room that is left on the disk of a folder."""
    return shutil.disk_usage(folder).free


def _readable(body: bytes, kind: type[R]) -> R | None:
    try:
        return from_json(body, kind)
    except InputError:
        return None


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])
