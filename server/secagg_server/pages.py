"""Where pages for people come from: templates of a package, in the style that is here."""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def templates(*packages: str) -> Environment:
    """The templates of `packages`, the first that has one first, and then those of this one, which hold the style.

    What is put in is escaped; a name that a template asks for and does not get is an error.
    """
    loaders = [PackageLoader(name) for name in (*packages, "secagg_server")]
    return Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
