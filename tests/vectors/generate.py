"""Writes the files of tests/vectors from the naive twin: `python -m tests.vectors.generate` in the repository root.

Long outputs are given by their SHA-256 and their first values. Randomness is `PredictableRandomness(seed)`, whose
definition is one line. Malformed cases carry what is wrong, and the `code` of the error that must follow.

`--fixed` makes anew, before the rest, what cannot be made twice: certificates (ECDSA) and boxes (HPKE). Boxes are bound
to ctx, so that is needed after a change of the descriptor, of the ciphertext or of the boxes; not otherwise.
"""

import argparse
import json
from collections.abc import Callable, Mapping

from tests.vectors import (
    arithmetic,
    certificates,
    ckks,
    client_noise,
    degree,
    liars,
    masked,
    masked_liars,
    masked_session,
    masked_statements,
    releases,
    session,
    statements,
)
from tests.vectors.common import FIXED, FOLDER, Json

VERSION = 1
DOCUMENTS: Mapping[str, Callable[[], Json]] = {
    "canonical": statements.canonical,
    "statements": statements.statements,
    "certificates": certificates.document,
    "merkle": statements.merkle,
    "boxes": statements.boxes,
    "parameters": arithmetic.parameter_sets,
    "encoding": arithmetic.encodings,
    "limbs": arithmetic.limbs,
    "expansion": arithmetic.expansion,
    "gaussian": arithmetic.gaussian,
    "packing": arithmetic.packing,
    "shares": arithmetic.shares,
    "degree": degree.document,
    "sealed": arithmetic.sealed,
    "client_noise": client_noise.document,
    "session": liars.document,
    "releases": releases.document,
    "masked_parameters": masked.parameters,
    "masked": masked.document,
    "masked_statements": masked_statements.document,
    "masked_session": masked_session.document,
    "masked_liars": masked_liars.document,
    "ckks": ckks.document,
}


def render(name: str) -> str:
    """The text of one file."""
    whole = {"format": f"secagg-vectors/{name}/{VERSION}", **DOCUMENTS[name]()}
    return json.dumps(whole, indent=1) + "\n"


def make_fixed() -> None:
    """Certificates first: the context of every box depends on them."""
    kept: Json = certificates.make()
    for part, make in (
        ("single_boxes", statements.single_boxes),
        ("session_boxes", session.session_boxes),
        ("ckks_block", ckks.sealed_block),
    ):
        FIXED.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        kept[part] = make()
    FIXED.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Write the files that are named, or all."""
    parser = argparse.ArgumentParser(description="write the test vectors")
    parser.add_argument("names", nargs="*", help=", ".join(DOCUMENTS))
    parser.add_argument("--fixed", action="store_true", help="make certificates and boxes anew")
    options = parser.parse_args(arguments)
    if options.fixed:
        make_fixed()
    for name in options.names or DOCUMENTS:
        (FOLDER / f"{name}.json").write_text(render(name), encoding="utf-8")


if __name__ == "__main__":
    main()
