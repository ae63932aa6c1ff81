"""BioFusionNet: survival prediction by fields that attend to each other, with a Cox loss in
which events weigh more. Mondal, Millar, Graham, Browne, Sowmya and Meijering, 2024,
arXiv:2402.10717: descriptors of patches through a variational autoencoder, co-dual cross-attention,
a transformer, a perceptron that clinical variables join late, and the weighted Cox loss. Row 47 of
the catalogue.

The paper's order, with descriptors of patches in a field of kind `series`, genes and clinical
variables in tables:

    amodal pretrain biofusionnet --data DATA --recipe paper --out RUN --method.label months,died
        --method.patches slide --method.pretrain 0.1 --method.late clinical
    amodal evaluate RUN --data DATA --protocols head --label months,died --json risks.json

Differs:

- risk sets: of those who were still under observation at the time of an event; the public code
  takes those of higher predicted risk. Its weights are 5 of all patients alike, and cancel; here
  they are of those with the event (`event_weight`), as the paper says.
- descriptors: three frozen networks describe each patch (two of DINO, one of MoCo v3, 1152 numbers)
  by a program of the authors' own. Here they are a field of kind `series`, a list of vectors a
  patient. They are standardised by all records, theirs by a batch, padding included.
- autoencoder: with `pretrain` as the paper's, else it learns along, from tokens of the encoder (no
  gradient into targets). Its loss is divided by the number of inputs. Fusion gets its means; the
  paper's program writes draws to the disk, once. The attention among patches is scaled and has an
  output map, and its tokens go on, which theirs adds up.
- one run has one batch and one decay for both stages; the authors' have 16 and 12 patients.
- attention: a patient's image, and the genes, are one vector each in the paper, so that every
  attention has one thing to read and comes to a linear map. Here tokens are read, with an output
  map and scaled scores at every stage; so are those of the transformer, whose means stand side by
  side, and which has norms first and is 4 times as wide inside.
- fields: any, any of them missing (a learned vector stands for it), and any labels.
- dropout: of the first two layers; the paper's others have .01.
- recipe: `PAPER_RECIPE`; Adam there adds the decay to the gradient, AdamW here does not. They stop
  after 10 epochs without a better validation loss, we do not.
- product: risks by `amodal predict`; by `head` of `amodal evaluate` their concordance and AUC over
  time, and Kaplan and Meier's curves of both halves with the log-rank test. Halves are of the test
  part's median, the authors' of the training part's. Hazard ratios and SHAP have no command, and
  stains are not normalised: both come before and after what is learnt here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, Recipe, unknown
from amodal.core.embeddings import FUSED
from amodal.methods.contract import StagedMethod
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import row_losses, share, token_mean
from amodal.methods.shared.supervised import HeadFeatures, head_losses, label_columns
from amodal.methods.shared.typed_parts import field_pool
from amodal.nn.backbones.descriptors import DescriptorTokens
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.co_attention import CoDualFusion
from amodal.nn.generation.autoencoder import Autoencoder
from amodal.nn.heads.supervised import SupervisedHead, Target
from amodal.objectives.cox import cox

PAPER_RECIPE = Recipe(
    lr=1e-4,
    weight_decay=0.01,
    betas=(0.9, 0.999),
    schedule="constant",
    warmup=0.0,
    clip=0.0,
    batch_size=12,
    epochs=1000.0,
    resolution=224,
)


def biofusionnet(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple[Target, ...] = (),
    task: str = "survival",
    event_weight: float = 5.0,
    late: str = "",
    patches: str = "",
    pretrain: float = 0.0,
    elbo: float = 1.0,
    latent: int = 256,
    depth: int = 3,
    hidden: int = 512,
    dropout: float = 0.1,
) -> BioFusionNet:
    """Build BioFusionNet.

    Args:
        encoder: Of any fields.
        label: What to predict; of survival TIME,EVENT.
        targets: What the labels hold (by default read from the data).
        task: "survival", or "auto" for labels of other kinds.
        event_weight: Of rows with the event, against 1.
        late: A field that joins only at the end, as the paper's clinical variables do.
        patches: A field whose tokens the autoencoder compresses (by default the first picture).
        pretrain: Share of the steps in which the autoencoder alone learns, from the descriptors
            that `patches`, a field of lists of vectors, holds; then it is fixed. Its rate is 10
            times the others', as in the paper. 0: it learns along.
        elbo: Weight of the autoencoder's loss (0: there is no autoencoder).
        latent: Width of the autoencoder's latent vectors.
        depth: Blocks of the transformer.
        hidden: Width of the perceptron's first layer; its others have a half, a quarter and a
            sixteenth of it.
        dropout: In its first two layers.

    Raises:
        AmodalError: For fields that there are not, and where `pretrain` is no share, or has no
            descriptors to learn from.
    """
    for name in filter(None, (late, patches)):
        if name not in encoder.fields:
            raise unknown("field", name, encoder.fields)
    fused = [f for f in encoder.fields if f != late or len(encoder.fields) == 1]
    pictures = [f for f in fused if encoder.fields[f].layout == "grid"]
    compressed = (patches or next(iter(pictures), "")) if elbo else ""
    if pretrain:
        read_descriptors(encoder, compressed, latent, pretrain)
    along = compressed and not pretrain
    vae = Autoencoder(encoder.width, 2 * latent, latent) if along else None
    fusion = CoDualFusion(
        fused,
        [f for f in encoder.fields if f not in fused],
        encoder.width,
        heads=encoder.num_heads,
        depth=depth,
        hidden=hidden,
        dropout=dropout,
    )
    head = SupervisedHead([Target.read(t) for t in targets], (), fusion.out_width, joint=True)
    return BioFusionNet(
        encoder,
        fusion,
        head,
        vae,
        compressed=compressed,
        elbo_weight=elbo,
        event_weight=event_weight,
        pretrain=pretrain,
    )


def read_descriptors(encoder: Encoder, field: str, latent: int, share: float) -> None:
    """Put an autoencoder of descriptors in the place of a field's network.

    Raises:
        AmodalError: For a share of the steps below 0 or of 1 and more, no field, and one that has
            a backbone.
    """
    if not 0 <= share < 1:
        raise AmodalError(
            f"biofusionnet.pretrain is a share of the steps, 0 or more and less than 1, not {share}"
        )
    if not field:
        raise AmodalError(
            "biofusionnet.pretrain is of the autoencoder, and there is none: name the field of "
            "descriptors in --method.patches, and leave --method.elbo above 0"
        )
    if encoder.contextual(field):
        raise AmodalError(
            f"the autoencoder reads the descriptors of {field!r} as they are, and this field has a "
            f"backbone: leave --backbone {field}=… out, or --method.pretrain"
        )
    encoder.set_backbone(
        field, DescriptorTokens(encoder.fields[field], encoder.width, latent=latent)
    )


@dataclass(frozen=True, kw_only=True)
class BioFusionFeatures(HeadFeatures):
    """Outputs, labels, and the loss of the autoencoder.

    Args:
        elbo: (N, 2) of the tokens that are compressed: the sum of losses and their number.
    """

    elbo: Column | None = None


class BioFusionNet(StagedMethod):
    """Co-attention over fields, some of them compressed, and a supervised head.

    Args:
        encoder: Reads each field alone.
        fusion: Tokens of fields -> one vector.
        head: Of the labels.
        vae: Compresses the tokens of one field.
        compressed: That field.
        elbo_weight: Of the autoencoder's loss.
        event_weight: Of rows with the event.
        pretrain: Share of the steps in which the autoencoder of descriptors alone learns.
    """

    views = ("weak",)

    def __init__(
        self,
        encoder: Encoder,
        fusion: CoDualFusion,
        head: SupervisedHead,
        vae: Autoencoder | None,
        *,
        compressed: str,
        elbo_weight: float,
        event_weight: float,
        pretrain: float,
    ):
        super().__init__()
        self.encoder, self.fusion, self.head, self.vae = encoder, fusion, head, vae
        self.compressed, self.labels = compressed, head.labels
        self.elbo_weight, self.event_weight = elbo_weight, event_weight
        self.trained = {name for name, p in self.named_parameters() if p.requires_grad}
        self.first = f"encoder.tokenizers.{compressed}.body.autoencoder." if pretrain else ""
        if pretrain:
            self.stages, self.lr_multipliers = (pretrain, 1.0), {self.first: 10.0}
        self.on_stage_start(0)

    def on_stage_start(self, stage: int) -> None:
        self.compressing = bool(self.first) and stage == 0
        for name, p in self.named_parameters():
            of_stage = not self.first or name.startswith(self.first) == self.compressing
            p.requires_grad_(of_stage and name in self.trained)

    def features(self, batch: Batch) -> BioFusionFeatures:
        if self.compressing:
            return self.of_descriptors(batch)
        outputs, elbo = self.outputs_and_elbo(batch)
        label = label_columns(batch, self.labels)
        return BioFusionFeatures(size=batch.size, outputs=outputs, elbo=elbo, label=label)

    def of_descriptors(self, batch: Batch) -> BioFusionFeatures:
        """The loss of the autoencoder alone."""
        reader = cast(DescriptorTokens, self.encoder.tokenizers[self.compressed])
        losses = reader.elbo(batch[self.compressed], self.compressed, batch.seeds)
        nothing = torch.arange(0, device=batch.seeds.device)
        outputs = Column(losses.x.new_zeros(0, sum(t.width for t in self.head.targets)), nothing)
        elbo = row_losses(losses.x, losses)
        return BioFusionFeatures(size=batch.size, outputs=outputs, label={}, elbo=elbo)

    def outputs_and_elbo(self, batch: Batch) -> tuple[Column, Column | None]:
        """The outputs of the rows that have any field, and the loss of the autoencoder."""
        context, elbo = alone(self.encoder, batch), None
        tokens = {
            f: field_pool(self.encoder, f).strip(context[f])
            for f in self.encoder.fields
            if f in context
        }
        if self.vae is not None and self.compressed in tokens:
            compressed, loss_T = self.vae.compress(tokens[self.compressed], batch.seeds)
            tokens[self.compressed], elbo = compressed, row_losses(loss_T, compressed)
        fused = Embeddings({FUSED: self.fusion(tokens, batch.seeds)}, batch.size)
        return self.head(fused), elbo

    def losses(self, features: BioFusionFeatures) -> dict[str, Tensor]:
        elbo: dict[str, Tensor] = {}
        if features.elbo is not None:
            elbo["elbo"] = self.elbo_weight * token_mean(features.elbo)
        if self.compressing:
            return elbo
        terms = head_losses(self.head, features.outputs, features, survival=self.survival)
        return share(terms) | elbo

    def survival(self, risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
        """The weighted Cox loss of log hazards, times and events (N,)."""
        return cox(risk, time, event, torch.where(event, self.event_weight, 1.0))

    def predict(self, batch: Batch) -> Column:
        """The outputs of the rows that have any field."""
        return self.outputs_and_elbo(batch)[0]
