"""A session with client-level noise over real gRPC, with a client that vanishes (protocol.md §14)."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from secagg.certificate import ADAPTER, REPORT
from secagg.client_noise.setting import ClientNoise
from secagg.errors import PolicyViolation
from secagg.verify import verify_release
from secagg_protos.v1 import secagg_pb2 as pb
from tests.deployment import Deployment
from tests.server.test_release import anchors, run_session
from tests.small import changes

NOISE = ClientNoise(clip=60.0, noise_multiplier=0.9, delta=1e-6, accept_noise_over_signal=True)


def test_a_deployed_session_carries_the_noise(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, close_at=3, client_noise=NOISE)
    with deployment.running() as running:
        run_session(running, uploads=3)  # the fourth vanishes; n_min is 3
        with running.client(0) as caller:
            assert caller.status().state == pb.SESSION_STATE_RELEASED
            release = caller.release()
        report = verify_release(release, anchors(deployment), running.session.files.blocks)
    assert report.linked
    assert "Client-level" in report.certificate.privacy_note
    page = release[REPORT].decode()
    assert "client-level noise" in page
    assert "times the largest signal in a mean of 3 clients" in page
    grid = deployment.descriptor.noise_grid
    assert grid is not None
    mean = np.mean(list(changes(4, deployment.plan.length).values())[:3], axis=0)  # none is beyond its clips
    error = (load(release[ADAPTER])["a.lora_B.weight"] - mean) * grid.scale / 0.5
    assert error.std() == pytest.approx((float(grid.variance) / 3) ** 0.5, rel=0.05)


def test_a_client_that_says_nothing_of_its_noise_is_not_taken(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, close_at=4, client_noise=NOISE)
    with deployment.running() as running:
        running.approve()
        sealed = deployment.uploads[0]
        statement = sealed.signed.statement
        silent = statement.privacy.model_copy(update={"client_level": None})
        signed = deployment.client_files[0].signer.sign(statement.model_copy(update={"privacy": silent}))
        with running.client(0) as caller:
            caller.enrol()
            with pytest.raises(PolicyViolation, match="client-level noise"):
                caller.begin(type(sealed)(signed, sealed.ciphertext, sealed.boxes))
