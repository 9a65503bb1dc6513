"""Clips of the quantiser from public data: how far each tensor moves in a run like the one that is planned.

A clip that is too small cuts what was learnt, one that is too large wastes bits. Looking at private updates to choose
it would have to be accounted; here the run is on data that are declared public, with the same noise as a real one. It
takes records as they are: where the plan's unit of privacy is the user, a record stands for a user.
"""

import math

import numpy as np

from secagg.adapter import unflatten
from secagg.errors import ConfigError
from secagg.plan import Plan, TensorSpec
from secagg_client.data import Examples
from secagg_client.models import LoadedBase
from secagg_client.noise import SeededSource
from secagg_client.training import TrainOptions, train

MARGIN = 1.5
"""The clip is at least so many times the largest change seen: other data move other values."""
_SEED = 0


def calibrated(plan: Plan, base: LoadedBase, public: Examples, declared_size: int) -> Plan:
    """The plan with a clip for each trained tensor: the least power of two above MARGIN times its largest change.

    Args:
        public: whoever passes these declares that they may be seen by all: they are not accounted.
        declared_size: as a typical client would declare; with it come sampling rate and noise.

    Raises:
        ConfigError: fewer public examples than a client declares: they would be seen more often than a client's.
        TrainingError, AccountingError, ModelError, DataError: as `train` raises them.
    """
    if len(public) < declared_size:
        raise ConfigError(
            f"{public.source}: {len(public)} examples cannot stand for a client that declares {declared_size}; "
            "give more, or a smaller size"
        )
    training = plan.training.model_copy(update={"noise": "seeded", "unit": "record", "records_per_user": None})
    rehearsal = plan.model_copy(update={"training": training})
    rows = public.select(range(declared_size))
    change = train(
        rehearsal, base, rows, declared_size, SeededSource(_SEED), options=TrainOptions(allow_no_dp=True)
    ).change
    largest = {name: float(np.abs(values).max()) for name, values in unflatten(plan, change).items()}
    tensors = tuple(_with_clip(spec, largest.get(spec.name, 0.0)) for spec in plan.tensors)
    return Plan.model_validate(plan.model_copy(update={"tensors": tensors}).model_dump())


def _with_clip(spec: TensorSpec, largest: float) -> TensorSpec:
    if not spec.trained or largest == 0.0:
        return spec
    return spec.model_copy(update={"clip": 2.0 ** math.ceil(math.log2(MARGIN * largest))})
