"""What happens to a ledger's files is found, or changes nothing; what is not found is shown too (protocol.md §4.5)."""

import functools
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import LedgerError, StorageError
from secagg_client.ledger import Ledger
from tests.client.ledgers import (
    AGAIN,
    ONCE,
    STEPS,
    A,
    B,
    C,
    Content,
    D,
    E,
    content,
    files_in,
    history,
    lay_out,
    ledger_in,
    new_ledger,
    quick,
)  # fmt: skip

LINES, WITNESS = "ledger/ledger.jsonl", "identity/ledger-witness/witness.json"
KEY = "identity/ledger-witness/key"


@functools.cache
def versions() -> list[Content]:
    """The files of one ledger after each step of its life; made once, laid out anew for each test."""
    with tempfile.TemporaryDirectory() as folder:
        return history(Path(folder))


def now() -> Content:
    return versions()[-1]


def part(files: Content, folder: str) -> Content:
    return {name: data for name, data in files.items() if name.startswith(folder + "/")}


def shape(root: Path) -> Any:
    """All that a ledger says: its entries, and what they cost."""
    return ledger_in(root).entries(), ledger_in(root).spent(AGAIN)


@functools.cache
def truth() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder), now())
        return shape(Path(folder))


def data_of(session: str) -> str:
    return next(str(entry.data) for entry in truth()[0] if entry.session == session)


