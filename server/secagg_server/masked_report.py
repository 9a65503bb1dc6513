"""report.html of a masked release: the common page, with what differs (protocol.md §12)."""

from secagg.masked.certificate import MaskedCertificate
from secagg.masked.descriptor import MaskedDescriptor
from secagg.masked.keys import BOX_BYTES
from secagg_server import plots
from secagg_server.report import CKKS_CIPHERTEXT_BYTES, CKKS_SLOTS, Member, render_page

LEAF_BYTES = BOX_BYTES + 32
"""A sealed share and the commitment to it."""


def render(certificate: MaskedCertificate) -> bytes:
    """The page, from nothing but the certificate's content. The same content gives the same bytes."""
    descriptor = certificate.session.statement
    members = [
        Member(descriptor.member(number), upload.statement.privacy, descriptor.roster[number].weight)
        for number, upload in zip(certificate.final.statement.members, certificate.uploads, strict=True)
    ]
    vector, shares = descriptor.shape.packed_bytes, shares_bytes(descriptor)
    ckks = -(-descriptor.shape.length // CKKS_SLOTS) * CKKS_CIPHERTEXT_BYTES
    rows = (
        ("masked, as sent", vector + shares, True),
        ("plain float32 (no protection)", 4 * descriptor.shape.length, False),
        ("CKKS (TenSEAL, N=8192)", ckks, False),
    )
    return render_page(
        "masked_report.html.j2",
        certificate,
        members,
        descriptor=descriptor,
        graph=descriptor.graph,
        sent=vector + shares,
        vector=vector,
        shares=shares,
        ckks=ckks,
        bytes_plot=plots.bytes_plot(rows),
    )


def shares_bytes(descriptor: MaskedDescriptor) -> int:
    """Bytes of sealed shares that a client sends at most: of its mask key, and of the seed of its own mask."""
    return 2 * descriptor.graph.holders * LEAF_BYTES
