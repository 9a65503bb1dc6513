"""What the coordinator may put into a model card in its own words: one line of plain text each (protocol.md §10.1a)."""

import re

import pytest
from pydantic import ValidationError

from secagg import certificate as files
from secagg.canonical import pretty_bytes
from secagg.certificate import Evaluation, Metric
from secagg.descriptor import SignedDescriptor
from secagg.errors import MalformedError
from secagg.model_card import plain
from secagg.plan import Plan
from secagg.policy import adapter_schema_hash
from secagg.release import annotate_release, build_release
from secagg.signing import parse_model
from tests.small import Small, small_plan

FORGED = "bert`.\n\n## Privacy\n\nNobody's record changes anything by more than a factor exp(0.001).\n\n`bert"
REFUSED = [FORGED, "two\nlines", "a `code` span", "\x1b[2J", "31m\x9b", "gnp\u202eevil", "a\u2028b", "a\tb", "\x00", ""]
TAKEN = [
    "sentence-transformers/all-MiniLM-L6-v2",
    "/srv/models/Klinik Süd (2. Fassung)/modèle_v1",
    r"C:\models\bert",
    "./runs/[1]/base & head",
    "x" * 200,
]


def read(plan: Plan) -> Plan:
    """A plan as it comes from outside."""
    return parse_model(Plan, pretty_bytes(plan))


@pytest.mark.parametrize("field", ["base_model", "architecture"])
@pytest.mark.parametrize("words", REFUSED)
def test_names_in_a_plan_are_one_printable_line(field: str, words: str) -> None:
    with pytest.raises(MalformedError, match=field):
        read(small_plan().model_copy(update={field: words}))


@pytest.mark.parametrize("words", TAKEN)
def test_what_models_are_called_and_where_they_lie_is_taken(words: str) -> None:
    assert read(small_plan().model_copy(update={"base_model": words, "architecture": words})).base_model == words


def test_a_forged_section_is_in_no_session_that_parties_read() -> None:
    """All that a policy pins is as it should be."""
    honest, plan = small_plan(), small_plan().model_copy(update={"base_model": FORGED})
    assert adapter_schema_hash(plan) == adapter_schema_hash(honest)
    signed = Small(plan=plan).proposal
    with pytest.raises(MalformedError, match="one line of printable characters"):
        parse_model(SignedDescriptor, pretty_bytes(signed))


def test_the_adapters_configuration_names_the_base_model_that_the_plan_names() -> None:
    plan = small_plan()
    same = plan.model_copy(update={"adapter_config": {**plan.adapter_config, "base_model_name_or_path": "tiny"}})
    assert read(same) == same
    other = plan.model_copy(update={"adapter_config": {**plan.adapter_config, "base_model_name_or_path": "evil/tiny"}})
    with pytest.raises(MalformedError, match="whoever loads the release would fetch another model"):
        read(other)


@pytest.mark.parametrize("words", REFUSED)
def test_words_of_an_evaluation_are_one_printable_line(words: str) -> None:
    with pytest.raises(ValidationError):
        Metric(name=words, value=0.5)
    with pytest.raises(ValidationError):
        Evaluation(
            data_sha256="ab" * 32, data_is_public=True, description=words, metrics=(Metric(name="accuracy", value=0.5),)
        )


def test_nothing_that_the_coordinator_says_is_a_section_of_the_card() -> None:
    small = Small(plan=small_plan().model_copy(update={"architecture": "T</p><h2>Privacy</h2>"}))
    content = build_release(small.parts, small.parties.coordinator, {"secagg": "0"}, lambda _: b"<html></html>")
    evaluation = Evaluation(
        data_sha256="ab" * 32,
        data_is_public=True,
        description="## Privacy: [epsilon 0.001](https://example.org) <b>for all</b>",
        metrics=(Metric(name="**accuracy** <script>", value=0.75),),
    )
    noted = annotate_release(content, small.parties.coordinator, evaluation, lambda _: b"<html></html>")
    card = noted[files.MODEL_CARD].decode()
    assert re.findall(r"^#+ .*", card, re.M) == [
        "# A jointly trained adapter", "## Privacy", "## Use", "## Check", "## Quality"
    ]  # fmt: skip
    assert not re.search(r"(?<!\\)<", card)
    assert r"> \#\# Privacy: \[epsilon 0.001\](https://example.org) \<b\>for all\</b\>" in card
    assert r"- \*\*accuracy\*\* \<script\>: 0.75" in card


def test_plain_words_stay_as_they_are() -> None:
    words = "RobertaForSequenceClassification, held-out rows (2%) of a public set: ä|ö!"
    assert plain(words) == words
