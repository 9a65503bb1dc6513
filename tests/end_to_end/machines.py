"""Machines as network namespaces: each has an address and a folder of its own, and reaches others over a bridge only.

Needs root and iproute2. What moves between machines is copied by `Machine.send`, file by file.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 900
"""Seconds: many processes start on few cores, and the machine may be busy otherwise. It tells a hang from that."""
SECAGG = [str(Path(sys.executable).parent / "secagg")]


def available() -> bool:
    """Whether this machine lets a test make network namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    probe = f"secagg-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "delete", probe], capture_output=True, check=False)
    return made.returncode == 0


@dataclass(frozen=True)
class Machine:
    """A namespace with one address, and the folder in which its commands run."""

    name: str
    address: str
    folder: Path
    namespace: str

    def argv(self, command: str) -> list[str]:
        words = shlex.split(command)
        assert words[0] == "secagg", command
        return ["ip", "netns", "exec", self.namespace, *SECAGG, *words[1:]]

    def run(self, command: str) -> str:
        """Run one command of the recipe to its end; its output, or an AssertionError with what it said."""
        done = subprocess.run(
            self.argv(command), cwd=self.folder, capture_output=True, text=True, timeout=TIMEOUT, check=False,
            env=self._env(),
        )  # fmt: skip
        assert done.returncode == 0, f"{self.name}: {command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, command: str, log: str) -> "subprocess.Popen[bytes]":
        """Start one long-running command of the recipe; its output goes to a file."""
        with (self.folder / log).open("wb") as out:
            return subprocess.Popen(
                self.argv(command), cwd=self.folder, stdout=out, stderr=subprocess.STDOUT, env=self._env()
            )

    def send(self, file: str, other: "Machine", target: str) -> None:
        """Carry one public file over to another machine."""
        assert "key.pem" not in file, "private keys do not travel"
        path = other.folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.folder / file, path)

    def _env(self) -> dict[str, str]:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1"}


@contextmanager
def machines(root: Path, names: tuple[str, ...]) -> Iterator[dict[str, Machine]]:
    """Namespaces on one bridge, 10.0.0.1 and up, removed at the end."""
    tag = f"sa{os.getpid() % 100_000}"
    with ExitStack() as stack:

        def ip(words: str, undo: str | None = None) -> None:
            subprocess.run(["ip", *words.split()], check=True, capture_output=True)
            if undo is not None:
                stack.callback(subprocess.run, ["ip", *undo.split()], check=False, capture_output=True)

        switch = f"{tag}-switch"
        ip(f"netns add {switch}", f"netns delete {switch}")
        ip(f"-n {switch} link add bridge type bridge")
        ip(f"-n {switch} link set bridge up")
        made = dict[str, Machine]()
        for number, name in enumerate(names, start=1):
            namespace, address = f"{tag}-{name}", f"10.0.0.{number}"
            ip(f"netns add {namespace}", f"netns delete {namespace}")
            ip(f"-n {switch} link add port{number} type veth peer name eth0 netns {namespace}")
            ip(f"-n {switch} link set port{number} master bridge up")
            ip(f"-n {namespace} address add {address}/24 dev eth0")
            ip(f"-n {namespace} link set lo up")
            ip(f"-n {namespace} link set eth0 up")
            folder = root / name
            folder.mkdir()
            made[name] = Machine(name, address, folder, namespace)
        yield made
