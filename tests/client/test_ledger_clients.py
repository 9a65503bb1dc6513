"""What the institution as a whole has spent, added up over sessions of any protocol (protocol.md §4.5f)."""

import json
import math
from pathlib import Path

import dp_accounting
import pytest
from pydantic import ValidationError

from secagg.agreed import Agreed
from secagg.ckks.descriptor import CkksSpec
from secagg.client_noise import concentrated
from secagg.client_noise.setting import DELTA_KEPT, ClientNoise, NoiseGrid
from secagg.codec import Quantiser
from secagg.coordinator import SessionSpec
from secagg.errors import AccountingError, LedgerError, PolicyViolation
from secagg_client.accounting import epsilon_of as epsilon_by_pld
from secagg_client.client_noise_accounting import check_agreement, composed, epsilon_of, record_of
from secagg_client.ledger import Ledger
from secagg_client.ledger_entry import ClientLevelRecord, LedgerEntry, LedgerLimits
from tests.client.ledgers import LEVEL, ONCE, QUICK, ROOT, A, B, C, D, ledger_in, new_ledger, quick
from tests.secagg.ckks.sessions import Ckks
from tests.secagg.masked.sessions import Masked
from tests.small import DAY, Small

WHOLE = ONCE.model_copy(update={"total_client_epsilon": 3.0})
STRICT = WHOLE.model_copy(update={"count_attempts": True, "allow_repeated": True})
NOISE = ClientNoise(clip=4.0, noise_multiplier=1.0, delta=1e-6, accept_noise_over_signal=True)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return new_ledger(tmp_path)


def session(number: int) -> str:
    return f"{number:064x}"


def fill(ledger: Ledger, limits: LedgerLimits, level: ClientLevelRecord = LEVEL) -> int:
    """Sessions on data of their own, one after the other, until one is refused; how many there were."""
    for number in range(100):
        try:
            ledger.begin(quick(session(number), number, client_level=level), limits)
        except PolicyViolation:
            return number
        ledger.mark_sealed(session(number), ROOT)
    raise AssertionError("never refused")


# -- the total -------------------------------------------------------------------------------------------------------


def test_sessions_add_up_by_zcdp_whatever_their_data_and_protocol(ledger: Ledger) -> None:
    """rho adds up, and the epsilon is that of the sum by dp-accounting: less than the sum of epsilons."""
    for number, rho in enumerate((0.05, 0.02, 0.11)):
        level = ClientLevelRecord(rho=rho, failure=1e-16)
        ledger.begin(quick(session(number), number, client_level=level), ONCE)
    spent = ledger.client_spent(ONCE)
    together = dp_accounting.ZCDpEvent(0.05 + 0.02 + 0.11)
    assert spent.epsilon == pytest.approx(epsilon_of(together, DELTA_KEPT * ONCE.delta), rel=1e-9)
    assert spent.epsilon == pytest.approx(concentrated.epsilon(0.18, DELTA_KEPT * ONCE.delta), rel=1e-9)
    assert (spent.sessions, spent.releases, spent.without) == (3, 3, 0)
    assert spent.epsilon < sum(composed([ClientLevelRecord(rho=r, failure=0)], 1e-5) for r in (0.05, 0.02, 0.11))


def test_a_session_past_the_total_is_refused_before_training(ledger: Ledger) -> None:
    assert composed([LEVEL], WHOLE.delta) < 3.0
    count = fill(ledger, WHOLE)
    assert 1 < count < 10
    assert composed([LEVEL] * count, WHOLE.delta) <= 3.0 < composed([LEVEL] * (count + 1), WHOLE.delta)
    before = ledger.entries()
    with pytest.raises(PolicyViolation, match=r"client-level epsilon of 3\.\d+ at delta 1e-05, above the total 3"):
        ledger.begin(quick(A, 1000, client_level=LEVEL), WHOLE)
    assert ledger.entries() == before, "nothing is entered, so nothing is trained"
    ledger.begin(quick(A, 1000, client_level=LEVEL), ONCE)  # without the limit it is only counted
    assert ledger.client_spent(ONCE).releases == count + 1


def test_a_smaller_session_may_still_fit(ledger: Ledger) -> None:
    fill(ledger, WHOLE)
    ledger.begin(quick(A, 1000, client_level=ClientLevelRecord(rho=1e-6, failure=0)), WHOLE)


