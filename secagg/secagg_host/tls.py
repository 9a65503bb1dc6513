"""Mutual TLS 1.3 for gRPC (protocol.md §11.1).

gRPC for Python cannot set a least version. It can set the cipher suites of TLS 1.2, which for both sides are
reduced here to one that needs an RSA certificate; our certificates are P-256, so TLS 1.2 never completes. The
suites of TLS 1.3 do not depend on that setting. gRPC reads it when it is loaded, so every module takes `grpc`
from here. `check_refuses_tls12` proves the refusal on a running server.
"""

import os
import socket
import ssl
import sys
from pathlib import Path

from secagg.errors import ConfigError, TransportError
from secagg_host.identity import CERTIFICATE, TLS_KEY, PartyFiles

_SUITES = "GRPC_SSL_CIPHER_SUITES"
_RSA_ONLY = "ECDHE-RSA-AES256-GCM-SHA384"

if os.environ.get(_SUITES) != _RSA_ONLY:
    if "grpc" in sys.modules:
        raise ConfigError("grpc was loaded before secagg_host.tls, which must set its cipher suites first")
    os.environ[_SUITES] = _RSA_ONLY
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own log lines go to stderr, past every event log

import grpc as grpc  # noqa: E402, PLC0414

MAX_MESSAGE_BYTES = 4 << 20
"""What the coordinator takes in one message: any party of the authority could fill its memory."""
MAX_ANSWER_BYTES = 256 << 20
"""What a party takes from its coordinator: a descriptor has the certificates of the whole roster, 1 KB each."""
MAX_CHUNK_BYTES = 1 << 20
WINDOW_BYTES = 1 << 20
"""What may be on its way in one upload. gRPC's own guess grows to tens of megabytes for each of them, and what has
arrived unread is memory of the coordinator. 1 MiB at a round trip of 100 ms is 10 MB/s for each client."""
CALLS_PER_CONNECTION = 16
"""A party makes one call at a time, and some are left over from before; what comes above it waits at the caller's."""
PROBE_SECONDS = 5.0

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),
)
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.enable_http_proxy", 0),
)


def server_credentials(files: PartyFiles) -> grpc.ServerCredentials:
    """Credentials of the coordinator; a client certificate from the authority is demanded."""
    return grpc.ssl_server_credentials(
        [(files.tls_key, files.certificate)],
        root_certificates=files.authority.encode("ascii"),
        require_client_auth=True,
    )


def channel(address: str, files: PartyFiles) -> grpc.Channel:
    """A lazy channel to host:port; the certificate found there must come from the authority and name the host."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=files.authority.encode("ascii"),
        private_key=files.tls_key,
        certificate_chain=files.certificate,
    )
    return grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


def check_refuses_tls12(host: str, port: int, identity: Path) -> None:
    """Try TLS 1.2 with a good client certificate, that of the folder `identity`.

    Raises TransportError when the server takes it, or cannot be reached.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: only the version that the server agrees to counts
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(identity / CERTIFICATE, identity / TLS_KEY)
    try:
        with socket.create_connection((host, port), PROBE_SECONDS) as raw:
            version = context.wrap_socket(raw).version()
    except (ssl.SSLError, ConnectionResetError):
        return
    except OSError as error:
        raise TransportError(f"{host}:{port} cannot be probed: {error}") from error
    raise TransportError(f"{host}:{port} accepted {version}; only TLS 1.3 is allowed")
