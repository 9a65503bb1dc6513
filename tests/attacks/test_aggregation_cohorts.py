"""Who is isolated by several releases, from who was in each; and the same from certificates."""

import math
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from secagg.certificate import CERTIFICATE, parse_certificate
from secagg.errors import AuditError, MalformedError, ProtocolViolation, SignatureInvalid
from secagg.run import certify
from secagg_attacks.aggregation.certified import Certified, cohorts_of
from secagg_attacks.aggregation.cohorts import Cohort, Isolation, Member, overlap
from secagg_attacks.aggregation.combinations import RowSpace, leaving
from tests.small import Small, changes, small_plan


def cohort(members: str, title: str = "a release", n_min: int = 3, upload: str = "") -> Cohort:
    """Equal weights; every release has uploads of its own unless `upload` is given."""
    return Cohort(title, n_min, {client: Member(Fraction(1), upload or f"{title}/{client}") for client in members})


def several(*members: str, n_min: int = 3) -> list[Cohort]:
    return [cohort(each, f"release {number}", n_min) for number, each in enumerate(members, 1)]


def isolated(*members: str, n_min: int = 3) -> dict[str, tuple[int, ...]]:
    return {each.who: each.releases for each in overlap(several(*members, n_min=n_min)).found}


def test_one_client_less_is_isolated_by_both_releases() -> None:
    found = overlap(several("abcd", "abc"))
    assert [(each.who, each.releases) for each in found.found] == [("d", (1, 2))]
    assert found.reading == "isolated: d by releases 1 and 2"
    assert found.isolates


def test_cohorts_that_differ_by_n_min_or_more_isolate_nobody() -> None:
    found = overlap(several("abcdef", "abc"))
    assert found.found == ()
    assert found.reading == "no client is isolated by these 2 releases, nor a group of fewer than n_min = 3"


def test_a_group_below_n_min_is_said_to_be_one() -> None:
    """Of its two, one accomplice is the number that n_min allows for."""
    found = overlap(several("abcde", "abc"))
    assert not found.isolates
    assert found.reading == (
        "no client is isolated by these 2 releases, but groups of fewer than n_min = 3 clients are left: d + e by "
        "releases 1 and 2"
    )


def test_who_was_exchanged_is_left_as_a_difference() -> None:
    assert isolated("abc", "abd") == {"c - d": (1, 2)}


def test_a_combination_of_three_where_no_two_differ_by_few() -> None:
    """abxyz + acxyz - bcxyz - xyz is twice a; without the fourth sum nobody is alone."""
    assert set(isolated("abxy", "acxy", "bcxy")) == {"a - b", "a - c", "b - c"}
    alone = isolated("abxyz", "acxyz", "bcxyz", "xyz")
    assert alone == {"a": (1, 2, 3, 4), "b": (1, 2, 3, 4), "c": (1, 2, 3, 4)}


def test_only_the_releases_that_are_needed_are_named() -> None:
    found = isolated("defg", "abcd", "abc", "abce")
    assert found["d"] == (2, 3)
    assert found["e"] == (3, 4)
    assert Isolation({"d": 1}, (1, 2, 4), 1.0).by == "releases 1, 2 and 4"


def test_one_release_alone_isolates_nobody_however_small_another_sessions_n_min() -> None:
    found = overlap([cohort("abc", "first", n_min=3), cohort("defgh", "second", n_min=5)])
    assert found.below == 5
    assert found.found == ()


def test_it_agrees_with_sums_that_are_really_combined() -> None:
    """The naive twin: random cohorts; isolated is who is in the row space of participation."""
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(40):
        taken = {tuple(sorted(rng.choice(7, int(rng.integers(3, 7)), replace=False).tolist())) for _ in range(4)}
        cohorts = several(*("".join("abcdefg"[i] for i in each) for each in sorted(taken)))
        if len(cohorts) < 2:
            continue
        matrix = np.array([[client in each.members for client in "abcdefg"] for each in cohorts], dtype=float)
        truth = {
            client
            for place, client in enumerate("abcdefg")
            if np.linalg.matrix_rank(np.vstack([matrix, np.eye(7)[place]])) == np.linalg.matrix_rank(matrix)
        }
        assert {each.who for each in overlap(cohorts).found if each.alone} == truth
        seen += len(truth)
    assert seen > 10


