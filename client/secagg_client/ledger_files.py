"""The ledger's files: lines in one folder, their key and their witness in another (protocol.md §4.5).

A line carries a MAC over its content and the MAC before it: that finds edits, gaps and changes of order. The witness is
a small file elsewhere, with the client's identity unless it is told otherwise, that holds how many lines there are and
the MAC of the last, under a MAC of its own: that finds a ledger that was shortened, deleted, made anew or put back from
an older copy. A line is durable before the witness learns of it, so kill -9 leaves the ledger at most one line ahead:
that is repaired. A ledger behind its witness, or more than one line ahead, is refused.

Not found: lines and witness both put back from copies that fit together, or both deleted; and whatever is done by
somebody who has the key.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives import hashes, hmac
from pydantic import Field, ValidationError

from secagg.errors import LedgerError
from secagg.plan import Frozen, Hash
from secagg.randomness import Randomness
from secagg_client.ledger_entry import LedgerEntry
from secagg_host.durable import fsync_folder, guard, make_folder, open_private, read_file, write_atomic

LINES, KEY, WITNESS, LOCK = "ledger.jsonl", "key", "witness.json", "lock"
TagKind = Literal["records", "users"]
"""What is remembered by keyed hashes, and the folder they are in."""
START = "0" * 64
_KEY_BYTES = 32
_TAG_DIGITS = 32
_MAC_BYTES = 32


class _Witness(Frozen):
    """What is known of the ledger outside its folder: `count` lines, of which the last has the MAC `last`."""

    count: int = Field(ge=0)
    last: Hash
    mac: Hash


@dataclass(frozen=True, slots=True)
class LedgerFiles:
    """Where a ledger is: `folder` for its lines and record hashes, `witness` for its key, witness and lock.

    Both are the institution's own, mode 0700. Processes of one machine may share a ledger. Methods raise LedgerError
    when files were altered, are missing or were put back from an older copy, StorageError when the disk refuses.
    `random` makes the key of a new ledger.
    """

    folder: Path
    witness: Path
    random: Randomness = field(default=os.urandom, repr=False)

    def make(self) -> None:
        """Make an empty ledger. Killed before it returned, it can be called again.

        Raises:
            LedgerError: there is a ledger, or one half of it.
        """
        make_folder(self.witness)
        with guard(self.witness), self._lock():
            if (self.witness / WITNESS).exists() and (self.folder / LINES).exists():
                raise LedgerError(
                    f"{self.folder}: the ledger is there already, with its witness; nothing is to be done"
                )
            if (self.witness / WITNESS).exists():
                raise LedgerError(
                    f"{self.witness}: witnesses a ledger that was made before. Put that ledger back: "
                    "a new one would forget what it spent"
                )
            if self._has_lines():
                raise LedgerError(self._no_witness())
            key = self.random(_KEY_BYTES)
            write_atomic(self.witness / KEY, key)
            write_atomic(make_folder(self.folder) / LINES, b"")
            for folder in (self.folder, self.witness):
                fsync_folder(folder.parent)
            _write_witness(self.witness, key, 0, START)  # last: without it there is no ledger yet

    @contextmanager
    def opened(self) -> Iterator["OpenLedger"]:
        """The verified ledger, for this process alone while the context lasts; a crash before is repaired."""
        with guard(self.witness):
            if not (self.witness / WITNESS).exists():
                none = f"{self.folder}: no ledger was made yet; `secagg client ledger init` makes it, once"
                raise LedgerError(self._no_witness() if self._has_lines() else none)
            with self._lock():
                yield OpenLedger(self.folder, self.witness, self._key())

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with open(self.witness / LOCK, "a", opener=open_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _has_lines(self) -> bool:
        path = self.folder / LINES
        return path.exists() and path.stat().st_size > 0

    def _key(self) -> bytes:
        path = self.witness / KEY
        if not path.exists():
            raise LedgerError(f"{path}: is gone; without it the ledger cannot be verified. Put it back")
        return read_file(path)

    def _no_witness(self) -> str:
        return (
            f"{self.witness / WITNESS}: is gone, and the ledger {self.folder} cannot be trusted without it. "
            "Put the folder back; it moves with the identity, or where `witness` says"
        )


class OpenLedger:
    """A ledger that was read and verified, while its lock is held. Made by `LedgerFiles.opened`."""

    def __init__(self, folder: Path, witness: Path, key: bytes) -> None:
        self._folder, self._witness, self._key = folder, witness, key
        self._entries = self._read()
        self._known = dict[tuple[TagKind, str], frozenset[str]]()

    @property
    def entries(self) -> Sequence[LedgerEntry]:
        """Oldest first."""
        return tuple(self._entries)

    def tag(self, purpose: bytes, content: bytes) -> str:
        """A keyed hash, 64 hex digits: nothing can be looked up by it without the key."""
        return _mac(self._key, purpose, content)

    def append(self, content: Mapping[str, object], time: int) -> LedgerEntry:
        """Enter a line, durably, with what a LedgerEntry has besides number, time and MACs."""
        previous = self._entries[-1].mac if self._entries else START
        fixed = {"number": len(self._entries), "time": time, "previous": previous, "mac": START}
        draft = LedgerEntry.model_validate({**content, **fixed})
        entry = draft.model_copy(update={"mac": _entry_mac(self._key, draft)})
        end = sum(len(_line(known)) for known in self._entries)
        path = self._folder / LINES
        with guard(path), path.open("r+b") as file:
            file.truncate(end)
            file.seek(end)
            file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())
        self._entries.append(entry)
        _write_witness(self._witness, self._key, len(self._entries), entry.mac)
        return entry

    def record_tags(self, records: Sequence[bytes]) -> frozenset[str]:
        """The keyed hashes by which records are remembered."""
        return frozenset(self.tag(b"record", record)[:_TAG_DIGITS] for record in records)

    def user_tags(self, users: Sequence[bytes]) -> frozenset[str]:
        """The keyed hashes by which users are remembered: never those of records."""
        return frozenset(self.tag(b"user", user)[:_TAG_DIGITS] for user in users)

    def write_tags(self, kind: TagKind, data: str, tags: frozenset[str]) -> None:
        """Keep the record or user hashes of the data with keyed fingerprint `data`."""
        path = self._tags(kind, data)
        make_folder(path.parent)
        body = bytes.fromhex("".join(sorted(tags)))
        write_atomic(path, body + bytes.fromhex(self._tags_mac(kind, data, body)))
        fsync_folder(self._folder)

    def read_tags(self, kind: TagKind, data: str) -> frozenset[str]:
        """The record or user hashes of the data with keyed fingerprint `data`, verified. Raises LedgerError."""
        if (kind, data) not in self._known:
            path, what = self._tags(kind, data), f"the {kind.removesuffix('s')} hashes of an earlier run"
            if not path.exists():
                raise LedgerError(f"{path}: {what} are missing; put the file back")
            content = read_file(path)
            body, mac = content[:-_MAC_BYTES], content[-_MAC_BYTES:]
            if mac.hex() != self._tags_mac(kind, data, body):
                raise LedgerError(f"{path}: {what} were altered; put the file back")
            text = body.hex()
            found = frozenset(text[at : at + _TAG_DIGITS] for at in range(0, len(text), _TAG_DIGITS))
            self._known[kind, data] = found
        return self._known[kind, data]

    def _tags(self, kind: TagKind, data: str) -> Path:
        return self._folder / kind / f"{data}.bin"

    def _tags_mac(self, kind: TagKind, data: str, body: bytes) -> str:
        return self.tag(kind.encode(), bytes.fromhex(data) + body)

    def _read(self) -> list[LedgerEntry]:
        known = self._read_witness()
        path = self._folder / LINES
        if not path.exists():
            raise LedgerError(f"{path}: is gone; {known.count} lines of it are known. Put it back: it is not made anew")
        *lines, _ = read_file(path).split(b"\n")  # a torn last line was never acknowledged: nothing ran on it
        entries, previous = list[LedgerEntry](), START
        for number, line in enumerate(lines):
            entry = _parse(line)
            # a line that says the same in other bytes is refused too: `append` counts bytes
            if entry is None or _line(entry) != line + b"\n" or (entry.number, entry.previous) != (number, previous):
                raise LedgerError(f"{path}, line {number + 1}: altered, moved or removed. Nothing is trained on it")
            if entry.mac != _entry_mac(self._key, entry):
                raise LedgerError(f"{path}, line {number + 1}: altered, or of another ledger. Nothing is trained on it")
            entries.append(entry)
            previous = entry.mac
        self._compare(entries, known)
        return entries

    def _read_witness(self) -> _Witness:
        path = self._witness / WITNESS
        try:
            known = _Witness.model_validate_json(read_file(path))
        except ValidationError:
            raise LedgerError(f"{path}: altered. Nothing is trained on it") from None
        if known.mac != _witness_mac(self._key, known.count, known.last):
            raise LedgerError(f"{path}: altered, or of another ledger. Nothing is trained on it")
        return known

    def _compare(self, entries: Sequence[LedgerEntry], known: _Witness) -> None:
        """Lines against witness. Raises LedgerError; takes note of the line that a crash left without it."""
        if len(entries) < known.count:
            raise LedgerError(
                f"{self._folder}: holds {len(entries)} lines, of {known.count} that are known: it was shortened, or an "
                "older copy was put back. Put the newest back: what the missing lines spent would be forgotten"
            )
        if (entries[known.count - 1].mac if known.count else START) != known.last:
            raise LedgerError(f"{self._folder}: other lines than {self._witness} knows. Put the right ledger back")
        if len(entries) > known.count + 1:
            raise LedgerError(
                f"{self._witness}: knows {known.count} lines of {len(entries)}: an older copy of it was put back. "
                "Put the newest back"
            )
        if len(entries) == known.count + 1:
            _write_witness(self._witness, self._key, len(entries), entries[-1].mac)


def _write_witness(folder: Path, key: bytes, count: int, last: str) -> None:
    """Replace the witness, durably."""
    witness = _Witness(count=count, last=last, mac=_witness_mac(key, count, last))
    write_atomic(folder / WITNESS, witness.model_dump_json().encode() + b"\n")


def _mac(key: bytes, purpose: bytes, content: bytes) -> str:
    mac = hmac.HMAC(key, hashes.SHA256())
    mac.update(b"secagg/v1/ledger/" + purpose + b"\x00" + content)
    return mac.finalize().hex()


def _line(entry: LedgerEntry) -> bytes:
    return json.dumps(entry.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _entry_mac(key: bytes, entry: LedgerEntry) -> str:
    return _mac(key, b"entry", _line(entry.model_copy(update={"mac": START})))


def _witness_mac(key: bytes, count: int, last: str) -> str:
    return _mac(key, b"witness", f"{count}:{last}".encode())


def _parse(line: bytes) -> LedgerEntry | None:
    try:
        return LedgerEntry.model_validate_json(line)
    except ValidationError:
        return None
