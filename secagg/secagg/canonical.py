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
    """The one on-disk form of a statement: two-space indent, sorted keys, final newline (protocol.md §10.2)."""
    text = json.dumps(value.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"
