"""What words of a command line mean: lists, NAME=VALUE, and options that only a page knows.

Imports nothing that takes time.
"""

from __future__ import annotations


def listed(text: str) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] or None


def pairs(given: tuple[str, ...]) -> dict[str, str]:
    """("a=1", "b=2") -> {"a": "1", "b": "2"}."""
    from amodal.errors import AmodalError

    for item in given:
        if "=" not in item:
            raise AmodalError(f"{item!r} should be NAME=VALUE")
    return dict(item.split("=", 1) for item in given)


def numbers(given: tuple[str, ...]) -> dict[str, float]:
    """("a=1", "like:b=c=-0.5") -> {"a": 1.0, "like:b=c": -0.5}."""
    from amodal.errors import AmodalError

    found = {}
    for item in given:
        name, _, number = item.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise AmodalError(f"{item!r} should be PART=NUMBER, such as text=0.5 or image=-1")
    return found


def take_method_options(
    argv: list[str], prefix: str = "--method."
) -> tuple[list[str], dict[str, object]]:
    """Split off `--method.NAME VALUE` and `--method.NAME=VALUE`, whose names only the method's page
    knows.
    """
    rest, options, words = [], {}, iter(argv)
    for word in words:
        if not word.startswith(prefix):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix(prefix).partition("=")
        options[name.replace("-", "_")] = value if equals else next(words, "")
    return rest, options


def take_own_method(words: list[str]) -> tuple[list[str], str]:
    """Split off `--method FILE.py:FUNCTION`, which any verb takes that opens a run of a method of
    one's own."""
    rest: list[str] = []
    reference, left = "", iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if name != "--method":
            rest.append(word)
            continue
        value = value if equals else next(left, "")
        if ":" in value:
            reference = value
        else:
            rest.append(f"--method={value}")
    return rest, reference


def today(words: list[str]) -> list[str]:
    """The same words with options of the release before under their names of today."""
    from amodal.core.recipe import OLD_NAMES

    old = {
        f"--{was.replace('_', '-')}": f"--{name.replace('_', '-')}"
        for was, name in OLD_NAMES.items()
    }
    split = (word.partition("=") for word in words)
    return [old.get(name, name) + equals + value for name, equals, value in split]
