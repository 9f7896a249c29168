"""The process of one variant: `python -m engine.measure.child DESCRIPTOR PARENT`.

It answers questions that come through the inherited descriptor, one after the other, and is
stopped in between. Nothing else runs in it, and what it prints goes to its log.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from typing import Any

from engine.errors import JobError, OutOfMemory, WorkbenchError
from engine.measure.channel import Channel, ChannelClosed, Message
from engine.measure.lifetime import die_with

_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")


def main(descriptor: int, parent: int) -> None:
    """Answers until the other side is gone or says `exit`."""
    die_with(parent)
    channel = Channel(socket.socket(fileno=descriptor))
    sys.path.insert(0, os.getcwd())
    from engine.measure.performing import Performer  # torch comes with it

    performer = Performer(lambda fraction, words: channel.send({"progress": [fraction, words]}))
    try:
        while True:
            question = channel.receive()
            if question["do"] == "exit":
                return
            channel.send(_answer(performer, question))
    except ChannelClosed:
        return


def _answer(performer: Any, question: Message) -> Message:
    try:
        arguments = {name: value for name, value in question.items() if name != "do"}
        answer: Message = getattr(performer, question["do"])(**arguments)
    except Exception as error:  # every failure of a variant is an answer; the others go on
        return {"error": error_of(error)}
    return answer


def error_of(error: Exception) -> dict[str, str]:
    """An error as it crosses: kind, message, hint and detail."""
    detail = "".join(traceback.format_exception(error))
    if isinstance(error, WorkbenchError):
        return {"kind": error.kind, "message": error.message, "hint": error.hint,
                "detail": error.detail or detail}  # fmt: skip
    lines = f"{error}".strip().splitlines() or [""]
    message = f"{type(error).__name__}: {lines[0]}"[:300]
    is_memory = isinstance(error, MemoryError) or any(
        word in f"{type(error).__name__} {error}".lower()
        for word in (*_MEMORY_WORDS, "outofmemory")
    )
    if is_memory:
        hint = "Use a smaller batch or model, or compare fewer variants at once."
        return {"kind": OutOfMemory.__name__, "message": message, "hint": hint, "detail": detail}
    return {"kind": JobError.__name__, "message": message, "hint": "", "detail": detail}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
