"""The command line: `workbench VERB ...`.

Exit status 0: done; 1: failed; 2: bad input. What went wrong is one line on stderr, and with
`--json` also the document on stdout.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from engine.errors import Cancelled, JobError, WorkbenchError
from engine.records import to_json

_CANCEL_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the arguments say and returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except WorkbenchError as error:
        return _failed(error, as_json="--json" in given)
    except KeyboardInterrupt:
        return _failed(Cancelled("Cancelled."), as_json="--json" in given)
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("WORKBENCH_TRACEBACK"):
            raise
        broken = JobError(
            f"{type(error).__name__}: {error}".splitlines()[0],
            hint="WORKBENCH_TRACEBACK=1 shows where.",
        )
        return _failed(broken, as_json="--json" in given)


def _run(arguments: list[str]) -> int:
    from engine.commands.arguments import parser
    from engine.commands.progress import ProgressBar
    from engine.commands.verbs import VERBS

    given = parser().parse_args(arguments)
    if given.verb == "app":
        return _app(given.port, browser=not given.no_browser)
    signal.signal(signal.SIGTERM, _interrupted)  # a CI's time limit cancels the job too
    bar = ProgressBar()
    try:
        answer = VERBS[given.verb](given, bar)
    except KeyboardInterrupt:
        bar.clear()
        _await_end(bar.job)
        raise
    bar.clear()
    print(_document(answer.plain) if given.json else answer.text(), flush=True)
    return answer.exit_status


def _app(port: int | None, *, browser: bool) -> int:
    from engine.store import Store
    from workbench import server

    Store().sweep()
    server.run(port=port, browser=browser)
    return 0


def _await_end(job: str | None) -> None:
    """Waits until a cancelled job's processes are gone."""
    import time

    from engine import client
    from engine.records import ENDED
    from engine.store import Store

    if job is None:
        return
    store = Store()
    with contextlib.suppress(WorkbenchError):
        client.cancel(store, job)
        deadline = time.monotonic() + _CANCEL_SECONDS
        while client.status(store, job).state not in ENDED and time.monotonic() < deadline:
            time.sleep(0.1)


def _failed(error: WorkbenchError, *, as_json: bool) -> int:
    if as_json:
        told = {"kind": error.kind, "message": error.message, "hint": error.hint}
        print(_document({"error": told}), flush=True)
    line = " ".join(f"workbench: {error.message} {error.hint}".split())
    print(line, file=sys.stderr, flush=True)
    return error.exit_status


def _document(plain: Any) -> str:
    return to_json(plain).decode()


def _interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
