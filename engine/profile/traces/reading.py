"""A trace file as stretches of events, read in bounded memory."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from engine.errors import InputError
from engine.profile.traces.format import (
    CutShort,
    Ended,
    Head,
    Malformed,
    decoder_from,
    events_in,
    head_in,
    origin_in,
)

# What fits the processor's cache decodes twice as fast as eight times more.
_STRETCH = 1 << 20
_MAX_BYTES = 16 << 30
_MAX_HEAD = 64 << 20
_EVENTS = re.compile(rb'"traceEvents"\s*:\s*\[')
_SPACE = b" \t\r\n"
_TRIES = 50
_FOREIGN = "is no trace of torch.profiler"


@dataclass
class TraceText:
    """A trace file that is being read.

    Attributes:
        path: the file.
        bytes_read: how many bytes of text were read so far.
        head: what the file says of itself; whole once all stretches were read.
        origin_us: what was taken from long stamps, None where it was nothing.
    """

    path: Path
    bytes_read: int = 0
    head: Head = field(default_factory=Head)
    origin_us: int | None = None
    _decoder: Any = None

    def stretches(self) -> Iterator[list[Any]]:
        """Lists of events, about a megabyte of text each.

        Raises:
            InputError: a file that is missing, empty, cut short, too large or no trace, in one
                line.
        """
        try:
            with _opened(self.path) as file:
                yield from self._stretches(file)
        except (CutShort, EOFError, zlib.error) as error:
            raise InputError(f"{self.path.name} is cut short.", hint="Copy it again.") from error
        except Ended as error:
            detail = "something follows the list of its events"
            raise InputError(f"{self.path.name} {_FOREIGN}: {detail}.") from error
        except Malformed as error:
            detail = str(error).splitlines()[0]
            raise InputError(f"{self.path.name} {_FOREIGN}: {detail}.") from error
        except OSError as error:  # gzip.BadGzipFile is one
            reason = error.strerror or str(error)
            raise InputError(f"{self.path.name} cannot be read: {reason}.") from error

    def _stretches(self, file: BinaryIO) -> Iterator[list[Any]]:
        before, rest = self._head(file)
        self.origin_us = origin_in(rest)
        self._decoder = decoder_from(self.origin_us)
        is_list = before is None
        while block := self._more(file):
            text = rest + block
            for cut in _cuts(text):
                try:
                    events = events_in(b"[" + text[: cut + 1] + b"]", self._decoder)
                except (CutShort, Ended):
                    continue  # that comma lies inside an event, or behind them all
                yield events
                rest = text[cut + 1 :].lstrip(_SPACE)[1:]
                break
            else:
                rest = text
                if len(rest) > _MAX_HEAD:
                    raise Malformed("one event takes more than 64 MiB")
        yield self._last(rest, before or b"", is_list=is_list)

    def _head(self, file: BinaryIO) -> tuple[bytes | None, bytes]:
        """The text before the list of events, None for a bare list; and what was read of it."""
        text = self._more(file)
        if not text.strip():
            raise InputError(f"{self.path.name} {_FOREIGN}: it is empty.")
        if text.lstrip()[:1] == b"[":  # Chrome's format also allows a bare list
            return None, text.lstrip()[1:]
        while (found := _EVENTS.search(text)) is None:
            block = self._more(file)
            if not block or len(text) > _MAX_HEAD:
                raise self._without_events(text)
            text += block
        return text[: found.start()], text[found.end() :]

    def _without_events(self, text: bytes) -> InputError:
        name = self.path.name
        try:
            events_in(b"[" + text + b"]")
        except CutShort:
            return InputError(f"{name} is cut short.", hint="Copy it again.")
        except Malformed:
            return InputError(f"{name} {_FOREIGN}: it is not JSON.")
        return InputError(f"{name} {_FOREIGN}: it has no traceEvents.")

    def _more(self, file: BinaryIO) -> bytes:
        block = file.read(_STRETCH)
        self.bytes_read += len(block)
        if self.bytes_read > _MAX_BYTES:
            raise InputError(f"{self.path.name} holds more than 16 GiB.", hint="Trace fewer steps.")
        return block

    def _last(self, rest: bytes, before: bytes, *, is_list: bool) -> list[Any]:
        """The last events: what follows their list belongs to the head."""
        if is_list:
            text = rest.strip()
            # The format lets a bare list go without its end.
            text = text if text.endswith(b"]") else text.rstrip(b",") + b"]"
            return events_in(b"[" + text, self._decoder)
        try:
            events_in(b"[" + rest)
        except Ended as ended:
            events, after = (
                events_in(b"[" + rest[: ended.at - 1], self._decoder),
                rest[ended.at - 1 :],
            )
            if after.rstrip().endswith(b"}"):
                self.head = head_in(before + b'"traceEvents":[]' + after)
                return events
        raise CutShort


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")  # type: ignore[return-value]


def _cuts(text: bytes) -> Iterator[int]:
    """Where one object of a list seems to end and the next to begin, the last such place first."""
    at = len(text)
    for _ in range(_TRIES):
        at = text.rfind(b"{", 0, at)
        if at < 0:
            return
        before = text[max(0, at - 64) : at].rstrip(_SPACE)
        if before.endswith(b",") and (cut := before[:-1].rstrip(_SPACE)).endswith(b"}"):
            yield at - len(text[max(0, at - 64) : at]) + len(cut) - 1
