"""The secrets that open one sum, and the masks they give (protocol.md §12.7.2, §12.7.3).

The coordinator rebuilds them from shares; an auditor finds them in the release and checks them against the same signed
statements. Beside the sum of masked vectors they tell what the sum is, and nothing of one vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from secagg.errors import OpeningError
from secagg.masked.descriptor import MaskedDescriptor
from secagg.masked.keys import PairContext, pair_seed, public_key, self_mask_hash
from secagg.masked.masks import Mask
from secagg.masked.messages import Advertisement, Directory, MaskedUpload
from secagg.masked.sharing import Secret


@dataclass(frozen=True, slots=True)
class Recovered:
    """Seeds of the own masks of U; mask keys of those who shared and are not in U, and with whom of U they masked.

    All by member number; `pairs` are (gone, member of U), in order.
    """

    seeds: Mapping[int, Secret]
    keys: Mapping[int, Secret]
    pairs: tuple[tuple[int, int], ...]

    def masks(self, descriptor: MaskedDescriptor, directory: Directory) -> list[Mask]:
        """What is left in the sum of the masked vectors of U, with signs turned: to be added to it."""
        advertised = {descriptor.number_of(signed.signer): signed.statement for signed in directory}
        masks = [Mask.expand("self", seed, negative=True) for seed in self.seeds.values()]
        for gone, member in self.pairs:
            low, high = sorted((descriptor.member(gone).fingerprint, descriptor.member(member).fingerprint))
            context = PairContext(ctx=descriptor.ctx, low=low, high=high)
            seed = pair_seed(self.keys[gone], bytes.fromhex(advertised[member].mask_key), context)
            masks.append(Mask.expand("pair", seed, negative=member < gone))
        return masks


def check_seed(descriptor: MaskedDescriptor, statement: MaskedUpload, seed: Secret) -> None:
    """The seed is the one whose hash the member signed. Raises OpeningError that names the member."""
    if self_mask_hash(descriptor.ctx, statement.client, seed) != statement.self_mask:
        raise inconsistent(descriptor, descriptor.number_of(statement.client))


def check_mask_key(descriptor: MaskedDescriptor, statement: Advertisement, key: Secret) -> None:
    """The mask key is the one whose public key the member signed. Raises OpeningError that names the member."""
    if public_key(key).hex() != statement.mask_key:
        raise inconsistent(descriptor, descriptor.number_of(statement.client))


def inconsistent(descriptor: MaskedDescriptor, number: int) -> OpeningError:
    """What is raised when shares do not give back what their sender signed."""
    return OpeningError(
        f"{descriptor.member(number).title} committed to shares that do not give its secret back. The session "
        "is burnt; start one without it"
    )
