"""What may be shown on a terminal. Imports nothing: every command needs it."""


def printable(text: str) -> str:
    """Control characters as escapes: what another party sent neither steers a terminal nor begins a line there."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
