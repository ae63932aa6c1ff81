"""Multi-assignment Sinkhorn: what looks alike inside a field must look alike, on learned anchors,
in the space that the fields share. Swetha, Rizve, Shvetsova, Kuehne & Shah, ICCV 2023,
arXiv:2308.13077. InfoNCE between every two fields; for each field, anchors in its own space (the
mean of its tokens before the trunk; of a pretrained backbone these are its features) and in the
shared one; the scores in each space are fitted to the other's assignments of several anchors, which
queues of earlier rows help to balance. Row 69 of the catalogue.

The authors' program, on descriptors of clips (lists of vectors, a field of kind `series`), words
and sound:

    amodal pretrain multi_sk --data DATA --recipe paper --size huge --out RUN
        --backbone text=transformers:DIR --backbone audio=resnet1d --method.blocks 1
        --method.head gated --method.width 6144 --method.minor audio --method.weight 1.2

Differs:

- pairs: `minor` has the authors' weights, a tenth where sound is one of two, and the same weighted
  mean of contrasts. Their costs of assignments are a sum; here it is divided by the sum of the
  weights of pairs, which is 1 for two fields, and 1.2 for three with one minor (`weight`).
- fusion: figures of the paper show one transformer for all fields, and fused vectors; the authors'
  program, by its only configuration, has a transformer for each field and fuses none. So has this.
- encoder: their descriptors are those of ResNet-152 and ResNeXt-101, 12 in 8 seconds, words are
  word2vec's, and spectrograms go through a network of their own (`resnet1d` is of its kind); gated
  linear maps and a norm lead each into 4,096 dimensions and one block of 64 heads. Here linear
  maps lead a backbone into the encoder's width, at most 1,280, and `blocks` follow.
- head: a perceptron with one hidden layer, unless `head` is the paper's gated linear map.
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
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Embeddings, Recipe, unknown
from amodal.core.column import shared_rows
from amodal.methods.contract import Clock, Columns, FeatureRecord, Method
from amodal.methods.shared.shapes import field_pairs, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.heads.linear import GatedHead
from amodal.objectives.info_nce import info_nce
from amodal.objectives.multi_sinkhorn import anchor_cost, multi_sinkhorn

HEADS = ("perceptron", "gated")
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
    head: str = "perceptron",
    blocks: int = 0,
    minor: str = "",
    minor_weight: float = 0.1,
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
        head: Into the shared space: "perceptron" or "gated".
        blocks: Of a transformer, on top of each field's own network.
        minor: A,B, fields whose terms weigh less, as those of sound in the paper.
        minor_weight: Of terms with a minor field, against 1.

    Raises:
        AmodalError: For an unknown head, minor fields that there are not, and a weight of nothing.
    """
    if head not in HEADS:
        raise unknown("head", head, HEADS)
    lesser = tuple(name.strip() for name in minor.split(",") if name.strip())
    for name in lesser:
        if name not in encoder.fields:
            raise unknown("field", name, encoder.fields)
    if minor_weight <= 0:
        raise AmodalError(
            f"multi_sk.minor_weight is more than 0, got {minor_weight}; leave the field out with "
            "--fields for no weight"
        )
    for field in two_fields(encoder).fields if blocks else ():
        encoder.extend(field, blocks)
    if head == "gated":
        encoder.align(width, head=GatedHead)
    else:
        encoder.align(width, hidden=encoder.width)
    return MultiSK(
        two_fields(encoder),
        temperature=temperature,
        anchors=anchors,
        assigned=assigned,
        epsilon=epsilon,
        iterations=iterations,
        queue=queue,
        weight=weight,
        across=across,
        minor=lesser,
        minor_weight=minor_weight,
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
        minor: Fields whose terms weigh less.
        minor_weight: Of these terms, against 1.
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
        minor: Sequence[str],
        minor_weight: float,
    ):
        super().__init__()
        self.encoder, self.temperature, self.assigned = encoder, temperature, assigned
        self.epsilon, self.iterations = epsilon, iterations
        self.queue, self.weight, self.across = queue, weight, across
        self.minor, self.minor_weight = tuple(minor), minor_weight
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
        pairs = list(field_pairs(z))
        total = sum(self.weight_of(a, b) for a, b in pairs)
        # both directions are added, as in the authors' code, not averaged
        terms = {
            f"info_nce/{a}~{b}": 2
            * info_nce(*z.pair(a, b), temperature=self.temperature)
            * (self.weight_of(a, b) / total)
            for a, b in pairs
        }
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
                weight = self.weight * self.weight_of(of, to)
                term = weight * self.consistency(features, units, of, to)
                consistent[f"anchors/{of}~{to}"] = term
        # the consistency of two fields is a sum, and of n fields as much for each two
        return terms | {name: term / total for name, term in consistent.items()}

    def weight_of(self, *fields: str) -> float:
        """The weight of a term of these fields."""
        return self.minor_weight if any(f in self.minor for f in fields) else 1.0

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
