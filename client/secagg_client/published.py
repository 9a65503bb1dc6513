"""Releases as a client gets them: fetched from the coordinator, verified, and stored (protocol.md §4.7, §10.3)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from secagg import certificate as files
from secagg import release
from secagg.certificate import C, Certificate, ReleaseCertificate
from secagg.ckks.certificate import SignedCkksRelease
from secagg.ckks.descriptor import is_ckks
from secagg.descriptor import Descriptor
from secagg.errors import HashMismatch, MalformedError, ProtocolViolation, SecaggError, SizeLimitError
from secagg.keyholder import MAX_CLOCK_SKEW
from secagg.masked.certificate import SignedMaskedRelease
from secagg.masked.descriptor import is_masked
from secagg.messages import SignedReceipt
from secagg.plan import Plan
from secagg.policy import Policy
from secagg.receipts import Fate, Verdict, judge_receipt
from secagg.releases import release_folder
from secagg.rounds import check_follows, round_folder
from secagg.verify import VerificationReport, verify_release
from secagg_client.folders import write_folder
from secagg_client.patience import Patience
from secagg_host.durable import guard, read_file

PUBLIC_FILE = 0o644
MAX_SMALL_FILE = 256 << 20


class Publication(Protocol):
    """Where releases come from: `secagg_client.calls.PublicationCalls`."""

    def release_files(self, ctx: str, release: int = 0) -> dict[str, int]:
        """Names and sizes, of a release of the session; 0 for the last one made."""

    def release_file(self, ctx: str, name: str, size: int, release: int = 0) -> bytes:
        """One file."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A release that holds, by its number in the session."""

    number: int
    content: dict[str, bytes]
    certificate: ReleaseCertificate


@dataclass(frozen=True, slots=True)
class Found:
    """The release that tells of an upload, and what it tells."""

    release: Verified
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Releases:
    """The releases of one client, below `folder`: the one of a single session, or one a round.

    Each is verified against the client's own policy when it arrives, and again when a later round goes on from it.
    """

    publication: Publication
    policy: Policy
    patience: Patience
    folder: Path

    def place(self, descriptor: Descriptor, release: int = 1) -> Path:
        """The folder of a session's release."""
        if descriptor.releases > 1:
            return self.folder / release_folder(release)
        return self.folder if descriptor.round is None else self.folder / descriptor.round.folder

    def find(self, descriptor: Descriptor, until: int, receipt: SignedReceipt) -> Found | None:
        """The release, of those up to number `until`, that tells what became of the upload with this receipt.

        All of them are fetched and verified (protocol.md §10.3a), and none is kept. A proof of §10.4 comes before
        everything else. None when each says that it has to be in another one.
        Raises a VerificationError, PolicyViolation or ProtocolViolation for what does not hold.
        """
        verified = self._fetch_verified(descriptor, until)
        found = [Found(each, judge_receipt(each.certificate, receipt)) for each in verified]
        told = [each for each in found if each.verdict.fate is not Fate.ELSEWHERE]
        return next((each for each in told if each.verdict.fate.proves_a_lie), next(iter(told), None))

    def store(self, descriptor: Descriptor, made: Verified) -> Path:
        """Keep a release; the same one may be there from before a crash. Its folder. Raises StorageError."""
        folder = self.place(descriptor, made.number)
        certificate = folder / files.CERTIFICATE
        if not (certificate.exists() and read_file(certificate) == made.content[files.CERTIFICATE]):
            write_folder(folder, made.content, PUBLIC_FILE)
        return folder

    def _fetch_verified(self, descriptor: Descriptor, until: int) -> list[Verified]:
        contents = [self._fetch(descriptor, number) for number in range(1, until + 1)]
        report = self._verify(contents[-1], descriptor.ctx, contents[:-1])
        # The verifier has held those before to the last one's word for each.
        before = [files.parse_certificate(content[files.CERTIFICATE]).statement for content in contents[:-1]]
        certificates = [*before, report.certificate]
        verified = [Verified(number, *made) for number, made in enumerate(zip(contents, certificates, strict=True), 1)]
        for made in verified:
            if made.certificate.final.statement.release != made.number:
                raise ProtocolViolation(f"the coordinator gave another release than release {made.number}")
        return verified

    def _fetch(self, descriptor: Descriptor, release: int) -> dict[str, bytes]:
        limit, late = self._limit(descriptor), descriptor.expires_at + MAX_CLOCK_SKEW
        return self.patience.ask(lambda: fetch_release(self.publication, descriptor.ctx, limit, release), ready_by=late)

    def plan_of(self, descriptor: Descriptor) -> Plan:
        """The plan as this session's round sees it, after the rounds before were verified, and fetched if need be.

        Raises as `receive`; ProtocolViolation or HashMismatch when the round does not follow from them.
        """
        if descriptor.previous is None:
            return descriptor.plan
        adapter = self._follow(descriptor)
        return release.plan_of(descriptor, adapter)

    def _follow(self, descriptor: Descriptor) -> bytes:
        """Verify every round before `descriptor`, latest first; the adapter of the last."""
        latest: bytes | None = None
        while (previous := descriptor.previous) is not None:
            content, report = self._earlier(descriptor, previous.ctx)
            earlier = report.certificate.session.descriptor.statement
            check_follows(earlier, content[files.ADAPTER], descriptor)
            latest = latest or content[files.ADAPTER]
            descriptor = earlier
        if latest is None:
            raise ProtocolViolation("the first round has none before it")
        return latest

    def _earlier(self, descriptor: Descriptor, ctx: str) -> tuple[dict[str, bytes], VerificationReport]:
        """The release of the round before `descriptor`: from the own folder, or for who was not there, fetched."""
        folder = self.folder / round_folder(descriptor.number - 1)
        with guard(folder):
            stored = (folder / files.CERTIFICATE).is_file()
        if stored:
            return self._stored(folder, ctx)
        content = self.patience.ask(lambda: fetch_release(self.publication, ctx, self._limit(descriptor)))
        report = self._verify(content, ctx)
        write_folder(folder, content, PUBLIC_FILE)
        return content, report

    def _stored(self, folder: Path, ctx: str) -> tuple[dict[str, bytes], VerificationReport]:
        """What an earlier run left there, verified again."""
        with guard(folder):
            content = {path.name: read_file(path) for path in sorted(folder.iterdir())}
        try:
            return content, self._verify(content, ctx)
        except SecaggError as error:
            raise type(error)(f"{folder}: {error}. Move the folder away: the release is fetched again") from error

    def _verify(
        self, content: Mapping[str, bytes], ctx: str, earlier: Sequence[Mapping[str, bytes]] = ()
    ) -> VerificationReport:
        report = verify_release(content, self.policy, earlier=earlier)
        if report.certificate.ctx != ctx:
            raise ProtocolViolation(f"the release is of session {report.certificate.ctx[:16]}, not of {ctx[:16]}")
        return report

    @staticmethod
    def _limit(descriptor: Descriptor) -> int:
        return MAX_SMALL_FILE + 8 * descriptor.parameters.ciphertext_bytes


