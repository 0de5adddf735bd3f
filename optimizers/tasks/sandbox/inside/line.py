"""The way between a worker and whoever started it: messages as JSON, each after its length."""

from __future__ import annotations

import json
import os
import struct
from typing import Any, NamedTuple

HEAD = struct.Struct("<I")


def packed(message: object) -> bytes:
    """A message as it goes over the line.

    >>> packed([1])
    b'\\x03\\x00\\x00\\x00[1]'
    """
    body = json.dumps(message).encode()
    return HEAD.pack(len(body)) + body


class Line(NamedTuple):
    """The worker's end: a descriptor to read from and one to write to."""

    reading: int
    writing: int

    def receive(self) -> dict[str, Any] | None:
        """The next message; None when there will be none."""
        head = self._exactly(HEAD.size)
        if len(head) < HEAD.size:
            return None
        size = HEAD.unpack(head)[0]
        body = self._exactly(size)
        return json.loads(body) if len(body) == size else None

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size and (part := os.read(self.reading, min(size, 1 << 20))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def send(self, message: object) -> None:
        """Write a message, whole."""
        left = memoryview(packed(message))
        while left:
            left = left[os.write(self.writing, left) :]


def standard() -> Line:
    """Standard input and output are the line; both are nothing from now on."""
    ours = Line(os.dup(0), os.dup(1))
    nothing = os.open(os.devnull, os.O_RDWR)
    for place in (0, 1):
        os.dup2(nothing, place)
    os.close(nothing)
    return ours
