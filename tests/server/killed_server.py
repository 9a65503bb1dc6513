"""`secagg server run`, except that it kills itself with SIGKILL right after the named durable step.

Usage: killed_server.py CONFIG [STEP]
"""

import os
import signal
import sys
from pathlib import Path

from secagg_host.config import load_toml
from secagg_server.config import ServerConfig
from secagg_server.server import run


def main() -> None:
    step = sys.argv[2] if len(sys.argv) > 2 else None

    def checkpoint(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    run(load_toml(Path(sys.argv[1]), ServerConfig), sys.stdout, as_json=True, checkpoint=checkpoint)


if __name__ == "__main__":
    main()
