"""Chunks of an upload on the wire, without protobuf's copies.

Each upload message of `protos/` has `bytes chunk = 2` beside its header. A message with a chunk and nothing else is one
tag byte, the length as a varint, and the bytes themselves: written and read here as such. protobuf would copy a
chunk three times on its way, which costs more than the TLS around it (docs/performance.md). Everything else is
protobuf's, so the wire format is what the `.proto` files say.
"""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from secagg.errors import MalformedError

TAG = 0x12
"""Field 2, length-delimited."""
_MOST_DIGITS = 4
"""Of a varint for the length of a chunk: 28 bits, far above what a message may hold."""


class UploadMessage(Protocol):
    """What the upload messages have in common."""

    @property
    def chunk(self) -> bytes:
        """The bytes, if this is a chunk."""

    def WhichOneof(self, name: str, /) -> str | None:  # noqa: N802 - protobuf's name
        """`header` or `chunk`, for the name `part`."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """The wire form."""


Message = TypeVar("Message", bound=UploadMessage)


def prefix(length: int) -> bytes:
    """What stands before a chunk of so many bytes."""
    digits = bytearray([TAG])
    while length >> 7:
        digits.append(0x80 | length & 0x7F)
        length >>= 7
    digits.append(length)
    return bytes(digits)


def write_part(part: UploadMessage | bytes | memoryview) -> bytes:
    """A message as it is; bytes as a message that holds them as its chunk."""
    if isinstance(part, (bytes, memoryview)):
        return b"".join((prefix(len(part)), part))
    return part.SerializeToString()


class PartReader(Generic[Message]):
    """Reads upload messages: chunks as views into what arrived, the rest through `parse`, protobuf's own reader."""

    def __init__(self, parse: Callable[[bytes], Message]) -> None:
        self._parse = parse

    def __call__(self, raw: bytes) -> Message | memoryview:
        """One message. Raises what `parse` raises."""
        start = _chunk_start(raw)
        return memoryview(raw)[start:] if start else self._parse(raw)


def _chunk_start(raw: bytes) -> int:
    """Where the chunk of a message that holds nothing else begins; 0 for any other message."""
    if not raw or raw[0] != TAG:
        return 0
    length = 0
    for position, digit in enumerate(raw[1 : 1 + _MOST_DIGITS]):
        length |= (digit & 0x7F) << (7 * position)
        if digit < 0x80:
            start = position + 2
            return start if start + length == len(raw) else 0
    return 0


def header_of(part: Message | memoryview | None) -> Message:
    """The first message of a stream. Raises MalformedError when it is no header."""
    if part is None or isinstance(part, memoryview) or part.WhichOneof("part") != "header":
        raise MalformedError("an upload stream begins with its header")
    return part


def chunk_of(part: UploadMessage | memoryview) -> bytes | memoryview:
    """The chunk of a later message. Raises MalformedError when it has none."""
    if isinstance(part, memoryview):
        return part
    if part.WhichOneof("part") != "chunk":
        raise MalformedError("after the header an upload stream carries chunks only")
    return part.chunk
