"""LIMoE: one sparse tower for all fields, whose router is kept sure of each token and wide over all
of them. Mustafa et al., NeurIPS 2022, arXiv:2206.02770. Contrastive loss of every two fields;
balance: importance, load and router z of V-MoE (arXiv:2106.05974); entropy: their eq. 2-4, local
for words, global for every field. Row 168 of the catalogue.

A full expert leaves out the tokens that its router is least sure of. Full is counted over the batch
before, so that a row never depends on the rows beside it (see `amodal.nn.experts`). The router's
logits get no noise; the load loss supposes one, as published."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged
from amodal.methods.contract import Clock, Features
from amodal.methods.shared.matching import pick_text_field
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.experts import thresholds
from amodal.nn.scale import Scale
from amodal.objectives import routing
from amodal.objectives.info_nce import info_nce

ENCODER = {"trunk": "shared", "experts": 8}


def limoe(
    encoder: Encoder,
    *,
    words: str = "",
    width: int = 128,
    temperature: float = 0.07,
    weight: float = 0.04,
    balance: bool = True,
    entropy: bool = True,
    words_share: float = 9 / 32,
    other_share: float = 20 / 32,
    capacity: float = 1.05,
) -> Limoe:
    """words: the field of few tokens, whose routing is to be sure (local entropy); the first text
    field unless given. width: of the common space; temperature: where the learned softmax
    temperature starts. weight: of the mean of all losses of the router; balance: importance, load
    and z among them; entropy: local and global among them; words_share, other_share: of the experts
    that the words, and each other field, are asked to use at least. capacity: tokens that an expert
    takes, in shares of an equal one (0: any number)."""
    scale, words = Scale(1 / temperature), pick_text_field(two_fields(encoder), words)[0]
    if not encoder.experts or encoder.trunk == "joint":
        raise AmodalError(
            f'limoe routes fields one by one to experts: take trunk="shared" and experts=8, not trunk="{encoder.trunk}" and '
            f"experts={encoder.experts}"
        )

    def objective(z):
        return share(
            {
                f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale())
                for a, b in field_pairs(z)
            }
        )

    shares = (
        {f: words_share if f == words else other_share for f in encoder.fields} if entropy else {}
    )
    return Limoe(encoder.align(width), objective, scale, words, weight, balance, shares, capacity)


class Limoe(Towers):
    def __init__(self, encoder, objective, scale, words, weight, balance, shares, capacity):
        super().__init__(encoder, objective, learned=scale)
        self.words, self.weight, self.balance, self.shares, self.capacity = (
            words,
            weight,
            balance,
            shares,
            capacity,
        )
        self._next: dict[tuple[str, int], Tensor] = {}

    def features(self, batch: Batch) -> Features:
        routes, bags = {}, self.encoder.tokenize(batch)
        z = self.encoder.project(
            Embeddings(
                self.encoder.pool(self.encoder.encode(bags, router_logits=routes)), batch.size
            )
        )
        columns = dict(z.columns)
        for (trunk, block), by_source in routes.items():
            for source, bag in by_source.items():
                there = bag.rows()
                sums = routing.routing_sums(bag.x, bag.row, batch.size)
                columns[f"sums/{trunk}/{block}/{source}"] = Column(sums[there], there)
                surest = torch.stack(bag.x.detach().softmax(1).max(1), 1)  # and of which expert
                columns[f"sure/{trunk}/{block}/{source}"] = Column(
                    Ragged(surest, bag.lengths()[there]), there
                )
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        terms = self.objective(
            Embeddings({s: features[s] for s in features if "/" not in s}, features.size)
        )
        routers: dict[tuple[str, int], dict[str, Tensor]] = {}
        for name in features:
            kind, *rest = name.split("/")
            if kind == "sums":
                routers.setdefault((rest[0], int(rest[1])), {})[rest[2]] = features[
                    name
                ].values.sum(0)
        extra: dict[str, list[Tensor]] = {}
        for key, sums in routers.items():
            for name, loss in self.of_router(sums).items():
                extra.setdefault(name, []).append(loss)
            self._next[key] = self.room(features, key, sums)
        means = {name: torch.stack(each).mean() for name, each in extra.items()}
        return terms | {name: self.weight * loss for name, loss in share(means).items()}

    def of_router(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """sums: source -> (3 + 2E,), over all its tokens."""
        whole, found = torch.stack(list(sums.values())).sum(0), {}
        if self.balance:
            found = {
                "importance": routing.importance(whole),
                "load": routing.load(whole),
                "z": routing.router_z(whole),
            }
        for source, own in sums.items():
            if source in self.shares:
                found[f"global/{source}"] = routing.global_entropy(own, self.shares[source])
                if source == self.words:
                    found[f"local/{source}"] = routing.local_entropy(own)
        return found

    @torch.no_grad()
    def room(self, features: Features, key: tuple[str, int], sources) -> Tensor:
        sure = torch.cat([features[f"sure/{key[0]}/{key[1]}/{s}"].values.flat for s in sources])
        if not self.capacity or not len(sure):
            return sure.new_zeros(self.encoder.experts)
        return thresholds(sure[:, 0], sure[:, 1].long(), self.encoder.experts, self.capacity)

    def on_step_end(self, clock: Clock) -> None:
        for (trunk, block), least in self._next.items():
            layers = [b.mlp for b in self.encoder.trunks[trunk].blocks if hasattr(b, "mlp")]
            layers[block].threshold.copy_(least)
        self._next = {}
