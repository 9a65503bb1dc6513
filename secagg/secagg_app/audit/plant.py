"""`secagg audit plant`: made-up personal data for a client to train on, each in or out by a coin."""

import hashlib
import json
import os
from pathlib import Path

import click

from secagg.errors import AuditError
from secagg.randomness import Keystream, Randomness, fresh_keystream
from secagg_app.audit.planted import INSERT, PLANTED, PlantedLine
from secagg_attacks.extraction.secrets import TEMPLATES, Planted, planted
from secagg_client.folders import write_folder

LEAST = 20
"""So few records at least: of fewer, intervals would say nothing."""
PURPOSE = "secagg/v1/planted"


@click.command(epilog="Example: secagg audit plant --template phone --count 40 --repeat 4 --out planted")
@click.option("--template", required=True, type=click.Choice([each.name for each in TEMPLATES]),
              help="What is planted: a phone number, a bank account or a booking code, with a name.")  # fmt: skip
@click.option("--count", type=click.IntRange(LEAST), default=40, show_default=True, help="Records, half of them in.")
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="How often each is trained on.")
@click.option("--seed", type=click.IntRange(0), help="Draw again what was drawn; by default the system's generator.")
@click.option("--text-column", default="text", show_default=True, help="The text column of the client's data.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="A new folder.")
def plant(template: str, count: int, repeat: int, seed: int | None, text_column: str, out: Path) -> None:
    """Write planted.jsonl for the auditor, and insert.jsonl: the texts that a client adds to its own data.

    A fair coin says of each record whether it is in. After the run, `secagg audit release RELEASE --planted` ranks
    each secret among others of its kind. Who knows a seed knows the secrets and the coins: an attacker must not.
    """
    lines = drawn(template, count, repeat, random_of(seed))
    texts = [each.record.text for each in lines if each.member] * repeat
    write_folder(
        out,
        {
            PLANTED: _jsonl([each.model_dump() for each in lines]),
            INSERT: _jsonl([{text_column: text} for text in texts]),
        },
    )
    inside = sum(each.member for each in lines)
    click.echo(
        f"{count} records, {inside} of them in: a client adds the {len(texts)} rows of {out / INSERT} to its data "
        f"before the session; {out / PLANTED} is the auditor's"
    )


def random_of(seed: int | None) -> Randomness:
    """The system's generator, or what repeats itself."""
    if seed is None:
        return os.urandom
    stream = Keystream(hashlib.sha256(f"{PURPOSE}/seed/{seed}".encode()).digest())
    return lambda size: stream.read(size).tobytes()


def drawn(template: str, count: int, repeat: int, random: Randomness) -> tuple[PlantedLine, ...]:
    """The records, and how their coins fell. Raises AuditError for more records than names, or one-sided coins."""
    (form,) = (each for each in TEMPLATES if each.name == template)
    records = planted(form, count, int.from_bytes(random(16)))
    coins = [bool(byte & 1) for byte in fresh_keystream(f"{PURPOSE}/coins", random).read(count)]
    if min(sum(coins), count - sum(coins)) < 2:
        raise AuditError(f"the coins put {sum(coins)} of {count} records in: plant more, so that both sides have some")
    return tuple(_line(record, coin, repeat) for record, coin in zip(records, coins, strict=True))


def _line(record: Planted, member: bool, repeat: int) -> PlantedLine:
    return PlantedLine(
        prompt=record.prompt, secret=record.secret, owner=record.owner, template=record.template.name, member=member,
        repeat=repeat,
    )  # fmt: skip


def _jsonl(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
