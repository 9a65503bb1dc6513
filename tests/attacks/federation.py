"""Small recorded federations to attack."""

from typing import Any

from secagg_attacks.record import Record, recorded
from secagg_attacks.views import Public
from secagg_client.data import Examples
from secagg_client.models import LoadedBase
from tests.client.support import examples, plan_for, settings

PLAN_KEYS = ("method", "rank", "alpha", "lora_clip", "head_start", "target_modules", "layers")


def public_of(base: LoadedBase, *, clients: int = 3, rounds: int = 1, size: int = 24, **changes: Any) -> Public:
    """Without differential privacy unless `epsilon` is given; PLAN_KEYS go to the plan."""
    plan_keys = {key: changes.pop(key) for key in PLAN_KEYS if key in changes}
    training = settings(**{"epsilon": None, "batch_size": 8, **changes})
    return Public(plan_for(base, training, **plan_keys), base, clients, size, rounds)


def data_of(public: Public, seed: int = 0) -> list[Examples]:
    """Each client's own examples."""
    return [examples(public.size, public.base.task, seed=100 * seed + client) for client in range(public.clients)]


def record_of(public: Public, data: list[Examples] | None = None, seed: int = 0) -> Record:
    """A run over `data`."""
    return recorded(public, data or data_of(public, seed), seed)
