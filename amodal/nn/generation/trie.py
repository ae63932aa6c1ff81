"""Identifiers in a prefix tree, and the beam search that can write no others.

Constrained decoding as in De Cao et al., ICLR 2021, arXiv:2010.00904, section 3.2: a token that no
identifier goes on with has probability 0, and the log probabilities of the others stay as the model
gives them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(tokens so far (M, t) int64, row of each (M,), parent of each (M,)) -> (M, V) log probabilities
of the next token. The parent is as in `amodal.nn.generation.beam.Step`."""


class Trie:
    """A prefix tree of identifiers.

    Nodes are numbered, the root is 0. The children of a node are `token` and `child` from
    `first[node]` on, `count[node]` of them; `item` is the identifier that ends in a node, or -1.

    Args:
        codes_NL: (N, L) int64, the tokens of N identifiers, -1 behind their ends.

    Raises:
        ValueError: If one is empty, occurs twice, or is the beginning of another.
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
                    f"identifier {number} is empty, occurs twice, or is the beginning of another"
                )
            item[node], self.depth = number, max(self.depth, len(tokens))
        children = [sorted(node_children.items()) for node_children in tree]

        def of(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        self.item, self.count = of(item), of([len(pairs) for pairs in children])
        self.first = self.count.cumsum(0) - self.count
        self.token, self.child = (
            of([pair[i] for pairs in children for pair in pairs]) for i in (0, 1)
        )

    def __len__(self) -> int:
        """How many identifiers there are."""
        return int((self.item >= 0).sum())


@torch.no_grad()
def trie_search(step: Step, trie: Trie, rows: int, *, beams: int) -> tuple[Tensor, Tensor]:
    """The likeliest identifiers of each row that a beam search finds.

    Args:
        step: Gives the log probabilities of the next token.
        trie: The identifiers.
        rows: N.
        beams: Identifiers a row. With as many as there are, the result is exact.

    Returns:
        (N, beams) int64, their numbers, best first, -1 where there are no more; and (N, beams) sums
        of log probabilities, -inf there.
    """
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
        # The children of every beam's node as a table (N beams, most children), with a mask.
        nodes = node.flatten()
        alive = ((trie.count[nodes] > 0) & score.flatten().isfinite()).nonzero().flatten()
        place = torch.arange(max(int(trie.count[nodes].max()), 1), device=device)
        is_child = place < trie.count[nodes][:, None]
        # a leaf may start behind the last entry; `is_child` masks what the clamp reads instead
        index = (trie.first[nodes][:, None] + place).clamp(max=len(trie.token) - 1)
        token, child = (
            torch.where(is_child, table[index], 0) for table in (trie.token, trie.child)
        )
        total = (
            score.flatten()[:, None]
            .expand(-1, len(place))
            .masked_fill(~is_child, -torch.inf)
            .clone()
        )
        if len(alive):
            # Their scores, of the beams that go on. A parent is counted among the texts of the last
            # call.
            chances = step(tokens[alive], alive // beams, number[from_beam[alive]]).to(total.dtype)
            total[alive] = (total[alive] + chances.gather(1, token[alive])).masked_fill(
                ~is_child[alive], -torch.inf
            )
            number = torch.zeros_like(number).index_copy(
                0, alive, torch.arange(len(alive), device=device)
            )
        ended = trie.count[nodes] == 0  # what has ended stays, in the first place
        total[ended, 0], child[ended, 0] = score.flatten()[ended], nodes[ended]
        width = total.shape[1]
        # The best children of all beams of a row are its next beams.
        score, best = total.view(rows, -1).topk(min(beams, beams * width), dim=1)
        from_beam = (torch.arange(rows, device=device)[:, None] * beams + best // width).flatten()
        tokens = torch.cat(
            [tokens[from_beam], token[from_beam, (best % width).flatten()][:, None]], 1
        )
        node = child[from_beam, (best % width).flatten()].view(rows, beams)
    return trie.item[node].masked_fill(~score.isfinite(), -1), score
