"""Messages between the command and its workers: a small JSON object, then bytes as they are. No pickle."""

from __future__ import annotations

import json
import struct
from typing import IO, Any

LENGTHS = struct.Struct("<IQ")


def send(stream: IO[bytes], header: dict[str, Any], payload: bytes = b"") -> None:
    """Write one message and push it out.

    >>> import io
    >>> pipe = io.BytesIO()
    >>> send(pipe, {"outcome": "k"}, b"payload")
    >>> receive(io.BytesIO(pipe.getvalue()))
    ({'outcome': 'k'}, b'payload')
    """
    text = json.dumps(header).encode("ascii")
    stream.write(LENGTHS.pack(len(text), len(payload)) + text)
    stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """The next message, or None when the other side has gone, in the middle of a message as well."""
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    header_size, payload_size = LENGTHS.unpack(lengths)
    text, payload = stream.read(header_size), stream.read(payload_size)
    if len(text) < header_size or len(payload) < payload_size:
        return None
    return json.loads(text), payload
