"""Models and texts come from packages with pinned hashes, through the real pip, from a folder of wheels."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from secagg.errors import ConfigError, HashMismatch, TransportError
from secagg_app import assets
from secagg_app.assets import Package, cache_folder, extract, fetch_wheel, read_members

MEMBERS = {"toy/data/a.txt": b"alpha", "toy/data/deep/b.txt": b"beta", "toy/code.py": b"raise SystemExit"}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel that pip accepts."""
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / "secagg_toy_asset-1.0-py3-none-any.whl"
    info = "secagg_toy_asset-1.0.dist-info"
    metadata = b"Metadata-Version: 2.1\nName: secagg-toy-asset\nVersion: 1.0\n"
    tags = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**MEMBERS, f"{info}/METADATA": metadata, f"{info}/WHEEL": tags}.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def package(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """That wheel as an asset, with pip looking nowhere else, and a cache of its own."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "cache"))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Package("secagg-toy-asset", "1.0", digest, "a toy", "MIT", 1)


def test_a_package_is_fetched_once_and_then_taken_from_the_cache(package: Package, wheel: Path) -> None:
    said = list[str]()
    first = fetch_wheel(package, said.append)
    wheel.unlink()
    assert fetch_wheel(package, said.append) == first
    assert len(said) == 1
    assert "secagg-toy-asset==1.0" in said[0]
    assert first.parent == cache_folder()
    assert read_members(first, "toy/data/", ".txt") == {k: v for k, v in MEMBERS.items() if k.endswith(".txt")}


def test_another_hash_is_refused_and_nothing_is_kept(package: Package) -> None:
    wrong = replace(package, sha256="0" * 64)
    with pytest.raises(HashMismatch, match=f"{package.sha256}.*{'0' * 64} is pinned"):
        fetch_wheel(wrong, lambda _: None)
    assert list(cache_folder().iterdir()) == []


def test_a_cached_copy_that_was_altered_is_refused_and_removed(package: Package) -> None:
    path = fetch_wheel(package, lambda _: None)
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(HashMismatch, match="is pinned"):
        fetch_wheel(package, lambda _: None)
    assert fetch_wheel(package, lambda _: None).is_file()


def test_no_index_is_a_clear_error(package: Package) -> None:
    absent = replace(package, version="9.9")
    with pytest.raises(TransportError, match=r"secagg-toy-asset==9\.9.*must be reachable once"):
        fetch_wheel(absent, lambda _: None)


def test_a_folder_is_unpacked_whole(package: Package, tmp_path: Path) -> None:
    target = extract(fetch_wheel(package, lambda _: None), "toy/data/", tmp_path / "out" / "model")
    assert {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*.txt")} == {
        "a.txt": b"alpha",
        "deep/b.txt": b"beta",
    }
    assert [path.name for path in target.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["toy/data/../../escape.txt", "toy/data//etc/passwd"])
def test_a_member_that_points_outside_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "evil.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/data/a.txt", "fine")
        archive.writestr(name, "not fine")
    with pytest.raises(HashMismatch, match="points outside"):
        extract(path, "toy/data/", tmp_path / "out" / "model")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_link_in_a_wheel_is_refused(tmp_path: Path) -> None:
    path, link = tmp_path / "evil.whl", zipfile.ZipInfo("toy/data/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(HashMismatch, match="points outside"):
        extract(path, "toy/data/", tmp_path / "out")


def test_an_unknown_folder_of_a_wheel_is_an_error(package: Package) -> None:
    with pytest.raises(ConfigError, match="nothing below absent/"):
        read_members(fetch_wheel(package, lambda _: None), "absent/")


def test_every_pinned_hash_is_a_hash() -> None:
    for package in (assets.MINILM, assets.SMOLLM, assets.TWEETS, assets.PLAYS):
        assert len(bytes.fromhex(package.sha256)) == 32


def test_a_folder_that_was_damaged_is_made_anew(package: Package, tmp_path: Path) -> None:
    said = list[str]()
    target = extract(fetch_wheel(package, said.append), "toy/data/", tmp_path / "out" / "model")
    said.clear()
    assert assets.is_whole(target, said.append)
    (target / "deep" / "b.txt").write_bytes(b"beat")
    assert not assets.is_whole(target, said.append)
    assert "is damaged" in said[0]
    again = extract(fetch_wheel(package, said.append), "toy/data/", target)
    assert (again / "deep" / "b.txt").read_bytes() == b"beta"
    (target / assets.MANIFEST).unlink()
    assert not assets.is_whole(target, said.append)
    assert list(target.parent.iterdir()) == []
