"""TLS 1.3 only: gRPC must be loaded after its cipher suites are set. The handshakes are in tests/server."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from secagg_host.tls import CHANNEL_OPTIONS, MAX_CHUNK_BYTES, SERVER_OPTIONS, WINDOW_BYTES, grpc


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "GRPC_SSL_CIPHER_SUITES"}
    return subprocess.run(
        [sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True, check=False
    )


def test_grpc_that_was_loaded_too_early_is_an_error() -> None:
    result = python("import grpc\nimport secagg_host.tls")
    assert result.returncode != 0
    assert "grpc was loaded before secagg_host.tls" in result.stderr


def test_grpc_from_the_module_is_fine() -> None:
    assert python("from secagg_host.tls import grpc\nimport grpc").returncode == 0


def test_another_setting_from_outside_is_overruled() -> None:
    program = "import os\nimport secagg_host.tls\nprint(os.environ['GRPC_SSL_CIPHER_SUITES'])"
    result = python(program, GRPC_SSL_CIPHER_SUITES="ECDHE-ECDSA-AES256-GCM-SHA384")
    assert result.stdout.strip() == "ECDHE-RSA-AES256-GCM-SHA384"


def test_a_stream_that_is_not_read_fills_no_more_than_a_window() -> None:
    read, stalled, go_on, sent = 50, threading.Event(), threading.Event(), list[int]()

    def handle(chunks: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
        for number, _chunk in enumerate(chunks, start=1):
            if number == read:
                stalled.set()
                go_on.wait()
        return b""

    def chunks() -> Iterator[bytes]:
        while not go_on.is_set():
            sent.append(MAX_CHUNK_BYTES)
            yield bytes(MAX_CHUNK_BYTES)

    server = grpc.server(ThreadPoolExecutor(1), options=SERVER_OPTIONS)
    method = grpc.stream_unary_rpc_method_handler(handle)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Read": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) as channel:
        call = channel.stream_unary("/test/Read", bytes, bytes).future(chunks())
        try:
            stalled.wait()
            before = -1
            while before != len(sent):  # until a second brings no more
                before = len(sent)
                time.sleep(1)
        finally:
            go_on.set()
            call.result()
            server.stop(0).wait()
    # The window, a message that the server holds, and one that the client has ready and one that it makes.
    assert before * MAX_CHUNK_BYTES <= read * MAX_CHUNK_BYTES + WINDOW_BYTES + 3 * MAX_CHUNK_BYTES
