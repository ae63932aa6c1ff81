"""UCASR: towers learn from augmentations of unpaired values, then from few pairs through CCA.

Carvalho, Washuttl & Widmer, ACM MMSys 2023, arXiv:2309.12134. Stage 1: NT-Xent between two strong
views, field by field, on a projector that is dropped. Stage 2: a ranking hinge over all mismatches
of the batch, between vectors that canonical correlation analysis maps into one space (Dorfer et
al., arXiv:1705.06979). Row 74 of the catalogue.

Rows without a second field learn in stage 1 and are left out of stage 2. Where pairs are few, train
in two runs: `pretrain = 1` on everything, and `pretrain = 0` on the pairs, which starts with the
weights of the first.

Differs:

- encoders: `--backbone image=vgg:rows=80,columns=100 audio=vgg` is the paper's network for both
  towers (four blocks of two convolutions, 24 to 96 filters, ELU, BatchNorm), whose whole last map
  goes through a linear map to the encoder's width and then into the heads. Without it,
  transformers.
- inputs: any fields. Theirs are strips of a staff of 160 x 200 pixels, halved (`fit = "native"`,
  `size = 90`, `patch = 10` of the field), and logarithmic spectrograms of 92 bands from 30 to 6,000
  Hz, 20 frames a second, over 2.1, 4.2 or 8.4 seconds (`mels = 92`, `spacing = "log"`, `low_hz =
  30`, `high_hz = 6000`, `hop_ms = 50`, `window_ms = 93`, `max_seconds = 4.2`, `rate = 22050`).
  Their bands are those of 16 an octave whose bins differ, and hold log(1 + magnitude); here bands
  are spaced evenly and hold the log of power.
- views: `strong`, and `weak` in stage 2. `--views audio=music,music image=sheet,sheet` (for both
  stages in one run `weak,music,music` and `weak,sheet,sheet`) has the paper's of pretraining, each
  change with its chance. There one view of two is not shifted, equalisers have parametric filters,
  a band is masked in the spectrogram, and more of the recording follows a clip that is played
  faster; here silence does. In stage 2 notes are played by other synthesisers and tempi.
- pretraining: both towers in one run, each on the records that have its field, which need be no
  pairs (scores without sound and sound without scores, as the authors' IMSLP and MAESTRO). Theirs
  are two runs, each with a batch and a rate of its own, and a third kind (`mixed`, one network for
  both) is not here. They keep the epoch with the best validation.
- CCA: the ridge is a share of the mean variance, theirs is 1e-3 itself. All but the first field are
  turned towards it, which cosines do not tell from turning both. Directions without correlation are
  shrunk (as by 1e-3 added to squared correlations), theirs whitened like all others. The encoder's
  heads come from running moments of all steps; the authors fit the layer anew to 25,000 training
  pairs at the end.
- with more than two fields each is mapped towards the first, and the loss is the mean over pairs.
- recipe: `PAPER_RECIPE` is that of pretraining on sound; docs/recipes.md has the commands for
  scores and for pairs too. Stage 2 of theirs is halved five times from the best weights, after 30,
  then 10 epochs without a better ranking. Their plateau is one of the ranking of validation, in
  epochs; here of the loss, in entries of the log. Adam's decay of theirs goes through the gradient,
  here it is AdamW's.
- product: snippets are found by the verbs for retrieval, with the paper's Recall, MRR and median
  rank; pieces by the votes of their snippets, `amodal evaluate --protocols track_identification
  --protocol.whole LABEL` (25 neighbours each, as theirs).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings, Recipe, field_of, view_of
from amodal.methods.contract import Clock, StagedMethod
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives.info_nce import nt_xent
from amodal.objectives.margin import ranking_hinge
from amodal.stats.cca import CCA

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-3,
    weight_decay=1e-5,
    betas=(0.9, 0.999),
    schedule="plateau",
    decay_rate=0.5,
    patience=15,
    warmup=0.0,
    clip=0.0,
    batch_size=128,
    epochs=300.0,
)
"""The authors' configuration of pretraining on sound."""


def ucasr(
    encoder: Encoder,
    *,
    pretrain: float = 0.5,
    width: int = 32,
    hidden: int = 512,
    temperature: float = 0.5,
    margin: float = 0.6,
    symmetric: bool = False,
    cca: bool = True,
    ridge: float = 1e-3,
    momentum: float = 0.9,
) -> Ucasr:
    """NT-Xent of each field, then a ranking hinge of pairs in a space made by CCA.

    Args:
        encoder: Gets heads into a common space; needs two fields unless `pretrain` is 1.
        pretrain: Share of the steps without pairs, 0 to 1.
        width: Width of the common space and of the projector.
        hidden: Hidden width of the projector, which stage 1 alone uses.
        temperature: Temperature of NT-Xent.
        margin: By how much a pair must be closer than any mismatch.
        symmetric: Also rank from the second field to the first.
        cca: Map both fields by CCA, else compare the towers' outputs.
        ridge: Added to covariances, as a share of their mean variance.
        momentum: Momentum of the running moments that the encoder's heads are made of.

    Raises:
        AmodalError: If `pretrain` is no share, or pairs are to be learned from one field.
    """
    if not 0 <= pretrain <= 1:
        raise AmodalError(f"ucasr.pretrain is a share of the steps from 0 to 1, got {pretrain}")
    return Ucasr(
        (encoder if pretrain == 1 else two_fields(encoder)).align(width, bias=True),
        pretrain=pretrain,
        width=width,
        hidden=hidden,
        temperature=temperature,
        margin=margin,
        symmetric=symmetric,
        cca=cca,
        ridge=ridge,
        momentum=momentum,
    )


