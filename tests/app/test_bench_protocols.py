"""`secagg bench protocols` on a small vector: what it writes and that it checks its own sum."""

import json
from pathlib import Path

from click.testing import CliRunner

from secagg_app.bench_protocols import protocols, run_bench

KEYS = {
    "seal_ms_per_million",
    "bytes_per_param",
    "add_ms_per_million",
    "open_ms_per_million",
    "keyholder_bytes_per_client",
    "keyholder_ms",
}
PER_MILLION = {name for name in KEYS if name.endswith("per_million")} | {"bytes_per_param"}
TENSEAL_KEYS = {f"{scheme}_{name}" for name in PER_MILLION for scheme in ("tenseal", "ckks")}
MASKED_KEYS = {f"masked_{name}" for name in PER_MILLION}


def test_the_command_writes_every_number(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    result = CliRunner().invoke(protocols, ["--params", "5000", "--repeats", "1", "--json", str(path)])
    assert result.exit_code == 0, result.output
    assert "TenSEAL" in result.output
    numbers = json.loads(path.read_text())
    wanted = KEYS | TENSEAL_KEYS | MASKED_KEYS
    assert set(numbers) >= wanted | {"masked_ms_per_million_per_neighbour"}
    assert all(numbers[key] > 0 for key in wanted)
    assert numbers["detail"]["machine"]["threads_used"] == 1


def test_without_a_file_json_goes_to_the_screen_and_nothing_else() -> None:
    result = CliRunner().invoke(protocols, ["--params", "5000", "--repeats", "1", "--no-tenseal", "--json"])
    assert result.exit_code == 0, result.output
    assert "detail" in json.loads(result.stdout)


def test_tenseal_can_be_left_out() -> None:
    result = run_bench(20_000, clients=3, n_max=3, repeats=1, with_tenseal=False)
    assert result.tenseal is None
    assert result.ckks is None
    assert result.masked.scheme.mean_error < 1e-6
    assert not any(key.startswith(("tenseal", "ckks")) for key in result.to_json() if key != "detail")
    assert result.sealed.mean_error < 1e-6


def test_help_shows_an_example() -> None:
    assert "secagg bench protocols --params" in CliRunner().invoke(protocols, ["--help"]).output
