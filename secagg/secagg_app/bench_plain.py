"""The yardstick of `secagg bench upload`: a gRPC server that reads streams and counts bytes, and nothing else.

`python -m secagg_app.bench_plain IDENTITY WORKERS FOLDER` prints its port and serves until its input ends. The TLS, the
options and the thread pool are the coordinator's. /bench/Raw takes chunks as they are; /bench/Message the very messages
of an upload, read by protobuf; /bench/Stored writes each stream to a file and syncs it before it answers, which is the
least that a server can do that must not lose what it acknowledged.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from secagg_host.identity import load_identity
from secagg_host.tls import SERVER_OPTIONS, grpc, server_credentials
from secagg_protos.v1 import secagg_pb2 as pb

SERVICE, RAW, MESSAGE, STORED = "bench", "/bench/Raw", "/bench/Message", "/bench/Stored"


def _count_raw(chunks: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
    return str(sum(len(chunk) for chunk in chunks)).encode()


def _count_messages(messages: Iterator[pb.UploadRequest], _: grpc.ServicerContext) -> bytes:
    return str(sum(len(message.chunk) for message in messages)).encode()


def _store(folder: Path, chunks: Iterator[bytes]) -> bytes:
    size = 0
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for chunk in chunks:
            size += file.write(chunk)
        os.fsync(file.fileno())
    return str(size).encode()


def main() -> None:
    """Serve until standard input ends."""
    identity, workers, folder = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    server = grpc.server(ThreadPoolExecutor(workers), options=SERVER_OPTIONS)
    methods = {
        "Raw": grpc.stream_unary_rpc_method_handler(_count_raw),
        "Stored": grpc.stream_unary_rpc_method_handler(lambda chunks, _: _store(folder, chunks)),
        "Message": grpc.stream_unary_rpc_method_handler(
            _count_messages, request_deserializer=pb.UploadRequest.FromString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(load_identity(identity)))
    server.start()
    print(port, flush=True)  # noqa: T201 - the caller reads it
    sys.stdin.read()
    server.stop(0).wait()


if __name__ == "__main__":
    main()
