"""What is shown on a terminal of what others have said."""

from secagg_host.terminal import printable_lines


def test_lines_stay_as_many_as_they_are() -> None:
    lines = ["base model  a/b\nmax_epsilon 0.01", "Klinik Süd: ε = 4", "\x1b[1A\x9b2K\r\u202e\u2028"]
    assert printable_lines(lines).split("\n") == [
        r"base model  a/b\nmax_epsilon 0.01",
        "Klinik Süd: ε = 4",
        r"\x1b[1A\x9b2K\r\u202e\u2028",
    ]
