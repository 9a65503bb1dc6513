"""Group norm in the place of batch norm, for models that are to be trained under DP-SGD."""

from typing import Any

from opacus.validators import ModuleValidator

from secagg.errors import ModelError


def with_group_norm(model: Any) -> Any:
    """A copy of the model with each batch norm replaced as Opacus does: gcd(32, channels) groups, scale 1, shift 0.

    What batch norm had learnt is lost: the model is another, with another hash.
    Raises ModelError for a norm that cannot be replaced.
    """
    try:
        return ModuleValidator.fix(model)
    except (NotImplementedError, ValueError, RuntimeError) as error:
        raise ModelError(f"{type(model).__name__}: its batch norm cannot be replaced: {error}") from error
