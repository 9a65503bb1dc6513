"""The key-holder's spool: bounded in size, and in memory one running sum and one block (protocol.md §13.5.3)."""

import os
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secagg.ckks.keyholder import ShownUpload, add_all
from secagg.errors import HashMismatch, SizeLimitError, StorageError
from secagg.run import MemoryJournal
from secagg_client.ckks_spool import Spool
from tests.secagg.ckks.sessions import Ckks
from tests.small import NOW, small_plan

PIECE = 1 << 20


def pieces(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """As an upload comes over the network: in pieces that know nothing of ciphertexts."""
    whole = b"".join(blocks)
    for at in range(0, len(whole), 50_000):
        yield whole[at : at + 50_000]


@pytest.fixture(scope="module")
def session() -> Ckks:
    made = Ckks()
    assert made.uploads
    return made


def test_what_was_spooled_is_read_as_often_as_wanted_and_replaced_by_the_next(session: Ckks, tmp_path: Path) -> None:
    spool, parameters = Spool(tmp_path / "spool"), session.descriptor.parameters
    for one in session.uploads[:2]:
        kept = spool.keep(pieces(one.blocks), parameters.upload_bytes, parameters.ring.wire_bytes)
        assert tuple(kept) == tuple(kept) == one.blocks
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "spool").iterdir()] == [0o600]
    spool.clear()
    assert list((tmp_path / "spool").iterdir()) == []
    with pytest.raises(StorageError):
        list(kept)


def test_a_stream_that_does_not_end_is_cut_off(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(PIECE)

    with pytest.raises(SizeLimitError, match="longer than"):
        spool.keep(endless(), 3 * PIECE, PIECE)
    assert sum(path.stat().st_size for path in (tmp_path / "spool").iterdir()) <= 3 * PIECE


def test_what_a_process_that_died_left_behind_is_removed(tmp_path: Path) -> None:
    Spool(tmp_path / "spool").keep([b"left"], 10, 4)
    Spool(tmp_path / "spool")
    assert list((tmp_path / "spool").iterdir()) == []


def test_an_upload_that_is_cut_or_bent_on_its_way_never_gets_into_the_sum(session: Ckks, tmp_path: Path) -> None:
    fresh = session.again()
    spool, parameters = Spool(tmp_path / "spool"), fresh.descriptor.parameters
    good = fresh.uploads[1]
    whole = b"".join(good.blocks)
    for bad in (whole[:-1], whole[: -len(good.blocks[-1])], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        holder = replace(fresh.holder, journal=MemoryJournal())
        holder.approve(fresh.signed, NOW)
        shown = [*fresh.shown(1), ShownUpload(good.signed, spool.keep([bad], len(whole), parameters.ring.wire_bytes))]
        before = fresh.keys.used
        with pytest.raises(HashMismatch):
            holder.open(fresh.descriptor, fresh.chosen(4), shown, os.urandom, NOW)
        assert fresh.keys.used == before


def test_memory_is_the_running_sum_and_a_ciphertext_whatever_the_cohort(tmp_path: Path) -> None:
    """Measured: three uploads of 20 ciphertexts each; one more of them in memory would be seen."""
    session = Ckks(plan=small_plan(1_100_000))
    parameters = session.descriptor.parameters
    assert parameters.blocks >= 20
    session.holder.approve(session.signed, NOW)
    spool, uploads = Spool(tmp_path / "spool"), [session.seal(index) for index in range(3)]
    session.__dict__["uploads"] = uploads
    chosen = session.chosen(3).statement

    def shown() -> Iterator[ShownUpload]:
        for one in uploads:
            kept = spool.keep(iter(one.blocks), parameters.upload_bytes, parameters.ring.wire_bytes)
            yield ShownUpload(one.signed, kept)

    _, keys = session.descriptor.public, session.kept
    tracemalloc.start()
    total = add_all(session.descriptor, chosen, shown(), keys)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    running = sum(block.nbytes for block in total)
    assert running == parameters.blocks * 2 * len(parameters.ring.primes) * parameters.ring.degree * 8
    assert peak < running + 6 * parameters.ring.wire_bytes
    assert isinstance(total[0], np.ndarray)
