"""What pydantic says of a wrong value, as one line for people."""

from pydantic import ValidationError

_OWN_WORDS = "Value error, "
"""What pydantic puts before the message of a check of ours."""
_NO_SETTING = "there is no such setting; is it spelt right, and in its table?"


def first_problem(error: ValidationError, whole: str = "(top)", unknown: str = _NO_SETTING) -> str:
    """`field.inner: reason` of the first problem. `whole` stands for the field when the problem is of all together,
    and `unknown` is said of a field that there is none of.

    No value enters the line: it may be private.
    """
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    # A word that is misspelt says more than the one that is then missing.
    first = problems[0]
    if first["type"] == "missing":
        first = next((one for one in problems if one["type"] == "extra_forbidden"), first)
    where = ".".join(str(part) for part in first["loc"]) or whole
    reason = unknown if first["type"] == "extra_forbidden" else first["msg"].removeprefix(_OWN_WORDS)
    return f"{where}: {reason}" if where else reason
