"""report.html of a ckks release: the common page, with what differs (protocol.md §13)."""

from secagg.ckks.certificate import CkksCertificate
from secagg_server import plots
from secagg_server.report import CKKS_CIPHERTEXT_BYTES, CKKS_SLOTS, Member, render_page


def render(certificate: CkksCertificate) -> bytes:
    """The page, from nothing but the certificate's content. The same content gives the same bytes."""
    descriptor = certificate.session.statement
    uploads = [upload.statement for upload in certificate.uploads]
    members = [Member(descriptor.client(one.client), one.privacy, descriptor.weights[one.client]) for one in uploads]
    sent, length = max(one.bytes for one in uploads), descriptor.parameters.length
    usual = -(-length // CKKS_SLOTS) * CKKS_CIPHERTEXT_BYTES
    rows = (
        ("ckks, as sent", sent, True),
        ("plain float32 (no protection)", 4 * length, False),
        ("CKKS as usual (TenSEAL, N=8192)", usual, False),
    )
    return render_page(
        "ckks_report.html.j2",
        certificate,
        members,
        descriptor=descriptor,
        sent=sent,
        usual=usual,
        bytes_plot=plots.bytes_plot(rows),
    )