# -- weights and noise -----------------------------------------------------------------------------------------


def test_noise_is_that_of_all_trainings_in_the_way() -> None:
    """4 + 3 trainings, of which one is the isolated client's own."""
    (found,) = overlap(several("abcd", "abc")).found
    assert found.noise == pytest.approx(math.sqrt(7))


def test_the_same_uploads_in_two_sums_cancel_whole() -> None:
    """What key-holders prevent: two sets of one session."""
    (found,) = overlap([cohort("abcd", "one", upload="same"), cohort("abc", "two", upload="same")]).found
    assert found.noise == pytest.approx(1.0)


def test_noise_is_what_simulated_trainings_leave() -> None:
    """ab + ac - bc (over x, y, z) is twice a: sqrt of all draws, over two."""
    cohorts = several("abxyz", "acxyz", "bcxyz", "xyz")
    found = next(each for each in overlap(cohorts).found if each.who == "a")
    factors = leaving([each.record for each in cohorts], frozenset("a"))
    assert factors is not None
    rng, total = np.random.default_rng(3), np.zeros(20_000)
    for factor, each in zip(factors.sessions, cohorts, strict=True):
        for _ in each.members:
            total += float(factor) * rng.normal(0, 1, 20_000)
    measured = float(np.std(total)) / factors.weights["a"]
    assert found.noise == pytest.approx(measured, rel=4 / math.sqrt(2 * 20_000))


def test_declared_weights_are_those_of_the_sums() -> None:
    """Half of a's weight in the second session: the sums no longer cancel it, and nobody else either."""
    half = Cohort("half", 3, {**cohort("abc").members, "a": Member(Fraction(1, 2), "other")})
    (found,) = overlap([cohort("abcd", "full"), half]).found
    assert found.weights == {"a": 1, "d": 2}
    lighter = {client: Member(Fraction(1, 2), client) for client in "abc"}
    (alone,) = overlap([cohort("abcd", "full"), Cohort("all half", 3, lighter)]).found
    assert alone.who == "d", "all three at half weight: the second sum goes in twice"


def test_what_cannot_be_looked_at_is_refused() -> None:
    with pytest.raises(AuditError, match="two releases at least"):
        overlap([cohort("abc")])
    with pytest.raises(AuditError, match="give each release once"):
        overlap([cohort("abc", "x"), cohort("abc", "x")])


def test_the_quick_look_never_passes_over_what_elimination_finds() -> None:
    """Random cohorts and weights, every group of up to three."""
    rng = np.random.default_rng(4)
    for _ in range(15):
        weights = np.array([Fraction(1), Fraction(1, 3), Fraction(2, 7)])[rng.integers(0, 3, (4, 7))]
        records = [
            {c: w for c, w, is_in in zip("abcdefg", row, rng.random(7) < 0.6, strict=True) if is_in} for row in weights
        ]
        records = [record for record in records if record]
        space, everybody = RowSpace.of(records), sorted(frozenset().union(*records))
        for size in (1, 2, 3):
            for group in map(frozenset, combinations(everybody, size)):
                assert space.may_leave(group) == (leaving(records, group) is not None)


def test_many_clients_and_releases_take_seconds() -> None:
    rng = np.random.default_rng(2)
    names = [f"c{number:04d}" for number in range(1000)]
    cohorts = [
        Cohort(f"release {r}", 3, {name: Member(Fraction(1), f"{r}/{name}") for name in names if rng.random() < 0.6})
        for r in range(19)
    ]
    but_one = dict(list(cohorts[0].members.items())[1:])
    found = overlap([*cohorts, Cohort("one less", 3, but_one)])
    assert [each.who for each in found.found] == [min(cohorts[0].members)]
    assert found.found[0].releases == (1, 20)


def test_too_many_groups_are_searched_as_far_as_they_can_be() -> None:
    rng = np.random.default_rng(1)
    names = [f"c{number:02d}" for number in range(40)]
    cohorts = [
        Cohort(f"release {r}", 8, {name: Member(Fraction(1), f"{r}/{name}") for name in rng.choice(names, 25, False)})
        for r in range(8)
    ]
    found = overlap(cohorts)
    assert found.tried < found.below - 1
    assert f"groups of up to {found.tried} were tried" in found.reading


