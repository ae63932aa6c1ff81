"""Refuse an option that a verb does not have, in one sentence with the nearest name.

It imports nothing that takes time.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from itertools import takewhile
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from tyro.conf import Positional

from amodal.core.usual_names import USUAL
from amodal.errors import AmodalError, nearest

TOP = ("--help", "--version")
MANY = 5
"""Verbs that are named at most."""
SIMILAR = 0.65
"""How similar an option must be to be proposed."""
_POSITIONAL = get_args(Positional[int])[1]


def option_names(verb: Callable[..., None]) -> set[str]:
    """The options of a verb, as "--batch-size", with the negations of switches."""
    return _names(get_type_hints(verb, include_extras=True)) | {"--help"}


def _names(hints: Mapping[str, Any]) -> set[str]:
    names: set[str] = set()
    for name, hint in hints.items():
        kind, *described = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if name == "return" or _POSITIONAL in described:
            continue
        if is_dataclass(kind):  # options that verbs share
            names |= _names(get_type_hints(kind, include_extras=True))
            continue
        renamed = [d.name for d in described if getattr(d, "name", None)]
        option = (renamed or [name])[0].replace("_", "-")
        names |= {f"--{option}"} | ({f"--no-{option}"} if kind is bool else set())
    return names


def check_options(
    words: Sequence[str], verbs: Mapping[str, Callable[..., None]], training: Sequence[str]
) -> None:
    """Refuse the first option that the verb of a command line does not have.

    Args:
        words: Of a command line.
        verbs: Name -> function.
        training: Verbs that take `--method.NAME`.

    Raises:
        AmodalError: It names the option, the nearest one, and the help.
    """
    verb = words[0] if words and words[0] in verbs else ""
    known = option_names(verbs[verb]) if verb else {*TOP}
    for word in words:
        if word == "--":
            return
        option = word.partition("=")[0].replace("_", "-")
        if word.startswith("--") and option not in known:
            raise _unknown_option(option, verb, known, verbs, training)


def check_query(words: Sequence[str]) -> None:
    """Raise AmodalError for a query that does not say what it is a value of."""
    if words[:1] != ["search"]:
        return
    bare = [*takewhile(lambda word: not word.startswith("-"), words[2:])]
    if bare:
        query = shlex.quote(" ".join(bare))
        raise AmodalError(
            f"a query says which field its value is of: amodal search {shlex.quote(words[1])} "
            f"--query FIELD={query}; `amodal search --help` lists an option for each kind of data"
        )


def _unknown_option(
    option: str,
    verb: str,
    known: set[str],
    verbs: Mapping[str, Callable[..., None]],
    training: Sequence[str],
) -> AmodalError:
    command = f"amodal {verb}".strip()
    name = option.removeprefix("--")
    usual = f"--{USUAL.get(name, '')}"
    stems = [o.removeprefix("--") for o in sorted(known) if not o.startswith("--no-")]
    close = [usual] if usual in known else [f"--{n}" for n in nearest(name, stems, SIMILAR)]
    owners = [v for v, f in verbs.items() if v != verb and option in option_names(f)]
    message = f"`{command}` has no option {option}."
    if close:
        message += f" Did you mean {close[0]}?"
    if 0 < len(owners) <= MANY and usual not in known:
        message += f" It is an option of {_listed([f'`amodal {v}`' for v in owners])}."
    if verb in training and usual not in known:
        message += f" An option of the method is set by --method.{name.replace('-', '_')}."
    return AmodalError(f"{message} `{command} --help` lists its options.")


def _listed(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
