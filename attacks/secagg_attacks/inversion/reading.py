"""What a model gives its layers: the inputs of named modules for any token ids, and what these inputs depend on.

Nothing is known here of architectures. Where a layer's input comes from is found by trying: change the other tokens, or
the place, and see whether it moves. So the same code reads encoders, GPT-2 and Llama.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secagg.errors import AuditError

ROOM = 1 << 24
"""At most so many values of a layer's input are held at a time."""


class _Reached(Exception):
    """All that was asked for has been seen: the rest of the model need not be computed."""


@dataclass(frozen=True, slots=True)
class Lowest:
    """The adapted modules that are first given the embeddings themselves, and those that are next given anything.

    `place_free`: the first ones' input is the same wherever a token stands. `causal`: later tokens change nothing.
    `blind` are names of modules, by their last part, that learn nothing of the first token: a causal model's query of
    it has one key to look at, and no gradient.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    place_free: bool
    causal: bool
    blind: frozenset[str] = field(default=frozenset())


class Reader:
    """A model over `vocabulary` token ids, asked what its modules are given.

    `identity` names what the model is below its adapters, where that is known: equal names, equal inputs.
    """

    def __init__(self, model: nn.Module, vocabulary: int, identity: str = "") -> None:
        self._model, self.vocabulary, self.identity = model, vocabulary, identity
        self._device = next(model.parameters()).device

    def inputs(self, ids: NDArray[np.int64], modules: Sequence[str]) -> dict[str, Tensor]:
        """What each of `modules` is given for `ids` [n, tokens]: [n, tokens, width], without gradients."""
        with torch.no_grad():
            return self._caught(ids, modules)

    def lowest(self, modules: Sequence[str]) -> Lowest:
        """What of `modules` an attacker can try all inputs of. Raises AuditError when there is nothing of the kind."""
        groups = self._groups(modules)
        first, second = groups[0], groups[1] if len(groups) > 1 else ()
        u, v, w = (self.vocabulary - 1 - i for i in range(3))
        last = self.inputs(np.array([[u, w, v], [w, u, v]]), first)[first[0]][:, 2]
        if not torch.equal(last[0], last[1]):
            raise AuditError(
                f"the lowest adapted layer is {first[0]}, and what it is given depends on the context: only tokens "
                "that meet an adapter in layer 0 can be tried one by one"
            )
        same = self.inputs(np.array([[v, v]]), first)[first[0]][0]
        causal = False
        if second:
            start = self.inputs(np.array([[v, u], [v, w]]), second)[second[0]][:, 0]
            causal = bool(torch.allclose(start[0], start[1], rtol=1e-4, atol=1e-6))
        blind = self._blind(first, second) if causal else frozenset[str]()
        return Lowest(first, second, torch.equal(same[0], same[1]), causal, blind)

    def _groups(self, modules: Sequence[str]) -> list[tuple[str, ...]]:
        """Modules in the order of their use, those that are given the very same tensor together."""
        with torch.no_grad():
            found = self._caught(np.array([[self.vocabulary - 1, self.vocabulary - 2]]), modules)
        groups = dict[int, list[str]]()
        for name, value in found.items():
            groups.setdefault(value.data_ptr(), []).append(name)
        return [tuple(group) for group in groups.values()]

    def _blind(self, first: Sequence[str], second: Sequence[str]) -> frozenset[str]:
        """Of `first`, those whose output for the first token changes nothing of what `second` is given."""
        ids = np.array([[self.vocabulary - 1 - i for i in range(3)]])
        leaves = dict[str, Tensor]()

        def leaf(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
                leaves[name] = output.detach().requires_grad_()
                return leaves[name]

            return hook

        with _hooked([self._model.get_submodule(name).register_forward_hook(leaf(name)) for name in first]):
            given = self._caught(ids, second)[second[0]]
        weights = torch.randn(given.shape, generator=torch.Generator().manual_seed(0)).to(given)
        slopes = torch.autograd.grad((given * weights).sum(), [leaves[name] for name in first])
        return frozenset(
            name.rsplit(".", 1)[-1]
            for name, slope in zip(first, slopes, strict=True)
            if slope[0, 0].abs().max() <= 1e-6 * slope.abs().max()
        )

    def _caught(self, ids: NDArray[np.int64], modules: Sequence[str]) -> dict[str, Tensor]:
        """By module, in the order of their use."""
        found = dict[str, Tensor]()

        def catch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                found[name] = inputs[0]
                if len(found) == len(modules):
                    raise _Reached

            return hook

        tokens = torch.from_numpy(ids).to(self._device)
        hooks = [self._model.get_submodule(name).register_forward_pre_hook(catch(name)) for name in modules]
        with _hooked(hooks):
            try:
                self._model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
            except _Reached:
                return found
        raise AuditError(f"the model does not use {next(name for name in modules if name not in found)}")


@contextmanager
def _hooked(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
