"""The user as the unit of privacy: bounding, one gradient for each user, sampling over users."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from secagg.errors import DataError, TrainingError
from secagg.plan import TrainingSettings
from secagg_client import optimizer as optimizer_module
from secagg_client import training
from secagg_client.adapted import attached
from secagg_client.clipping import clipped_sum
from secagg_client.data import Examples
from secagg_client.models import LoadedBase
from secagg_client.noise import GRID, SeededSource, rounded_to_grid
from secagg_client.physical import Footprint, PhysicalBatches
from secagg_client.tasks import Encoded, make_task
from secagg_client.training import StepReport, TrainOptions, mechanism_of, train
from secagg_client.users import Drawn, Share, UserSums, bounded, rows_by_user, shares, units_of
from tests.client.support import LM, MEAN, examples, plan_for, settings

OWNERS = ("ann", "bob", "ann", "cem", "bob", "ann", "dia", "ann", "cem", "eve", "eve", "fay")
"""Of 12 records: four of ann, two each of bob, cem and eve, one each of dia and fay."""


def by_user(most: int = 3, **changes: object) -> TrainingSettings:
    return settings(unit="user", records_per_user=most, **changes)


def owned(base: LoadedBase, owners: tuple[str, ...] = OWNERS) -> Examples:
    return replace(examples(len(owners), base.task), users=owners)


STACKS = pytest.mark.parametrize(
    "base", [pytest.param(("bert", MEAN), id="mean"), pytest.param(("llama", LM), id="lm")], indirect=True
)


# -- which records are used ------------------------------------------------------------------------------------------


RECORDS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", "z ", "z", "u", "v"])), max_size=20)


@hypothesis_settings(deadline=None)
@given(records=RECORDS, most=st.integers(1, 4), data=st.data())
def test_bounding_keeps_k_of_a_user_whatever_the_order_and_the_others(
    records: list[tuple[str, str]], most: int, data: st.DataObject
) -> None:
    def kept(rows: list[tuple[str, str]]) -> dict[str, list[str]]:
        users, texts = tuple(user for user, _ in rows), tuple(text for _, text in rows)
        left = bounded(Examples("x", texts, users=users), by_user(most)) if rows else Examples("x", ())
        return {user: sorted(t for t, u in zip(left.texts, left.users, strict=True) if u == user) for user in users}

    here = kept(records)
    for user, texts in here.items():
        assert len(texts) == min(most, sum(owner == user for owner, _ in records))
        assert kept([record for record in records if record[0] == user]) == {user: texts}
    assert kept(data.draw(st.permutations(records))) == here


def test_bounding_keeps_rows_together_and_in_order() -> None:
    data = Examples("x", ("a", "b", "c", "d"), (0, 1, 0, 1), ("u", "v", "u", "u"))
    left = bounded(data, by_user(1))
    assert left.users == ("u", "v") or left.users == ("v", "u")
    rows = [data.texts.index(text) for text in left.texts]
    assert rows == sorted(rows)
    assert left == data.select(rows)
    assert bounded(left, by_user(1)) == left
    assert bounded(data, settings()) is data, "records are not bounded"


def test_the_same_text_twice_is_chosen_by_its_class_not_by_its_row() -> None:
    one = Examples("x", ("a", "a"), (0, 1), ("u", "u"))
    assert bounded(one, by_user(1)).labels == bounded(one.select([1, 0]), by_user(1)).labels == (0,)


def test_records_of_nobody_are_refused() -> None:
    with pytest.raises(DataError, match=r"whose the records are.*user_column in \[data\]"):
        bounded(examples(3, LM), by_user())
    with pytest.raises(DataError, match="whose the records are"):
        rows_by_user(replace(examples(3, LM), users=("a",)))


# -- one gradient for each user --------------------------------------------------------------------------------------


def naive_user_gradients(base: LoadedBase, data: Examples, most: int) -> list[list[Tensor]]:
    """By autograd, of the mean loss over a user's records, each user alone. The adapter is where it starts."""
    plan, task = plan_for(base), make_task(base.task, base.tokenizer)
    found = list[list[Tensor]]()
    with attached(plan, base) as adapted:
        parameters = [adapted.parameters[spec.name] for spec in plan.trained]
        data = bounded(data, by_user(most))
        rows = task.encode(data)
        for own in rows_by_user(data):
            mean = torch.stack([task.losses(adapted.model, task.collate([rows[row]])).sum() for row in own]).mean()
            found.append([part.detach() for part in torch.autograd.grad(mean, parameters)])
    return found


