"""Loaded tiny models, for tests of training."""

from pathlib import Path

import pytest

from secagg_client.models import LoadedBase
from tests.client.support import MEAN, loaded


@pytest.fixture
def base(request: pytest.FixtureRequest, tiny_bert_dir: Path, tiny_llama_dir: Path) -> LoadedBase:
    name, task = request.param
    return loaded(tiny_bert_dir if name == "bert" else tiny_llama_dir, task)


@pytest.fixture
def mean_base(tiny_bert_dir: Path) -> LoadedBase:
    return loaded(tiny_bert_dir, MEAN)
