"""report.html: self-contained, the same for the same certificate, and in words that claim no more than is proved."""

import re
from html.parser import HTMLParser

import pytest

from secagg.certificate import Evaluation, Metric, ReleaseCertificate, TimelineEvent
from secagg.descriptor import AuditReserve
from secagg.privacy import PrivacyStatement
from secagg.release import draft_certificate
from secagg.rounds import Previous, Round
from secagg_server.report import ClientBytes, Guess, render
from tests.small import NOW, Small, small_plan


@pytest.fixture(scope="module")
def small() -> Small:
    return Small(clients=4)


@pytest.fixture(scope="module")
def certificate(small: Small) -> ReleaseCertificate:
    parties = [identity.title for identity in small.descriptor.clients.values()]
    timeline = [
        TimelineEvent(at=NOW, party="Coordinator/server", event="the session is open: 3 key-holders approved it"),
        TimelineEvent(at=NOW + 1, party="Key-holder 1/holder", event="approved the session"),
        *(TimelineEvent(at=NOW + 5, party=party, event="enrolled") for party in parties),
        *(TimelineEvent(at=NOW + 65, party=party, event="uploaded") for party in parties[:3]),
        TimelineEvent(at=NOW + 70, party="Key-holder 1/holder", event="endorsed the candidate set"),
        TimelineEvent(at=NOW + 71, party="Key-holder 1/holder", event="gave its share sum"),
    ]
    draft = draft_certificate(small.parts, {"secagg": "0.1.0"})
    return draft.model_copy(update={"timeline": tuple(timeline)})


EVALUATION = Evaluation(
    data_sha256="ab" * 32,
    data_is_public=True,
    description="Made-up sentences <b>&</b> more",
    measure="accuracy",
    examples=1234,
    verdict="Federating helped: 3.5 points.",
    metrics=(
        Metric(name="released adapter", value=0.8, low=0.78, high=0.82),
        Metric(name="linear head", value=0.81, low=0.79, high=0.83, kind="baseline"),
        Metric(name="North alone", value=0.76, kind="local"),
        Metric(name="without privacy", value=0.83, kind="simulation"),
    ),
)


