"""Statements, Merkle trees and boxes, written from docs/protocol.md §1, §4 and §6 in plain Python.

Statements are dicts here. Of certificates only the bytes are read: a party's Ed25519 key is given beside them.
"""

import base64
import hashlib
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite

ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
Json = dict[str, Any]


def number(value: float) -> str:
    """RFC 8785 §3.2.2.3: as ECMAScript writes a double."""
    if value == 0:
        return "0"
    sign, digit_tuple, exponent = Decimal(repr(float(value))).normalize().as_tuple()
    digits, minus = "".join(map(str, digit_tuple)), "-" if sign else ""
    point = len(digits) + int(exponent)
    if len(digits) <= point <= 21:
        return minus + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{minus}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{minus}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{minus}{digits[0]}{fraction}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def text(value: str) -> str:
    """RFC 8785 §3.2.2.2."""
    out = ""
    for character in value:
        escaped = ESCAPES.get(character)
        out += escaped or (f"\\u{ord(character):04x}" if ord(character) < 32 else character)
    return f'"{out}"'


def canonical(value: Any) -> str:
    """The canonical form of RFC 8785."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(canonical, value)) + "]"
    ordered = sorted(value, key=lambda key: key.encode("utf-16-be"))
    return "{" + ",".join(f"{text(key)}:{canonical(value[key])}" for key in ordered) + "}"


def tagged(tag: str, data: bytes) -> bytes:
    """H(tag, data) of §1.1."""
    return hashlib.sha256(tag.encode() + b"\0" + data).digest()


def statement_hash(purpose: str, statement: Json) -> str:
    """§1.2."""
    return tagged(f"secagg/v1/hash/{purpose}", canonical(statement).encode()).hex()


def signing_key(seed: bytes) -> Ed25519PrivateKey:
    """The Ed25519 key with this seed."""
    return Ed25519PrivateKey.from_private_bytes(seed)


def sign(purpose: str, statement: Json, seed: bytes, fingerprint: str) -> Json:
    """§1.3: the signed statement as it travels, but for its purpose, which each place in a message knows."""
    message = f"secagg/v1/sign/{purpose}".encode() + b"\0" + canonical(statement).encode()
    return {"statement": statement, "signer": fingerprint, "signature": signing_key(seed).sign(message).hex()}


def fingerprint(pem: str) -> str:
    """SHA-256 of the DER of a certificate."""
    body = "".join(line for line in pem.splitlines() if not line.startswith("-----"))
    return hashlib.sha256(base64.b64decode(body)).hexdigest()


def leaf(data: bytes) -> bytes:
    """§1.5."""
    return hashlib.sha256(b"\0" + data).digest()


def tree(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 §2.1, over leaf hashes."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while 2 * half < len(leaves):
        half *= 2
    return hashlib.sha256(b"\1" + tree(leaves[:half]) + tree(leaves[half:])).digest()


def audit_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """RFC 6962 §2.1.1, from the leaf upwards."""
    if len(leaves) == 1:
        return []
    half = 1
    while 2 * half < len(leaves):
        half *= 2
    if index < half:
        return [*audit_path(leaves[:half], index), tree(leaves[half:])]
    return [*audit_path(leaves[half:], index - half), tree(leaves[:half])]


def session_key(seed: bytes) -> MLKEM768X25519PrivateKey:
    """A key-holder's key from 96 bytes: the ML-KEM seed, then the X25519 key."""
    return MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(seed[:64]), X25519PrivateKey.from_private_bytes(seed[64:])
    )


def session_public(seed: bytes) -> bytes:
    """Its public half, as offers carry it."""
    mlkem = MLKEM768PrivateKey.from_seed_bytes(seed[:64]).public_key().public_bytes_raw()
    return mlkem + X25519PrivateKey.from_private_bytes(seed[64:]).public_key().public_bytes_raw()


def suite() -> Suite:
    """The suite of §6.2."""
    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def box_info(context: Json) -> bytes:
    """§6.2."""
    return b"secagg/v1/box\0" + canonical(context).encode()


def box_plaintext(share: bytes, blinding: bytes) -> bytes:
    """§6.2: version, 4 blindings, share, blindings."""
    return b"\x01\x04\x00" + share + blinding


def seal_box(plaintext: bytes, seed: bytes, context: Json) -> bytes:
    """A box for the key of `seed`. Another one each time."""
    return suite().encrypt(plaintext, session_key(seed).public_key(), info=box_info(context))


def open_box(box: bytes, seed: bytes, context: Json) -> bytes:
    """What is in a box."""
    return suite().decrypt(box, session_key(seed), info=box_info(context))
