"""How many examples go through the model at a time: as many as memory holds, whatever the sampled batch is.

What the accountant sees is the sampled batch. It is cut into physical ones, which only bound memory: sums over them
are exact (see `noise`), so privacy does not depend on the cut. The last bits of an example's gradient may, as kernels
round differently in batches of another size, and in bf16 more than that: whoever wants to repeat a run fixes the size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from secagg_client.tasks import Row

R = TypeVar("R", bound=Row)
U = TypeVar("U")

SHARE = 0.25
"""Of the memory that is free, so much may go to one physical batch: other clients may train beside this one."""
MOST_ON_CPU = 64
"""More examples at a time are no faster on a processor."""
MOST_ON_GPU = 4096
_WIDTHS_PER_TOKEN = 17.0
_SCORES_PER_TOKEN = 2.5
_UNKNOWN_BYTES = 8 << 30


@dataclass(frozen=True, slots=True)
class Footprint:
    """Estimated float32 bytes that a model keeps for the backward pass of one example.

    Korthikanti et al. (2022, eq. 1): a transformer layer keeps 17 values a token and hidden unit, and 2.5 a token,
    head and token attended to. `values` are those trained: their gradient is kept for each example.
    """

    layers: int
    hidden: int
    heads: int
    values: int

    @classmethod
    def of(cls, config: Any, values: int) -> "Footprint":
        """From a Hugging Face configuration; a model that does not say its sizes is taken to be large."""

        def known(name: str, default: int) -> int:
            value = getattr(config, name, None)
            return value if isinstance(value, int) and value > 0 else default

        return cls(known("num_hidden_layers", 48), known("hidden_size", 4096), known("num_attention_heads", 32), values)

    def bytes_of(self, tokens: int) -> int:
        """For one example of so many tokens."""
        a_token = _WIDTHS_PER_TOKEN * self.hidden + _SCORES_PER_TOKEN * self.heads * tokens
        return math.ceil(4 * (self.layers * tokens * a_token + self.values))


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device, or on this machine for its processors."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return _UNKNOWN_BYTES
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), _UNKNOWN_BYTES)


@dataclass(frozen=True, slots=True)
class PhysicalBatches:
    """Cuts sampled batches. `budget` in bytes, `most` examples at a time, both at least 1."""

    footprint: Footprint
    budget: int
    most: int

    @classmethod
    def for_device(cls, footprint: Footprint, device: torch.device, most: int | None) -> "PhysicalBatches":
        """As many as a share of the free memory holds, and never more than `most` when it is given."""
        default = MOST_ON_CPU if device.type == "cpu" else MOST_ON_GPU
        return cls(footprint, int(SHARE * free_bytes(device)), most or default)

    def cut(self, rows: Sequence[R]) -> list[list[R]]:
        """Examples of like length together, longest first: little padding, and memory known from the first of each.

        One example is always let through: a model that does not fit even that fails by itself.
        """
        ordered = sorted(rows, key=lambda row: row.length, reverse=True)
        parts, start = list[list[R]](), 0
        while start < len(ordered):
            fits = self.budget // self.footprint.bytes_of(ordered[start].length)
            stop = start + max(1, min(self.most, fits))
            parts.append(ordered[start:stop])
            start = stop
        return parts

    def groups(self, users: Sequence[U]) -> list[Sequence[U]]:
        """Users whose gradients are added up at a time: those sums may take as much memory again as a batch."""
        fits = self.budget // max(1, 4 * self.footprint.values)
        size = max(1, min(self.most, fits))
        return [users[start : start + size] for start in range(0, len(users), size)]
