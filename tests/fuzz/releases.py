"""Releases, of a coordinator that lies among them (protocol.md §10)."""

import hashlib
from functools import cache

from safetensors.numpy import load as load_tensors

from secagg import certificate
from secagg.adapter import start_tensors
from secagg.certificate import ReleaseCertificate, SignedRelease
from secagg.release import load_tensors as load_file
from secagg.rounds import resumed
from secagg.signing import parse_model
from secagg.verify import _check_opening, check_files, read_opening, verify_release
from tests.fuzz.mutate import frame, parts_of
from tests.fuzz.target import Target, genuine, one_seed
from tests.small import Small

PROSE = (certificate.MODEL_CARD, certificate.REPORT)

# -- releases, §10 ---------------------------------------------------------------------------------------------


@cache
def small() -> Small:
    """A session of three clients, with a release."""
    return Small(clients=3)


@cache
def release_certificate() -> ReleaseCertificate:
    """Its certificate."""
    return certificate.parse_certificate(small().release[certificate.CERTIFICATE]).statement


def release_seeds() -> list[bytes]:
    """Each file of the release; the first part says which, and whether a lying coordinator signs again."""
    files = sorted(small().release.items())
    return [frame([bytes([number, again]), raw]) for number, (_, raw) in enumerate(files) for again in (0, 1)]


def signed_again(content: dict[str, bytes]) -> dict[str, bytes]:
    """The release with its certificate signed by the coordinator itself, hashes of the files made anew."""
    raw = content[certificate.CERTIFICATE]
    known = raw == small().release[certificate.CERTIFICATE]
    statement = release_certificate() if known else parse_model(SignedRelease, raw).statement
    signed = small().parties.coordinator.sign(statement.model_copy(update={"files": hashes_of(content)}))
    return {**content, certificate.CERTIFICATE: certificate.certificate_file(signed)}


def hashes_of(content: dict[str, bytes]) -> dict[str, str]:
    """What a certificate states of the other files."""
    return {name: hashlib.sha256(raw).hexdigest() for name, raw in content.items() if name != certificate.CERTIFICATE}


def whole_way(data: bytes) -> bool:
    """One input in 64."""
    return hashlib.sha256(data).digest()[0] % 64 == 0


def run_release(data: bytes) -> object:
    """Verify a release of which one file is changed.

    When that is not the certificate, what concerns the certificate alone has been verified, and would take most of the
    time: it is only done for one input in 64, and the others go to what reads the file.
    """
    how, raw = parts_of(data, 2)
    names = sorted(small().release)
    name = names[(how[0] if how else 0) % len(names)]
    content, again = {**small().release, name: raw}, how[1:2] == b"\1"
    if name != certificate.CERTIFICATE and not whole_way(data):
        return read_release(content, name, again)
    if again:
        return verify_release(signed_again(content), small().policy)
    found = verify_release(content, small().policy)
    genuine(content == small().release, True)
    return found


def read_release(content: dict[str, bytes], name: str, again: bool) -> object:
    """The part of `verify_release` that reads the file, under a certificate that is right, or signed again."""
    known = release_certificate()
    if again:
        known = known.model_copy(update={"files": hashes_of(content)})
    descriptor = known.session.descriptor.statement
    check_files(content, known.files, set(certificate.names(descriptor)))
    found = None if name in PROSE else _check_opening(content, known, descriptor)  # of prose only the hash is looked at
    if not again:
        genuine(content == small().release, True)
    return found


def run_opening(data: bytes) -> object:
    """`opening.safetensors` of a coordinator that lies."""
    return read_opening(parts_of(data, 1)[0], release_certificate())


def opening_seeds() -> list[bytes]:
    """The published one."""
    raw = small().release[certificate.OPENING]
    assert "key_sum" in load_tensors(raw)
    return [frame([raw])]


def start_seeds() -> list[bytes]:
    """An adapter from which a later round starts."""
    return [frame([small().release[certificate.ADAPTER]])]


def run_start(data: bytes) -> object:
    """`start.safetensors`, whose hash a lying coordinator may have put into the descriptor."""
    tensors = load_file(parts_of(data, 1)[0], certificate.START)
    return start_tensors(resumed(small().plan, tensors))


def run_release_json(data: bytes) -> object:
    """`release.json` alone."""
    signed = certificate.parse_certificate(parts_of(data, 1)[0])
    found = signed.verify(signed.statement.session.descriptor.statement.coordinator_identity)
    if found.session.descriptor.statement.ctx == small().descriptor.ctx:
        genuine(found.digest, release_certificate().digest)
    return found


TARGETS: tuple[Target, ...] = (
    Target("release", release_seeds, run_release),
    Target("release-json", one_seed(lambda: small().release[certificate.CERTIFICATE]), run_release_json),
    Target("opening", opening_seeds, run_opening),
    Target("start", start_seeds, run_start),
)