def step_without_noise(
    base: LoadedBase,
    data: Examples,
    monkeypatch: pytest.MonkeyPatch,
    options: TrainOptions | None = None,
    clip: float = 0.05,
) -> NDArray[np.float64]:
    """The clipped sum of one step over all users, float64 [plan.length]: learning rate 1, batch size 1 and no noise."""
    monkeypatch.setattr(optimizer_module, "grid_noise", lambda _stream, size, _sigma: np.zeros(size, np.int64))
    plan = plan_for(base, by_user(3, steps=1, batch_size=1, learning_rate=1.0, max_grad_norm=clip))
    return -train(plan, base, data, 1, SeededSource(3), options=options).change.astype(np.float64)


@STACKS
@pytest.mark.parametrize(
    ("micro_batch", "clip"), [(1, 0.05), (3, 0.05), (None, 0.05), (1, 50.0), (3, 50.0), (None, 50.0)]
)
def test_a_step_is_the_sum_of_the_users_clipped_mean_gradients(
    base: LoadedBase, micro_batch: int | None, clip: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all are clipped, only directions count; with a clip that none reaches, lengths do."""
    ours = step_without_noise(base, owned(base), monkeypatch, TrainOptions(micro_batch=micro_batch), clip)
    expected = np.zeros_like(ours)
    lengths = list[float]()
    for gradient in naive_user_gradients(base, owned(base), 3):
        flat = torch.cat([part.flatten() for part in gradient]).double().numpy()
        lengths.append(float(np.linalg.norm(flat)))
        expected += flat * min(1.0, clip / lengths[-1])
    assert all(0.05 < length < 50.0 for length in lengths)
    assert np.abs(ours - expected).max() < max(1e-3 * np.abs(expected).max(), 6 * clip / GRID)


@STACKS
def test_one_user_moves_the_sum_by_no_more_than_the_clipping_norm(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also ann, with more records than are used; and the bound is nearly met, so clipping is what holds it."""
    data = owned(base)
    whole, distances = step_without_noise(base, data, monkeypatch), list[float]()
    for user in sorted(set(OWNERS)):
        rest = data.select([row for row, owner in enumerate(OWNERS) if owner != user])
        distances.append(float(np.linalg.norm(whole - step_without_noise(base, rest, monkeypatch))))
    assert max(distances) <= 0.05 * (1 + 1e-5)
    assert min(distances) > 0.9 * 0.05


def test_micro_batches_do_not_change_the_result(mean_base: LoadedBase) -> None:
    data = replace(examples(40, MEAN), users=tuple(f"user {row % 11}" for row in range(40)))
    plan = plan_for(mean_base, by_user(2, batch_size=6))
    one, two, all_of_them = (
        train(plan, mean_base, data, 10, SeededSource(4), options=TrainOptions(micro_batch=size)).change
        for size in (1, 2, 64)
    )
    assert np.abs(one - all_of_them).max() < 1e-4
    assert np.abs(two - all_of_them).max() < 1e-4


def test_users_of_one_record_are_records(mean_base: LoadedBase) -> None:
    """The same streams of randomness, the same gradients: bit for bit the same update."""
    data = examples(30, MEAN)
    alone = replace(data, users=tuple(f"user {row}" for row in range(30)))
    by_record = train(plan_for(mean_base), mean_base, data, 32, SeededSource(1))
    of_users = train(plan_for(mean_base, by_user(5)), mean_base, alone, 32, SeededSource(1))
    assert np.array_equal(by_record.change, of_users.change)


@hypothesis_settings(deadline=None)
@given(owners=st.lists(st.integers(0, 4), min_size=1, max_size=12), cut=st.integers(1, 5), seed=st.integers(0, 99))
def test_sums_over_physical_batches_are_the_naive_segment_sums(owners: list[int], cut: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((3, 2), (4,))
    gradients = [torch.randn(len(owners), *shape, generator=generator) for shape in shapes]
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    sums = UserSums(parameters, 5)
    for start in range(0, len(owners), cut):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad_sample = gradient[start : start + cut].clone()  # type: ignore[attr-defined]
        sums.add(owners[start : start + cut])
    sums.hand_over()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        naive = torch.zeros(5, *gradient.shape[1:])
        for row, owner in enumerate(owners):
            naive[owner] = naive[owner] + gradient[row]
        assert torch.equal(parameter.grad_sample, naive), "to the last bit, however it was cut"  # type: ignore[attr-defined]


def test_a_gradient_that_is_missing_is_said() -> None:
    with pytest.raises(TrainingError, match="no per-example gradient"):
        UserSums([nn.Parameter(torch.zeros(2))], 1).add([0])


def test_a_user_with_one_record_that_is_not_finite_counts_as_zero() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    sums = UserSums([parameter], 2)
    parameter.grad_sample = torch.tensor([[1.0, 0.0], [math.nan, 0.0], [0.0, 1.0]])  # type: ignore[attr-defined]
    sums.add([0, 1, 1])
    sums.hand_over()
    (total,) = clipped_sum([parameter.grad_sample], 0.5)  # type: ignore[attr-defined]
    assert torch.equal(total, rounded_to_grid([torch.tensor([[1.0, 0.0]])], 0.5)[0][0])
    assert 0.99 * GRID < float(total.norm()) <= GRID


# -- sampling, losses, what is said ----------------------------------------------------------------------------------


def test_users_are_sampled_at_the_accounted_rate(mean_base: LoadedBase) -> None:
    """60 users with 120 records at rate 1/4 of the declared 40: 15 users a step, and sizes vary as a binomial does."""
    data = replace(examples(120, MEAN), users=tuple(f"user {row % 60}" for row in range(120)))
    plan = plan_for(mean_base, by_user(2, steps=60, batch_size=10))
    reports = list[StepReport]()
    train(plan, mean_base, data, 40, SeededSource(2), reports.append)
    assert mechanism_of(plan.training, 40) == mechanism_of(settings(steps=60, batch_size=10), 40)
    sizes = np.array([report.examples for report in reports])
    assert abs(sizes.mean() - 15) < 5 * math.sqrt(60 * 0.25 * 0.75 / 60)
    assert 4 < sizes.var() < 25


def test_a_user_is_drawn_whole(mean_base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[int]()

    def recording(units: Sequence[Drawn]) -> list[Share]:
        made = shares(units)
        seen.extend(round(1 / share.part) for share in made)
        return made

    monkeypatch.setattr(training, "shares", recording)
    train(plan_for(mean_base, by_user(3, steps=1, batch_size=1)), mean_base, owned(mean_base), 1, SeededSource(1))
    assert sorted(seen) == [1, 1, *[2] * 6, *[3] * 3], "ann has three of her four records"


def test_the_loss_is_the_mean_over_users(mean_base: LoadedBase) -> None:
    data, reports = owned(mean_base), list[StepReport]()
    plan = plan_for(mean_base, by_user(3, steps=1, batch_size=1))
    train(plan, mean_base, data, 1, SeededSource(1), reports.append)
    assert reports[0].examples == 6
    assert reports[0].loss == pytest.approx(math.log(2), abs=1e-4), "the head starts at zero"
    plain = plan_for(mean_base, by_user(3, steps=1, batch_size=1, epsilon=None))
    train(plain, mean_base, data, 1, SeededSource(1), reports.append, TrainOptions(allow_no_dp=True))
    assert reports[1].loss == pytest.approx(reports[0].loss)


def test_the_statement_says_user_and_nothing_of_counts(mean_base: LoadedBase) -> None:
    plan = plan_for(mean_base, by_user(3, batch_size=1))
    said = train(plan, mean_base, owned(mean_base), 4, SeededSource(1)).statement
    assert (said.unit, said.records_per_user, said.adjacency) == ("user", 3, "add-or-remove-one")
    assert set(said.model_dump()) == {
        "unit", "records_per_user", "adjacency", "epsilon", "delta", "sampler", "accountant", "noise"
    }  # fmt: skip


def test_a_declared_size_below_the_batch_counts_users(mean_base: LoadedBase) -> None:
    with pytest.raises(TrainingError, match=r"declared size 8 .* batch size 16 \(both count users\)"):
        train(plan_for(mean_base, by_user()), mean_base, owned(mean_base), 8, SeededSource(1))


def test_units_are_rows_or_users() -> None:
    data = Examples("x", ("a", "b", "c"), users=("u", "v", "u"))
    rows = [Encoded((number,)) for number in range(3)]
    assert units_of(rows, data, settings()) == [(row,) for row in rows]
    units = units_of(rows, data, by_user())
    assert units == [[rows[0], rows[2]], [rows[1]]]
    assert [(share.row, share.unit, share.part) for share in shares(units)] == [
        (rows[0], 0, 0.5), (rows[2], 0, 0.5), (rows[1], 1, 1.0),
    ]  # fmt: skip
    assert "row" not in repr(shares(units)[0])


def test_sums_of_users_stay_within_memory() -> None:
    footprint = Footprint(layers=1, hidden=1, heads=1, values=1000)
    users = list(range(10))
    assert [len(group) for group in PhysicalBatches(footprint, 12_000, 64).groups(users)] == [3, 3, 3, 1]
    assert [len(group) for group in PhysicalBatches(footprint, 10**9, 4).groups(users)] == [4, 4, 2]
    assert [len(group) for group in PhysicalBatches(footprint, 0, 4).groups(users)] == [1] * 10
    assert PhysicalBatches(footprint, 0, 4).groups([]) == []