class Collector(HTMLParser):
    """Everything that a page could load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loads, self.open, self.text = list[str](), list[str](), ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: bytes) -> Collector:
    found = Collector()
    found.feed(page.decode())
    assert found.open == []
    found.text = re.sub(r"\s+", " ", found.text)
    return found


def test_the_same_certificate_gives_the_same_page(certificate: ReleaseCertificate) -> None:
    annotated = certificate.model_copy(update={"evaluation": EVALUATION})
    assert render(certificate) == render(certificate)
    assert render(annotated) == render(annotated)


def test_a_page_loads_nothing_and_runs_nothing(certificate: ReleaseCertificate) -> None:
    page = render(certificate.model_copy(update={"evaluation": EVALUATION}))
    assert all(target.startswith("#") for target in read(page).loads)
    assert b"<script" not in page
    assert b"@import" not in page
    assert b"default-src 'none'" in page
    assert not re.findall(rb"url\((?!#)", page)


def test_without_an_evaluation_there_is_no_figure_about_data(certificate: ReleaseCertificate) -> None:
    text = read(render(certificate)).text
    assert "No figure is in here" in text
    assert "accuracy" not in text
    assert "95% interval" not in text


def test_an_evaluation_is_shown_with_plot_table_and_verdict(certificate: ReleaseCertificate) -> None:
    page = render(certificate.model_copy(update={"evaluation": EVALUATION}))
    found = read(page)
    for expected in ("0.810", "0.780 to 0.820", "Federating helped: 3.5 points.", "1,234 held-out", "ab" * 32):
        assert expected in found.text
    assert "Made-up sentences <b>&</b> more" in found.text  # escaped, not interpreted
    assert page.count(b"<svg") == 3


def test_the_parts_that_a_data_protection_officer_asks_for(certificate: ReleaseCertificate) -> None:
    text = read(render(certificate)).text
    for expected in (
        "No text and no record left an institution",
        "only the sum over all 4 was opened",
        "99.97 % of cases",
        "this promise is weak",
        "1 in 100,000",
        "It is about records",
        "It adds up",
        "3 of 4",
        "130 bits",
        "What this does not protect against",
        "poisoned data",
        "secagg verify",
        "the shares of every member are consistent by 4 answers, if all who answered are honest",
    ):
        assert expected in text, expected
    for name in ("Hospital 1", "Hospital 4", "Key-holder 4", "Coordinator"):
        assert name in text


def test_seeded_noise_is_no_protection_and_the_page_says_so() -> None:
    small = Small(clients=3, plan=small_plan(noise="seeded"))
    small.statement = PrivacyStatement(epsilon=8.0, delta=1e-5, accountant="test", noise="seeded")
    text = read(render(draft_certificate(small.parts, {"secagg": "0.1.0"}))).text
    assert "The noise came from a seeded generator" in text


def test_users_are_called_users() -> None:
    small = Small(clients=3, plan=small_plan(unit="user", records_per_user=5))
    text = " ".join(read(render(draft_certificate(small.parts, {"secagg": "0.1.0"}))).text.split())
    for expected in (
        "for each user",
        "any one user's records were used",
        "a certain user's records were used, is right",
        "for every user, even the most unusual",
        "It is about users.",
        "at most 5 of them were used",
        "Using the same users' records for another release",
        "batches of 8 users expected",
        "unit: one user with all records at an institution (at most 5 used), added or removed",
    ):
        assert expected in text, expected
    for false in ("one record", "every record", "for each record", "about records", "certain record"):
        assert false not in text, false


@pytest.mark.parametrize(
    ("epsilon", "best", "strength"),
    [(0.1, "52.5", "strong"), (1.0, "73.1", "strong"), (2.0, "88.1", "moderate"), (8.0, "99.97", "weak")],
)
def test_what_epsilon_excludes_in_words(epsilon: float, best: str, strength: str) -> None:
    guess = Guess(epsilon, 1e-5)
    assert (guess.best, guess.strength, guess.one_in) == (best, strength, "100,000")


def test_a_huge_epsilon_is_certainty() -> None:
    assert float(Guess(1000.0, 1e-5).best) == pytest.approx(100.0)


def test_bytes_are_those_of_the_session(small: Small) -> None:
    sizes = ClientBytes.of(small.descriptor)
    upload = small.uploads[0]
    assert sizes.ciphertext == upload.ciphertext.nbytes
    assert sizes.boxes == sum(len(box) for box in upload.boxes)
    assert sizes.plain == 4 * small.plan.length
    assert sizes.ckks == 235_100


def test_the_page_says_what_was_reserved_for_an_audit(small: Small, certificate: ReleaseCertificate) -> None:
    assert "reserved for an audit" not in read(render(certificate)).text
    descriptor = small.descriptor.model_copy(update={"audit": AuditReserve(hold_out=0.25, canaries=40)})
    signed = small.session.descriptor.model_copy(update={"statement": descriptor})
    session = small.session.model_copy(update={"descriptor": signed})
    page = read(render(certificate.model_copy(update={"session": session}))).text
    assert "reserved for an auditeach record with probability 0.25 and 40 canaries at each client" in page


def test_a_page_of_a_later_round_says_which_and_where_it_began() -> None:
    previous = Previous(series="aa" * 32, ctx="bb" * 32, adapter="cc" * 32)
    small = Small(plan=small_plan(steps=6), round=Round(number=1, rounds=3, previous=previous))
    small.policy = small.policy.model_copy(update={"max_rounds": 3})
    text = read(render(draft_certificate(small.parts, {}))).text
    for expected in ("round 2 of 3: steps 3 to 4", "bb" * 32, "in each of 3 rounds", "the adapters of all 3 rounds"):
        assert expected in text
    assert "rounds" not in read(render(draft_certificate(Small().parts, {}))).text
