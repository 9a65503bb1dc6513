"""TLS 1.3 only: gRPC must be loaded after its cipher suites are set. The handshakes are in tests/server."""

import os
import subprocess
import sys


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
