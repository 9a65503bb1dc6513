"""What `secagg evaluate` says when the base model is not at hand, or when others could not be shown its words."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from secagg.errors import ConfigError, ModelError
from secagg_client.cli_evaluate import _load, evaluate
from tests.client.support import MEAN, loaded, plan_for


def test_a_base_model_that_no_hub_gives_is_asked_for(tiny_bert_dir: Path) -> None:
    plan = plan_for(loaded(tiny_bert_dir, MEAN), base_model="nobody/no-such-model")
    with pytest.raises(ModelError, match="copy of nobody/no-such-model, give its folder with --base"):
        _load(None, plan)
    with pytest.raises(ModelError) as caught:
        _load("nobody/other", plan)
    assert "--base" not in str(caught.value)
    assert _load(str(tiny_bert_dir), plan).model_hash == plan.base_model_hash


def test_the_example_names_data_that_the_demo_leaves_and_a_base() -> None:
    assert re.search(r"--data runs/demo/data/heldout\.jsonl --base ", evaluate.epilog or "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (" ", "say what the data are and where they come from"),
        ("two\nlines", "the description must be one line of printable characters"),
        ("x" * 1001, "the description String should have at most 1000 characters"),
    ],
)
def test_words_that_no_certificate_holds_are_refused_before_anything_is_computed(
    tmp_path: Path, words: str, said: str
) -> None:
    asked = [str(tmp_path), "--data", "x", "--public", words, "--out", str(tmp_path / "found.json")]
    done = CliRunner().invoke(evaluate, asked)
    assert isinstance(done.exception, ConfigError)
    assert said in str(done.exception)
