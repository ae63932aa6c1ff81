"""One-word edits of captions with instructions: triplets for composed retrieval.

Interchangeable words come from the captions themselves, or from the caller; no language model is
needed. SCOT (arXiv:2501.08347) has a language model write both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

TEMPLATES = ("make it {new}", "{new} instead of {old}", "change {old} to {new}")


def exchangeable(captions: Iterable[str], least: int = 2) -> list[set[str]]:
    """Groups of words that occur in the same context of otherwise equal captions, such as colours.

    Words linked through others are of one group.

    Args:
        captions: to search.
        least: number of contexts that two words must share.
    """
    contexts: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for caption in set(captions):
        words = caption.split()
        for i, word in enumerate(words):
            contexts[*words[:i], "", *words[i + 1 :]].add(word)
    shared_contexts: dict[tuple[str, str], int] = defaultdict(int)
    for alternatives in contexts.values():
        for a in sorted(alternatives):
            for b in sorted(alternatives):
                if a < b:
                    shared_contexts[a, b] += 1
    group: dict[str, set[str]] = {}
    for (a, b), count in shared_contexts.items():
        if count >= least:
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
    """Edit one word of each caption, and the instruction for the edit.

    Args:
        captions: N captions, None where there is none.
        groups: interchangeable words.
        seed: of all draws.
        templates: instructions with {new} and optionally {old}.

    Returns:
        Instructions and edited captions, None for captions without a word of a group.
    """
    rng = np.random.default_rng(seed)
    group_of: dict[str, list[str]] = {}
    for group in groups:
        group_of.update(dict.fromkeys(group, sorted(set(group))))
    changes: list[str | None] = []
    changed: list[str | None] = []
    for caption in captions:
        words = (caption or "").split()
        editable = [i for i, w in enumerate(words) if len(group_of.get(w, ())) > 1]
        if not editable:
            changes.append(None)
            changed.append(None)
            continue
        i = int(rng.choice(editable))
        new = str(rng.choice([w for w in group_of[words[i]] if w != words[i]]))
        changes.append(str(rng.choice(templates)).format(new=new, old=words[i]))
        changed.append(" ".join([*words[:i], new, *words[i + 1 :]]))
    return changes, changed