def test_rounds_of_a_series_add_up_one_release_each(ledger: Ledger) -> None:
    grid = NoiseGrid.make(NOISE.model_copy(update={"noise_multiplier": 4.0}), Quantiser.uniform(300, 0.5, 20), 5, 9)
    for number in range(3):
        ledger.begin(quick(A, 1, round_number=number, client_level=record_of(grid)), ONCE)
    spent = ledger.client_spent(LedgerLimits(total_epsilon=8.0, delta=NOISE.delta))
    assert (spent.sessions, spent.releases) == (1, 3)
    assert spent.epsilon == pytest.approx(check_agreement(grid, 3), rel=1e-9), "as the session states it for 3 rounds"
    assert fill(ledger, WHOLE, record_of(grid)) > 0


def test_attempts_count_once_and_what_was_abandoned_not_at_all(ledger: Ledger) -> None:
    for _ in range(3):
        ledger.begin(quick(A, 1, client_level=LEVEL), WHOLE)
    assert ledger.client_spent(WHOLE).releases == 1
    assert ledger.client_spent(STRICT).releases == 3
    ledger.begin(quick(B, 2, client_level=LEVEL), WHOLE)
    ledger.abandon(B)
    assert ledger.client_spent(WHOLE).releases == 1
    assert ledger.client_spent(STRICT).releases == 4


def test_who_counts_every_attempt_is_refused_earlier(ledger: Ledger) -> None:
    count = 4
    assert composed([LEVEL] * count, STRICT.delta) <= 3.0 < composed([LEVEL] * (count + 1), STRICT.delta)
    for _ in range(count):
        ledger.begin(quick(A, 1, client_level=LEVEL), STRICT)
    with pytest.raises(PolicyViolation, match="total_client_epsilon"):
        ledger.begin(quick(A, 1, client_level=LEVEL), STRICT)
    ledger.begin(quick(A, 1, client_level=LEVEL), WHOLE)


def test_a_delta_that_does_not_pay_for_overflow_bounds_nothing(ledger: Ledger) -> None:
    failing = ClientLevelRecord(rho=0.05, failure=1e-6)
    assert composed([failing], 1e-5) == math.inf
    with pytest.raises(PolicyViolation, match="client-level epsilon of inf"):
        ledger.begin(quick(A, 1, client_level=failing), WHOLE)
    many = [ClientLevelRecord(rho=1e-6, failure=1e-9)] * 4
    assert composed(many, 1e-5) < 1 < composed([*many, *many], 1e-5), "what may fail adds up as well"


# -- what is not composed --------------------------------------------------------------------------------------------


def test_epsilons_of_records_and_of_the_institution_are_never_composed(ledger: Ledger) -> None:
    plain, noisy = quick(A, 1), quick(B, 2, client_level=ClientLevelRecord(rho=5.0, failure=0))
    assert ledger.check(plain, ONCE) == ledger.check(noisy, ONCE)
    ledger.begin(noisy, ONCE)
    (data,) = ledger.spent(ONCE)
    assert data.epsilon == pytest.approx(epsilon_by_pld([QUICK.event()], ONCE.delta), rel=0.01)
    assert ledger.client_spent(ONCE).epsilon > 10


def test_a_session_without_such_noise_has_no_bound_and_is_refused_where_one_is_asked(ledger: Ledger) -> None:
    with pytest.raises(PolicyViolation, match="nothing bounds what it spends of this institution as a whole"):
        ledger.begin(quick(A, 1), WHOLE)
    ledger.begin(quick(A, 1), ONCE)
    ledger.begin(quick(B, 2, client_level=LEVEL), WHOLE)
    spent = ledger.client_spent(WHOLE)
    assert (spent.sessions, spent.without) == (1, 1)
    assert spent.epsilon == composed([LEVEL], WHOLE.delta), "what has no bound is not in the sum, and is said"


