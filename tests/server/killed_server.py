"""`secagg server run`, except that it kills itself with SIGKILL right after the named durable step.

Usage: killed_server.py CONFIG [STEP [SPEED]]: a clock that runs SPEED times as fast measures what is waited for.
"""

import os
import signal
import sys
import time
from pathlib import Path

from secagg_host.config import load_toml
from secagg_server.config import ServerConfig
from secagg_server.server import run


def main() -> None:
    step = sys.argv[2] if len(sys.argv) > 2 else None
    speed = float(sys.argv[3]) if len(sys.argv) > 3 else 1.0

    def checkpoint(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    config = load_toml(Path(sys.argv[1]), ServerConfig)
    run(config, sys.stdout, as_json=True, monotonic=lambda: speed * time.monotonic(), checkpoint=checkpoint)


if __name__ == "__main__":
    main()
