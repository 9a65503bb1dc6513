"""Canonical bytes and tagged hashes of statements (protocol.md §1)."""

import hashlib
import json
from typing import Any

import rfc8785
from pydantic import BaseModel

from secagg.errors import MalformedError


def tagged_hash(tag: str, data: bytes) -> bytes:
    """`H(tag, data)` of protocol.md §1.1: 32 bytes."""
    return hashlib.sha256(tag.encode("ascii") + b"\x00" + data).digest()


def canonical_bytes(value: BaseModel | dict[str, Any]) -> bytes:
    """RFC 8785 form of a statement. Raises MalformedError for what it cannot hold (NaN, integers over 2^53)."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    try:
        return rfc8785.dumps(plain)
    except rfc8785.CanonicalizationError as error:
        raise MalformedError(f"statement has no canonical form: {error}") from error


def statement_hash(purpose: str, value: BaseModel) -> str:
    """Hash of a statement under its purpose (protocol.md §1.2), lower-case hex."""
    return tagged_hash(f"secagg/v1/hash/{purpose}", canonical_bytes(value)).hex()


def pretty_bytes(value: BaseModel) -> bytes:
    """The one on-disk form of a statement: two-space indent, sorted keys, final newline (protocol.md §10.2).

    Raises MalformedError for NaN and infinities.
    """
    plain = _without_negative_zero(value.model_dump(mode="json"))
    try:
        text = json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise MalformedError(f"statement has no form on disk: {error}") from error
    return text.encode() + b"\n"


def _without_negative_zero(value: Any) -> Any:
    """RFC 8785 writes -0 as 0, so a signature does not tell them apart; nor must there be two forms on disk."""
    if isinstance(value, dict):
        return {key: _without_negative_zero(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_negative_zero(item) for item in value]
    return value + 0.0 if isinstance(value, float) else value
