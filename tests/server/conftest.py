"""A session that is open, on real gRPC, shared by the tests of a file that change nothing in it."""

from collections.abc import Iterator

import pytest

from tests.deployment import Deployment, Running


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    deployment = Deployment(tmp_path_factory.mktemp("opened"))
    with deployment.running() as running:
        running.approve()
        yield running
