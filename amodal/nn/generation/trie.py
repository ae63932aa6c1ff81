"""Identifiers in a prefix tree, and the beam search that can write no others.

Constrained decoding as De Cao et al., ICLR 2021, arXiv:2010.00904, section 3.2 have it: a token
that no identifier goes on with has no chance, and the log probabilities of the others stay as the
model gives them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(tokens so far (M, t) int64, row of each (M,), parent of each (M,)) -> (M, V) log probabilities
of the next token. The parent is as in `amodal.nn.generation.beam.Step`."""


class Trie:
    """codes_NL: (N, L) int64, the tokens of N identifiers, -1 behind their ends. Raises ValueError
    unless they are all different, at least one token long, and none is the beginning of another.

    Nodes are numbered, the root is 0. The children of a node are `token` and `child` from
    `first[node]` on, `count[node]` of them; `item` is the identifier that ends in a node, or -1.
    """

    def __init__(self, codes_NL: Tensor):
        codes, device = codes_NL.cpu().tolist(), codes_NL.device
        tree: list[dict[int, int]] = [{}]
        item, self.depth = [-1], 0
        for number, code in enumerate(codes):
            node, tokens = 0, [t for t in code if t >= 0]
            for token in tokens:
                if item[node] >= 0:
                    break
                if token not in tree[node]:
                    tree[node][token] = len(tree)
                    tree.append({})
                    item.append(-1)
                node = tree[node][token]
            if not tokens or item[node] >= 0 or tree[node]:
                raise ValueError(
                    f"identifier {number} is empty, not the only one of its kind, or the beginning of another"
                )
            item[node], self.depth = number, max(self.depth, len(tokens))
        children = [sorted(each.items()) for each in tree]

        def of(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        self.item, self.count = of(item), of([len(each) for each in children])
        self.first = self.count.cumsum(0) - self.count
        self.token, self.child = (
            of([pair[i] for each in children for pair in each]) for i in (0, 1)
        )

    def __len__(self) -> int:
        """Identifiers in it."""
        return int((self.item >= 0).sum())


@torch.no_grad()
def trie_search(step: Step, trie: Trie, rows: int, *, beams: int) -> tuple[Tensor, Tensor]:
    """For each row the identifiers with the highest sum of log probabilities that the search finds,
    best first: their numbers (rows, beams) int64, -1 where there are no more, and those sums, -inf
    there. With as many beams as identifiers, all of them, in their true order."""
    device = trie.item.device
    node = torch.zeros(rows, beams, dtype=torch.int64, device=device)
    score = torch.full((rows, beams), -torch.inf, device=device)
    if rows and len(trie):
        score[:, 0] = 0  # at the start all beams are the same
    tokens = torch.zeros(rows * beams, 0, dtype=torch.int64, device=device)
    number = from_beam = torch.arange(
        rows * beams, device=device
    )  # of each beam among the texts of the call before
    for _ in range(trie.depth if rows else 0):
        at = node.flatten()
        alive = ((trie.count[at] > 0) & score.flatten().isfinite()).nonzero().squeeze(1)
        place = torch.arange(max(int(trie.count[at].max()), 1), device=device)
        there = place < trie.count[at][:, None]
        index = (trie.first[at][:, None] + place).clamp(max=len(trie.token) - 1)
        token, child = (torch.where(there, each[index], 0) for each in (trie.token, trie.child))
        total = (
            score.flatten()[:, None].expand(-1, len(place)).masked_fill(~there, -torch.inf).clone()
        )
        if len(alive):
            chances = step(tokens[alive], alive // beams, number[from_beam[alive]]).to(total.dtype)
            total[alive] = (total[alive] + chances.gather(1, token[alive])).masked_fill(
                ~there[alive], -torch.inf
            )
            number = torch.zeros_like(number).index_copy(
                0, alive, torch.arange(len(alive), device=device)
            )
        ended = trie.count[at] == 0  # what has ended stays, in the first place
        total[ended, 0], child[ended, 0] = score.flatten()[ended], at[ended]
        width = total.shape[1]
        score, best = total.view(rows, -1).topk(min(beams, beams * width), dim=1)
        from_beam = (torch.arange(rows, device=device)[:, None] * beams + best // width).flatten()
        tokens = torch.cat(
            [tokens[from_beam], token[from_beam, (best % width).flatten()][:, None]], 1
        )
        node = child[from_beam, (best % width).flatten()].view(rows, beams)
    return trie.item[node].masked_fill(~score.isfinite(), -1), score