def fetch_release(publication: Publication, ctx: str, limit: int, release: int = 1) -> dict[str, bytes]:
    """Every file of a release, each of at most `limit` bytes. Raises MalformedError or SizeLimitError."""
    listed = publication.release_files(ctx, release)
    expected = {*files.FILES, files.CERTIFICATE}
    if set(listed) - {files.START} != expected:
        raise MalformedError(f"the coordinator lists {sorted(listed)} as the release, not {sorted(expected)}")
    for name, size in listed.items():
        if size > limit:
            raise SizeLimitError(f"{name} has {size} bytes, more than a release of this session can have")
    return {name: publication.release_file(ctx, name, size, release) for name, size in listed.items()}


def read_certificate(folder: Path) -> ReleaseCertificate:
    """The certificate of a `sealed` release whose adapter is the one that it names. Says nothing about who signed it.

    Raises StorageError, MalformedError or HashMismatch.
    """
    certificate = files.parse_certificate(read_file(folder / files.CERTIFICATE)).statement
    return _with_its_adapter(folder, certificate)


def read_any_certificate(folder: Path) -> Certificate:
    """The same, of whichever protocol."""
    raw = read_file(folder / files.CERTIFICATE)
    if is_ckks(raw):
        return _with_its_adapter(folder, SignedCkksRelease.parse(raw).statement)
    if is_masked(raw):
        return _with_its_adapter(folder, SignedMaskedRelease.parse(raw).statement)
    return read_certificate(folder)


def _with_its_adapter(folder: Path, certificate: C) -> C:
    for name in (files.ADAPTER, files.ADAPTER_CONFIG):
        if hashlib.sha256(read_file(folder / name)).hexdigest() != certificate.files.get(name):
            raise HashMismatch(f"{folder / name} is not the file that the certificate names: it was altered")
    return certificate
