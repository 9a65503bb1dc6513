"""`sealed`, written from docs/protocol.md §2, §3, §5, §6, §8.4 and §9 in plain Python. Shares no code with the
package.

Slow where the package is fast: big integers for residues and bits, recursion for the transform, decimal for
the Gaussian, one AES block per counter for keystreams. Degree 4096 and the three primes are found, not
copied.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, getcontext
from functools import cache
from itertools import combinations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

N = 4096
FIELD = 2**31 - 1
Random = Callable[[int], bytes]


def is_prime(number: int) -> bool:
    """Trial division."""
    return number > 1 and all(number % d for d in range(2, math.isqrt(number) + 1))


@cache
def primes() -> tuple[int, ...]:
    """The three largest primes below 2^30 that are 1 mod 2N."""
    found: list[int] = []
    candidate = (2**30 - 1) // (2 * N) * (2 * N) + 1
    while len(found) < 3:
        if candidate < 2**30 and is_prime(candidate):
            found.append(candidate)
        candidate -= 2 * N
    return tuple(found)


@cache
def psi(prime: int, degree: int = N) -> int:
    """g^((p-1)/2N) for the least generator g."""
    order = prime - 1
    factors = {d for d in range(2, 60_000) if order % d == 0 and is_prime(d)}
    rest = order
    for factor in factors:
        while rest % factor == 0:
            rest //= factor
    if rest > 1:
        factors.add(rest)
    g = next(g for g in range(2, prime) if all(pow(g, order // f, prime) != 1 for f in factors))
    return pow(g, order // (2 * degree), prime)


def brv(index: int, degree: int = N) -> int:
    """Bit reversal."""
    out = 0
    for _ in range(degree.bit_length() - 1):
        out, index = 2 * out + index % 2, index // 2
    return out


def evaluate(polynomial: Sequence[int], point: int, prime: int) -> int:
    """Horner."""
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * point + coefficient) % prime
    return value


def transform(polynomial: Sequence[int], prime: int) -> list[int]:
    """The NTT by its definition: value i is the evaluation at psi^(2 brv(i) + 1). Quadratic."""
    degree = len(polynomial)
    root = psi(prime, degree)
    return [evaluate(polynomial, pow(root, 2 * brv(i, degree) + 1, prime), prime) for i in range(degree)]


def interpolate(values: Sequence[int], prime: int) -> list[int]:
    """The polynomial with these values, by x^n - c^2 = (x^(n/2) - c)(x^(n/2) + c)."""
    degree = len(values)
    root = psi(prime, degree)

    def join(part: Sequence[int], exponent: int) -> list[int]:
        # `part` are values on the roots of x^len(part) = root^exponent
        if len(part) == 1:
            return list(part)
        half = len(part) // 2
        left = join(part[:half], exponent // 2)
        right = join(part[half:], exponent // 2 + degree)
        two, c = pow(2, -1, prime), pow(root, -(exponent // 2), prime)
        low = [(a + b) * two % prime for a, b in zip(left, right, strict=True)]
        high = [(a - b) * two * c % prime for a, b in zip(left, right, strict=True)]
        return low + high

    return join(values, degree)


def multiply_schoolbook(a: Sequence[int], b: Sequence[int], modulus: int) -> list[int]:
    """a*b in Z[x]/(x^n + 1) mod modulus, term by term."""
    n = len(a)
    out = [0] * n
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            if i + j < n:
                out[i + j] += x * y
            else:
                out[i + j - n] -= x * y
    return [value % modulus for value in out]


def join_bits(values: Sequence[int], width: int) -> int:
    """values[i] at bits width*i and up of one big integer."""
    return int("".join(format(value, f"0{width}b") for value in reversed(values)), 2)


def split_bits(number: int, width: int, count: int) -> list[int]:
    """Inverse of `join_bits`."""
    text = format(number, f"0{width * count}b")
    assert len(text) == width * count
    return [int(text[len(text) - width * (i + 1) : len(text) - width * i], 2) for i in range(count)]


def multiply(a: Sequence[int], b: Sequence[int], modulus: int) -> list[int]:
    """The same product through one multiplication of big integers (Kronecker)."""
    n = len(a)
    width = 2 * modulus.bit_length() + n.bit_length()
    product = join_bits([x % modulus for x in a], width) * join_bits([x % modulus for x in b], width)
    terms = split_bits(product, width, 2 * n)
    return [(terms[i] - terms[i + n]) % modulus for i in range(n)]


def keystream(key: bytes, nonce: bytes = bytes(16)) -> Iterator[int]:
    """Bytes of AES-256 over the counters nonce, nonce + 1, ..."""
    aes = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # one block at a time: counter mode by hand
    counter = int.from_bytes(nonce, "big")
    while True:
        yield from aes.update((counter % 2**128).to_bytes(16, "big"))
        counter += 1


def take(stream: Iterator[int], size: int) -> bytes:
    """The next `size` bytes."""
    return bytes(next(stream) for _ in range(size))


def fresh(purpose: str, random: Random) -> Iterator[int]:
    """A keystream for one purpose from a fresh seed."""
    return keystream(hashlib.sha256(purpose.encode() + random(32)).digest())


def expand(ctx: bytes, block: int, number: int) -> list[int]:
    """A_block for prime number `number`, in transform order."""
    prime = primes()[number]
    nonce = block.to_bytes(4, "big") + number.to_bytes(4, "big") + bytes(8)
    stream = keystream(hashlib.sha256(b"secagg/v1/expand-A" + ctx).digest(), nonce)
    out: list[int] = []
    while len(out) < N:
        word = int.from_bytes(take(stream, 4), "little") % 2**30
        if word < prime:
            out.append(word)
    return out


@cache
def thresholds(variance: Decimal) -> tuple[int, ...]:
    """round(2^64 P(|X| <= k)) for k = 0 .. K-1, K the largest k with P(|X| >= k) >= 2^-64."""
    getcontext().prec = 80
    mass = {x: (-Decimal(x * x) / (2 * variance)).exp() for x in range(-300, 301)}
    total = sum(mass.values())

    def at_most(k: int) -> Decimal:
        return sum((mass[x] for x in range(-k, k + 1)), Decimal(0)) / total

    largest = max(k for k in range(1, 120) if 1 - at_most(k - 1) >= Decimal(2) ** -64)
    return tuple(round(at_most(k) * 2**64) for k in range(largest))


def sample(stream: Iterator[int], variance: Decimal) -> list[int]:
    """N samples: N words, then N sign bits."""
    words = [int.from_bytes(take(stream, 8), "little") for _ in range(N)]
    signs = int.from_bytes(take(stream, N // 8), "little")
    sizes = [sum(t <= word for t in thresholds(variance)) for word in words]
    return [-size if signs >> i & 1 else size for i, size in enumerate(sizes)]


@dataclass(frozen=True)
class Setting:
    """What fixes the arithmetic."""

    limbs: int
    bits: int
    n_max: int
    length: int

    @property
    def base(self) -> int:
        return self.n_max * ((1 << self.bits) - 1) + 1

    @property
    def plaintext_modulus(self) -> int:
        return int(self.base**self.limbs)

    @property
    def blocks(self) -> int:
        return math.ceil(self.length / (self.limbs * N))


def messages(setting: Setting, values: Sequence[int]) -> list[list[int]]:
    """m_k for each block."""
    padded = list(values) + [0] * (setting.blocks * setting.limbs * N - len(values))
    return [
        [
            sum(padded[(k * setting.limbs + limb) * N + j] * setting.base**limb for limb in range(setting.limbs))
            for j in range(N)
        ]
        for k in range(setting.blocks)
    ]


def seal(setting: Setting, ctx: bytes, values: Sequence[int], random: Random) -> tuple[bytes, list[int]]:
    """Ciphertext bytes and key."""
    key = sample(fresh("secagg/v1/key", random), Decimal("20.25"))
    noise = fresh("secagg/v1/error", random)
    out = b""
    for block, message in enumerate(messages(setting, values)):
        error = sample(noise, Decimal("40.5"))
        for number, prime in enumerate(primes()):
            product = multiply(interpolate(expand(ctx, block, number), prime), key, prime)
            residues = [
                (p + setting.plaintext_modulus * e + m) % prime for p, e, m in zip(product, error, message, strict=True)
            ]
            out += join_bits(residues, 30).to_bytes(N * 30 // 8, "little")
    return out, key


def read_residues(ciphertext: bytes) -> list[list[int]]:
    """Residues of each prime of each block."""
    size = N * 30 // 8
    parts = [ciphertext[i : i + size] for i in range(0, len(ciphertext), size)]
    return [split_bits(int.from_bytes(part, "little"), 30, N) for part in parts]


def add(ciphertexts: Sequence[bytes]) -> bytes:
    """The sum, packed again."""
    out = b""
    for number, parts in enumerate(zip(*(read_residues(c) for c in ciphertexts), strict=True)):
        prime = primes()[number % 3]
        total = [sum(column) % prime for column in zip(*parts, strict=True)]
        out += join_bits(total, 30).to_bytes(N * 30 // 8, "little")
    return out


def open_sum(setting: Setting, ctx: bytes, total: bytes, key_sum: Sequence[int]) -> tuple[list[int], int]:
    """Summed values, and the largest |sum(e)|."""
    q = math.prod(primes())
    lift = [q // p * pow(q // p, -1, p) for p in primes()]
    parts = read_residues(total)
    sums: list[int] = []
    error_max = 0
    for block in range(setting.blocks):
        mixed = [0] * N
        for number, prime in enumerate(primes()):
            product = multiply(interpolate(expand(ctx, block, number), prime), key_sum, prime)
            for j in range(N):
                mixed[j] += (parts[3 * block + number][j] - product[j]) % prime * lift[number]
        centred = [v % q - q if v % q > q // 2 else v % q for v in mixed]
        error_max = max(error_max, *(abs(v // setting.plaintext_modulus) for v in centred))
        for limb in range(setting.limbs):
            sums += [v % setting.plaintext_modulus // setting.base**limb % setting.base for v in centred]
    return sums[: setting.length], error_max


def field_elements(stream: Iterator[int], count: int) -> list[int]:
    """Words of 31 bits, those equal to the prime skipped (§5.3a)."""
    row: list[int] = []
    while len(row) < count:
        word = int.from_bytes(take(stream, 4), "little") % 2**31
        if word != FIELD:
            row.append(word)
    return row


def share(key: Sequence[int], threshold: int, holders: int, random: Random) -> list[bytes]:
    """Packed shares of key-holders 1..holders (§6.1)."""
    stream = fresh("secagg/v1/share", random)
    polynomials = [[value % FIELD for value in key], *(field_elements(stream, N) for _ in range(threshold - 1))]
    return [
        join_bits([sum(row[j] * x**d for d, row in enumerate(polynomials)) % FIELD for j in range(N)], 31).to_bytes(
            N * 31 // 8, "little"
        )
        for x in range(1, holders + 1)
    ]


def blinding(threshold: int, holders: int, random: Random) -> list[bytes]:
    """The 4 blinding values of key-holders 1..holders, drawn after the shares (§6.1a)."""
    stream = fresh("secagg/v1/blinding", random)
    rows = [field_elements(stream, 4) for _ in range(threshold)]
    return [
        b"".join((sum(row[k] * x**d for d, row in enumerate(rows)) % FIELD).to_bytes(4, "little") for k in range(4))
        for x in range(1, holders + 1)
    ]


def degree_challenge(seed: bytes) -> list[list[int]]:
    """r_k,j from ctx || u32 release || hash of C (§8.4.1)."""
    stream = keystream(hashlib.sha256(b"secagg/v1/degree-challenge" + seed).digest())
    return [field_elements(stream, N) for _ in range(4)]


def degree_answer(challenge: list[list[int]], packed: bytes, blind: bytes) -> list[int]:
    """y_1 to y_4 (§8.4.2)."""
    elements = split_bits(int.from_bytes(packed, "little"), 31, N)
    return [
        (sum(r * s for r, s in zip(row, elements, strict=True)) + int.from_bytes(blind[4 * k : 4 * k + 4], "little"))
        % FIELD
        for k, row in enumerate(challenge)
    ]


def on_one_polynomial(points: dict[int, int], threshold: int) -> bool:
    """Whether every point is where the polynomial of degree threshold - 1 through the first ones has it."""
    first = sorted(points)[:threshold]
    for x, y in points.items():
        value = 0
        for i in first:
            weight = points[i]
            for j in first:
                if i != j:
                    weight = weight * (x - j) * pow(i - j, -1, FIELD) % FIELD
            value += weight
        if value % FIELD != y:
            return False
    return True


def degree_verdict(
    answers: dict[int, list[list[int]]], threshold: int, faulty: int
) -> dict[int, tuple[set[int], bool, bool]]:
    """Members that fail: contested key-holders, left out, certain (§8.4.4). `answers`: by key-holder, [members][4]."""
    found: dict[int, set[int]] = {}
    telling = len(answers) >= threshold + 2 * faulty
    for member in range(len(next(iter(answers.values())))):

        def fits(away: set[int], member: int = member) -> bool:
            rest = {x: rows[member] for x, rows in answers.items() if x not in away}
            return all(on_one_polynomial({x: y[k] for x, y in rest.items()}, threshold) for k in range(4))

        if not fits(set()):
            sets = [set(away) for size in range(1, faulty + 1) for away in combinations(sorted(answers), size)]
            found[member] = next((away for away in sets if fits(away)), set()) if telling else set()
    named = sorted({x for away in found.values() for x in away})
    groups = [set(group) for group in combinations(named, min(faulty, len(named)))]
    most = max(groups, key=lambda group: sum(bool(away) and away <= group for away in found.values()))
    return {member: (away, not away or not away <= most, telling and not away) for member, away in found.items()}


def quantise(x: float, clip: float, bits: int, word: int, weight: float = 1.0) -> int:
    """One value and one 32-bit word of randomness."""
    levels = (1 << bits) - 1
    inside = min(max(x * weight, -clip), clip)
    return min(math.floor((inside + clip) * (levels / (2.0 * clip)) + word * 2.0**-32), levels)