# -- from certificates -----------------------------------------------------------------------------------------


def again(first: Small, names: list[str]) -> Small:
    """A second session of the same parties, of whom these clients take part."""
    second = Small(clients=first.clients, plan=first.plan)
    second.changes = {name: first.changes[name] for name in names}
    second.parties = replace(first.parties, clients={name: first.parties.clients[name] for name in names})
    second.policy, second.committee = first.policy, first.committee
    return second


def published(small: Small, folder: Path) -> Path:
    folder.mkdir()
    (folder / CERTIFICATE).write_bytes(small.release[CERTIFICATE])
    return folder


def test_two_real_sessions_of_which_one_has_a_client_less(tmp_path: Path) -> None:
    first = Small(clients=4)
    second = again(first, ["Hospital 1", "Hospital 2", "Hospital 3"])
    read = [Certified.read(published(small, tmp_path / name)) for name, small in (("a", first), ("b", second))]
    cohorts, notes = cohorts_of(read)
    found = overlap(cohorts)
    assert found.reading == "isolated: Hospital 4 by releases 1 and 2"
    assert found.found[0].noise == pytest.approx(math.sqrt(7)), "sealed anew for each session"
    assert notes == ()


def test_a_client_with_a_new_certificate_is_known_by_its_name(tmp_path: Path) -> None:
    first, later = Small(clients=4), Small(clients=3)
    later.parties = certify(["HOSPITAL  1", "Hospital 2", "Hospital 3"], 4, later.now)
    later.changes = dict(zip(later.parties.clients, changes(3).values(), strict=True))
    read = [Certified.read(published(small, tmp_path / name)) for name, small in (("a", first), ("b", later))]
    cohorts, notes = cohorts_of(read)
    assert overlap(cohorts).reading == "isolated: Hospital 4 by releases 1 and 2"
    assert notes == ("taken as one client by name, with different certificates: Hospital 1, Hospital 2, Hospital 3",)


def test_other_models_and_plans_are_refused(tmp_path: Path) -> None:
    first = Small(clients=3)
    plans = {
        "another base model": first.plan.model_copy(update={"base_model_hash": "cd" * 32}),
        "another plan": small_plan(length=301),
    }
    one = Certified.read(published(first, tmp_path / "first"))
    for number, (said, plan) in enumerate(plans.items()):
        other = Certified.read(published(Small(clients=3, plan=plan), tmp_path / str(number)))
        with pytest.raises(AuditError, match=said):
            cohorts_of([one, other])


def test_other_training_of_the_same_adapter_is_noted(tmp_path: Path) -> None:
    """A coordinator that changes the learning rate a little has not made its sums incomparable."""
    read = [
        Certified.read(published(Small(clients=3, plan=small_plan(steps=steps)), tmp_path / str(steps)))
        for steps in (4, 5)
    ]
    assert any("training settings differ" in note for note in cohorts_of(read)[1])


def test_a_folder_without_certificate_and_an_altered_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"has no release\.json"):
        Certified.read(tmp_path)
    small = Small(clients=4)
    folder = published(small, tmp_path / "a")
    raw = (folder / CERTIFICATE).read_bytes()
    root = small.settled.final.statement.members[0].upload_root.encode()
    (folder / CERTIFICATE).write_bytes(raw.replace(root, b"0" * 64))
    with pytest.raises(SignatureInvalid):
        Certified.read(folder)
    (folder / CERTIFICATE).write_bytes(raw[:-50])
    with pytest.raises(MalformedError):
        Certified.read(folder)


def test_a_set_of_another_session_by_the_same_coordinator_is_refused(tmp_path: Path) -> None:
    first = Small(clients=4)
    second = again(first, list(first.changes))
    own = parse_certificate(first.release[CERTIFICATE]).statement
    mixed = first.parties.coordinator.sign(own.model_copy(update={"final": second.settled.final}))
    (tmp_path / CERTIFICATE).write_bytes(mixed.to_bytes())
    with pytest.raises(ProtocolViolation, match="not of its own"):
        Certified.read(tmp_path)
