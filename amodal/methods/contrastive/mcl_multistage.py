"""MCL: contrastive learning in stages, each among records that the stages before confused.

Zhang, Lan, Qu, Cheng, Feng and Hooi, ECCV 2024, arXiv:2402.11816: feature-aware negative sampling
and cross-stage integration. What earlier stages have learned does not separate the records of a
batch, so a stage must learn something else. Row 128 of the catalogue. With one field, two augmented
views are compared as in SimCLR; with more, every two fields of a record as in CLIP.

After each stage the records are divided into k-means clusters of its vectors. A record's group is
the tuple of its clusters so far, and later batches are of one group. (The authors' released script
reads the current stage's clusters once for every past stage; the tuple is what they describe.)
Small groups share batches with their neighbours instead of being skipped. Each stage trains an
encoder of its own, and the result has them all: its vectors are the concatenated unit vectors of
all stages, whose cosine is the mean over stages.

The paper's CLIP variant begins with a trained CLIP, which is the first stage, and every later one
begins from it with a locked text tower and unlocked upper blocks of pictures: `--backbone
image=transformers:DIR@projected text=transformers:DIR@projected --method.first keep --method.locked
text --method.unlocked 5 --method.temperature 0.01`, or `--init-from` a run of `clip` with `first
keep`. Products: probes, retrieval and zero-shot classes by `amodal evaluate`, with the mean of all
stages' cosines as in the authors' notebook, and pairs that CLIP confuses (MMVP) by `--protocols
pair_accuracy`.

Differs:

- encoders: transformers of the library by default; the paper's ResNet-18 of SimCLR can be had as a
  backbone, and so can its CLIP with a ViT (ViT-L/14: `--size large --method.width 768`), but not
  the one with a ResNet-50.
- unlocked blocks: a number of the last ones, with the norm and the projection. The authors count
  groups: their six are the projection, the last block with the norm, and four blocks more.
- clusters: by default of the mean of all fields; the authors' are of pictures
  (`cluster_field`). k-means over all records; theirs is over batches of a million.
- batches: small groups share them with their neighbours; theirs skip groups that fill no batch,
  and take one batch of each group in turn.
- recipe: `PAPER_RECIPE` is that of CLIP, 20 epochs a stage. Theirs of SimCLR is not public.
- views: `weak`; theirs for CLIP is a crop of 90 to 100 %.
- by default the first stage is trained with the others, as for SimCLR, and all of the encoder
  learns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Column, Embeddings, Recipe, field_of, unknown
from amodal.methods.contract import StagedMethod
from amodal.methods.shared.shapes import field_pairs, share, view_pairs
from amodal.nn.backbones.projected import unlock_last
from amodal.nn.encoder import Encoder
from amodal.nn.ensemble import Ensemble
from amodal.nn.heads.projectors import Projector
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce, nt_xent
from amodal.stats.kmeans import kmeans

FIRST = ("train", "keep")
PAPER_RECIPE = Recipe(
    lr=5e-4,
    weight_decay=0.2,
    betas=(0.9, 0.98),
    schedule="constant",
    warmup_steps=600,
    clip=0.0,
    batch_size=8000,
    epochs=60.0,
    resolution=224,
)


def mcl_multistage(
    encoder: Encoder,
    *,
    parts: int = 3,
    clusters: int = 10,
    cluster_field: str = "",
    carry_on: bool = False,
    temperature: float = 0.0,
    width: int = 128,
    first: str = "train",
    locked: str = "",
    unlocked: int = 0,
) -> Multistage:
    """SimCLR or CLIP in stages, with negatives from the same clusters of all earlier stages.

    Args:
        encoder: The first stage's encoder; the others are copies.
        parts: Number of stages, of equal length, and of encoders.
        clusters: Number of clusters of each stage.
        cluster_field: The field whose vectors are clustered (the picture in the paper). Default:
            the mean of all that a record has.
        carry_on: Start a stage with the weights of the one before, not with initial ones.
        temperature: Temperature of NT-Xent with one field, or initial value of CLIP's learned one;
            0 for .5 and .07.
        width: Output width of the projector, or width of each stage's common space; of a CLIP at
            least that of its own.
        first: "train", the first stage like the others; or "keep", as it is, a CLIP or the run of
            `--init-from` (the paper's CLIP variant).
        locked: Fields whose towers do not learn, with commas between (the text in the paper).
        unlocked: How many of the last layers of the other fields' pretrained backbones learn (5 of
            a CLIP in the paper; 0: none, or all with `--train-backbones`).

    Raises:
        AmodalError: If there is no stage or no cluster, a field is unknown, or nothing is left to
            learn.
    """
    if first not in FIRST:
        raise unknown("first stage", first, FIRST)
    if parts < 1 or clusters < 1:
        raise AmodalError(
            f"mcl_multistage needs a stage and a cluster at least, not {parts} and {clusters}"
        )
    if cluster_field and cluster_field not in encoder.fields:
        raise unknown("field to cluster by", cluster_field, encoder.fields)
    if first == "keep" and parts < 2:
        raise AmodalError("a first stage that stays needs a second one: parts must be 2 or more")
    of_views = len(encoder.fields) == 1
    aligned = (
        encoder if of_views else encoder.align(max([width, *map(encoder.space_of, encoder.fields)]))
    )
    lock_towers(aligned, locked, unlocked)
    ensemble = Ensemble.of(aligned, parts)
    size, scale = encoder.width, 1 / (temperature or 0.07)
    heads: list[Projector | Scale] = [
        Projector(size, width, hidden=size) if of_views else Scale(scale, most=100.0)
        for _ in range(parts)
    ]
    return Multistage(
        ensemble,
        heads=heads,
        clusters=clusters,
        cluster_field=cluster_field,
        carry_on=carry_on,
        temperature=temperature or 0.5,
        views=("strong", "strong") if of_views else ("weak",),
        fixed=int(first == "keep"),
    )


def lock_towers(encoder: Encoder, locked: str, unlocked: int) -> None:
    """Freeze the towers of some fields, and all but the last layers of the others' backbones.

    In a space that backbones bring along, the heads stay the identity.

    Args:
        encoder: Gets no more heads after this.
        locked: Fields with commas between.
        unlocked: Of each other pretrained backbone, how many of the last layers learn; 0 leaves
            backbones as they are.

    Raises:
        AmodalError: For unknown fields, numbers out of range, and if nothing is left to learn.
    """
    names = [name.strip() for name in locked.split(",") if name.strip()]
    for name in names:
        if name not in encoder.fields:
            raise unknown("field to lock", name, encoder.fields)
        encoder.lock(name)
    others = [f for f in encoder.fields if f not in names and encoder.pretrained(f)]
    if unlocked < 0 or (unlocked and not others):
        raise AmodalError(
            f"unlocked = {unlocked} is of layers of pretrained backbones that are not locked; "
            "there are none here, or the number is below 0"
        )
    for field in others if unlocked else ():
        unlock_last(encoder.tokenizers[field], unlocked, field)
    for field, head in (encoder.heads or {}).items():
        if encoder.space_of(field) and (names or unlocked):
            head.requires_grad_(False)
    if not any(p.requires_grad for p in encoder.parameters()):
        raise AmodalError(
            "nothing is left to learn: all towers are locked or frozen. Unlock layers of a "
            "backbone (--method.unlocked 5), or let it learn (--train-backbones)"
        )


class Multistage(StagedMethod):
    """See `mcl_multistage`.

    Args:
        heads: The projector of each stage, or its scale where fields are compared.
        cluster_field: The field whose vectors are clustered, "" for the mean of all.
        temperature: Of NT-Xent.
        clusters, carry_on: As of `mcl_multistage`.
        fixed: How many encoders, the first ones, are not trained.
    """

    encoder: Ensemble  # type: ignore[assignment]  # stands for an Encoder, as a drop-in
    min_batch_size = 2

    def __init__(
        self,
        encoder: Ensemble,
        *,
        heads: list[Projector | Scale],
        clusters: int,
        cluster_field: str,
        carry_on: bool,
        temperature: float,
        views: tuple[str, ...],
        fixed: int = 0,
    ):
        super().__init__()
        self.encoder, self.clusters, self.cluster_field = encoder, clusters, cluster_field
        self.carry_on, self.temperature, self.views = carry_on, temperature, views
        trained = len(heads) - fixed
        self.fixed, self.refresh_first = fixed, fixed > 0
        self.stages = tuple((i + 1) / trained for i in range(trained))
        first = dict(encoder.first.named_parameters())
        # all but a frozen backbone
        self.trainable = {n for n, p in first.items() if p.requires_grad}
        self.stage_heads = nn.ModuleList(heads)
        self.on_stage_start(0)

    def member(self, stage: int) -> Encoder:
        """The encoder of a stage."""
        member = self.encoder.members[stage]
        assert isinstance(member, Encoder)
        return member

    def on_stage_start(self, stage: int) -> None:
        self.stage = stage = stage + self.fixed
        self.requires_grad_(False)
        for name, p in self.member(stage).named_parameters():
            p.requires_grad_(name in self.trainable)
        self.stage_heads[stage].requires_grad_(True)

    @torch.no_grad()
    def refresh(self, stage: int, embed_all: Callable[[], Embeddings]) -> Tensor:
        """Group all records by the clusters of the stages before.

        Frozen stages always give the same vectors, and so the same clusters: nothing is stored.

        Returns:
            (n,) int64, the group of each record.
        """
        stage += self.fixed
        if self.carry_on:
            before, new = (self.member(i).state_dict() for i in (stage - 1, stage))
            for name, value in new.items():
                value.copy_(before[name])
        features = embed_all()
        group = torch.zeros(features.size, dtype=torch.int64)
        for past in range(stage):
            # the clusters so far as the digits of one number; one more digit is for records without
            # a vector
            group = group * (self.clusters + 1) + self.clustered(past, features).cpu()
        number: Tensor = torch.unique(group, return_inverse=True)[1]
        return number

    def clustered(self, stage: int, features: Embeddings) -> Tensor:
        """Cluster the records by one stage's vectors.

        Returns:
            (n,) int64; records without a vector are in one extra cluster, the last.
        """
        member, device = self.member(stage), next(self.parameters()).device
        columns = {s: c.to(device) for s, c in self.encoder.part(features, stage).columns.items()}
        z = member.project(Embeddings(columns, features.size))
        column = z.fused([self.cluster_field] if self.cluster_field else z.sources)
        cluster = torch.full((features.size,), self.clusters, device=column.rows.device)
        if len(column):
            unit = normalize(column.flat.float(), dim=1)
            cluster[column.rows] = kmeans(unit, self.clusters)[0]
        return cluster

    def features(self, batch: Batch) -> Embeddings:
        z = self.member(self.stage)(batch)
        return Embeddings({s: z[s] for s in z.sources}, batch.size)

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        head = self.stage_heads[self.stage]
        if isinstance(head, Scale):
            pairs, t = field_pairs(features), 1 / head()
            return share(
                {
                    f"info_nce/{a}~{b}": info_nce(*features.pair(a, b), temperature=t)
                    for a, b in pairs
                }
            )
        columns = {s: Column(head(c.flat), c.rows) for s, c in features.columns.items()}
        z = Embeddings(columns, features.size)
        return share(
            {
                f"nt_xent/{field_of(a)}": nt_xent(*z.pair(a, b), temperature=self.temperature)
                for a, b in view_pairs(z)
            }
        )
