"""The machine that a benchmark ran on, and the memory of this process."""

import os
import platform
from pathlib import Path

import numpy as np


def machine() -> dict[str, str | int | float]:
    """What the numbers were taken on, and how busy it was before."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return {
        "cpu": name,
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load_average": round(os.getloadavg()[0], 2),
    }


def memory_mb(key: str, process: int | None = None) -> float:
    """`VmRSS` or `VmHWM`, the peak, of a process in MB: this one unless another is given. NaN without /proc."""
    status = Path("/proc") / (str(process) if process else "self") / "status"
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return float("nan")
