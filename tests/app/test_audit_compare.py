"""`secagg audit compare`: runs that go on, figures whose answer is known, a report that says what it must."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from secagg.errors import AuditError, StorageError
from secagg_app.audit import compare as module
from secagg_app.audit.compare import hours
from secagg_app.audit.exposure import findings
from secagg_app.audit.federation import coins_of
from secagg_app.audit.inversion import Setting, _messages, recover
from secagg_app.audit.jobs import JobResult, Jobs, from_file, run_jobs, score_job, to_bytes
from secagg_app.audit.report import frontiers_of, groups_of, noise_of_clients, page, reading, short_lines
from secagg_app.audit.settings import PRESETS, ClientPrivacy, Family, Inversion, Job, Study
from secagg_app.main import cli
from secagg_attacks.audit.verdict import HOLDS
from secagg_attacks.blind import VOID
from secagg_attacks.views import ViewName
from tests.tiny import LABELS, sentences


@pytest.fixture
def family(tiny_bert_dir: Path, tmp_path: Path) -> Family:
    texts, labels = sentences(700)
    unique = dict(zip(texts, labels, strict=True))
    lines = [json.dumps({"text": f"{t} {n}", "label": LABELS[label]}) for n, (t, label) in enumerate(unique.items())]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    return Family(
        name="small", model=str(tiny_bert_dir), source=str(tmp_path / "data.jsonl"), clients=3, pool=96, population=30,
        held_out=40, rounds=(1, 2), epsilon=(0.0, 8.0), runs=2, steps=4, batch_size=8, learning_rate=0.02, rank=4,
    )  # fmt: skip


def result(
    rounds: int, run: int, shift: float, *, epsilon: float = 0.0, gain: float = 0.1, blind: float = 0.5
) -> JobResult:
    """A run in which one attack is good by `shift` deviations under V1, and blind elsewhere."""
    rng = np.random.default_rng([run, 7])
    member = rng.random(600) < 0.5
    names = [(str(view), attack) for view in ViewName for attack in ("good", "bad")]
    scores = {name: rng.normal(size=600) for name in names}
    scores["v1", "good"] = scores["v1", "good"] + shift * member
    return JobResult(
        Job("small", rounds, epsilon, run), member, np.arange(600) % 3, scores, rng.random(600), rng.random(600),
        rng.random(50), {"v2/fedmia": "not defined"}, "accuracy", 0.5, 0.5 + gain + 0.001 * run, 1.0 * (epsilon > 0),
        0.1, 4, 1.0, blind,
    )  # fmt: skip


def test_a_run_is_repeatable_and_its_file_holds_all_of_it(family: Family, tmp_path: Path) -> None:
    job = Job("small", 2, 8.0, 0)
    first, second = score_job(family, job), score_job(family, job)
    (tmp_path / "run").write_bytes(to_bytes(first))
    again = from_file(tmp_path / "run")
    for other in (second, again):
        assert other.job == job
        assert np.array_equal(other.member, coins_of(family, 0))
        assert other.scores.keys() == first.scores.keys()
        assert all(np.array_equal(other.scores[key], first.scores[key]) for key in first.scores)
        assert np.array_equal(other.local, first.local)
        assert (other.value, other.sigma, other.undefined) == (first.value, first.sigma, first.undefined)
    assert {view for view, _ in first.scores} == {"v1", "v2", "v3", "v4"}
    assert ("v1", "fedmia-loss") in first.scores
    assert "only on v1" in first.undefined["v2/fedmia-loss"]
    (tmp_path / "run").write_bytes(b"PAR1")
    with pytest.raises(StorageError, match="remove it, and it is run again"):
        from_file(tmp_path / "run")


def test_a_message_holds_as_many_tokens_as_is_said(family: Family) -> None:
    for tokens in (3, 6):
        held = _messages(family, Inversion(), Setting(4, tokens, 2, 0.0), repeat=0)
        found = [(view.name, [len(text) for text in texts]) for view, texts in held]
        assert found == [(ViewName.V1, [tokens]), (ViewName.V2, [tokens] * 3)] * 2
    with pytest.raises(AuditError, match="texts have 16 tokens, 150 are needed"):
        recover(family, Inversion(), Setting(4, 800, 1, 0.0))


def test_runs_are_paired_by_their_number_where_a_cell_lacks_one() -> None:
    runs = [result(rounds, run, 0.3 * run) for rounds in (1, 3) for run in range(6)]
    whole = findings(runs).differences[0]
    assert whole.difference.value == pytest.approx(0, abs=1e-9)
    lacking = [one for one in runs if (one.job.rounds, one.job.run) not in ((1, 0), (3, 5))]
    found = findings(lacking).differences[0]
    assert found.difference.count == 4
    assert found.difference.value == pytest.approx(0, abs=1e-9)
    assert found.by_example.value == pytest.approx(0, abs=1e-9)


def test_a_run_is_its_own_and_of_the_files_that_it_was_made_from(family: Family, tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "out", (family,))
    (_, first), (_, second) = jobs.all()[:2]
    (tmp_path / "out" / "jobs").mkdir(parents=True)
    jobs.path(family, first).write_bytes(to_bytes(replace(result(1, 0, 0.0), job=second)))
    with pytest.raises(StorageError, match="holds another run's result"):
        jobs.results()
    before = first.key(family)
    Path(family.source).write_text("{}")
    assert first.key(family) != before


def test_those_that_are_not_asked_change_nothing_for_the_others(family: Family) -> None:
    """Of attacks that do not standardise over the candidates."""
    job = Job("small", 1, 0.0, 0)
    every = score_job(family, job)
    some = score_job(family.model_copy(update={"asked": 60}), job)
    assert len(some.member) == 60
    assert np.array_equal(some.member, every.member[:60])
    np.testing.assert_allclose(some.scores["v3", "loss"], every.scores["v3", "loss"][:60], rtol=1e-5)
    assert (some.value, some.blind_p) == (every.value, every.blind_p)
    with pytest.raises(ValueError, match="97 candidates cannot be asked of a pool of 96"):
        Family.model_validate(family.model_dump() | {"asked": 97})


def test_rounds_share_members_and_draws(family: Family) -> None:
    one, two = (score_job(family, Job("small", rounds, 0.0, 1)) for rounds in (1, 2))
    assert np.array_equal(one.member, two.member)
    assert not np.array_equal(one.scores["v3", "loss"], two.scores["v3", "loss"])


def test_a_study_goes_on_where_it_was(family: Family, tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "out", (family.model_copy(update={"rounds": (1,), "epsilon": (0.0,)}),))
    said = list[str]()
    assert run_jobs(jobs, 1, said.append) == []
    assert said[0] == "2 runs, 0 of them done before"
    path = jobs.path(*jobs.all()[0])
    before = from_file(path)
    path.unlink()
    run_jobs(jobs, 1, said.append)
    assert said[3] == "2 runs, 1 of them done before"
    assert np.array_equal(from_file(path).scores["v1", "loss"], before.scores["v1", "loss"])
    assert len(jobs.results()) == 2


def test_what_leaks_is_found_and_what_does_not_is_not() -> None:
    runs = [result(rounds, run, 1.0 if rounds == 2 else 0.0) for rounds in (1, 2) for run in range(6)]
    found = findings(runs)
    leaks = {(each.rounds, each.view): each.leaks for each in found.exposures}
    assert leaks[2, ViewName.V1]
    assert sum(leaks.values()) <= 2, "one, and seldom one by chance"
    best = next(each for each in found.exposures if (each.rounds, each.view) == (2, ViewName.V1))
    assert set(best.chosen) == {"good"}
    assert best.area.value == pytest.approx(0.76, abs=0.03), "Phi(1 / sqrt 2)"
    assert best.shuffled.low < 0.5 < best.shuffled.high
    gap = next(each for each in found.differences if each.view is ViewName.V1)
    assert gap.difference.low > 0.15
    assert 0 < gap.detectable < 0.1
    assert gap.by_example.low < gap.difference.value < gap.by_example.high
    assert gap.by_example.low > 0.15
    assert isinstance(best.rate, str) or best.rate.tpr.value > best.rate.fpr.value


def test_no_run_chooses_its_own_attack() -> None:
    runs = [result(1, run, 0.0) for run in range(5)]
    lucky = runs[2].scores["v1", "bad"] + 5.0 * runs[2].member
    runs[2] = replace(runs[2], scores={**runs[2].scores, ("v1", "bad"): lucky})
    found = findings(runs)
    best = next(each for each in found.exposures if each.view is ViewName.V1)
    assert best.chosen[2] != "bad"
    assert best.areas[2] < 0.7


def test_void_runs_are_listed_and_left_out() -> None:
    runs = [result(1, run, 0.0, blind=VOID / 2 if run == 1 else 0.5) for run in range(4)]
    found = findings(runs)
    assert found.voids == ("small, 1 rounds, epsilon none, run 1 (p = 0.0005)",)
    assert len(found.exposures[0].areas) == 3
    with pytest.raises(AuditError, match="no setting has two runs"):
        findings(runs[:2])


def test_the_report_says_what_it_must(family: Family) -> None:
    runs = [
        result(rounds, run, 1.0, epsilon=epsilon, gain=0.1 if epsilon == 0 else 0.0)
        for rounds in (1, 2) for run in range(4) for epsilon in (0.0, 8.0)
    ]  # fmt: skip
    control = family.model_copy(update={"positive_control": True})
    study = Study(name="test", families=(control,))
    found = findings(runs)
    html = page(study, found, [], [], [0.5] * 8, "today", "")
    assert "Positive control (small, V1): area 0.7" in html
    assert "leak detected" in html
    assert HOLDS in html
    assert "not defined" in html
    assert "would by chance if nothing leaked; with Holm" in " ".join(html.split())
    assert html.count("<svg") == 4
    lines = short_lines(groups_of(study, found))
    assert any("nothing learnt" in line for line in lines if "epsilon 8" in line)
    assert all("nothing learnt" not in line for line in lines if "no differential privacy" in line)
    weak, strong = min(found.exposures, key=lambda e: e.area.low), max(found.exposures, key=lambda e: e.area.low)
    assert reading(weak, learnt=False) == "nothing learnt"
    assert reading(strong, learnt=False) == "leak detected, and nothing learnt"


def test_an_interval_of_areas_stays_an_area() -> None:
    runs = [result(1, run, shift) for run, shift in enumerate((0.0, 5.0))]
    assert all(0 <= each.area.low <= each.area.high <= 1 for each in findings(runs).exposures)


def test_schedules_of_several_lengths_are_shown_at_equal_quality(family: Family) -> None:
    families = tuple(
        family.model_copy(update={"name": f"{steps} steps", "steps": steps, "frontier": "tuned", "epsilon": (0.0,)})
        for steps in (4, 8)
    )
    runs = [
        replace(each, job=replace(each.job, family=one.name))
        for one in families for rounds in (1, 2) for each in (result(rounds, run, 0.5) for run in range(3))
    ]  # fmt: skip
    study, found = Study(name="test", families=families), findings(runs)
    (frontier,) = frontiers_of(groups_of(study, found))
    assert [view for view, _ in frontier.plots] == ["V1", "V2"]
    assert "Exposure at equal quality: tuned" in page(study, found, [], [], [0.5], "today", "")


def test_noise_of_clients_says_what_it_promises(family: Family) -> None:
    """Two releases of sigma 2 are one of 2 / sqrt 2; with sigma 2 sqrt 2 they are one of sigma 2."""
    promised = {
        equal: noise_of_clients(
            Family.model_validate(
                family.model_dump()
                | {"epsilon": (0.0,), "client_noise": ClientPrivacy(clip=1.0, sigma=2.0, equal=equal)}
            )
        )
        for equal in ("total", "release")
    }
    epsilons = {equal: [re.search(r"epsilon (\S+) for", line) for line in lines] for equal, lines in promised.items()}
    total, release = ([float(found[1]) for found in each if found] for each in epsilons.values())
    assert total[0] == release[0] == pytest.approx(total[1], rel=0.01)
    assert release[1] > 1.3 * release[0]
    with pytest.raises(ValueError, match="goes without that of records"):
        Family.model_validate(family.model_dump() | {"client_noise": ClientPrivacy(clip=1.0, sigma=2.0, equal="total")})


def test_noise_of_clients_changes_what_is_sent(family: Family) -> None:
    plain, noisy = (
        score_job(family.model_copy(update={"epsilon": (0.0,), "client_noise": noise}), Job("small", 1, 0.0, 0))
        for noise in (None, ClientPrivacy(clip=0.1, sigma=5.0, equal="release"))
    )
    assert plain.value != noisy.value or not np.array_equal(plain.probabilities, noisy.probabilities)


def test_the_command_writes_page_figures_and_scores(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = family.model_copy(update={"rounds": (1, 2), "epsilon": (0.0,)})
    study = Study(name="quick", families=(small,), inversion=Inversion(ranks=(4,), rounds=(1,), repeats=2), pictures=0)
    monkeypatch.setitem(PRESETS, "quick", study)
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, ["audit", "compare", "--preset", "quick", "--out", str(out), "--workers", "1"])
    assert done.exit_code == 0, done.output
    figures = json.loads((out / "exposure.json").read_text())
    assert len(figures["exposures"]) == 2 * 4
    assert {row["view"] for row in figures["recoveries"]} == {"v1", "v2"}
    assert set(figures["exposures"][0]["area"]) == {"value", "low", "high", "count", "confidence"}
    table = pyarrow.parquet.read_table(out / "scores.parquet")
    assert {"family", "rounds", "epsilon", "run", "view", "attack", "candidate", "client", "member", "score"} == set(
        table.column_names
    )
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert not list(out.rglob("*.safetensors")), "no update is written"


def test_paper_says_how_long_it_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert hours(PRESETS["quick"]) < hours(PRESETS["full"]) < 4 < hours(PRESETS["paper"])

    def stop(_study: Study) -> None:
        raise AuditError("stopped here")

    monkeypatch.setattr(module, "_fetch", stop)
    done = CliRunner().invoke(cli, ["audit", "compare", "--preset", "paper", "--out", str(tmp_path / "o")])
    assert f"about {hours(PRESETS['paper']):.0f} hours on 2 cores" in done.output
    assert "stopped here" in done.output


def test_the_example_attacks_a_federation(tiny_bert_dir: Path, tmp_path: Path) -> None:
    texts, _ = sentences(200)
    lines = [json.dumps({"text": f"{text} {n}", "label": LABELS[n % 2]}) for n, text in enumerate(texts)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    script = Path(__file__).parents[2] / "examples" / "attack.py"
    words = [sys.executable, str(script), str(tiny_bert_dir), str(tmp_path / "texts.jsonl")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    plain, total = (float(line.split()[1]) for line in done.stdout.splitlines()[-2:])
    assert plain > 0.6
    assert plain > total
