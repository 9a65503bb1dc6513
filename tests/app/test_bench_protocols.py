"""`secagg bench protocols` on a small vector: what it writes and that it checks its own sum."""

import json
import sys
from pathlib import Path

from click.testing import CliRunner

from secagg.errors import ProcessFailed
from secagg_app.bench_flower import measure_flower
from secagg_app.bench_protocols import Asked, protocols, run_bench

KEYS = {
    "seal_ms_per_million",
    "bytes_per_param",
    "add_ms_per_million",
    "open_ms_per_million",
    "keyholder_bytes_per_client",
    "keyholder_ms",
    "hash_ms_per_million",
    "share_and_box_ms",
    "seal_over_one_ntt",
    "add_over_copy_of_ciphertext",
}
SCHEME = {"seal_ms_per_million", "add_ms_per_million", "open_ms_per_million", "bytes_per_param"}
TENSEAL_KEYS = {f"{scheme}_{name}" for name in SCHEME for scheme in ("tenseal", "ckks")}
MASKED_KEYS = {f"masked_{name}" for name in SCHEME} | {"masked_mask_ms_100_clients", "masked_setup_ms_1000_clients"}
WIDE = {
    f"{scheme}{step}_ms_per_million_all_threads"
    for scheme in ("", "masked_", "tenseal_")
    for step in ("seal", "add", "open")
}


def test_the_command_writes_every_number(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    picture = tmp_path / "bench.svg"
    options = ["--params", "5000", "--repeats", "1", "--no-first-call", "--json", str(path), "--plot", str(picture)]
    result = CliRunner().invoke(protocols, options)
    assert result.exit_code == 0, result.output
    assert "TenSEAL" in result.output
    numbers = json.loads(path.read_text())
    assert picture.read_text().lstrip().startswith("<?xml")
    wanted = KEYS | TENSEAL_KEYS | MASKED_KEYS | WIDE
    assert set(numbers) >= wanted | {"masked_ms_per_million_per_neighbour"}
    assert all(numbers[key] > 0 for key in wanted)
    breakdown = numbers["detail"]["breakdown"]
    assert set(breakdown["limits"]) == {"copy_of_ciphertext", "one_ntt", "keystream_4_bytes"}
    assert len(breakdown["seal"]) == 10
    assert all(value > 0 for value in breakdown["seal"].values())


def test_without_a_file_json_goes_to_the_screen_and_nothing_else() -> None:
    result = CliRunner().invoke(
        protocols, ["--params", "5000", "--repeats", "1", "--no-tenseal", "--no-first-call", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert "detail" in json.loads(result.stdout)


def test_tenseal_can_be_left_out() -> None:
    result = run_bench(20_000, clients=3, n_max=3, repeats=1, asked=Asked(tenseal=False, first_call=False))
    assert result.tenseal is None
    assert result.ckks is None
    assert result.masked.scheme.mean_error < 1e-6
    assert not any(key.startswith(("tenseal", "ckks")) for key in result.to_json() if key != "detail")
    assert result.sealed.scheme.mean_error < 1e-6


def test_more_bits_leave_out_cohorts_whose_sums_do_not_fit() -> None:
    options = ["--params", "500", "--repeats", "1", "--bits", "24", "--n-max", "100", "--no-first-call", "--json"]
    result = CliRunner().invoke(protocols, options)
    assert result.exit_code == 0, result.output
    numbers = json.loads(result.stdout)
    assert numbers["detail"]["bits"] == 24
    assert [graph["clients"] for graph in numbers["detail"]["masked"]["graphs"]] == [100]
    assert numbers["ckks_seal_ms_per_million"] > 0


def test_a_python_without_flower_is_said(tmp_path: Path) -> None:
    """This environment has no Flower: its packages would pull ours down."""
    options = ["--params", "5000", "--repeats", "1", "--no-tenseal", "--no-first-call", "--flwr", sys.executable]
    result = CliRunner().invoke(protocols, options)
    assert isinstance(result.exception, ProcessFailed)
    assert "flwr" in str(result.exception)


def test_what_flower_measured_comes_out_under_its_version(tmp_path: Path) -> None:
    """A stand-in for Flower's Python, which may not be installed here: it answers the request that it gets."""
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "asked = json.load(sys.stdin)\n"
        "graphs = [{**g, 'setup_ms': 1.0, 'mask_ms': 2.0, 'combine_ms': 3.0} for g in asked['graphs']]\n"
        "names = ('own_mask_ms', 'neighbour_ms', 'add_ms', 'unmask_ms_per_mask', 'mean_error')\n"
        "print(json.dumps({**dict.fromkeys(names, asked['params'] / 1e6), 'version': '9.9', 'bytes_per_param': 8.0,"
        " 'graphs': graphs}))\n"
    )
    python.chmod(0o700)
    cost = measure_flower(python, 2_000_000, 0.01, 16, 1, 1)
    numbers = cost.to_json()
    assert numbers["flower_version"] == "9.9"
    assert numbers["flower_ms_per_million_per_neighbour"] == 1.0
    assert [(graph["clients"], graph["neighbours"]) for graph in cost.graphs] == [(100, 99), (1000, 68)]


def test_help_shows_an_example() -> None:
    assert "secagg bench protocols --with-flwr" in CliRunner().invoke(protocols, ["--help"]).output
