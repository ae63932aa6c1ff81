"""Prompts with more than the class name: what a knowledge base says about the class.

The clinical knowledge enhanced prompts (CKEPE) of MERL (Liu et al., ICML 2024, arXiv:2403.06659): a
language model looks a class up in medical databases, and only what these say (sub-types,
attributes, signs in the waves) goes into the prompt, phrase after phrase. Here the base is a
dictionary, so looking up takes no model. Where a model proposes phrases, `verified` filters them by
the base.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from amodal.core import unknown

Knowledge = Mapping[str, Mapping[str, Sequence[str]] | Sequence[str]]
"""class -> its phrases, or kind of phrase -> phrases."""


def knowledge_prompts(
    classes: Iterable[str],
    knowledge: Knowledge,
    *,
    kinds: Sequence[str] | None = None,
    name: bool = True,
) -> dict[str, str]:
    """Make a prompt for each class: its name and phrases about it, separated by commas.

    Args:
        classes: Names.
        knowledge: Class, or its name in words -> phrases. A class without an entry has its bare
            name.
        kinds: Kinds of phrases that are used, None for all.
        name: Whether the class name comes first.

    Returns:
        class -> prompt, the `names` of `zero_shot`.

    Raises:
        AmodalError: For a kind that no entry has.
    """
    entries = {plain(c): _by_kind(entry) for c, entry in knowledge.items()}
    known = list(dict.fromkeys(kind for entry in entries.values() for kind in entry))
    for kind in kinds or ():
        if kind not in known:
            raise unknown("kind of phrase in this knowledge", kind, known)
    prompts = {}
    for c in classes:
        entry = entries.get(plain(c), {})
        phrases = [
            p for kind, some in entry.items() if kinds is None or kind in kinds for p in some
        ]
        first = [plain(c)] if name or not phrases else []
        prompts[c] = ", ".join(dict.fromkeys(first + phrases))
    return prompts


def verified(proposed: Mapping[str, Sequence[str]], knowledge: Knowledge) -> dict[str, list[str]]:
    """Of the phrases proposed for each class, those that the knowledge base has, ignoring case."""
    known = {
        plain(c): {plain(p) for some in _by_kind(entry).values() for p in some}
        for c, entry in knowledge.items()
    }
    return {
        c: [p for p in phrases if plain(p) in known.get(plain(c), ())]
        for c, phrases in proposed.items()
    }


def _by_kind(entry: Mapping[str, Sequence[str]] | Sequence[str]) -> Mapping[str, Sequence[str]]:
    return entry if isinstance(entry, Mapping) else {"phrases": entry}


def plain(words: str) -> str:
    """Words in lower case, with spaces for underscores."""
    return " ".join(words.replace("_", " ").split()).lower()
