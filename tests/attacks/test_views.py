"""Each view shows what its adversary has, and no more."""

from pathlib import Path

import numpy as np
import pytest

from secagg.adapter import flatten
from secagg.encodings.ties import trimmed
from secagg.errors import AuditError
from secagg_attacks.record import ClientNoise
from secagg_attacks.views import Participant, SecureSums, SumRound, ViewName
from tests.attacks.federation import public_of, record_of
from tests.client.support import LM, MEAN, loaded


def test_each_view_shows_its_messages(tiny_bert_dir: Path) -> None:
    public = public_of(loaded(tiny_bert_dir, MEAN), rounds=3, epsilon=8.0, batch_size=12)
    record = record_of(public)
    plain, sums, final, other = (record.view(name, client=1) for name in ViewName)
    assert [(m.number, m.sender, m.senders) for m in plain.messages()] == [
        (r, c, 1) for r in range(3) for c in range(3)
    ]
    assert [(m.number, m.sender, m.senders) for m in sums.messages()] == [(r, None, 3) for r in range(3)]
    assert [(m.number, m.senders) for m in final.messages()] == [(-1, 3)]
    assert [(m.number, m.senders) for m in other.messages()] == [(r, 2) for r in range(3)]
    steps = 2 * max(spec.clip for spec in public.plan.trained) / (2**16 - 1)
    for number, message in enumerate(sums.messages()):
        changes = np.array([m.change for m in plain.messages() if m.number == number])
        assert np.abs(message.change - changes.mean(0)).max() <= steps
        assert np.abs(other.messages()[number].change - changes[[0, 2]].mean(0)).max() <= 2 * steps
    assert np.allclose(final.messages()[0].change, sum(m.change for m in sums.messages()), atol=1e-5)
    assert len(sums.models()) == 4
    assert len(final.models()) == 2
    assert np.array_equal(flatten(public.plan, dict(sums.models()[-1])), flatten(public.plan, dict(final.models()[-1])))


def test_a_run_repeats_and_rounds_share_their_draws(tiny_llama_dir: Path) -> None:
    base = loaded(tiny_llama_dir, LM)
    one, again = (record_of(public_of(base)) for _ in range(2))
    assert np.array_equal(one.means[0], again.means[0])
    many = record_of(public_of(base, rounds=3))
    first_step = record_of(public_of(base, rounds=3)).rounds[0].changes
    assert np.array_equal(many.rounds[0].changes, first_step)
    assert not np.array_equal(many.means[0], one.means[0])


def test_views_name_no_update_in_their_repr(tiny_llama_dir: Path) -> None:
    record = record_of(public_of(loaded(tiny_llama_dir, LM)))
    for name in ViewName:
        assert "array" not in repr(record.view(name))
    assert "array" not in repr(record)


def test_the_sums_of_ties_are_shown_before_any_vote(tiny_bert_dir: Path) -> None:
    """V2 is the mean of all trimmed changes, where clients disagree too; V3 is what the vote made of them."""
    record = record_of(public_of(loaded(tiny_bert_dir, MEAN), method="ties", rounds=3))
    plan, sums = record.public.plan, record.view(ViewName.V2).messages()
    step = 2 * max(spec.clip for spec in plan.trained) / (2**16 - 1)
    for message, each in zip(sums, record.rounds, strict=True):
        trimmed_changes = np.array([trimmed(change, 0.2) for change in each.changes])
        assert message.change.shape == (plan.length,)
        assert np.abs(message.change - trimmed_changes.mean(0)).max() <= 2 * step
    others = record.view(ViewName.V4, client=1).messages()
    rest = np.array([trimmed(record.rounds[1].changes[c], 0.2) for c in (0, 2)]).mean(0)
    assert np.abs(others[1].change - rest).max() <= 4 * step
    merged = flatten(plan, dict(record.final)) - flatten(plan, dict(record.rounds[-1].start))
    assert np.abs(merged - sums[-1].change).max() > 10 * step


def test_a_participant_whose_part_is_drawn_and_sums_of_other_adapters_are_refused(tiny_bert_dir: Path) -> None:
    thinned = record_of(public_of(loaded(tiny_bert_dir, MEAN), method="dare"))
    assert thinned.view(ViewName.V2).messages()[0].change.shape == (thinned.public.plan.length,)
    with pytest.raises(AuditError, match="v4 cannot be had"):
        thinned.view(ViewName.V4)
    square = record_of(public_of(loaded(tiny_bert_dir, MEAN), method="fed-sb"))
    with pytest.raises(AuditError, match="v3"):
        square.view(ViewName.V2)


def test_what_is_not_there_is_refused(tiny_llama_dir: Path) -> None:
    public = public_of(loaded(tiny_llama_dir, LM))
    with pytest.raises(AuditError, match="no candidates"):
        SecureSums(public, None, (), {}).asked()
    alone = SumRound({}, np.zeros(public.plan.length, np.float32), 1)
    with pytest.raises(AuditError, match="no other clients"):
        Participant(public, None, (alone,), {}, 0, np.zeros((1, public.plan.length), np.float32)).messages()


def test_noise_of_clients_is_cut_and_shared() -> None:
    """Four shares of sigma C / 2 are noise of sigma C on the sum; before it, no change is longer than C."""
    noise, rng = ClientNoise(clip=2.0, sigma=0.5), np.random.default_rng(0)
    still = ClientNoise(clip=2.0, sigma=1e-9)
    assert np.linalg.norm(still.applied(np.full(9, 7, np.float32), 4, rng)) == pytest.approx(2.0, rel=1e-5)
    short = np.full(9, 0.1, np.float32)
    np.testing.assert_allclose(still.applied(short, 4, rng), short, atol=1e-6)
    total = sum(noise.applied(np.zeros(40_000, np.float32), 4, rng).astype(np.float64) for _ in range(4))
    assert np.std(total) == pytest.approx(1.0, abs=5 / np.sqrt(2 * 40_000))
    with pytest.raises(AuditError, match="above 0"):
        ClientNoise(clip=0.0, sigma=1.0)
