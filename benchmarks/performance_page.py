"""Put measured figures into docs/performance.md: `python benchmarks/performance_page.py [--results FOLDER]`.

Reads what `secagg bench ... --json` wrote (bench-protocols.json, bench-scale-1000.json, bench-scale-10000.json and
bench-upload.json) and rewrites the text between `<!-- NAME -->` and `<!-- end -->` for each NAME below. Prose is not
touched.
"""

import argparse
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
PAGE = ROOT.parent / "docs" / "performance.md"
STEPS = {
    "rounding_stream": "AES-CTR for the rounding, 4 bytes a value",
    "quantise": "check, clip, scale, round",
    "gaussian_stream": "AES-CTR for the error, 8.1 bytes a coefficient",
    "gaussian": "Gaussian in constant time, 58 comparisons each",
    "expansion_stream": "AES-CTR for the public polynomials, 4 bytes a residue",
    "expansion": "the same: words below the prime",
    "multiply_and_ntt": "product with the key, inverse NTT",
    "add_message": "error and limbs added",
    "pack": "30 bits a residue",
    "sha256": "SHA-256 of the bytes on the wire",
}

FIRST_CALLS = ("sealed", "masked")
"""Whose kernels are in the figures of results that do not say it: noise for clients was not among them either."""


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown; all columns but the first to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def protocols(run: dict[str, Any]) -> str:
    """Costs by scheme."""
    masked = f"masked, {run['detail']['masked']['neighbours']} neighbours"
    names = [("sealed", ""), (masked, "masked_"), ("ckks", "ckks_"), ("TenSEAL as NVFlare sets it", "tenseal_")]
    rows = []
    for name, prefix in names:
        steps = [f"{prefix}{step}_ms_per_million" for step in ("seal", "add", "open")]
        cells = [run.get(step + wide) for step in steps for wide in ("", "_all_threads")]
        if cells[0] is not None:
            rows.append([name, *map(number, cells), number(run[f"{prefix}bytes_per_param"])])
    head = ["ms per million values", "client", "all threads", "add", "all threads", "open", "all threads"]
    machine = run["detail"]["machine"]
    least = (run["detail"][name]["scheme"]["seal"]["minimum"] for name in ("sealed", "masked"))
    fastest = ", ".join(map(number, least))
    note = (
        f"Fastest client of the run, one thread, `sealed` and `masked`: {fastest} ms. "
        f"Boxes for four key-holders, whatever the length: {number(run['share_and_box_ms'])} ms and "
        f"{run['keyholder_bytes_per_client']:,} bytes each, which the bytes a value hold. One more neighbour of "
        f"`masked`: {number(run['masked_ms_per_million_per_neighbour'])} ms. ({machine['cpu']}, {machine['cores']} "
        f"cores, Python {machine['python']}; load before the run {machine['load_average']})"
    )
    return table([*head, "bytes a value"], rows) + "\n\n" + note


def masks(run: dict[str, Any]) -> str:
    """Ours and Flower's at the neighbours of a cohort."""
    rows = [
        [f"masked, {g['clients']} clients", str(g["neighbours"]), number(g["setup_ms"]), number(g["mask_ms"]),
         number(g["combine_ms"])]
        for g in run["detail"]["masked"]["graphs"]
    ]  # fmt: skip
    flower = run["detail"]["flower"]
    rows += [
        [f"Flower {flower['version']}, {g['clients']} clients", str(g["neighbours"]), number(g["setup_ms"]),
         number(g["mask_ms"]), number(g["combine_ms"])]
        for g in (flower["graphs"] if flower else ())
    ]  # fmt: skip
    return table(["ms", "neighbours", "keys, shares, boxes", "masked vector", "one secret given back"], rows)


