"""Prompts that say more than a class's name: what a base of knowledge has of it.

MERL's clinical knowledge enhanced prompts (CKEPE; Liu et al., ICML 2024, arXiv:2403.06659): a
language model looks a class up in medical databases, and only what stands there (sub-types,
attributes, signs in the waves) goes into the prompt, phrase after phrase. Here the base is a
dictionary, and the looking up needs no model; where one proposes phrases, `verified` keeps those
that the base has.
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
    """class -> its name and what is known of it, with commas between: the `names` of `zero_shot`.

    knowledge: class or its name in words -> phrases; a class that it lacks keeps its bare name.
    kinds: of phrases, all unless given; name: put the class's name first. Raises AmodalError for a
    kind that no entry has.
    """
    found = {_plain(c): _by_kind(entry) for c, entry in knowledge.items()}
    known = list(dict.fromkeys(kind for entry in found.values() for kind in entry))
    for kind in kinds or ():
        if kind not in known:
            raise unknown("kind of phrase in this knowledge", kind, known)
    prompts = {}
    for c in classes:
        entry = found.get(_plain(c), {})
        phrases = [
            p for kind, some in entry.items() if kinds is None or kind in kinds for p in some
        ]
        own = [_plain(c)] if name or not phrases else []
        prompts[c] = ", ".join(dict.fromkeys(own + phrases))
    return prompts


def verified(proposed: Mapping[str, Sequence[str]], knowledge: Knowledge) -> dict[str, list[str]]:
    """Of the phrases that are proposed for each class, those that the knowledge has of it, whatever
    their case."""
    found = {
        _plain(c): {_plain(p) for some in _by_kind(entry).values() for p in some}
        for c, entry in knowledge.items()
    }
    return {
        c: [p for p in phrases if _plain(p) in found.get(_plain(c), ())]
        for c, phrases in proposed.items()
    }


def _by_kind(entry) -> Mapping[str, Sequence[str]]:
    return entry if isinstance(entry, Mapping) else {"phrases": entry}


def _plain(words: str) -> str:
    return " ".join(words.replace("_", " ").split()).lower()
