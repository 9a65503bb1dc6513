"""Statements, trees and vectors of `masked_session`, bent, and signed as they should be of what they are then (§12)."""

import copy
from collections.abc import Callable
from typing import Any

from tests.twin import masked as twin
from tests.twin import statements as signing
from tests.vectors import masked_session as session
from tests.vectors.common import Json
from tests.vectors.masked_session import WIDTH, by, print_of, signed

Edit = Callable[[Json], Any]


def thin(made: list[Json], right: list[Json]) -> list[Json | int]:
    """Items that are in the session as well are given by their index there."""
    return [right.index(one) if one in right else one for one in made]


def thinned(one: Json, right: Json) -> Json:
    """A sharing or an upload, less what is as it was."""
    found = {key: value for key, value in one.items() if right[key] != value}
    return found | ({"leaves": thin(one["leaves"], right["leaves"])} if "leaves" in found else {})


def again(one: Json, purpose: str, edit: Edit, party: str | None = None) -> Json:
    """A statement edited, and signed by whom it is of, or by another party."""
    statement = copy.deepcopy(one["statement"])
    edit(statement)
    signer = next(number for number in range(session.N) if print_of(number) == one["signer"]) if party is None else 0
    return by(signer, purpose, statement) if party is None else signed(party, purpose, statement)


def bent(of: Json, purpose: str, edit: Callable[[list[Json]], Any], count: int = 0) -> Json:
    """A sharing or an upload whose leaves are others, with root and signature as they should be of those."""
    made = copy.deepcopy(of["leaves"])
    edit(made)
    number = count or len(made)
    statement = again(of["signed"], purpose, lambda s: s.update(root=session.root(made), holders=number))
    return {**of, "signed": statement, "leaves": made}


def delivery(sharing: Json, receiver: int) -> Json:
    """§12.5.1, §12.7.1: what the coordinator passes on."""
    index = next(i for i, one in enumerate(sharing["leaves"]) if one["receiver"] == receiver)
    steps = signing.audit_path(session.hashes(sharing["leaves"]), index)
    one = sharing["leaves"][index]
    return {
        "signed": sharing["signed"], "index": index, "commitment": one["commitment"],
        "path": [step.hex() for step in steps], "box": one["box"],
    }  # fmt: skip


def with_vector(number: int, values: list[int]) -> Json:
    """An upload of other masked values, signed as it should be."""
    packed = twin.pack(values, WIDTH)
    right = session.upload(number)
    edit = {"vector_root": twin.vector_root(packed, WIDTH), "vector_bytes": len(packed)}
    return {"signed": again(right["signed"], "masked-upload", lambda s: s.update(edit)), "vector": packed.hex()}


def replacing(field: str, value: Any) -> Edit:
    """Sets one field."""
    return lambda statement: statement.update({field: value})
