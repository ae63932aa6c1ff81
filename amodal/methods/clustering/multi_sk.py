"""Multi-assignment Sinkhorn: what looks alike inside a field must look alike, on learned anchors,
in the space that the fields share. Swetha, Rizve, Shvetsova, Kuehne & Shah, ICCV 2023,
arXiv:2308.13077. InfoNCE between every two fields; for each field, anchors in its own space (the
mean of its tokens before the trunk; of a pretrained backbone these are its features) and in the
shared one; the scores in each space are fitted to the other's assignments of several anchors, which
queues of earlier rows help to balance. Row 69 of the catalogue.

Differs:

- pairs: all weigh the same, as video and text do in the paper, where those with sound have a tenth
  of the weight. Costs are added there; here their sum is divided by the number of pairs of fields,
  which is 1 for two and 3 for three.
- fusion: the paper also contrasts each field with the fused vector of the other two, of one joint
  transformer. Here the towers are apart and only fields are compared.
- encoder: any trunk, on frozen features by a `--backbone` of each field. The paper has ResNet-152
  and ResNeXt-101 of a video, word2vec, and a network of spectrograms that learns along, all mapped
  to 4,096 by gated linear maps, and one block.
- head: a perceptron with one hidden layer; the paper's is a gated linear map to 6,144.
- queues: of each field, until whose own is full its anchors wait; the authors' begin as random
  numbers and are all counted as one.
- optimizer: weights are averaged in the paper beside those that learn (`ema`); here the average is
  what is saved.
- views: `weak`; the paper has none, and draws a clip of eight seconds.
- zero-shot retrieval is `amodal evaluate --protocols retrieval`; the paper's data, HowTo100M with
  YouCook2 and MSR-VTT, are no commands of `amodal data`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import Batch, Embeddings, Recipe
from amodal.core.column import shared_rows
from amodal.methods.contract import Clock, Columns, FeatureRecord, Method
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce
from amodal.objectives.multi_sinkhorn import anchor_cost, multi_sinkhorn

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=5e-5,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    schedule="step",
    milestones=tuple(epoch / 15 for epoch in range(1, 15)),
    decay_rate=0.9,
    warmup=0.0,
    clip=0.0,
    ema=0.9999,
    batch_size=216,
    epochs=15.0,
)


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
    """Build multi-assignment Sinkhorn.

    Args:
        encoder: Of at least two fields.
        width: Of the shared space.
        temperature: Of InfoNCE.
        anchors: Of each field in each space.
        assigned: Share of them that a row is assigned to.
        epsilon: Of the Sinkhorn alternation.
        iterations: Of the Sinkhorn alternation.
        queue: Earlier rows of each field; the anchors are not used before it is full.
        weight: Of the consistency terms, 0 for none.
        across: Also compare one field's input space with another's place in the shared space.
    """
    return MultiSK(
        two_fields(encoder).align(width, hidden=encoder.width),
        temperature=temperature,
        anchors=anchors,
        assigned=assigned,
        epsilon=epsilon,
        iterations=iterations,
        queue=queue,
        weight=weight,
        across=across,
    )


@dataclass(frozen=True, kw_only=True)
class TwoSpaces(FeatureRecord):
    """Vectors of each field in two spaces.

    Args:
        shared: field -> (N, D) in the space that fields share.
        inputs: field -> (N, E), the mean of its tokens before the trunk.
    """

    shared: Columns
    inputs: Columns


class MultiSK(Method):
    """InfoNCE between fields, and consistent assignments to anchors in two spaces.

    Args:
        encoder: Aligned.
        temperature: Of InfoNCE.
        anchors: Of each field in each space.
        assigned: Share of anchors that a row is assigned to.
        epsilon: Of the Sinkhorn alternation.
        iterations: Of the Sinkhorn alternation.
        queue: Earlier rows of each field.
        weight: Of the consistency terms.
        across: Also compare the spaces of different fields.
    """

    min_batch_size = 2
    views = ("weak",)

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: float,
        anchors: int,
        assigned: float,
        epsilon: float,
        iterations: int,
        queue: int,
        weight: float,
        across: bool,
    ):
        super().__init__()
        self.encoder, self.temperature, self.assigned = encoder, temperature, assigned
        self.epsilon, self.iterations = epsilon, iterations
        self.queue, self.weight, self.across = queue, weight, across
        # "own" (of the inputs) and "shared" are part of the names of tensors in runs
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
        self._new: dict[str, Tensor] = {}

    def features(self, batch: Batch) -> TwoSpaces:
        content = self.encoder.patchify(batch)
        context = self.encoder.encode(
            {s: self.encoder.add_positions(tokens) for s, tokens in content.items()}
        )
        z = self.encoder.project(Embeddings(self.encoder.pool(context), batch.size))
        inputs = {s: tokens.pool() for s, tokens in content.items()}
        return TwoSpaces(size=batch.size, shared=z.columns, inputs=inputs)

    def losses(self, features: TwoSpaces) -> dict[str, Tensor]:
        fields = list(self.encoder.fields)
        z = Embeddings({f: features.shared[f] for f in fields}, features.size)
        # both directions are added, as in the authors' code, not averaged
        terms = share(
            {
                f"info_nce/{a}~{b}": 2 * info_nce(*z.pair(a, b), temperature=self.temperature)
                for a, b in field_pairs(z)
            }
        )
        if not self.weight:
            return terms
        units = {f"own/{f}": normalize(features.inputs[f].flat, dim=1) for f in fields}
        units |= {f"shared/{f}": normalize(features.shared[f].flat, dim=1) for f in fields}
        # pushed after the step, once whatever the number of micro-batches
        self._new = {name: unit.detach() for name, unit in units.items()}
        full = [f for f in fields if self.get_buffer(f"queued/{f}") >= self.queue]
        consistent = {}
        # a field in the shared space, and the field whose anchors it is scored on
        for of, to in itertools.product(full, full):
            if of == to or self.across:
                term = self.weight * self.consistency(features, units, of, to)
                consistent[f"anchors/{of}~{to}"] = term
        # the consistency of two fields is a sum, and of n fields as much for each two
        return terms | {name: term / len(terms) for name, term in consistent.items()}

    def consistency(
        self, features: TwoSpaces, units: dict[str, Tensor], of: str, to: str
    ) -> Tensor:
        """Fit the scores in each space to the assignments in the other, on rows with both fields.

        Args:
            features: Of the batch.
            units: `own/FIELD` and `shared/FIELD` -> unit vectors.
            of: The field in the shared space.
            to: The field in its input space, whose anchors are used.
        """
        inputs, input_queue = self.scores(units, f"own/{to}", f"own/{to}")
        shared, shared_queue = self.scores(units, f"shared/{of}", f"shared/{to}")
        input_index, shared_index = shared_rows(features.inputs[to], features.shared[of])
        targets = [self.assign(*pair) for pair in ((inputs, input_queue), (shared, shared_queue))]
        return anchor_cost(inputs[input_index], targets[1][shared_index]) + anchor_cost(
            shared[shared_index], targets[0][input_index]
        )

    def scores(self, units: dict[str, Tensor], name: str, anchors: str) -> tuple[Tensor, Tensor]:
        """Cosines with the anchors: of the batch, and of the queue."""
        directions = normalize(self.anchors[anchors].to(units[name].dtype), dim=1)
        queue = self.get_buffer(f"queue/{name}").to(directions.dtype)
        # the queue only balances assignments, which are targets: it needs no graph
        return units[name] @ directions.T, queue @ directions.detach().T

    def assign(self, batch: Tensor, queue: Tensor) -> Tensor:
        """The assignments of the batch, balanced with those of the queue."""
        scores = torch.cat([queue, batch.detach()])
        assigned = multi_sinkhorn(
            scores, share=self.assigned, epsilon=self.epsilon, iterations=self.iterations
        )
        return assigned[len(queue) :]

    def on_step_end(self, clock: Clock) -> None:
        for name, unit in self._new.items():
            queue = self.get_buffer(f"queue/{name}")
            queue.copy_(torch.cat([queue, unit.to(queue.dtype)])[len(unit) :])
            if name.startswith("own/"):
                self.get_buffer(f"queued/{name[4:]}").add_(len(unit))
        self._new = {}
