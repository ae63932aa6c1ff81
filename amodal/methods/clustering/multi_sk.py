"""Multi-assignment Sinkhorn: what looks alike inside a field must look alike, on learned anchors,
in the space that the fields share. Swetha, Rizve, Shvetsova, Kuehne & Shah, ICCV 2023,
arXiv:2308.13077. InfoNCE between every two fields; for each field, anchors in its own space (the
mean of its tokens before the trunk; of a pretrained backbone these are its features) and in the
shared one; the scores in each space are fitted to the other's assignments of several anchors, which
queues of earlier rows help to balance. All pairs weigh the same, as video and text do in the paper,
where the costs are added; here their sum is divided by the number of pairs of fields, which is 1
for two and 3 for three. Row 69 of the catalogue."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import Batch, Embeddings
from amodal.methods.contract import Clock, Features, Method
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce
from amodal.objectives.multi_sinkhorn import anchor_cost, multi_sinkhorn


def multi_sk(
    encoder: Encoder,
    *,
    width: int = 128,
    temperature: float = 0.05,
    anchors: int = 64,
    assigned: float = 0.5,
    epsilon: float = 0.07,
    iterations: int = 20,
    queue: int = 5500,
    weight: float = 1.0,
    across: bool = True,
) -> Method:
    """width: of the shared space; temperature: of InfoNCE; anchors: of each field in each space;
    assigned: share of them that a row gets; epsilon, iterations: of the Sinkhorn alternation;
    queue: earlier rows of each field, the anchors are not used before it is full; weight: of the
    consistency terms, 0 for none; across: also between one field's own space and another's place in
    the shared one."""
    sinkhorn = {"share": assigned, "epsilon": epsilon, "iterations": iterations}
    return MultiSK(
        two_fields(encoder).align(width, hidden=encoder.width),
        temperature,
        anchors,
        sinkhorn,
        queue,
        weight,
        across,
    )


class MultiSK(Method):
    min_batch_size = 2
    views = ("weak",)

    def __init__(self, encoder, temperature, anchors, sinkhorn, queue, weight, across):
        super().__init__()
        self.encoder, self.temperature, self.sinkhorn = encoder, temperature, sinkhorn
        self.queue, self.weight, self.across = queue, weight, across
        widths = {"own": encoder.width, "shared": encoder.heads_width}
        self.anchors = nn.ParameterDict(
            {
                f"{space}/{f}": nn.Parameter(torch.randn(anchors, d))
                for space, d in widths.items()
                for f in encoder.fields
            }
        )
        for f, (space, d) in itertools.product(encoder.fields, widths.items()):
            self.register_buffer(f"queue/{space}/{f}", torch.zeros(0 if not weight else queue, d))
        for f in encoder.fields:
            self.register_buffer(f"queued/{f}", torch.zeros((), dtype=torch.int64))
        self._seen: dict[str, Tensor] = {}

    def features(self, batch: Batch) -> Features:
        content = self.encoder.patchify(batch)
        context = self.encoder.encode(
            {s: self.encoder.add_positions(bag) for s, bag in content.items()}
        )
        z = self.encoder.project(Embeddings(self.encoder.pool(context), batch.size))
        return Embeddings(
            z.columns | {f"own/{s}": bag.pool() for s, bag in content.items()}, batch.size
        )

    def losses(self, features: Features) -> dict[str, Tensor]:
        fields = list(self.encoder.fields)
        z = Embeddings({f: features[f] for f in fields}, features.size)
        terms = share(
            {
                f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=self.temperature)
                for a, b in field_pairs(z)
            }
        )
        if not self.weight:
            return terms
        units = {f"own/{f}": normalize(features[f"own/{f}"].values, dim=1) for f in fields}
        units |= {f"shared/{f}": normalize(features[f].values, dim=1) for f in fields}
        self._seen = {name: unit.detach() for name, unit in units.items()}
        full = [f for f in fields if self.get_buffer(f"queued/{f}") >= self.queue]
        kept = {}
        for of, to in itertools.product(
            full, full
        ):  # a field in the shared space, and the field whose anchors it is scored on
            if of == to or self.across:
                kept[f"anchors/{of}~{to}"] = self.weight * self.consistency(features, units, of, to)
        # the consistency of two fields is a sum, and of n fields as much for each two
        return terms | {name: term / len(terms) for name, term in kept.items()}

    def consistency(self, features: Features, units: dict[str, Tensor], of: str, to: str) -> Tensor:
        """Of rows that have both fields: scores in `to`'s own space against assignments of `of` in
        the shared one, and back."""
        own, own_queue = self.scores(units, f"own/{to}", f"own/{to}")
        shared, shared_queue = self.scores(units, f"shared/{of}", f"shared/{to}")
        both = Embeddings(
            {"own": features[f"own/{to}"], "shared": features[of]}, features.size
        ).complete(["own", "shared"])[0]
        at = [torch.searchsorted(features[name].rows, both) for name in (f"own/{to}", of)]
        targets = [self.assign(*pair) for pair in ((own, own_queue), (shared, shared_queue))]
        return anchor_cost(own[at[0]], targets[1][at[1]]) + anchor_cost(
            shared[at[1]], targets[0][at[0]]
        )

    def scores(self, units: dict[str, Tensor], name: str, anchors: str) -> tuple[Tensor, Tensor]:
        """Cosines with the anchors: of the batch, and of the queue."""
        directions = normalize(self.anchors[anchors].to(units[name].dtype), dim=1)
        return units[name] @ directions.T, self.get_buffer(f"queue/{name}").to(
            directions.dtype
        ) @ directions.detach().T

    def assign(self, batch: Tensor, queue: Tensor) -> Tensor:
        return multi_sinkhorn(torch.cat([queue, batch.detach()]), **self.sinkhorn)[len(queue) :]

    def on_step_end(self, clock: Clock) -> None:
        for name, unit in self._seen.items():
            queue = self.get_buffer(f"queue/{name}")
            queue.copy_(torch.cat([queue, unit.to(queue.dtype)])[len(unit) :])
            if name.startswith("own/"):
                self.get_buffer(f"queued/{name[4:]}").add_(len(unit))
        self._seen = {}
