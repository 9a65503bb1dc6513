"""A small membership attack on the demo's own release: its members are public texts."""

from pathlib import Path
from typing import TYPE_CHECKING

from secagg.certificate import ExposureCheck

if TYPE_CHECKING:
    from secagg_app.demo.baselines import Federated

RECORDS = {"classify": 400, "lm": 80}
"""So many of each kind are asked: seconds, not minutes, on two cores."""
ATTACKS = ("loss", "reference-difference")


def check(run: "Federated", release: Path) -> ExposureCheck | None:
    """Ask the released model which of some training texts and held-out texts it was trained on.

    None where there are fewer than LEAST of either kind to ask, and as many again to choose the attack on.
    """
    from secagg_app.audit.release import judged, reading
    from secagg_app.audit.target import target_of
    from secagg_attacks.attack import membership_scores
    from secagg_attacks.blind import LEAST, blind_baseline
    from secagg_attacks.registry import attack_named
    from secagg_attacks.releases import candidates_of
    from secagg_attacks.views import Question, ViewName

    target = target_of(release, (), run.base, None)
    count = RECORDS[run.plan.task.kind]
    each = -(-count // len(run.train))
    parts = [target.examples(path) for path in run.train]
    members = parts[0].select(range(min(each, len(parts[0]))))
    for part in parts[1:]:
        members = members.joined(part.select(range(min(each, len(part)))))
    held_out = target.examples(run.held_out)
    others = held_out.select(range(min(count, len(held_out))))
    if min(len(members), len(others)) < 2 * LEAST:
        return None
    candidates, is_in = candidates_of(members, others)
    view = target.view(ViewName.V3, Question(candidates, others))
    scores = {("v3", name): membership_scores(attack_named(name), view) for name in ATTACKS}
    seen, blind = judged(ViewName.V3, scores, is_in), blind_baseline(candidates.texts, is_in, seed=0)
    return ExposureCheck(
        attack=seen.attack, members=len(members), others=len(others), area=seen.area.value, low=seen.area.low,
        high=seen.area.high, blind_p=blind.p_value, reading=reading(seen.area.low, blind),
    )  # fmt: skip
