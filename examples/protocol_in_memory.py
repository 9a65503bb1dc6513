"""Three institutions' vectors, summed by the whole `sealed` protocol in memory: who sees what, in 40 lines.

Run: python examples/protocol_in_memory.py
"""

import os
import time

import numpy as np

from secagg.plan import Plan, TaskSpec, TensorInit, TensorSpec, TrainingSettings
from secagg.run import run_sealed

LENGTH = 1000

plan = Plan(
    base_model="an-example",
    base_model_hash="00" * 32,
    architecture="Example",
    task=TaskSpec(kind="classify", labels=("no", "yes"), max_length=16),
    a_seed="11" * 32,
    tensors=(TensorSpec(name="head.weight", shape=(LENGTH,), init=TensorInit(kind="zeros"), clip=0.5),),
    adapter_config={"peft_type": "LORA"},
    training=TrainingSettings(
        steps=1, batch_size=1, learning_rate=1.0, optimizer="sgd", max_grad_norm=1.0, epsilon=8.0, delta=1e-5
    ),
)

rng = np.random.default_rng(0)
changes = {name: rng.normal(0, 0.1, LENGTH).astype(np.float32) for name in ("Hospital A", "Bank B", "Agency C")}

run = run_sealed(plan, changes, now=int(time.time()), random=os.urandom)

upload = run.uploads["Hospital A"]
print("session ", run.session.descriptor.statement.ctx)
print("upload  ", upload.ciphertext.nbytes, "bytes of ciphertext,", len(upload.boxes), "boxes")
print("mean    ", run.mean[:4], "...")
print("off by  ", float(np.abs(run.mean - np.mean(list(changes.values()), axis=0)).max()), "(quantiser step 1.5e-05)")
