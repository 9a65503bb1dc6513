"""A ckks session that was made once, and for each test one whose key-holder has recorded nothing but its approval."""

import pytest

from tests.secagg.ckks.sessions import Ckks


@pytest.fixture(scope="session")
def session() -> Ckks:
    made = Ckks()
    assert made.uploads
    return made


@pytest.fixture
def fresh(session: Ckks) -> Ckks:
    return session.again()