class Ucasr(StagedMethod):
    """See `ucasr`, which has the arguments."""

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        *,
        pretrain: float,
        width: int,
        hidden: int,
        temperature: float,
        margin: float,
        symmetric: bool,
        cca: bool,
        ridge: float,
        momentum: float,
    ):
        super().__init__()
        fields = list(encoder.fields)
        self.encoder = encoder
        self.heads = nn.ModuleDict(
            {f: Projector(encoder.width, width, hidden=hidden) for f in fields}
        )
        self.towers = nn.ModuleDict({f: nn.Linear(encoder.width, width) for f in fields})
        self.cca = CCA(fields, width, ridge=ridge, momentum=momentum) if cca else None
        self.temperature, self.margin, self.symmetric = temperature, margin, symmetric
        self.pretrain = pretrain
        self.stages = (pretrain, 1.0) if 0 < pretrain < 1 else (1.0,)
        self.views = ("weak",) * (pretrain < 1) + ("strong", "strong") * (pretrain > 0)
        self.on_stage_start(0)

    def on_stage_start(self, stage: int) -> None:
        self.paired = stage > 0 or not self.pretrain
        # the encoder's heads are made of towers and maps after each step
        encoder_heads(self.encoder).requires_grad_(False)
        self.heads.requires_grad_(not self.paired)
        self.towers.requires_grad_(self.paired)

    def features(self, batch: Batch) -> Embeddings:
        # views are numbered from 1, the weak one, where there is one, first
        first_strong = ("weak" in self.views) + 1
        used = [
            s
            for s in batch.sources
            if (view_of(s) < first_strong) == self.paired or not self.pretrain
        ]
        z = self.encoder.features(batch.only(*used))
        return Embeddings({s: z[s] for s in z.sources}, batch.size)

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        return self.of_pairs(features) if self.paired else self.of_views(features)

    def of_views(self, features: Embeddings) -> dict[str, Tensor]:
        """Stage 1: NT-Xent between two strong views."""
        numbers = (2, 3) if "weak" in self.views else (1, 2)
        views = {f: features.pair(*(f"{f}:{n}" for n in numbers)) for f in self.encoder.fields}
        projected = {f: [self.heads[f](x) for x in pair] for f, pair in views.items()}
        return share(
            {
                f"nt_xent/{f}": nt_xent(*pair, temperature=self.temperature)
                for f, pair in projected.items()
            }
        )

    def of_pairs(self, features: Embeddings) -> dict[str, Tensor]:
        """Stage 2: the ranking hinge in the space of CCA."""
        z = {
            field_of(s): Column(self.towers[field_of(s)](c.flat), c.rows)
            for s, c in features.columns.items()
        }
        mapped = Embeddings(self.cca(z) if self.cca is not None else z, features.size)
        pairs = {(a, b): mapped.pair(a, b) for a, b in field_pairs(mapped)}
        return share(
            {
                f"hinge/{a}~{b}": ranking_hinge(
                    *pair, margin=self.margin, over="mean", symmetric=self.symmetric
                )
                for (a, b), pair in pairs.items()
            }
        )

    @torch.no_grad()
    def on_step_end(self, clock: Clock) -> None:
        """The encoder's heads become the towers' outputs under the running maps."""
        if not self.paired:
            return
        maps: dict[str, tuple[Tensor, Tensor]] = {}
        if self.cca is not None:
            self.cca.update()
            maps = self.cca.maps()
        for f, tower in self.towers.items():
            if self.cca is not None and f not in maps:
                continue
            assert isinstance(tower, nn.Linear)
            identity = (
                torch.zeros_like(tower.bias),
                torch.eye(len(tower.bias)).to(tower.bias),
            )
            mean, rotation = maps.get(f, identity)
            rotation_T = rotation.T.to(tower.weight.dtype)
            head = encoder_heads(self.encoder)[f]
            assert isinstance(head, nn.Linear)
            # R^T (W x + b - mean) as one linear map of x
            head.weight.copy_(rotation_T @ tower.weight)
            head.bias.copy_(rotation_T @ (tower.bias - mean))


def encoder_heads(encoder: Encoder) -> nn.ModuleDict:
    """The heads of an aligned encoder."""
    assert encoder.heads is not None
    return encoder.heads
