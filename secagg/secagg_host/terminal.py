"""What may be shown on a terminal. Imports nothing: every command needs it."""


def printable(text: str) -> str:
    """Control characters as escapes: what another party sent neither steers a terminal nor begins a line there."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def printable_lines(lines: list[str]) -> str:
    """These lines and no others, whatever another party has put into one of them."""
    return "\n".join(map(printable, lines))
