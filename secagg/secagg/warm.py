"""Every kernel of a party called once, on vectors of a few values, before the party takes part in anything.

A kernel is compiled on its first call on a machine, which takes seconds, and read from the cache of numba on its first
call in a process, which takes milliseconds. A round has deadlines and a coordinator has other clients, so neither is
paid there: processes call this at their start. They do not know the session yet, so what only some sessions need is
there always: noise for whole clients, and the linear algebra of encodings. A test holds that a session after it
compiles and loads nothing. What a client trains with is its own package's.
"""

import numpy as np

from secagg import shamir
from secagg.accumulate import Accumulator
from secagg.arrival import Arrival
from secagg.ckks.client import encrypt_values
from secagg.ckks.keyholder import round_sums
from secagg.ckks.parameters import RINGS, CkksParameters
from secagg.ckks.residues import add_residues, primes_of, unpack
from secagg.ckks.scheme import SecretContext
from secagg.client_noise.encoding import encode
from secagg.client_noise.setting import ClientNoise, NoiseGrid
from secagg.codec import Quantiser
from secagg.exact import low_rank_svd
from secagg.gaussian import SECRET_VARIANCE, gaussian
from secagg.masked.masks import Mask
from secagg.masked.sharing import SECRET_BYTES, Secret, combine, split
from secagg.masked.vectors import MaskedTotal, Shape, mask_update
from secagg.opening import open_sum
from secagg.parameters import SealedParameters, choose
from secagg.randomness import Randomness
from secagg.sealing import ShortKey, seal, seal_update

_LENGTH, _WIDTH = 8, 20
_SETS = ((16, 2), (24, 65_536))
"""Bits and cohort of parameter sets whose sums are 32 and 64 bits wide."""
_CTX = bytes(32)


def _parameters() -> list[SealedParameters]:
    return [choose(bits, n_max, _LENGTH) for bits, n_max in _SETS]


def warm_noise(random: Randomness) -> None:
    """What a client of any protocol runs when the session has noise for whole clients."""
    noise = ClientNoise(clip=1.0, noise_multiplier=1.0, colluders=0, delta=1e-6)
    grid = NoiseGrid.make(noise, Quantiser.uniform(_LENGTH, 1.0, 16), 3, 3)
    encode(grid, np.zeros(_LENGTH, dtype=np.float32), random)


def warm_decoding() -> None:
    """What whoever makes or verifies a release runs, under an encoding that multiplies or decomposes matrices."""
    low_rank_svd(np.eye(3, 2), np.eye(2, 3))


def warm_sealing(random: Randomness) -> None:
    """What a client of `sealed` runs. Nothing of it is used."""
    update = np.zeros(_LENGTH, dtype=np.float32)
    for parameters in _parameters():
        quantiser = Quantiser.uniform(_LENGTH, 1.0, parameters.bits)
        made = seal_update(parameters, quantiser, _CTX, update, random)
        seal(parameters, _CTX, quantiser.encode(update, random).values, random)
        shamir.share_key(made.key, 2, 3, random)
    warm_noise(random)
    warm_opening(random)  # a client verifies the release, for which it opens the sum again


def warm_sharing(random: Randomness) -> None:
    """What a key-holder runs."""
    degree = _parameters()[0].degree
    shares = shamir.share_key(ShortKey(np.zeros(degree, dtype=np.int32)), 2, 3, random)
    shamir.sum_shares([shares[0].packed, shares[0].packed])


def warm_opening(random: Randomness) -> None:
    """What a coordinator of `sealed` runs: on zeros, which are a sum of nothing under the key zero."""
    warm_sharing(random)
    warm_decoding()
    gaussian(SECRET_VARIANCE)
    for parameters in _parameters():
        key = np.zeros(parameters.degree, dtype=np.int64)
        blank = np.zeros((parameters.blocks, parameters.block_bytes), dtype=np.uint8)
        Arrival(parameters).feed(blank.tobytes())
        total = Accumulator(parameters)
        total.add(block.tobytes() for block in blank)
        total.add_rows(blank)
        open_sum(parameters, _CTX, total, key, 2)
        sums = open_sum(parameters, _CTX, list(total.blocks()), key, 2).sums
        Quantiser.uniform(_LENGTH, 1.0, parameters.bits).decode_mean(sums, 2)


def warm_masked(random: Randomness) -> None:
    """What client and coordinator of `masked` run, but for noise."""
    warm_decoding()
    shape, quantiser = Shape(_LENGTH, _WIDTH), Quantiser.uniform(_LENGTH, 1.0, 16)
    secret = Secret(random(SECRET_BYTES))
    masks = [Mask.expand("self", secret, negative=False), Mask.expand("self", secret, negative=True)]
    total = MaskedTotal(shape)
    packed = mask_update(shape, quantiser, np.zeros(_LENGTH, dtype=np.float32), masks, random)
    total.add(packed)
    total.add(np.frombuffer(packed.tobytes(), dtype=np.uint8))
    total.opened((), quantiser)
    combine(dict(enumerate(split(secret, 2, 3, random), start=1)), 2)


def warm_ckks(random: Randomness) -> None:
    """What client and key-holder of `ckks` run, but for noise: one upload and its opening. Needs TenSEAL.

    Raises ParameterError when that is not installed.
    """
    warm_ckks_serving()
    values = Quantiser.uniform(_LENGTH, 1.0, 16).encode(np.zeros(_LENGTH, dtype=np.float32), random).values
    parameters = CkksParameters(16, 2, _LENGTH)
    secret = SecretContext.generate(parameters.ring)
    public = secret.public
    total = [public.read(block) for block in encrypt_values(parameters, public, values)]
    for vector in total:
        add_residues(vector, vector.copy(), primes_of(parameters.ring))
    round_sums(parameters, total, secret, random)


def warm_ckks_serving() -> None:
    """What a coordinator of `ckks` runs, without TenSEAL: it reads public keys, and makes the release."""
    ring = RINGS["n4096q87"]
    unpack(bytes(ring.key_bytes), ring.degree, (*ring.primes, ring.special), "a public key")
    warm_decoding()


def warm_up(random: Randomness, protocol: str = "sealed") -> None:
    """Everything that any party of a protocol runs."""
    if protocol == "masked":
        warm_masked(random)
        warm_noise(random)
    elif protocol == "ckks":
        warm_ckks(random)
        warm_noise(random)
    else:
        warm_sealing(random)