@pytest.mark.parametrize(
    "lie",
    [
        {"mechanism": "gaussian"}, {"unit": "record"}, {"adjacency": "add-or-remove-one"}, {"rho": 0.0},
        {"rho": float("inf")}, {"rho": float("nan")}, {"rho": -1.0}, {"failure": 1.0}, {"sampler": "poisson"},
    ],
)  # fmt: skip
def test_another_mechanism_unit_or_adjacency_is_refused(lie: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ClientLevelRecord.model_validate({**LEVEL.model_dump(), **lie})


def test_a_mechanism_that_the_accountant_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dp_accounting, "ZCDpEvent", lambda _: dp_accounting.UnsupportedDpEvent())
    with pytest.raises(AccountingError, match="does not know"):
        composed([LEVEL], 1e-5)


# -- the lines -------------------------------------------------------------------------------------------------------


def test_the_line_is_there_before_training_and_stays_on_every_later_one(ledger: Ledger) -> None:
    entry = ledger.begin(quick(A, 1, client_level=LEVEL), WHOLE)
    assert entry.client_level == LEVEL
    assert ledger.mark_sealed(A, ROOT).client_level == LEVEL
    assert [line.client_level for line in ledger.entries()] == [LEVEL, LEVEL]
    assert ledger.client_spent(WHOLE).releases == 1


def test_lines_from_before_the_ledger_knew_of_it_stay_readable(tmp_path: Path, ledger: Ledger) -> None:
    """A line without the field is the bytes it always was."""
    ledger.begin(quick(A, 1), ONCE)
    (line,) = (tmp_path / "ledger" / "ledger.jsonl").read_text().splitlines()
    assert "client_level" not in line
    assert set(json.loads(line)) == {
        "number", "kind", "time", "session", "round_number", "attempt", "name", "data", "mechanism", "epsilon",
        "delta", "noise", "upload_root", "previous", "mac",
    }  # fmt: skip
    assert LedgerEntry.model_validate_json(line).client_level is None
    again = ledger_in(tmp_path)
    again.begin(quick(A, 1, client_level=LEVEL), WHOLE)  # the run was begun before; its next attempt says it
    assert again.client_spent(WHOLE) == ledger.client_spent(WHOLE)
    assert (again.client_spent(WHOLE).sessions, again.client_spent(WHOLE).without) == (1, 0)


def test_a_run_begins_again_with_the_same_noise_only(ledger: Ledger) -> None:
    ledger.begin(quick(A, 1, client_level=LEVEL), WHOLE)
    for other in (None, ClientLevelRecord(rho=0.04, failure=1e-16)):
        with pytest.raises(LedgerError, match="other data or settings"):
            ledger.begin(quick(A, 1, client_level=other), ONCE)


def test_an_altered_rho_is_found(tmp_path: Path, ledger: Ledger) -> None:
    ledger.begin(quick(A, 1, client_level=LEVEL), WHOLE)
    path = tmp_path / "ledger" / "ledger.jsonl"
    path.write_text(path.read_text().replace('"rho":0.05', '"rho":0.01'))
    with pytest.raises(LedgerError, match="line 1: altered"):
        ledger.client_spent(WHOLE)


# -- what a session is charged for -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["sealed", "masked", "ckks"])
def test_sessions_of_every_protocol_are_charged_for_one_release(protocol: str, ledger: Ledger) -> None:
    agreed: Agreed
    match protocol:
        case "sealed":
            spec = SessionSpec(n_min=3, n_max=10, upload_seconds=DAY, expiry_seconds=2 * DAY, client_noise=NOISE)
            agreed = Small(spec=spec).proposal.descriptor.statement
        case "masked":
            agreed = Masked(client_noise=NOISE).descriptor
        case _:
            made = CkksSpec(n_min=3, n_max=5, upload_seconds=DAY // 2, expiry_seconds=DAY, client_noise=NOISE)
            agreed = Ckks(spec=made).descriptor
    assert agreed.noise_grid is not None
    record = record_of(agreed.noise_grid)
    ledger.begin(quick(agreed.ctx, 1, client_level=record), ONCE)
    stated = agreed.noise_grid.epsilon(1)
    found = ledger.client_spent(LedgerLimits(total_epsilon=8.0, delta=NOISE.delta))
    assert found.epsilon == pytest.approx(stated, rel=1e-9)
    assert stated == pytest.approx(5.22, abs=0.01)
    for other in (C, D):
        ledger.begin(quick(other, int(other[:2], 16), client_level=record), ONCE)
    assert ledger.client_spent(ONCE).releases == 3
