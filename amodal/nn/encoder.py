"""What survives training: batch -> tokens -> embeddings, for any set of senses and any pattern of absence."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Column, Embeddings, Tokens, field_of, unknown, view_of
from amodal.core.column import joined
from amodal.core.embeddings import FUSED
from amodal.core.host import host_copy, on_host, to_device
from amodal.modalities import name_of
from amodal.nn.attention.masks import rule
from amodal.nn.fusion.combiner import Combiner
from amodal.nn.heads.boxes import ConceptHead
from amodal.nn.heads.capsules import CapsuleHead
from amodal.nn.heads.projectors import BranchHead
from amodal.nn.multi_vector import Several
from amodal.nn.pooling import pool_of
from amodal.nn.positions import additive
from amodal.nn.recurrent import Brnn, Recurrent
from amodal.nn.transformer import BlockHook, Collector, Transformer, size_of

HEADS = {"capsules": CapsuleHead, "branches": BranchHead, "concepts": ConceptHead}
TRUNKS = ("separate", "shared", "joint")
MIXERS = {"attention": Transformer, "gru": Recurrent, "brnn": Brnn}
SEQUENCES = ("text", "audio", "series", "sequence", "events")
ALL = "all"  # the key of the one trunk that all fields use

Bags = dict[str, Tokens]
"""source -> its tokens."""


class Encoder(nn.Module):
    """fields: name -> modality (see `amodal.modalities`), what the records may hold.

    size: the one dial: nano, tiny, small, base, large, huge.
    trunk: "separate", a transformer for each field; "shared", one transformer that sees one sense at a time; "joint", one
        transformer that sees all senses of a row together.
    positions: "sincos", "learned", "rotary" or "none"; pool: "mean", "cls", "attention", "vector" or "gem".
    backbones: field -> a pretrained backbone (see `amodal.nn.backbones.pretrained`) in place of that field's tokeniser.
    experts: how many perceptrons each token has to choose from in every second block (see `amodal.nn.experts`); 0: all share one.
    mixer: "attention", or "gru" or "brnn": sequences (text, sound, …) are read by a recurrent trunk instead, with trunk="separate".
    """

    def __init__(
        self,
        fields: dict[str, nn.Module],
        *,
        size: str = "tiny",
        trunk: str = "separate",
        positions: str = "sincos",
        pool: str = "mean",
        backbones: dict[str, nn.Module] | None = None,
        experts: int = 0,
        mixer: str = "attention",
    ):
        super().__init__()
        if not fields:
            raise AmodalError("an encoder needs at least one field; the data's schema has none")
        if trunk not in TRUNKS:
            raise unknown("trunk", trunk, TRUNKS)
        for name in fields:
            if FUSED == name or any(c in name for c in ".:"):
                raise AmodalError(
                    f"a field cannot be called {name!r}: '.', ':' and the name {FUSED!r} have a meaning of their own"
                )
            if hasattr(nn.ModuleDict(), name):  # torch keeps parts as attributes, and this one is taken
                raise AmodalError(
                    f"a field cannot be called {name!r}, a name that torch keeps for itself; call it {name + '_'!r}, say"
                )
        for name in backbones or {}:
            if name not in fields:
                raise unknown("field", name, fields, "A backbone was given for it.")
        shape, backbones = size_of(size), backbones or {}
        if experts and (experts < 2 or shape.depth < 2):
            raise AmodalError(
                f"experts are 0, or at least 2 in a trunk of at least 2 blocks, not {experts} in {shape.depth}"
            )
        self.fields, self.size, self.trunk, self.positions, self.pool_name = dict(fields), size, trunk, positions, pool
        self.experts, self.mixer = experts, mixer
        if mixer not in MIXERS:
            raise unknown("mixer", mixer, MIXERS)
        if mixer != "attention" and trunk != "separate":
            raise AmodalError(f'mixer="{mixer}" reads each sense by itself and needs trunk="separate", not {trunk!r}')
        self.width, self.heads_each = shape.width, shape.heads
        self.fusion, self.reads, self.aligned_width, self.aligned_hidden, self.aligned_fused = 0, "full", 0, 0, False
        self.aligned_bias, self.aligned_head = False, {}
        self.unsigned = False  # vectors of two senses that belong together may point apart: near is a large |cosine|
        self.tokenizers = nn.ModuleDict({f: backbones.get(f) or m.tokenizer(self.width) for f, m in fields.items()})
        self.field_token = nn.ParameterDict({f: nn.Parameter(torch.randn(self.width) * 0.02) for f in fields})
        self.position = additive(positions, self.width)
        keys = [ALL] if trunk != "separate" else [f for f in fields if f not in backbones]
        self.trunks = nn.ModuleDict({k: self._new_trunk(shape.depth, k) for k in keys})
        self.pools = nn.ModuleDict({f: pool_of(pool, self.width) for f in fields})
        if trunk == "joint":
            self.pools[FUSED] = pool_of("attention" if pool == "attention" else "mean", self.width)
        self.fusion_tokens: nn.Parameter | None = None
        self.heads: nn.ModuleDict | None = None
        self.deep: nn.Module | None = (
            None  # learned tokens between the blocks of the trunks (`amodal.nn.adapters.deep_prompts`)
        )
        self.others = nn.ModuleList()
        self.combiner: Combiner | None = None
        self.composing: dict = {}
        self.several: Several | None = None  # of each value several vectors are to be indexed, and how
        self.grown: dict[str, int] = {}
        self.above = nn.ModuleDict()

    def _new_trunk(self, depth: int, key: str) -> nn.Module:
        if self.mixer != "attention" and name_of(self.fields[key]) in SEQUENCES:
            return MIXERS[self.mixer](self.width)
        rotary = self.positions == "rotary"
        return Transformer(self.width, depth, self.heads_each, rotary=rotary, experts=self.experts)

    # What a method may ask of an encoder before training

    def drop(self, field: str) -> None:
        """Take a field's tower out, before `align`: a method reads the field with another one's."""
        for parts in (self.fields, self.tokenizers, self.field_token, self.trunks, self.pools):
            if field in parts:
                parts.pop(field)

    def lock(self, field: str) -> None:
        """A field's tower stays as it is. Of a pretrained backbone the map from its width to this encoder's, which begins random, goes on
        learning. Raises AmodalError for a trunk that other fields use too."""
        if self.trunk != "separate":
            raise AmodalError(
                f'one tower can be locked with trunk="separate", where it shares nothing; this encoder has {self.trunk!r}'
            )
        for parts in (self.tokenizers, self.trunks, self.pools):
            if field in parts:
                parts[field].requires_grad_(False)
        self.field_token[field].requires_grad_(False)
        if self.contextual(field):
            self.tokenizers[field].project.requires_grad_(True)

    def grow(self, field: str, depth: int) -> None:
        """Put so many more blocks on top of a field's tower, locked or not, or of its backbone."""
        if self.trunk != "separate":
            raise AmodalError(
                f'a tower grows with trunk="separate", where it shares nothing; this encoder has {self.trunk!r}'
            )
        self.grown[field] = depth
        self.above[field] = Transformer(self.width, depth, self.heads_each, rotary=self.positions == "rotary")

    def fuse(self, tokens: int = 8, reads: str = "pure") -> Encoder:
        """Add learned fusion tokens to every row, and a rule on who reads whom: "full", "pure" (Zorro) or "bottleneck" (MBT)."""
        if self.trunk != "joint":
            raise AmodalError(
                f'fusion tokens need trunk="joint", where senses meet; this encoder has trunk="{self.trunk}"'
            )
        self.fusion, self.reads = tokens, reads
        self.fusion_tokens = nn.Parameter(torch.randn(tokens, self.width) * 0.02)
        self.trunks[ALL].mask_rule = rule(reads)
        return self

    def align(
        self, width: int, hidden: int = 0, fused: bool = False, bias: bool = False, head: dict | None = None
    ) -> Encoder:
        """Add a head for each sense into one space of `width` dimensions, in which senses can be compared: a linear map, or a
        perceptron with a hidden layer of `hidden`. fused: also for the fused vectors, if the method trains them; bias: of the last layer,
        for spaces whose zero has a meaning; head: another kind of head, {"kind": of HEADS} and its options."""
        if head and (hidden or bias):
            raise AmodalError(f"a head of {head['kind']} has no hidden layer or bias to choose here")
        self.aligned_width, self.aligned_hidden, self.aligned_fused = width, hidden, fused
        self.aligned_bias, self.aligned_head = bias, dict(head or {})
        names = [name for name in self.pools if fused or name != FUSED]
        self.heads = nn.ModuleDict({name: self._head(width, hidden) for name in names})
        return self

    def compose(self, change: str, project: int, hidden: int) -> Encoder:
        """Add what makes one aligned vector of a reference and a change to it (`amodal.nn.fusion.combiner`), for queries of the field `change` and
        of others. After `align`."""
        self.composing = {"change": change, "project": project, "hidden": hidden}
        self.combiner = Combiner(self.aligned_width, project, hidden)
        return self

    def stack(self, others: int) -> Encoder:
        """Put so many more encoders like this one beside it, which begin with the same weights: features are the unit vectors of all of
        them end to end, and so are aligned vectors, whose cosine is then the mean of theirs. After `fuse` and `align`; heads must be
        linear, so that a unit vector of features gives the direction that the features give."""
        if self.aligned_hidden or self.aligned_head:
            raise AmodalError(
                "encoders are put side by side with linear heads only; leave the hidden layer or the head of `align` out"
            )
        self.others = nn.ModuleList([copy.deepcopy(self) for _ in range(others)])
        return self

    @property
    def parts(self) -> list[Encoder]:
        """This encoder and those beside it; of each, `own_features` and `own_project` are its part of what all give together."""
        return [self, *self.others]

    @property
    def out_width(self) -> int:
        """Dimensions of the vectors that `forward` gives."""
        return (self.aligned_width or self.width) * len(self.parts)

    def _head(self, width: int, hidden: int) -> nn.Module:
        if self.aligned_head:
            kind, options = self.aligned_head["kind"], {k: v for k, v in self.aligned_head.items() if k != "kind"}
            if kind not in HEADS:
                raise unknown("kind of head", kind, HEADS)
            return HEADS[kind](self.width, width, **options)
        if not hidden:
            return nn.Linear(self.width, width, bias=self.aligned_bias)
        return nn.Sequential(nn.Linear(self.width, hidden), nn.GELU(), nn.Linear(hidden, width, bias=self.aligned_bias))

    # From a batch to embeddings

    def forward(self, batch: Batch) -> Embeddings:
        """One vector for each sense of each row, in the space the method aligned (its features, if it aligned none)."""
        return self.project(self.features(batch))

    def features(self, batch: Batch) -> Embeddings:
        """One vector (D) for each sense of each row, seen alone; with a joint trunk also `fused`, of all senses together."""
        return _end_to_end([part.own_features(batch) for part in self.parts])

    def own_features(self, batch: Batch) -> Embeddings:
        """`features` of this encoder without those beside it."""
        bags = self.tokenize(batch)
        if (
            self.trunk != "joint" or self.reads == "pure"
        ):  # no sense reads another, so one pass gives what each gives alone
            return Embeddings(self.pool(self.contextualise(bags)), batch.size)
        alone = {s: self.pool(self.contextualise({s: bag}))[s] for s, bag in bags.items()}
        alone[FUSED] = self.pool(self.contextualise(bags))[FUSED]
        return Embeddings(alone, batch.size)

    def project(self, features: Embeddings) -> Embeddings:
        """Features in the aligned space, of those sources that have a head into it."""
        if self.heads is None or not self.others:
            return self.own_project(features)
        split = {s: c.values.split(self.width, 1) for s, c in features.columns.items()}
        each = ({s: Column(parts[i], features[s].rows) for s, parts in split.items()} for i in range(len(self.parts)))
        return _end_to_end([p.own_project(Embeddings(c, features.size)) for p, c in zip(self.parts, each)])

    def own_project(self, features: Embeddings) -> Embeddings:
        """`project` of this encoder without those beside it."""
        if self.heads is None:
            return features
        heads = {s: self.heads[field_of(s)] for s in features if field_of(s) in self.heads}
        return Embeddings(
            {s: Column(head(features[s].values), features[s].rows) for s, head in heads.items()}, features.size
        )

    def tokenize(self, batch: Batch) -> Bags:
        """source -> tokens that carry content, position and field."""
        return {source: self.place(bag) for source, bag in self.content(batch).items()}

    def content(self, batch: Batch) -> Bags:
        """source -> tokens that carry content alone."""
        for source in batch.sources:
            if field_of(source) not in self.tokenizers:
                raise unknown("field of this encoder", field_of(source), self.tokenizers)
        return {s: self.tokenizers[field_of(s)](column, s, batch.size) for s, column in batch.columns.items()}

    def place(self, bag: Tokens) -> Tokens:
        """Add to the tokens of one source what tells their field and their position."""
        field = field_of(bag.names[0])
        x_TD = bag.x + self.field_token[field]
        if self.position is not None and not self.contextual(field):
            x_TD = x_TD + self.position(bag.position).to(x_TD.dtype)
        return bag.with_x(x_TD)

    def contextual(self, field: str) -> bool:
        """Whether this field's tokens have already seen each other, as those of a pretrained backbone have."""
        return getattr(self.tokenizers[field], "contextual", False)

    def contextualise(
        self,
        bags: Bags,
        collect: Collector | None = None,
        routing: dict[tuple[str, int], Bags] | None = None,
        around: BlockHook | None = None,
    ) -> Bags:
        """Send tokens through the trunk. Sources that one trunk serves go through it in one call; with a joint trunk the
        sources of one view meet. Returns source -> tokens, and `fused` -> the fusion tokens if the encoder has any.

        routing: is filled with (trunk, number of the sparse block) -> source -> tokens whose x are the router's logits (T, E).
        around: what is done at each block of a trunk of attention, `deep` unless given.
        """
        result: Bags = {}
        between = {} if (around := around or self.deep) is None else {"block_hook": around}
        for key, sequences in self._sequences(bags).items():
            joined = [self._sequence([self.pools[field_of(s)].prepare(bags[s]) for s in names]) for names in sequences]
            if key is None:
                done = joined
            else:
                routes = None if routing is None else []
                done = _unstack(self.trunks[key](_stack(joined), collect, routes, **between), joined)
                for number, logits_TE in enumerate(routes or ()):
                    parts = zip(sequences, zip(joined, logits_TE.split([len(b) for b in joined])))
                    routing[key, number] = {s: _rename(b.with_x(x), s) for names, (b, x) in parts for s in names}
            for names, bag in zip(sequences, done):
                single = len(names) == 1 and not self.fusion
                result.update({s: bag if single else _rename(bag, s) for s in names})
                if self.fusion and FUSED not in result:
                    result[FUSED] = _rename(bag, FUSED)
        for source in bags:
            if (field := field_of(source)) in self.above:
                result[source] = self.above[field](result[source])
        return {s: result[s] for s in [*bags, *([FUSED] if FUSED in result else [])]}

    def _sequences(self, bags: Bags) -> dict[str | None, list[list[str]]]:
        """trunk -> the lists of sources that form a sequence together; None for fields whose backbone is all they need."""
        if self.trunk == "joint":
            views: dict[int, list[str]] = {}
            for source in bags:
                views.setdefault(view_of(source), []).append(source)
            return {ALL: list(views.values())}
        served: dict[str | None, list[list[str]]] = {}
        for source in bags:
            key = ALL if self.trunk == "shared" else field_of(source)
            served.setdefault(key if key in self.trunks else None, []).append([source])
        return served

    def _sequence(self, bags: Sequence[Tokens]) -> Tokens:
        if not self.fusion:
            return bags[0] if len(bags) == 1 else Tokens.join(bags)
        size, counts = bags[0].size, torch.stack([host_copy(b.lengths()) for b in bags])
        rows = to_device(counts.sum(0).nonzero().squeeze(1), bags[0].row.device)
        x_TD = self.fusion_tokens.repeat(len(rows), 1).to(bags[0].x.dtype)
        position = bags[0].position.new_zeros(len(x_TD), bags[0].position.shape[1])
        each = on_host(lambda r: torch.full_like(r, self.fusion), rows)
        return Tokens.join([*bags, Tokens.of(x_TD, rows, each, position, FUSED, size)])

    def pool(self, context: Bags) -> dict[str, Column]:
        """source -> (N, D). With a joint trunk also `fused`: of the fusion tokens if there are any, else of all tokens."""
        pooled = {s: self.pools[field_of(s)](bag) for s, bag in context.items() if s != FUSED}
        if self.trunk == "joint":
            whole = context[FUSED] if FUSED in context else Tokens.join(list(context.values()))
            pooled[FUSED] = self.pools[FUSED](whole)
        return pooled


