"""`secagg bench`: what the protocols cost on this machine."""

import click

from secagg_app.lazy import LazyCommand, LazyGroup


@click.group(
    cls=LazyGroup,
    lazy={
        "protocols": LazyCommand(
            "secagg_app.bench_protocols:protocols", "Seal, add, open, key-holder work and bytes, beside CKKS.", "demo"
        ),
        "scale": LazyCommand(
            "secagg_app.bench_scale:scale", "A session of a large cohort in one process, opened and checked.", "demo"
        ),
        "upload": LazyCommand(
            "secagg_app.bench_upload:upload", "Many uploads at once, beside plain gRPC streaming.", "demo"
        ),
        "training": LazyCommand(
            "secagg_app.bench_training:training", "A private step beside a plain one, in time and memory.", "demo"
        ),
    },
    epilog="Example: secagg bench protocols --params 1000000 --json bench.json",
)
def bench() -> None:
    """Measure on this machine."""
