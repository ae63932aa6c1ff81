"""Captions that are edited in one word, and what to say for it: triplets for composed retrieval
without a language model.

Words that stand in for each other are found in the captions themselves, or given. SCOT
(arXiv:2501.08347) has a language model write both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

TEMPLATES = ("make it {new}", "{new} instead of {old}", "change {old} to {new}")


def exchangeable(captions: Iterable[str], least: int = 2) -> list[set[str]]:
    """Groups of words that stand at the same place of captions which are otherwise equal, at
    `least` places: colours, say. Words that are linked by others are of one group."""
    places: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for caption in set(captions):
        words = caption.split()
        for i, word in enumerate(words):
            places[*words[:i], "", *words[i + 1 :]].add(word)
    seen: dict[tuple[str, str], int] = defaultdict(int)
    for words in places.values():
        for a in sorted(words):
            for b in sorted(words):
                if a < b:
                    seen[a, b] += 1
    group: dict[str, set[str]] = {}
    for (a, b), times in seen.items():
        if times >= least:
            merged = group.get(a, {a}) | group.get(b, {b})
            group.update(dict.fromkeys(merged, merged))
    return sorted({id(g): g for g in group.values()}.values(), key=lambda g: sorted(g))


def edits(
    captions: Sequence[str | None],
    groups: Sequence[Iterable[str]],
    *,
    seed: int = 0,
    templates: Sequence[str] = TEMPLATES,
) -> tuple[list[str | None], list[str | None]]:
    """(what to change, the caption after it) for each caption: one of its words that is in a group
    becomes another one of it. None for a caption without such a word. templates: with {new} and, if
    wanted, {old}; all draws come from `seed`."""
    rng, of = np.random.default_rng(seed), {}
    for each in groups:
        of.update(dict.fromkeys(each, sorted(set(each))))
    changes: list[str | None] = []
    changed: list[str | None] = []
    for caption in captions:
        words = (caption or "").split()
        at = [i for i, w in enumerate(words) if len(of.get(w, ())) > 1]
        if not at:
            changes.append(None)
            changed.append(None)
            continue
        i = int(rng.choice(at))
        new = str(rng.choice([w for w in of[words[i]] if w != words[i]]))
        changes.append(str(rng.choice(templates)).format(new=new, old=words[i]))
        changed.append(" ".join([*words[:i], new, *words[i + 1 :]]))
    return changes, changed