def _end_to_end(each: Sequence[Embeddings]) -> Embeddings:
    """The unit vectors of several encoders for the same rows, one after another; those of one as they are."""
    if len(each) == 1:
        return each[0]
    columns = {s: Column(torch.cat([normalize(e[s].values, dim=1) for e in each], 1), each[0][s].rows) for s in each[0]}
    return Embeddings(columns, each[0].size)


def _rename(bag: Tokens, source: str) -> Tokens:
    """The tokens of one source as a bag of its own."""
    return bag.only(source).renamed(source)


def _stack(bags: Sequence[Tokens]) -> Tokens:
    """Sequences of one batch side by side, as rows of a larger one."""
    if len(bags) == 1:
        return bags[0]
    names = tuple(dict.fromkeys(field_of(n) for bag in bags for n in bag.names))
    return Tokens(
        torch.cat([b.x for b in bags]),
        joined([on_host(lambda row, start=i * b.size: row + start, b.row) for i, b in enumerate(bags)]),
        joined([b.source_among(names, field_of) for b in bags]),
        torch.cat([b.position for b in bags]),
        names,
        sum(b.size for b in bags),
    )


def _unstack(whole: Tokens, bags: Sequence[Tokens]) -> list[Tokens]:
    return [bag.with_x(x) for bag, x in zip(bags, whole.x.split([len(b) for b in bags]))]
