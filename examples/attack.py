"""Attack a small federation of one's own: who was in, as seen from each client's update and from the sum.

    python examples/attack.py MODEL_FOLDER texts.jsonl

`texts.jsonl` has {"text", "label"} lines, 120 or more. The attack is given a view; the truth stays here.
"""

import sys

import numpy as np

from secagg_attacks.attack import membership_scores
from secagg_attacks.record import recorded
from secagg_attacks.registry import attack_named
from secagg_attacks.roc import Scores, auc
from secagg_attacks.views import Public, Question, ViewName
from secagg_client.data import DataConfig, load_examples
from secagg_client.models import load_base
from secagg_client.plan_options import validated
from secagg_client.planning import make_plan

model, file = sys.argv[1:3]
training = {"steps": 60, "batch_size": 20, "learning_rate": 0.02, "optimizer": "adamw", "max_grad_norm": 1.0,
            "epsilon": None, "delta": 1e-5, "noise": "seeded"}  # fmt: skip
task = {"kind": "classify", "labels": ["negative", "positive"], "max_length": 32, "pooling": "mean"}
config = validated({"base_model": model, "task": task, "training": training, "rank": 8, "lora_clip": 1.0}, "the plan")
base = load_base(model, config.task)
public = Public(make_plan(config, base), base, clients=3, size=20, rounds=1)

pool = load_examples(DataConfig(source=file), config.task).select(range(120))
is_in = np.random.default_rng(0).random(120) < 0.5
owner = np.arange(120) % 3
data = [pool.select(np.flatnonzero(is_in & (owner == client)).tolist()) for client in range(3)]
record = recorded(public, data, seed=0)
question = Question(pool, pool, tuple(owner.tolist()))
for name in (ViewName.V1, ViewName.V2):
    scores = membership_scores(attack_named("update-loss"), record.view(name, question))
    print(name, round(auc(Scores(scores[is_in], scores[~is_in])), 3))