def steps(run: dict[str, Any]) -> str:
    """A seal step by step, and the limits."""
    parts = run["detail"]["breakdown"]
    limits, ratios, whole = parts["limits"], parts["ratios"], sum(parts["seal"].values())
    rows = [[STEPS[name], number(ms), f"{ms / whole:.0%}"] for name, ms in parts["seal"].items()]
    rows.append(["together", number(whole), ""])
    titles = {
        "copy_of_ciphertext": "copies of the ciphertext",
        "one_ntt": "NTTs",
        "keystream_4_bytes": "keystreams of 4 bytes a value",
    }
    head = ["ms per million values", "", *(f"in {titles[limit]} ({number(ms)} ms)" for limit, ms in limits.items())]
    compared = [
        [key, number(run[f"{key}_ms_per_million"]), *(number(ratios[f"{key}_over_{limit}"]) for limit in limits)]
        for key in ("seal", "add", "open")
    ]
    memory = f"Against limits of the same run (a plain copy writes {number(parts['copy_gb_per_second'])} GB/s):"
    first = table(["one step over all blocks, one thread", "ms per million", ""], rows)
    return f"{first}\n\n{memory}\n\n{table(head, compared)}"


def first_calls(run: dict[str, Any]) -> str:
    """Compilation."""
    compiled, cached = run["first_call_compiled_seconds"], run["first_call_cached_seconds"]
    later = run["later_call_seconds"] * 1e3
    covered = " and ".join(f"`{name}`" for name in run["detail"]["first_call"].get("protocols", FIRST_CALLS))
    return (
        f"Measured for {covered}: {number(compiled)} s to compile everything, {number(cached)} s from the cache, "
        f"{number(later)} ms for the same calls later."
    )


def scale(runs: list[dict[str, Any]]) -> str:
    """Large cohorts side by side."""

    def cell(run: dict[str, Any], name: str) -> str:
        stage = run["detail"]["stages"][name]
        return f"{stage['wall']:.1f} ({stage['cpu']:.1f})"

    head = ["seconds (of the processor)", *(f"{run['clients']:,} clients x {run['params']:,}" for run in runs)]
    rows = [[name, *(cell(run, name) for run in runs)] for name in runs[0]["detail"]["stages"]]
    together = (f"**{run['server_seconds']:.1f} ({run['server_cpu_seconds']:.1f})**" for run in runs)
    rows.append(["**coordinator, all together**", *together])
    rows.append(["coordinator's threads", *(str(run["threads"]) for run in runs)])
    rows.append(["peak memory of the process, MB", *(number(run["peak_mb"]) for run in runs)])
    rows.append(["bytes a value, boxes included", *(number(run["bytes_per_param"]) for run in runs)])
    return table(head, rows)


def upload(run: dict[str, Any]) -> str:
    """Uploads over the network beside plain streams."""
    detail = run["detail"]
    cpu = {name: number(ms) for name, ms in detail["cpu_ms_each"].items()}
    yardsticks = [
        ("gRPC alone, bytes", "plain", cpu["plain"]),
        ("gRPC alone, the same messages", "plain_messages", cpu["messages"]),
        ("gRPC alone, bytes, written and synced", "plain_stored", cpu["stored"]),
    ]
    rows = [["secagg", number(run["upload_mb_per_second"]), "", cpu["secagg"]]]
    rows += [
        [title, number(run[f"{name}_mb_per_second"]), f"{run[f'upload_over_{name}']:.0%}", ms]
        for title, name, ms in yardsticks
    ]
    rows.append(["disk alone, written and synced", number(run["disk_mb_per_second"]), "", ""])
    head = [f"{detail['clients']} at once, {detail['bytes_each'] / 1e6:.2f} MB each", "MB/s, all together"]
    head += ["secagg reaches", "server's processor, ms each"]
    before, peak = number(detail["idle_mb"]), number(run["coordinator_peak_mb"])
    memory = f"Coordinator's memory: {before} MB before, {peak} MB at its peak."
    return table(head, rows) + "\n\n" + memory


def main() -> None:
    """Rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()

    def read(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((options.results / f"{name}.json").read_text())
        return found

    run = read("bench-protocols")
    parts = {
        "protocols": protocols(run), "masks": masks(run), "steps": steps(run), "first-calls": first_calls(run),
        "scale": scale([read("bench-scale-1000"), read("bench-scale-10000")]), "upload": upload(read("bench-upload")),
    }  # fmt: skip
    page = options.page.read_text()
    for name, text in parts.items():
        before, place, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("\n<!-- end -->" if not rest.startswith("<!-- end -->") else "<!-- end -->")
        if not place or not end:
            raise SystemExit(f"{options.page}: has no place for {name}")
        page = f"{before}{place}{text}\n<!-- end -->{after}"
    options.page.write_text(page)


if __name__ == "__main__":
    main()
