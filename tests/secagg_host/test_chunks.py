"""Chunks on the wire: the same bytes as protobuf's; whatever else comes is left to protobuf (secagg_host.chunks)."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import MalformedError
from secagg_host.chunks import PartReader, chunk_of, header_of, prefix, write_part
from secagg_host.tls import MAX_CHUNK_BYTES
from secagg_protos.v1 import secagg_pb2 as pb

READ = PartReader(pb.UploadRequest.FromString)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, MAX_CHUNK_BYTES, MAX_CHUNK_BYTES + 1])
def test_a_chunk_is_written_as_protobuf_writes_it(size: int) -> None:
    chunk = bytes(range(256)) * (size // 256 + 1)
    chunk = chunk[:size]
    wire = pb.UploadRequest(chunk=chunk).SerializeToString()
    assert write_part(chunk) == write_part(memoryview(chunk)) == wire
    assert wire == prefix(size) + chunk
    read = READ(wire)
    assert isinstance(read, memoryview)
    assert chunk_of(read) == chunk


@pytest.mark.parametrize("message", [pb.MaskedUploadRequest, pb.CkksUploadRequest])
def test_all_upload_messages_have_their_chunk_there(message: type) -> None:
    assert write_part(b"abc") == message(chunk=b"abc").SerializeToString()


def test_a_header_is_protobufs() -> None:
    request = pb.UploadRequest(header=pb.UploadHeader(signed_upload_json=b"{}", boxes=[b"1", b"2"], offset=7))
    read = READ(write_part(request))
    assert header_of(read) == request


def test_a_chunk_is_no_header_and_a_header_no_chunk() -> None:
    header = pb.UploadRequest(header=pb.UploadHeader())
    for first in (None, READ(prefix(1) + b"x"), pb.UploadRequest(chunk=b"x"), pb.UploadRequest()):
        with pytest.raises(MalformedError, match="begins with its header"):
            header_of(first)
    for later in (header, pb.UploadRequest()):
        with pytest.raises(MalformedError, match="chunks only"):
            chunk_of(later)


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda raw: b"\x12" + raw))
def test_any_bytes_mean_what_they_mean_to_protobuf(raw: bytes) -> None:
    try:
        wanted = pb.UploadRequest.FromString(raw)
    except DecodeError:
        with pytest.raises(DecodeError):
            READ(raw)
        return
    read = READ(raw)
    if isinstance(read, memoryview):
        assert wanted.WhichOneof("part") == "chunk"
        assert bytes(read) == wanted.chunk
    else:
        assert read == wanted
