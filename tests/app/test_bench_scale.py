"""`secagg bench scale` and `secagg bench upload` on small sizes: what they write, and that they check what they did."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from secagg.descriptor import Descriptor
from secagg.errors import ConfigError, HashMismatch, OpeningError
from secagg.messages import SignedUpload
from secagg_app import bench_scale
from secagg_app.bench_scale import check_arrived, check_room, run_scale, scale
from secagg_app.bench_upload import all_at_once, upload
from secagg_server.blobs import UploadFiles


def quiet(_: str) -> None:
    """No progress."""


def test_a_session_opens_to_the_exact_sum(tmp_path: Path) -> None:
    path = tmp_path / "scale.json"
    options = ["--clients", "5", "--params", "13000", "--folder", str(tmp_path), "--json", str(path)]
    result = CliRunner().invoke(scale, options)
    assert result.exit_code == 0, result.output
    numbers = json.loads(path.read_text())
    assert numbers["sum_is_exact"] is True
    assert numbers["clients"] == 5
    assert numbers["server_seconds"] > 0
    assert numbers["peak_mb"] > 0
    assert set(numbers["detail"]["stages"]) >= {"clients seal", *bench_scale.ScaleResult.SERVER}
    assert [entry.name for entry in tmp_path.iterdir()] == ["scale.json"], "the uploads are gone"


def test_an_upload_that_changes_on_the_disk_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bent(descriptor: Descriptor, signed: SignedUpload, files: UploadFiles) -> None:
        place = files.path(signed.signer)
        raw = bytearray(place.read_bytes())
        raw[0] ^= 1
        place.write_bytes(raw)
        check_arrived(descriptor, signed, files)

    monkeypatch.setattr(bench_scale, "check_arrived", bent)
    with pytest.raises(HashMismatch):
        run_scale(3, 500, 2, tmp_path, quiet)


def test_a_wrong_sum_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check would notice: it is told other rounding than the clients used."""

    class Forgetful(bench_scale._Recorded):
        def __call__(self, size: int, /) -> bytes:
            self.first = bytes(32)
            return os.urandom(size)

    monkeypatch.setattr(bench_scale, "_Recorded", Forgetful)
    with pytest.raises(OpeningError, match="not the sum"):
        run_scale(3, 500, 2, tmp_path, quiet)


def test_too_little_room_is_said_before_anything_is_sealed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="are free"):
        check_room(tmp_path, 1 << 60)


def test_uploads_over_the_network_beside_plain_streams(tmp_path: Path) -> None:
    path = tmp_path / "upload.json"
    options = ["--clients", "3", "--params", "13000", "--rounds", "1", "--folder", str(tmp_path), "--json", str(path)]
    result = CliRunner().invoke(upload, options)
    assert result.exit_code == 0, result.output
    numbers = json.loads(path.read_text())
    for name in ("upload_mb_per_second", "plain_mb_per_second", "plain_messages_mb_per_second", "upload_over_plain"):
        assert numbers[name] > 0
    assert numbers["coordinator_peak_mb"] > 0


def test_what_fails_in_a_thread_fails_the_round() -> None:
    def broken() -> None:
        raise HashMismatch("no")

    with pytest.raises(HashMismatch):
        all_at_once([lambda: None, broken])
