"""TOML in, a checked value out; mistakes name file, field and reason."""

from pathlib import Path

import pytest

from secagg.errors import ConfigError
from secagg.plan import Frozen
from secagg_host.config import Address, LocalPath, load_toml


class Inner(Frozen):
    path: LocalPath


class Sample(Frozen):
    name: str
    state: LocalPath
    files: tuple[LocalPath, ...] = ()
    inner: Inner | None = None
    rate: float = 1.0
    server: Address = "localhost:1"


def write(folder: Path, text: str) -> Path:
    path = folder / "sample.toml"
    path.write_text(text)
    return path


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    path = write(tmp_path, 'name = "a"\nstate = "s"\nfiles = ["x", "/abs"]\nrate = 2\n[inner]\npath = "../up"\n')
    sample = load_toml(path, Sample)
    assert sample.state == tmp_path / "s"
    assert sample.files == (tmp_path / "x", Path("/abs"))
    assert sample.inner == Inner.model_construct(path=tmp_path.parent / "up")
    assert sample.rate == 2.0


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('name = "a"', "state: Field required"),
        ('name = 3\nstate = "s"', "name: "),
        ('name = "a"\nstate = "s"\nother = 1', "other: there is no such setting"),
        ('name = "a"\nstate = "s"\nrate = nan', "rate: "),
        ('name = "a"\nstate = "s"\nrate = "1"', "rate: "),
        ('name = "a"\nstate = "s"\nserver = "north"', r"toml: server: must be host:port, as in 10\.0\.0\.1:7443"),
        ('name = "a"\nstate = "s"\nserver = "::1:7443"', "server: must be host:port"),
        ('name = "a"\nstate = "s"\nserver = "[::1]:70000"', "server: the port of .* is above 65535"),
        ("name = ", "is not TOML"),
        ("name = " + "[" * 20_000, "is not TOML"),
        ('name = "a"\nstate = 2020-01-01\nrate = 1979-05-27', "rate: "),
    ],
)
def test_mistakes_name_file_and_field(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        load_toml(write(tmp_path, text), Sample)
    assert "sample.toml" in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_toml(tmp_path / "none.toml", Sample)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_toml(tmp_path / "binary.toml", Sample)
