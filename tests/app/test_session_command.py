"""`secagg session`: from TOML to the signed descriptor (protocol.md §4.2)."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from secagg.descriptor import AuditReserve, SignedDescriptor
from secagg.signing import parse_model
from secagg_app import session
from secagg_app.main import cli
from tests.deployment import Deployment
from tests.study import Study

LAST = "expiry_minutes = 120"
"""The last line of a session.toml before its tables."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study")).make()


def create(study: Study, text: str, out: Path, identity: str = "server") -> Result:
    config = study.folder / "changed.toml"
    config.write_text(text)
    return CliRunner().invoke(
        cli, ["session", "create", str(config), "--identity", str(study.identity(identity)), "--out", str(out)]
    )


def test_the_descriptor_holds_what_the_operator_decided(study: Study) -> None:
    signed = parse_model(SignedDescriptor, (study.folder / "session.json").read_bytes())
    descriptor = signed.check(approved=False)
    assert descriptor.plan == study.plan
    assert set(descriptor.clients) == {study.fingerprint(name) for name in study.client_names}
    assert [holder.fingerprint for holder in descriptor.holders] == [study.fingerprint(n) for n in study.holder_names]
    assert (descriptor.threshold, descriptor.n_min) == (3, 3)
    assert descriptor.upload_deadline - descriptor.created_at == 3600


def test_show(study: Study) -> None:
    path = str(study.folder / "session.json")
    shown = json.loads(CliRunner().invoke(cli, ["session", "show", path, "--json"]).output)
    assert shown["base model hash"] == study.plan.base_model_hash
    assert shown["approvals"] == 0
    plain = CliRunner().invoke(cli, ["session", "show", path]).output
    assert shown["adapter schema hash"] in plain
    assert shown["unit of privacy"] == "record"


