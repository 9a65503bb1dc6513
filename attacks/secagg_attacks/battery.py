"""Every membership attack on several views of one run, with what they share computed once."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from secagg.errors import AuditError
from secagg_attacks.attack import membership_scores
from secagg_attacks.intervals import Floats
from secagg_attacks.membership.models import asked_probe
from secagg_attacks.probe import fingerprint
from secagg_attacks.registry import membership_attacks
from secagg_attacks.views import Message, View

ScoresByAttack = dict[tuple[str, str], Floats]
"""By view and attack, [candidates]."""


def attack_all(views: Sequence[View]) -> tuple[ScoresByAttack, dict[str, str]]:
    """What each attack makes of each view; and by `view/attack`, why it makes nothing of it.

    The views are of one run, asked one question: the same `Public` and `Question`, which is how they share a probe.
    Raises AuditError for an attack that writes into what it is shown: the figures of those after it would be wrong.
    """
    with suppress(AuditError):  # what is missing is said by each attack that needs it
        _ask_together(views)
    scores, undefined = ScoresByAttack(), dict[str, str]()
    for view in views:
        shown = _state(view)
        for attack in membership_attacks().values():
            try:
                scores[str(view.name), attack.name] = membership_scores(attack, view)
            except AuditError as error:
                undefined[f"{view.name}/{attack.name}"] = str(error)
            if _state(view) != shown:
                raise AuditError(f"attack {attack.name} writes into the view {view.name}: it must work on copies")
    return scores, undefined


def _state(view: View) -> bytes:
    """A hash of all that a view shows of the run."""
    digest = hashlib.sha256()
    for model in view.models():
        digest.update(fingerprint(model))
    with suppress(AuditError):  # a release whose change means nothing
        for message in view.messages():
            digest.update(fingerprint(message.start) + np.ascontiguousarray(message.change).tobytes())
    return digest.digest()


def _ask_together(views: Sequence[View]) -> None:
    """One pass over all gradients for each model that changes start from, whatever number of views see a change."""
    messages = defaultdict[bytes, list[Message]](list)
    for view in views:
        for message in view.messages():
            messages[fingerprint(message.start)].append(message)
    for alike in messages.values():
        asked_probe(views[0]).products(alike[0].start, np.stack([message.change for message in alike]))
