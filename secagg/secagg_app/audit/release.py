"""`secagg audit release`: attack one's own run, from what was released of it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from secagg.errors import AuditError
from secagg_app.audit import overlap
from secagg_app.audit import planted as planting
from secagg_app.audit.overlap import Together, together
from secagg_app.audit.target import Asked, Target, asked, target_of, task_of
from secagg_attacks.attack import membership_scores
from secagg_attacks.audit.guessing import Canaries, bonferroni, reach, strongest_delta
from secagg_attacks.audit.verdict import FAMILY_WISE, HOLDS, LEAK, Claim, Verdict, judge
from secagg_attacks.battery import attack_all
from secagg_attacks.blind import LEAST, VOID, Blind, blind_baseline
from secagg_attacks.intervals import Floats, Interval, t_interval
from secagg_attacks.probe import probe_of
from secagg_attacks.registry import attack_named
from secagg_attacks.roc import Scores, auc, auc_interval, calibrated
from secagg_attacks.views import Question, ViewName
from secagg_client.parquet import parquet_bytes
from secagg_host.durable import make_folder, write_atomic
from secagg_host.terminal import printable_lines

NO_CLAIM = (
    "no claim on membership: these members and others were not drawn by coins before training (a session reserves that "
    "with [audit]), so a difference between them may be one of what the records are like"
)
NOTHING_LEARNT = "nothing learnt: the run changed too little on other records for a leak to be looked for"
NO_POSITIVE = (
    "no positive control: nothing here shows that these attacks would find a leak in this run. `secagg audit compare` "
    "has one, and canaries are one for the bound"
)
BLIND = "the texts alone tell members from others: no score of the model means anything"
FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class Seen:
    """One view. `attack` was chosen on one half of the candidates; area and rate are of the other half.

    `floor` is the lower end of the area's interval at the level at which all views that are asked together hold 95%.
    """

    view: ViewName
    attack: str
    area: Interval
    floor: float
    shuffled: float
    rate: str
    low_rate: str
    by_attack: dict[str, float]


@dataclass(frozen=True, slots=True)
class ReleaseAudit:
    """All that is found of a run."""

    seen: tuple[Seen, ...]
    members: int
    others: int
    by_coin: bool
    blind: Blind | None
    canaries: Verdict | None
    notes: tuple[str, ...]
    undefined: dict[str, str]
    scores: dict[tuple[str, str], Floats] = field(repr=False)
    is_in: NDArray[np.bool_] = field(repr=False)
    learnt: Interval | None = None
    planted: planting.PlantedAudit | None = None
    together: Together | None = None

    @property
    def reading(self) -> str:
        """One sentence."""
        if not self.seen:
            return "membership was not asked"
        if not self.by_coin:
            return NO_CLAIM
        said = reading(max(each.floor for each in self.seen), self.blind)
        return NOTHING_LEARNT if said == HOLDS and self.learnt is not None and self.learnt.low <= 0 else said


NOT_ASKED = ReleaseAudit((), 0, 0, False, None, None, (), {}, {}, np.zeros(0, dtype=bool))


def about_target(target: Target) -> str:
    """What is audited, for the head of a page."""
    rounds = len(target.released.rounds) if target.released else 0
    return f"{target.folder}, on {target.plan.base_model}" + (f", {rounds} round{'s' * (rounds > 1)}" if rounds else "")


def reading(low: float, blind: Blind | None) -> str:
    """Of an area whose interval begins at `low`, on records that were drawn by coins."""
    if blind is not None and blind.p_value < VOID:
        return BLIND
    return LEAK if low > 0.5 else HOLDS


@click.command(
    epilog="Example: secagg audit release runs/demo/release --members state/.../audit/members.parquet "
    "--nonmembers state/.../audit/nonmembers.parquet"
)
@click.argument("folder", type=FOLDER, metavar="RELEASE")
@click.option("--members", type=FILE, help="Records that were trained on (a client's audit/members.parquet).")
@click.option("--nonmembers", type=FILE, help="Records that were not, of the same kind (audit/nonmembers.parquet).")
@click.option("--canaries", type=FILE, help="A client's audit/canaries.parquet: a lower bound on epsilon.")
@click.option("--planted", type=FILE, help="The planted.jsonl of `secagg audit plant`: are its secrets given away?")
@click.option("--declared-size", type=click.IntRange(1), help="What that client declared: the bound has more power.")
@click.option("--earlier", type=FOLDER, multiple=True, help="The release of a round before; repeat, first round first.")
@click.option(
    "--other",
    type=FOLDER,
    multiple=True,
    help="Another release of the same plan; repeat. Whom do all together isolate? Certificates alone say it.",
)
@click.option("--base", help="The base model, an id or a folder; by default the one that the release names.")
@click.option("--task", type=click.Choice(["classify", "lm"]), help="Of an adapter without a certificate.")
@click.option("--labels", help="Its classes in order, with commas.")
@click.option("--out", type=FOLDER, default=Path("runs/audit-release"), show_default=True,
              help="exposure.json, scores.parquet and report.html.")  # fmt: skip
def release(
    folder: Path, members: Path | None, nonmembers: Path | None, canaries: Path | None, planted: Path | None,
    declared_size: int | None, earlier: tuple[Path, ...], other: tuple[Path, ...], base: str | None, task: str | None,
    labels: str | None, out: Path,
) -> None:  # fmt: skip
    """Attack the run in RELEASE under every view that a release gives: its sums (v2) and its model (v3).

    RELEASE is a release of this project, or any folder with a PEFT adapter. Says what it does not claim: without
    members and others that were drawn by coins before training, membership cannot be told from a difference in kind.
    With --other it also looks at the cohorts of all releases, --earlier ones too: who is isolated by a difference of
    their sums.
    """
    if (members is None) != (nonmembers is None):
        raise click.UsageError("--members and --nonmembers go together")
    of_this_run = members is not None or canaries is not None or planted is not None
    if not of_this_run and not other:
        raise AuditError(
            "nothing to ask: give --members and --nonmembers, or --canaries. A session with [audit] makes each client "
            "reserve them, in its state folder under sessions/*/audit. Or --planted, what `secagg audit plant` wrote; "
            "or --other, more releases"
        )
    several = together((*earlier, folder, *other)) if other else None
    found, about = NOT_ASKED, str(folder)
    if of_this_run:
        target = target_of(folder, earlier, base, task_of(task, labels))
        question = None if members is None or nonmembers is None else asked(target, members, nonmembers)
        asked_planted = planting.audit_planted(target, planted) if planted is not None else None
        found = replace(audit_release(target, question, canaries, declared_size), planted=asked_planted)
        about = about_target(target)
    found = replace(found, together=several)
    from secagg_app.audit.release_report import page

    make_folder(out)
    write_atomic(out / "exposure.json", (json.dumps(to_json(found), indent=1) + "\n").encode())
    write_atomic(out / "scores.parquet", _scores(found))
    write_atomic(out / "report.html", page(about, found).encode())
    click.echo(printable_lines([*lines(found), f"report: {out / 'report.html'}"]))
    if found.canaries is not None and found.canaries.fails:
        raise AuditError(f"{found.canaries.summary}; see {out / 'report.html'}")


def audit_release(
    target: Target, asked: Asked | None, canaries: Path | None, declared_size: int | None = None
) -> ReleaseAudit:
    """Every membership attack on every view, and the canaries. Raises AuditError, DataError."""
    notes = list[str]()
    if target.released is not None and target.released.is_cut:
        there, planned = len(target.released.rounds), target.released.last.descriptor.rounds
        notes.append(f"the run was cut, or is not finished: {there} of {planned} rounds are there")
    if target.without_sums:
        notes.append(target.without_sums)
    verdict = _canaries(target, canaries, declared_size) if canaries is not None else None
    if asked is None:
        return replace(NOT_ASKED, canaries=verdict, notes=tuple(notes))
    scores, undefined = attack_all([target.view(name, asked.question) for name in target.views])
    units = asked.units
    scores, is_in = {name: units.means(values) for name, values in scores.items()}, units.truth(asked.is_in)
    seen = tuple(judged(view, scores, is_in, together=len(target.views)) for view in target.views)
    if units.count < len(asked.is_in):
        whose = "users" if asked.question.candidates.users else "different records, of which some have copies"
        notes.append(f"figures are over {units.count} {whose}, by the mean of each one's rows")
    inside = int(is_in.sum())
    enough = min(inside, len(is_in) - inside) >= LEAST
    blind = blind_baseline(units.texts(asked.question.candidates.texts), is_in, seed=0) if enough else None
    if verdict is None:
        notes.append(NO_POSITIVE)
    learnt = _learnt(target, asked.question)
    if learnt is not None:
        notes.append(
            f"on {learnt.count} other records the loss fell by {learnt.value:.4f} [{learnt.low:.4f}, {learnt.high:.4f}]"
        )
    return ReleaseAudit(
        seen,
        inside,
        len(is_in) - inside,
        asked.by_coin,
        blind,
        verdict,
        tuple(notes),
        undefined,
        scores,
        is_in,
        learnt,
    )


def _learnt(target: Target, question: Question) -> Interval | None:
    """How far the loss of records that nobody trained on fell from the start to the release; None for too few."""
    if len(question.population) < 2:
        return None
    probe = probe_of(target.public, question.population)
    start, *_, release = target.view(ViewName.V3, question).models()
    return t_interval((probe.losses(start) - probe.losses(release)).tolist())


def judged(
    view: ViewName, scores: dict[tuple[str, str], Floats], is_in: NDArray[np.bool_], *, together: int = 1
) -> Seen:
    """Choose on every second candidate, judge on the others: their order is random. `together` views are asked."""
    mine = {name: values for (of, name), values in scores.items() if of == view}
    choosing = np.arange(len(is_in)) % 2 == 0
    areas = {name: auc(_split(values, is_in, choosing)) for name, values in mine.items()}
    best = max(areas, key=lambda name: areas[name])
    values, rows = mine[best], np.flatnonzero(~choosing)
    mixed = np.random.default_rng(0).permutation(is_in[rows])
    others, judging = values[choosing & ~is_in], _split(values, is_in, ~choosing)
    return Seen(
        view, best, auc_interval(values[rows], is_in[rows], seed=0),
        auc_interval(values[rows], is_in[rows], seed=0, confidence=1 - 0.05 / together).low,
        auc(Scores(values[rows][mixed], values[rows][~mixed])),
        _rate(others, judging, 0.01), _rate(others, judging, 0.001),
        {name: auc(_split(v, is_in, ~choosing)) for name, v in mine.items()},
    )  # fmt: skip


def _rate(calibration: Floats, scores: Scores, fpr: float) -> str:
    try:
        found = calibrated(calibration, scores, fpr)
    except AuditError as error:
        return f"refused: {error} in each half"
    return f"{found.tpr.value:.3f} [{found.tpr.low:.3f}, {found.tpr.high:.3f}]"


def _split(values: Floats, is_in: NDArray[np.bool_], rows: NDArray[np.bool_]) -> Scores:
    return Scores(values[rows & is_in], values[rows & ~is_in])


def _canaries(target: Target, path: Path, declared_size: int | None) -> Verdict:
    """The fall of each canary's loss from start to release, against how its coin fell: one run, rigorous.

    Raises AuditError for a table without coins, or a run without differential privacy.
    """
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    if "member" not in table.column_names:
        raise AuditError(f"{path}: has no column `member`: give the canaries.parquet that the client's draw wrote")
    coins = table.column("member").to_pylist()
    if not all(isinstance(coin, bool) for coin in coins):
        raise AuditError(f"{path}: column `member` holds other values than true and false")
    is_in = np.array(coins, dtype=bool)
    _check_coins(target, path, is_in)
    candidates = target.examples(path)
    view = target.view(ViewName.V3, Question(candidates, candidates))
    scores = membership_scores(attack_named("reference-difference"), view)
    delta, accounted = _accounted(target, declared_size, len(is_in))
    found = Canaries(scores, is_in)
    claim = Claim(
        f"{len(is_in)} canaries, one run, delta {delta:g}",
        accounted,
        lambda share: bonferroni(found, delta, share).epsilon,
        lambda share: reach(len(found), delta, share),
    )
    return judge([claim])


def _check_coins(target: Target, path: Path, is_in: NDArray[np.bool_]) -> None:
    """Raise AuditError unless the canaries are in and out as the draw beside them says, for a client of this run."""
    run = target.released
    if run is None:
        return
    draw = run.draw_beside(path)
    if draw is None:
        raise AuditError(
            f"{path}: there is no draw.json of this run's session beside it, so nothing says that these canaries were "
            "in this run: give the table in the folder that the client wrote"
        )
    wrong = draw.canaries_not_so(is_in.tolist())
    if wrong or len(is_in) != draw.reserve.canaries:
        raise AuditError(
            f"{path}: {wrong} of {len(is_in)} canaries are not as the coins of draw.json fell ({draw.reserve.canaries} "
            "were reserved): the table was altered"
        )


def _accounted(target: Target, declared_size: int | None, canaries: int) -> tuple[float, float]:
    """Delta, and the epsilon that was accounted there.

    A release states one epsilon at one delta. With the size that the canaries' client declared its mechanism is known,
    and so an epsilon at every delta: then the one is asked at which the audit has most power.
    Raises AuditError without differential privacy.
    """
    from secagg_client.accounting import epsilon_spent
    from secagg_client.training import mechanism_of

    training = target.plan.training
    if target.released is None or training.epsilon is None:
        raise AuditError("nothing was accounted: a lower bound has nothing to be held against")
    if declared_size is None:
        return training.delta, training.epsilon
    mechanism = mechanism_of(training, declared_size)
    delta = strongest_delta(canaries, FAMILY_WISE, lambda each: epsilon_spent(mechanism, each))
    return delta, epsilon_spent(mechanism, delta)


def _scores(found: ReleaseAudit) -> bytes:
    import pyarrow

    columns: dict[str, Any] = {"member": found.is_in}
    columns |= {f"{view}/{name}": values for (view, name), values in found.scores.items()}
    return parquet_bytes(pyarrow.table(columns))


def to_json(found: ReleaseAudit) -> dict[str, Any]:
    """Every figure."""
    verdict = found.canaries
    return {
        "reading": found.reading, "members": found.members, "others": found.others, "by_coin": found.by_coin,
        "learnt": asdict(found.learnt) if found.learnt else None,
        "blind": asdict(found.blind) if found.blind else None, "views": [asdict(each) for each in found.seen],
        "canaries": _verdict(verdict) if verdict else None,
        "planted": planting.to_json(found.planted) if found.planted else None,
        "notes": list(found.notes), "undefined": found.undefined,
        "together": overlap.to_json(found.together) if found.together else None,
    }  # fmt: skip


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {"fails": verdict.fails, "findings": [asdict(each) for each in verdict.findings]}


def lines(found: ReleaseAudit) -> Sequence[str]:
    """For people."""
    out = [
        f"{each.view}: area {each.area.value:.3f} [{each.area.low:.3f}, {each.area.high:.3f}] by {each.attack}, of "
        f"{found.members} members and {found.others} others; shuffled {each.shuffled:.3f}; at 1% false positives "
        f"{each.rate}; at .1% {each.low_rate}"
        for each in found.seen
    ]
    for finding in found.canaries.findings if found.canaries else ():
        power = "" if finding.could_fail else "; it could not have failed with so few"
        out.append(
            f"{finding.name}: epsilon at least {finding.epsilon:.2f}, accounted {finding.accounted:.2f} (at most "
            f"{finding.reach:.2f} could have been shown{power})"
        )
    if found.planted is not None:
        out += planting.lines(found.planted)
    several = overlap.lines(found.together) if found.together else []
    return [*out, *(f"note: {note}" for note in found.notes), found.reading, *several]
