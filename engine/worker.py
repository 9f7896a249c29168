"""The processes of a job: `python -m engine.worker JOB_FOLDER`.

That one is the supervisor, which imports no torch; it starts the process that works (`--work`).
With `--spare` it has everything imported first and waits to be given a job.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.jobs.identity import ProcessIdentity
from engine.jobs.job import Job
from engine.jobs.launching import work_table

__all__ = ["Job", "main"]


def main(arguments: list[str] | None = None) -> None:
    """Supervises a job, waits as a spare, or works, as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m engine.worker", description=__doc__)
    parser.add_argument("job", nargs="?", type=Path, help="the folder of a job")
    parser.add_argument("--spare", type=Path, help="the folder of a spare worker")
    parser.add_argument("--owner", type=_identity, help="pid:start of whom the spare waits for")
    parser.add_argument("--work", help="the table of verbs, module:NAME")
    parser.add_argument("--preload", action="store_true", help="import before there is a job")
    given = parser.parse_args(arguments)
    if given.spare:
        from engine.jobs.spare import stand_by

        stand_by(given.spare, given.owner, given.work)
    elif given.job:
        from engine.jobs.folder import JobFolder
        from engine.jobs.supervising import Supervisor

        folder = JobFolder(given.job)
        Supervisor(folder.request().work, log=folder.log).run(folder)
    else:
        from engine.jobs.working import work

        work(given.work or work_table(), preload=given.preload)


def _identity(text: str) -> ProcessIdentity:
    pid, _, started = text.partition(":")
    return ProcessIdentity(int(pid), float(started))


if __name__ == "__main__":
    main()
