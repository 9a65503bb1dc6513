"""What fuzzing and vectors found, each by name: input that once got past a decoder as another error than a typed one."""

import pytest

from secagg.errors import CertificateInvalid
from secagg.identity import identify
from tests.vectors.common import fixed


def test_a_certificate_whose_name_has_a_bracket_that_closes_nowhere() -> None:
    with pytest.raises(CertificateInvalid, match="not an address"):
        identify(fixed()["bad_certificates"]["a host that is no host"])
