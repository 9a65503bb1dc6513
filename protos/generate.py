"""Generate the stubs beside the .proto files; `--check` compares without writing and exits 1 when they differ."""

import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
SOURCE = ROOT / "secagg_protos" / "v1" / "secagg.proto"


def generate(target: Path) -> list[Path]:
    """Write the stubs below `target`; return their paths."""
    include = Path(protoc.__file__).parent / "_proto"
    out = [f"--python_out={target}", f"--pyi_out={target}", f"--grpc_python_out={target}"]
    if protoc.main(["protoc", f"-I{ROOT}", f"-I{include}", *out, str(SOURCE)]) != 0:
        raise SystemExit("protoc failed; its message is above")
    return sorted((target / "secagg_protos" / "v1").glob("secagg_pb2*"))


def main() -> int:
    """Generate, or compare with what is checked in."""
    with tempfile.TemporaryDirectory() as folder:
        made = generate(Path(folder))
        stale = [path for path in made if not _same(path, SOURCE.parent / path.name)]
        if "--check" in sys.argv[1:]:
            for path in stale:
                sys.stderr.write(f"{path.name} differs from what {SOURCE.name} gives; run protos/generate.py\n")
            return 1 if stale else 0
        for path in stale:
            shutil.copy(path, SOURCE.parent / path.name)
    return 0


def _same(made: Path, kept: Path) -> bool:
    return kept.exists() and filecmp.cmp(made, kept, shallow=False)


if __name__ == "__main__":
    sys.exit(main())
