"""A private pipe between the conductor and one child: JSON lines, never stdout; no torch."""

from __future__ import annotations

import json
import select
import socket
import time
from typing import Any

Message = dict[str, Any]
_CHUNK_BYTES = 1 << 16


class ChannelClosed(Exception):
    """The other side is gone."""


class Channel:
    """One end of the pipe."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._pending = b""

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """This side's channel, and the socket whose descriptor the child inherits."""
        ours, theirs = socket.socketpair()
        return cls(ours), theirs

    def send(self, message: Message) -> None:
        """Writes one message.

        Raises:
            ChannelClosed: the other side is gone.
        """
        try:
            self._end.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise ChannelClosed from error

    def receive(self, timeout: float | None = None) -> Message:
        """The next message.

        Args:
            timeout: seconds to wait for it; None waits for ever.

        Raises:
            ChannelClosed: the other side is gone.
            TimeoutError: nothing came in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._pending:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._end], [], [], left)[0]:
                raise TimeoutError
            self._pending += self._read()
        line, _, self._pending = self._pending.partition(b"\n")
        message: Message = json.loads(line)
        return message

    def close(self) -> None:
        """Gives the descriptor back."""
        self._end.close()

    def _read(self) -> bytes:
        try:
            chunk = self._end.recv(_CHUNK_BYTES)
        except OSError as error:
            raise ChannelClosed from error
        if not chunk:
            raise ChannelClosed
        return chunk
