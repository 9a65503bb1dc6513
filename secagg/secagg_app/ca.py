"""`secagg ca`: a small certificate authority (protocol.md §1.4).

Each party makes its keys where it is (`request`); the authority certifies the request (`issue`). For trials on one
machine, `issue --out DIR` does both.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from secagg.errors import ConfigError
from secagg.identity import Identity, Role, check_issued_by, identify, issue, new_authority, new_request
from secagg_host.durable import make_folder, read_file, write_atomic
from secagg_host.identity import AUTHORITY, CERTIFICATE, SIGNING_KEY, TLS_KEY

AUTHORITY_KEY = "authority-key.pem"
REQUEST = "request.pem"
PUBLIC_FILE = 0o644
LEAF_DAYS = 365

Command = Callable[..., Any]
FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


def party_options(command: Command) -> Command:
    """Who the party is: --role, --institution, --name, --host."""
    for option in (
        click.option("--host", "hosts", multiple=True, help="DNS name or address of a coordinator; may be repeated."),
        click.option("--name", required=True, help="The party within its institution."),
        click.option("--institution", required=True, help="The organisation that vouches for the party."),
        click.option("--role", required=True, type=click.Choice([role.value for role in Role])),
    ):
        command = option(command)
    return command


@click.group(epilog="Example: secagg ca show identity/certificate.pem")
def ca() -> None:
    """A small certificate authority: names, roles and institutions in X.509.

    Being certified says who a party is, never that it is trusted: policies pin fingerprints.
    """


@ca.command(epilog="Example: secagg ca init authority --name 'Example study'")
@click.argument("folder", type=FOLDER)
@click.option("--name", required=True, help="What the authority is called.")
@click.option("--days", type=click.IntRange(1), default=3650, show_default=True, help="How long it is valid.")
def init(folder: Path, name: str, days: int) -> None:
    """Make an authority in FOLDER: authority.pem for everybody, authority-key.pem for nobody."""
    _refuse_existing(folder, AUTHORITY, AUTHORITY_KEY)
    certificate, key = new_authority(name, int(time.time()), days)
    make_folder(folder)
    write_atomic(folder / AUTHORITY_KEY, key)
    write_atomic(folder / AUTHORITY, certificate, PUBLIC_FILE)
    click.echo(f"{folder / AUTHORITY}: hand it to every party; keep {AUTHORITY_KEY} off the network")


@ca.command(epilog="Example: secagg ca request identity --role client --institution 'North clinic' --name trainer")
@click.argument("folder", type=FOLDER)
@party_options
def request(folder: Path, role: str, institution: str, name: str, hosts: tuple[str, ...]) -> None:
    """Make a party's keys in FOLDER and request.pem for the authority. The keys stay here."""
    _make_request(folder, Role(role), institution, name, hosts)
    click.echo(
        f"{folder / REQUEST}: send it to the authority; put the {CERTIFICATE} and {AUTHORITY} that come back "
        f"into {folder}"
    )


@ca.command(
    name="issue",
    epilog="Example: secagg ca issue --authority authority --role client --institution 'North clinic' "
    "--name trainer --request request.pem --out certificate.pem",
)
@click.option("--authority", required=True, type=FOLDER, help="The authority's folder.")
@click.option("--request", "request_file", type=FILE, help="The party's request; without it, keys are made here.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The certificate, or a whole folder.")
@click.option("--days", type=click.IntRange(1), default=LEAF_DAYS, show_default=True, help="How long it is valid.")
@party_options
def issue_command(
    authority: Path, request_file: Path | None, out: Path, days: int, hosts: tuple[str, ...], **who: str
) -> None:
    """Certify a party as exactly this role, institution and name.

    With --request, OUT is the certificate's file. Without, OUT is a folder that gets keys, certificate and
    authority.pem in one go: for trials, since whoever issues then sees the private keys.
    """
    expect = (Role(who["role"]), who["institution"], who["name"])
    if request_file is None:
        _refuse_existing(out, CERTIFICATE)
        request_pem = _make_request(out, *expect, hosts)
        target = out / CERTIFICATE
    else:
        if hosts:
            raise click.UsageError("--host belongs to the request: give it to `secagg ca request`")
        if out.exists():
            raise ConfigError(f"{out} exists; certificates are never overwritten")
        request_pem, target = read_file(request_file), out
    authority_pem = read_file(authority / AUTHORITY)
    now = int(time.time())
    certificate = issue(request_pem, authority_pem, read_file(authority / AUTHORITY_KEY), now, expect=expect, days=days)
    identity = identify(certificate)
    check_issued_by(identity, authority_pem, now)
    if request_file is None:
        write_atomic(out / AUTHORITY, authority_pem, PUBLIC_FILE)
    write_atomic(target, certificate, PUBLIC_FILE)
    click.echo(f"{target}: {identity.role} {identity.title}\nfingerprint {identity.fingerprint}")


@ca.command(epilog="Example: secagg ca show identity/certificate.pem")
@click.argument("certificate", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def show(certificate: Path, as_json: bool) -> None:
    """Show whom CERTIFICATE names. Says nothing about trust."""
    fields = _describe(identify(read_file(certificate)))
    if as_json:
        click.echo(json.dumps(fields, indent=2))
        return
    for name, value in fields.items():
        click.echo(f"{name:<12} {value}")


def _describe(identity: Identity) -> dict[str, str | bool]:
    return {
        "role": identity.role.value,
        "institution": identity.institution,
        "name": identity.name,
        "fingerprint": identity.fingerprint,
        "valid from": _utc(identity.not_before),
        "valid until": _utc(identity.not_after),
        "expired": identity.not_after < time.time(),
    }


def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _make_request(folder: Path, role: Role, institution: str, name: str, hosts: tuple[str, ...]) -> bytes:
    """Keys and request in `folder`; returns the request."""
    if role is Role.COORDINATOR and not hosts:
        raise click.UsageError("a coordinator needs at least one --host, under which the others reach it")
    _refuse_existing(folder, TLS_KEY, SIGNING_KEY)
    made, tls_key, signing_key = new_request(role, institution, name, hosts)
    make_folder(folder)
    write_atomic(folder / TLS_KEY, tls_key)
    write_atomic(folder / SIGNING_KEY, signing_key)
    write_atomic(folder / REQUEST, made, PUBLIC_FILE)
    return made


def _refuse_existing(folder: Path, *names: str) -> None:
    for name in names:
        if (folder / name).exists():
            raise ConfigError(f"{folder / name} exists; keys and certificates are never overwritten")
