"""What every test folder shares. Nothing heavy is imported here: the core's tests run without torch."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# tests do not time: machines are shared
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# several test processes share few cores: threads that spin for each other make small models ten times slower
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture(scope="session")
def tiny_bert_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT encoder of 32 hidden units with its tokenizer (see tests/tiny.py)."""
    from tests.tiny import make_bert

    return make_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 32 hidden units with its tokenizer."""
    from tests.tiny import make_llama

    return make_llama(tmp_path_factory.mktemp("tiny") / "llama")