def test_what_a_session_says_steers_no_terminal_and_forges_no_line(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever field a coordinator might put it in."""
    said = "a/b\x1b[2J\nmax_epsilon          0.01\x9b31m\u202e"
    monkeypatch.setattr(session, "describe", lambda _: {"base model": said, "roster": ["North/client-1", said]})
    plain = CliRunner().invoke(cli, ["session", "show", str(study.folder / "session.json")], color=True).output
    lines = plain.splitlines()
    assert all(line.isprintable() for line in lines)
    assert [line.split("  ")[0] for line in lines] == ["base model", "roster", "roster", "approvals"]
    assert r"a/b\x1b[2J\nmax_epsilon          0.01\x9b31m\u202e" in lines[0]


def test_what_is_reserved_for_an_audit_is_signed_and_shown(study: Study, tmp_path: Path) -> None:
    plain = CliRunner().invoke(cli, ["session", "show", str(study.folder / "session.json")]).output
    assert re.search(r"^audit reserve +nothing$", plain, re.MULTILINE)
    text = (study.folder / "session.toml").read_text()
    out = tmp_path / "session.json"
    result = create(study, text.replace(LAST, f"{LAST}\n[audit]\nhold_out = 0.125\ncanaries = 30", 1), out)
    assert result.exit_code == 0, result.output
    signed = parse_model(SignedDescriptor, out.read_bytes()).check(approved=False)
    assert signed.audit == AuditReserve(hold_out=0.125, canaries=30)
    shown = CliRunner().invoke(cli, ["session", "show", str(out)]).output
    assert re.search(r"^audit reserve +each record with probability 0.125 and 30 canaries", shown, re.MULTILINE)


NOISE = "[client_noise]\nclip = 2.0\nnoise_multiplier = 1.0\ndelta = 1e-6"


def test_client_level_noise_is_signed_shown_and_announced(study: Study, tmp_path: Path) -> None:
    plain = CliRunner().invoke(cli, ["session", "show", str(study.folder / "session.json")]).output
    assert re.search(r"^client noise +none$", plain, re.MULTILINE)
    text, out = (study.folder / "session.toml").read_text(), tmp_path / "session.json"
    drowned = create(study, text.replace(LAST, f"{LAST}\n{NOISE}", 1), out)
    assert drowned.exit_code == 1
    assert "mostly noise" in drowned.stderr
    accepted = create(study, text.replace(LAST, f"{LAST}\n{NOISE}\naccept_noise_over_signal = true", 1), out)
    assert accepted.exit_code == 0, accepted.output
    assert "times the largest signal in a mean of 3 clients" in accepted.output
    shown = CliRunner().invoke(cli, ["session", "show", str(out)]).output
    assert re.search(r"^client noise +Client-level: .* at most a factor exp\(5\.22", shown, re.MULTILINE)
    assert re.search(r"^noise over signal +client-level noise is ", shown, re.MULTILINE)


def test_show_refuses_an_altered_file(study: Study, tmp_path: Path) -> None:
    content = json.loads((study.folder / "session.json").read_text())
    content["descriptor"]["statement"]["nonce"] = "00" * 32
    path = tmp_path / "session.json"
    path.write_text(json.dumps(content))
    result = CliRunner().invoke(cli, ["session", "show", str(path)])
    assert result.exit_code == 1
    assert "error[signature]" in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("n_min = 3", "n_min = 9", "clients; n_min to n_max is 9 to "),
        ("n_min = 3", "", "n_min: Field required"),
        ("n_min = 3", 'n_min = "3"', "n_min: Input should be a valid integer"),
        ("corrupt_keyholders = 1", "corrupt_keyholders = 2", "leave no quorum"),
        ("corrupt_keyholders = 1", "surprise = 1", "surprise: there is no such setting"),
        (
            "corrupt_keyholders = 1",
            "dropout_rate = 0.1",
            "dropout_rate: is a setting of masked sessions",
        ),
        ("corrupt_keyholders = 1", 'protocol = "seald"', 'protocol: must be "sealed", "masked" or "ckks"'),
        ("expiry_minutes = 120", "expiry_minutes = 1", "times must be in the order"),
        ("client-1/identity/certificate.pem", "client-2/identity/certificate.pem", "distinct parties"),
        ("client-1/identity/certificate.pem", "nowhere.pem", "nowhere.pem: it does not exist"),
        ("client-1/identity/certificate.pem", "plan.json", "plan.json: not a PEM certificate"),
        ("holder-1/identity/certificate.pem", "client-1/identity/certificate.pem", "not for keyholder"),
        ("holder-1/offer.json", "holder-2/offer.json", "signed by"),
        ("plan.json", "policy.toml", "policy.toml: Plan"),
        (LAST, f"{LAST}\n[audit]", "audit: nothing is reserved; set hold_out or canaries above 0"),
        (LAST, f"{LAST}\n[audit]\nhold_out = 0.7", "audit.hold_out: Input should be less than or equal to 0.5"),
        (LAST, f"{LAST}\n[audit]\nhold_out = 0.1\ncanaries = -1", "audit.canaries: Input should be greater than"),
        (LAST, f"{LAST}\n[audit]\ncanaries = 1.5", "audit.canaries: Input should be a valid integer"),
        (LAST, f"{LAST}\n[client_noise]\nclip = 1.0", "client_noise.noise_multiplier: Field required"),
        (LAST, f"{LAST}\n[audit]\ncanary = 5", "audit.canary: there is no such setting"),
    ],
)
def test_what_does_not_hold_together_is_refused(study: Study, tmp_path: Path, old: str, new: str, reason: str) -> None:
    text = (study.folder / "session.toml").read_text()
    assert old in text
    result = create(study, text.replace(old, new, 1), tmp_path / "session.json")
    assert result.exit_code == 1, result.output
    assert reason in result.stderr
    assert not re.search("pydantic|validation error|Value error|input_value", result.stderr)
    assert not (tmp_path / "session.json").exists()


def test_only_a_coordinator_signs_sessions(study: Study, tmp_path: Path) -> None:
    result = create(study, (study.folder / "session.toml").read_text(), tmp_path / "session.json", "client-1")
    assert result.exit_code == 1
    assert "a coordinator signs sessions" in result.stderr


def test_a_session_is_made_once(study: Study) -> None:
    before = (study.folder / "session.json").read_bytes()
    result = create(study, (study.folder / "session.toml").read_text(), study.folder / "session.json")
    assert result.exit_code == 1
    assert "a session is made once" in result.stderr
    assert (study.folder / "session.json").read_bytes() == before


def test_releases_that_the_roster_cannot_fill_are_refused(study: Study, tmp_path: Path) -> None:
    config, out = study.folder / "session.toml", tmp_path / "session.json"
    words = ["session", "create", str(config), "--identity", str(study.identity("server")), "--out", str(out)]
    made = CliRunner().invoke(cli, [*words, "--releases", "2"])
    assert f"2 releases of at least n_min = 3 clients each need a roster of 6; it has {len(study.client_names)}" in (
        made.output
    )
    assert not out.exists()
    one = CliRunner().invoke(cli, [*words, "--releases", "1"])
    assert one.exit_code == 0, one.output


def test_several_releases_are_shown(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, clients=6, releases=2)
    deployment.write_config()
    shown = CliRunner().invoke(cli, ["session", "show", str(tmp_path / "session.json")]).output
    assert "up to 2, one cohort of at least 3 clients after another" in shown