def found(files: Content) -> bool:
    """True when the ledger with these files is refused; else it says what it said, and goes on as it would."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lay_out(root, files)
        try:
            said = shape(root)
        except (LedgerError, StorageError):
            return True
        assert said == truth()
        ledger_in(root).begin(quick(D, 9), ONCE)
        assert ledger_in(root).entries()[:-1] == truth()[0]
        return False


# -- any one alteration of any one file ------------------------------------------------------------------------


def flipped(data: bytes, at: int, bit: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def inserted(data: bytes, at: int, more: bytes) -> bytes:
    at %= len(data) + 1
    return data[:at] + more + data[at:]


def swapped(data: bytes, first: int, second: int) -> bytes:
    lines = data.splitlines(keepends=True)
    first, second = first % len(lines), second % len(lines)
    lines[first], lines[second] = lines[second], lines[first]
    return b"".join(lines)


def without(data: bytes, number: int) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[number % len(lines)]
    return b"".join(lines)


def doubled(data: bytes, number: int, target: int) -> bytes:
    lines = data.splitlines(keepends=True)
    lines.insert(target % (len(lines) + 1), lines[number % len(lines)])
    return b"".join(lines)


numbers = st.integers(0, 10_000)
scraps = st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([b"\n", b" ", b"\r", b"{}\n"]))
edits: st.SearchStrategy[Callable[[bytes], bytes]] = st.one_of(
    st.builds(lambda size: lambda data: data[: size % len(data)], numbers),
    st.builds(lambda at, bit: lambda data: flipped(data, at, bit), numbers, st.integers(0, 7)),
    st.builds(lambda at, more: lambda data: inserted(data, at, more), numbers, scraps),
    st.builds(lambda first, second: lambda data: swapped(data, first, second), numbers, numbers),
    st.builds(lambda number: lambda data: without(data, number), numbers),
    st.builds(lambda number, target: lambda data: doubled(data, number, target), numbers, numbers),
)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 99), edits)
def test_any_edit_of_any_file_is_found_or_harmless(which: int, edit: Callable[[bytes], bytes]) -> None:
    names = sorted(name for name, data in now().items() if data)
    name = names[which % len(names)]
    found({**now(), name: edit(now()[name])})


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([LINES, WITNESS, KEY]), edits)
def test_an_edit_of_what_counts_is_found(name: str, edit: Callable[[bytes], bytes]) -> None:
    """Harmless are only: no change at all, spaces in the witness, half a line after the last."""
    good, changed = now()[name], edit(now()[name])
    torn = name == LINES and changed.startswith(good) and b"\n" not in changed[len(good) :]
    spaces = name == WITNESS and fields(changed) == fields(good)
    if not (torn or spaces or changed == good):
        assert found({**now(), name: changed})


def fields(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def test_a_deleted_file_is_found_unless_nothing_depends_on_it() -> None:
    unnoticed = {name for name in now() if not found({other: now()[other] for other in now() if other != name})}
    assert unnoticed == {"identity/ledger-witness/lock", f"ledger/records/{data_of(B)}.bin"}, "B was abandoned"


def test_a_file_in_the_place_of_another_is_found_or_harmless() -> None:
    for name in now():
        for other in now():
            found({**now(), name: now()[other]})


@pytest.mark.parametrize("more", [b" ", b"\r", b"\t"])
def test_a_line_that_says_the_same_in_other_bytes_is_refused(more: bytes) -> None:
    """Taken, it would make the next line be written over the end of this one."""
    first, rest = now()[LINES].split(b"\n", 1)
    for place in (0, 1, len(first)):
        assert found({**now(), LINES: inserted(first, place, more) + b"\n" + rest})


def test_record_hashes_of_other_data_are_not_taken(tmp_path: Path) -> None:
    """Both files are genuine; each says whose it is."""
    first, second = (f"ledger/records/{data_of(session)}.bin" for session in (A, C))
    lay_out(tmp_path, {**now(), first: now()[second]})
    with pytest.raises(LedgerError, match="were altered"):
        ledger_in(tmp_path).check(quick(D, 9), AGAIN)


# -- older copies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("age", range(1, STEPS + 1))
def test_an_older_copy_of_the_ledger_is_found(age: int) -> None:
    old = versions()[-1 - age]
    assert found({**now(), LINES: old[LINES]})
    assert found({**part(now(), "identity"), **part(old, "ledger")})


@pytest.mark.parametrize("age", range(1, STEPS + 1))
def test_an_older_copy_of_the_witness_is_found_or_is_what_a_crash_leaves(age: int) -> None:
    """One line behind, it takes note of the line: nothing is forgotten."""
    assert found({**now(), WITNESS: versions()[-1 - age][WITNESS]}) == (age > 1)


def test_every_place_put_back_at_once_is_not_found(tmp_path: Path) -> None:
    """As the threat model says: nothing on the machine remembers."""
    lay_out(tmp_path, versions()[-3])
    assert len(ledger_in(tmp_path).entries()) == STEPS - 2


def test_a_line_that_was_never_acknowledged_does_not_come_back(tmp_path: Path) -> None:
    """A crash left a line; somebody kept a copy, cut it off, and puts it in the place of the line that came instead."""
    lay_out(tmp_path, {**now(), **part(versions()[-2], "identity"), LINES: versions()[-2][LINES]})
    ledger_in(tmp_path).begin(quick(D, 9), ONCE)
    lay_out(tmp_path, {LINES: now()[LINES]})
    with pytest.raises(LedgerError, match="other lines than"):
        ledger_in(tmp_path).entries()


def test_nor_in_the_middle(tmp_path: Path) -> None:
    """Number and MAC of the line are right; only the line after it knows another."""
    lay_out(tmp_path, {**now(), **part(versions()[-2], "identity"), LINES: versions()[-2][LINES]})
    for number, session in enumerate((D, E)):
        ledger_in(tmp_path).begin(quick(session, 9 + number), ONCE)
    lines, copy = ((files[LINES]).splitlines(keepends=True) for files in (content(tmp_path), now()))
    lines[STEPS - 1] = copy[STEPS - 1]
    lay_out(tmp_path, {LINES: b"".join(lines)})
    with pytest.raises(LedgerError, match=rf"line {STEPS + 1}: altered, moved or removed"):
        ledger_in(tmp_path).entries()


# -- deleted, made, made again -----------------------------------------------------------------------------------


def test_a_deleted_ledger_is_found_and_not_made_anew(tmp_path: Path) -> None:
    lay_out(tmp_path, part(now(), "identity"))
    with pytest.raises(LedgerError, match=rf"ledger\.jsonl: is gone; {STEPS} lines of it are known. Put it back"):
        ledger_in(tmp_path).entries()
    with pytest.raises(LedgerError, match="witnesses a ledger that was made before"):
        files_in(tmp_path).make()


def test_a_deleted_witness_is_found_and_not_made_anew(tmp_path: Path) -> None:
    lay_out(tmp_path, part(now(), "ledger"))
    for use in (ledger_in(tmp_path).entries, files_in(tmp_path).make):
        with pytest.raises(LedgerError, match=r"witness\.json: is gone, and the ledger .* cannot be trusted"):
            use()


def test_a_ledger_is_made_once(tmp_path: Path) -> None:
    assert new_ledger(tmp_path).entries() == ()
    with pytest.raises(LedgerError, match="there already"):
        files_in(tmp_path).make()
    assert ledger_in(tmp_path).entries() == ()


def test_the_ledger_of_another_is_found(tmp_path: Path) -> None:
    lay_out(tmp_path, now())
    new_ledger(tmp_path / "other").begin(quick(A, 1), ONCE)
    lay_out(tmp_path, part(content(tmp_path / "other"), "ledger"))
    with pytest.raises(LedgerError, match="of another ledger"):
        ledger_in(tmp_path).entries()


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("x")
    with pytest.raises(StorageError):
        files_in(tmp_path).make()


# -- what a crash leaves -----------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    lay_out(tmp_path, now())
    return ledger_in(tmp_path)


def test_a_torn_last_line_is_forgotten(ledger: Ledger, tmp_path: Path) -> None:
    """A crash while writing: `begin` had not returned, so nothing was trained."""
    with (tmp_path / LINES).open("ab") as file:
        file.write(b'{"number":8,"kind":"begun"' + b" " * 2000)
    assert ledger.entries() == truth()[0]
    ledger.begin(quick(D, 9), ONCE)
    assert len((tmp_path / LINES).read_bytes().splitlines()) == len(ledger.entries()) == STEPS + 1


def test_a_line_without_its_witness_is_kept_and_witnessed(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / WITNESS).write_bytes(versions()[-2][WITNESS])
    assert ledger.entries() == truth()[0]
    assert (tmp_path / WITNESS).read_bytes() == now()[WITNESS]


def test_two_lines_without_their_witness_are_no_crash(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / WITNESS).write_bytes(versions()[-3][WITNESS])
    with pytest.raises(LedgerError, match="an older copy of it was put back"):
        ledger.entries()


def test_a_line_is_on_the_disk_before_its_witness(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other way round a power cut would leave the ledger behind its witness, which reads as a rollback."""
    synced, sync = list[str](), os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    ledger.begin(quick(D, 9), ONCE)
    hashes, *folders, line, witness, last = synced
    assert ".bin." in hashes
    assert folders == ["records", "ledger"]
    assert line == "ledger.jsonl"
    assert witness.startswith(".witness.json.")
    assert last == "ledger-witness"
