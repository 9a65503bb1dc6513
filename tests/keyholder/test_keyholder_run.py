"""The key-holder's process: records before it answers, answers the same after a restart (protocol.md §4, §8)."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secagg.canonical import pretty_bytes
from secagg.coordinator import create_session
from secagg.descriptor import SignedDescriptor
from secagg.errors import (
    ConflictError,
    MalformedError,
    PolicyViolation,
    SessionClosed,
    TooFewContributions,
    TransportError,
)
from secagg.evidence import MemberEvidence, ShareAnswer
from secagg.messages import SignedApproval, SignedDegreeAnswer, SignedEndorsement
from secagg.run import evidence
from secagg_client.calls import CandidateTask, DegreeTask, FinalTask, SessionState, ShareTask, Task, Work
from secagg_client.keyholder_run import KeyHolderRun, Shelf, make_offer
from secagg_client.patience import Patience
from secagg_host.events import EventLog
from secagg_server.session import DEGREE_CHECK_SECONDS
from tests.deployment import HOUR, Deployment, Running
from tests.driving import advancing, serving
from tests.keyholder.holder import load
from tests.several import several
from tests.small import DAY, NOW, Small

SCRIPT = Path(__file__).with_name("holder.py")


class Hub:
    """A coordinator in memory that asks the first key-holder for one thing after another."""

    def __init__(self, small: Small, *tasks: Task | Exception) -> None:
        self.small, self.tasks = small, list(tasks)
        self.given = list[bytes]()
        self.end = Work(SessionState.RELEASED, "", None)

    def proposal(self, ctx: str | None) -> SignedDescriptor:
        return self.small.proposal

    def approve(self, approval: SignedApproval) -> None:
        self.given.append(approval.to_bytes())

    def work(self, ctx: str, wait_milliseconds: int) -> Work:
        if not self.tasks:
            return self.end
        task = self.tasks.pop(0)
        if isinstance(task, Exception):
            raise task
        return Work(SessionState.CLOSING, "", task)

    def evidence(self, ctx: str, stage: str, release: int = 0) -> Iterator[MemberEvidence]:
        uploads = self.small.uploads if stage == "candidate" else self.small.chosen
        yield from evidence(self.small.descriptor, self.small.parties.holders[0].identity, uploads)

    def endorse(self, endorsement: SignedEndorsement) -> None:
        self.given.append(endorsement.to_bytes())

    def submit_degree_answer(self, answer: SignedDegreeAnswer) -> None:
        self.given.append(answer.to_bytes())

    def submit_share(self, answer: ShareAnswer) -> None:
        self.given.append(answer.signed.to_bytes() + answer.share)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path / "state")
    yield shelf
    shelf.close()


def on_disk(shelf: Shelf, small: Small | None = None) -> Small:
    """A session whose first key-holder keeps its records on disk."""
    small = small or Small()
    first = small.committee[0]
    small.committee[0] = replace(first, journal=shelf.journal, keys=shelf.keys)
    return small


def serve(small: Small, shelf: Shelf, hub: Hub, now: float = NOW) -> EventLog:
    log = EventLog()
    KeyHolderRun(small.committee[0], shelf, hub, Patience(log, clock=lambda: now, sleep=lambda _: None)).run()
    return log


def tasks(small: Small) -> list[Task]:
    """What the coordinator asks for, from the answers of the other key-holders."""
    others = small.committee[1:]
    answers = [small.endorse_candidate(holder) for holder in others]
    small.__dict__["answers"] = answers
    small.__dict__["degree_answers"] = [small.answer_degree_check(holder) for holder in others]
    settled = small.settled
    endorsed = [small.endorse_final(holder) for holder in others]
    return [
        CandidateTask(small.candidate, tuple(answers)),
        DegreeTask(small.candidate, tuple(answers)),
        FinalTask(small.candidate, settled.final, settled.answers, settled.degree_answers, tuple(endorsed)),
        ShareTask(settled.final, tuple(endorsed)),
    ]


def test_it_serves_a_session_and_erases_its_key(shelf: Shelf) -> None:
    small = on_disk(shelf)
    asked = tasks(small)
    hub = Hub(small, *asked)
    serve(small, shelf, hub)
    assert len(hub.given) == 5
    with pytest.raises(SessionClosed, match="erased"):
        shelf.keys.get(small.members[0].offer.statement.digest)


class Quicker(Hub):
    """The others were enough: it takes no more endorsements."""

    def endorse(self, endorsement: SignedEndorsement) -> None:
        raise SessionClosed("nothing more is taken")


class Late(Hub):
    """The release is made when it comes to approve."""

    def approve(self, approval: SignedApproval) -> None:
        raise SessionClosed("the session is released: nothing more is taken")


def test_what_was_closed_without_it_is_passed_over(shelf: Shelf) -> None:
    """The release is made, or another one is being closed: it asks what is to be done now."""
    small = on_disk(shelf)
    asked = tasks(small)
    hub = Quicker(small, asked[0], asked[3])
    serve(small, shelf, hub)
    assert len(hub.given) == 1, "the approval alone"


def test_a_lost_line_while_it_asks_why_is_no_end(shelf: Shelf) -> None:
    small = on_disk(shelf)
    asked = tasks(small)
    hub = Quicker(small, asked[0], TransportError("away"), asked[3], asked[3])
    serve(small, shelf, hub)
    assert len(hub.given) == 2, "the approval and the shares"


def test_a_lost_line_after_the_end_is_no_end_either(shelf: Shelf) -> None:
    small = on_disk(shelf)
    serve(small, shelf, Late(small, TransportError("away")))
    with pytest.raises(SessionClosed, match="erased"):
        shelf.keys.get(small.members[0].offer.statement.digest)


def test_a_refusal_of_what_is_still_asked_ends_it(shelf: Shelf) -> None:
    small = on_disk(shelf)
    asked = tasks(small)
    with pytest.raises(SessionClosed, match="nothing more is taken"):
        serve(small, shelf, Quicker(small, asked[0], asked[0]))


def test_several_releases_are_recorded_on_the_disk(shelf: Shelf) -> None:
    """A second set for the first release is refused after a restart, from what the journal holds."""
    run = several()
    on_disk(shelf, run.small)
    holder = run.small.committee[0]
    run.endorse(holder, 1, (0, 1, 2))
    restarted = replace(holder, journal=shelf.journal)
    assert shelf.journal.get(f"candidate/{run.descriptor.ctx}/1") == run.candidate(1, (0, 1, 2)).to_bytes()
    with pytest.raises(ConflictError, match="already endorsed another set for release 1"):
        run.endorse(restarted, 1, (3, 4, 5))
    assert run.endorse(restarted, 1, (0, 1, 2)).statement.release == 1


def test_every_answer_is_on_the_disk_before_it_is_given(shelf: Shelf) -> None:
    small = on_disk(shelf)

    class Watching(Hub):
        def endorse(self, endorsement: SignedEndorsement) -> None:
            statement = endorsement.statement
            assert shelf.journal.get(f"endorsement/{statement.ctx}/1/{statement.stage}") == endorsement.to_bytes()
            super().endorse(endorsement)

        def submit_degree_answer(self, answer: SignedDegreeAnswer) -> None:
            assert shelf.journal.get(f"degree/{answer.statement.ctx}/1") == answer.to_bytes()
            super().submit_degree_answer(answer)

        def submit_share(self, answer: ShareAnswer) -> None:
            stored = shelf.journal.get(f"share/{answer.signed.statement.ctx}/1")
            assert stored is not None
            assert answer.share in stored
            super().submit_share(answer)

        def approve(self, approval: SignedApproval) -> None:
            offer = small.members[0].offer.statement.digest
            assert shelf.journal.get(f"approval/{offer}") == approval.statement.ctx.encode()
            super().approve(approval)

    hub = Watching(small, *tasks(small))
    serve(small, shelf, hub)
    assert len(hub.given) == 5


def test_a_lost_line_is_asked_again_and_the_answer_is_the_same(shelf: Shelf) -> None:
    small = on_disk(shelf)
    candidate, degree, final, share = tasks(small)

    class Losing(Hub):
        lost = 0

        def endorse(self, endorsement: SignedEndorsement) -> None:
            super().endorse(endorsement)
            self.lost += 1
            if self.lost == 1:
                raise TransportError("the answer was lost")

    hub = Losing(small, TransportError("away"), candidate, TransportError("away"), degree, final, share)
    serve(small, shelf, hub)
    assert hub.given[1] == hub.given[2]
    assert len(hub.given) == 6


def test_another_set_is_refused_after_a_restart(shelf: Shelf, tmp_path: Path) -> None:
    small = on_disk(shelf)
    candidate = tasks(small)[0]
    assert isinstance(candidate, CandidateTask)
    with pytest.raises(AssertionError, match="stopped here"):
        serve(small, shelf, Hub(small, CandidateTask(candidate.candidate, ()), AssertionError("stopped here")))
    shelf.close()
    again = Shelf(tmp_path / "state")
    small.committee[0] = replace(small.committee[0], journal=again.journal, keys=again.keys)
    other = small.parties.coordinator.sign(
        candidate.candidate.statement.model_copy(update={"members": candidate.candidate.statement.members[:3]})
    )
    hub = Hub(small, CandidateTask(other, ()))
    with pytest.raises(ConflictError, match="already endorsed another candidate set"):
        serve(small, again, hub)
    assert len(hub.given) == 1, "nothing but the approval was given"
    assert again.keys.get(small.members[0].offer.statement.digest), "the key is kept for the owner to decide"
    again.close()


def test_an_offer_serves_one_session_only(shelf: Shelf) -> None:
    small = on_disk(shelf)
    serve(small, shelf, Hub(small, *tasks(small)))
    second = Small()
    second.__dict__.update(parties=small.parties, committee=small.committee, members=small.members)
    assert second.proposal.descriptor.statement.ctx != small.descriptor.ctx
    hub = Hub(second)
    with pytest.raises(SessionClosed, match="erased"):
        serve(second, shelf, hub)
    assert hub.given == []


def test_an_offer_that_was_approved_is_not_approved_for_another_descriptor(shelf: Shelf) -> None:
    small = on_disk(shelf)
    small.committee[0].approve(small.proposal, NOW)
    other = create_session(
        small.session_spec, small.plan, small.roster, small.members, small.parties.coordinator, NOW, os.urandom
    )
    second = Small()
    second.__dict__.update(parties=small.parties, committee=small.committee, members=small.members, proposal=other)
    hub = Hub(second)
    with pytest.raises(ConflictError, match="already approved for another descriptor"):
        serve(second, shelf, hub)
    assert hub.given == []


def test_a_session_outside_the_policy_gets_no_approval(shelf: Shelf) -> None:
    small = on_disk(shelf)
    strict = small.policy.model_copy(update={"n_min": 4})
    small.committee[0] = replace(small.committee[0], policy=strict)
    hub = Hub(small)
    with pytest.raises(PolicyViolation, match="n_min is 3, at least 4"):
        serve(small, shelf, hub)
    assert hub.given == []


def test_the_key_goes_when_the_session_ends_without_a_release(shelf: Shelf) -> None:
    small = on_disk(shelf)
    hub = Hub(small)
    hub.end = Work(SessionState.TOO_FEW, "2 uploads, 3 are needed", None)
    with pytest.raises(TooFewContributions, match="2 uploads"):
        serve(small, shelf, hub)
    with pytest.raises(SessionClosed, match="erased"):
        shelf.keys.get(small.members[0].offer.statement.digest)


def test_one_that_comes_after_the_release_erases_its_key_all_the_same(shelf: Shelf) -> None:
    small = on_disk(shelf)
    serve(small, shelf, Late(small))
    with pytest.raises(SessionClosed, match="erased"):
        shelf.keys.get(small.members[0].offer.statement.digest)


def test_a_closed_session_that_has_not_ended_keeps_the_key(shelf: Shelf) -> None:
    class Closed(Hub):
        def approve(self, approval: SignedApproval) -> None:
            raise SessionClosed("the candidate set is fixed")

    small = on_disk(shelf)
    with pytest.raises(SessionClosed, match="candidate set is fixed"):
        serve(small, shelf, Closed(small, *tasks(small)))
    assert shelf.keys.get(small.members[0].offer.statement.digest)


def test_the_key_goes_at_expiry_even_when_the_coordinator_is_away(shelf: Shelf) -> None:
    small = on_disk(shelf)
    clock = iter([float(NOW)] * 6)

    class Away(Hub):
        def work(self, ctx: str, wait_milliseconds: int) -> Work:
            raise TransportError("away")

    run = KeyHolderRun(
        small.committee[0],
        shelf,
        Away(small),
        Patience(EventLog(), 1e6, clock=lambda: next(clock, NOW + 2.5 * DAY), sleep=lambda _: None),
    )
    with pytest.raises(SessionClosed, match="time is over"):
        run.run()
    with pytest.raises(SessionClosed, match="erased"):
        shelf.keys.get(small.members[0].offer.statement.digest)


def test_expired_offers_lose_their_keys_at_the_next_start(shelf: Shelf) -> None:
    small = on_disk(shelf)
    offer = make_offer(small.committee[0], shelf, NOW, HOUR, os.urandom)
    assert shelf.sweep(NOW + HOUR) == 0
    assert shelf.keys.get(offer.statement.digest)
    assert shelf.sweep(NOW + HOUR + 1) == 1
    with pytest.raises(SessionClosed, match="erased"):
        shelf.keys.get(offer.statement.digest)


def test_a_damaged_file_is_named_and_does_not_keep_the_keys_of_others(shelf: Shelf) -> None:
    small, home = on_disk(shelf), shelf.keys._folder.parent
    offer = make_offer(small.committee[0], shelf, NOW, HOUR, os.urandom)
    cut, empty = home / "offers" / f"{'0' * 64}.json", home / "approved" / f"{'1' * 64}.txt"
    cut.write_bytes(b"{")
    empty.write_bytes(b"")
    with pytest.raises(MalformedError, match="does not hold a time") as caught:
        shelf.sweep(NOW + HOUR + 1)
    assert str(cut) in str(caught.value)
    assert str(empty) in str(caught.value)
    with pytest.raises(SessionClosed, match="erased"):
        shelf.keys.get(offer.statement.digest)
    cut.unlink()
    empty.unlink()
    assert shelf.sweep(NOW + HOUR + 1) == 0


class Holder:
    """The first key-holder of a deployment, as processes."""

    def __init__(self, folder: Path, deployment: Deployment) -> None:
        self.folder = folder
        folder.mkdir()
        assert deployment.holder_files
        shutil.copytree(deployment.folder / "parties" / "holder-1", folder / "identity")
        (folder / "policy.json").write_bytes(pretty_bytes(deployment.policy))
        deployment.committee[0], self.shelf = load(folder)

    def run(self, address: str, kill_at: str) -> int:
        self.shelf.close()
        result = subprocess.run(
            [sys.executable, str(SCRIPT), str(self.folder), address, kill_at],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=300, capture_output=True, check=False,
        )  # fmt: skip
        assert result.returncode in {0, -9}, result.stderr.decode()
        return result.returncode


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[tuple[Holder, Running]]:
    """A session that cannot close without the key-holder that gets killed: one of the four never comes."""
    deployment = Deployment(tmp_path / "hub", close_at=4)
    holder = Holder(tmp_path / "holder", deployment)
    with deployment.running() as running, advancing(running):
        for index in (1, 2):
            with running.holder(index) as caller:
                caller.approve(deployment.committee[index], deployment.clock())
        yield holder, running


def given(running: Running, holder: Any) -> list[bytes]:
    """What the coordinator holds of the key-holder."""
    store, name = running.session.store, holder.identity.fingerprint
    endorsements = [store.endorsements(stage).get(name) for stage in ("candidate", "final")]
    return [item.to_bytes() for item in endorsements if item is not None]


def test_killed_at_every_step_and_started_again(killed: tuple[Holder, Running]) -> None:
    holder, running = killed
    deployment = running.deployment
    assert holder.run(running.address, "approved") == -9
    for files, sealed in zip(deployment.client_files, deployment.uploads, strict=True):
        with running.call(files) as caller:
            caller.enrol()
            caller.upload(sealed)
    seen = list[bytes]()
    with serving(running, 1, 2):
        steps = (
            "before-candidate", "endorsed-candidate", "before-degree", "degree", "before-final", "endorsed-final",
            "before-share", "shared",
        )  # fmt: skip
        for step in steps:
            if step == "before-final":  # key-holder 3 is away: nobody waits for its answer for ever
                deployment.clock.now += DEGREE_CHECK_SECONDS + 1
            assert holder.run(running.address, step) == -9, step
            now = given(running, deployment.holder_files[0])
            assert now[: len(seen)] == seen
            seen = now
        assert holder.run(running.address, "erased") in {0, -9}
        assert holder.run(running.address, "") == 0
    assert len(seen) == 2
    assert not list((holder.folder / "state" / "keys").glob("*.key"))
    assert running.session.store.state()[0] == "released"
