"""BioFusionNet: fields that read each other foretell how soon an event comes, by a Cox loss in
which events weigh more. Mondal, Millar, Graham, Browne, Sowmya and Meijering, 2024,
arXiv:2402.10717: descriptors of patches through a variational autoencoder, co-dual cross-attention,
a transformer, a perceptron that clinical variables join late, and the weighted Cox loss. Row 47 of
the catalogue.

Differences. The risk set of an event is those who were still there at its time; the public code
takes those of higher predicted risk, and sorts by that. There a patient's image, and the genes, are
one vector each, so that every attention has one thing to read and comes to a linear map; here
tokens are read (of the transformer, too). Patches see each other in the encoder's trunk. The
autoencoder is trained along with the rest; fusion gets its means. Any fields, any of them missing;
any labels, survival being what it is made for."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import Batch, Column, Embeddings, unknown
from amodal.core.embeddings import FUSED
from amodal.methods.contract import Features, Method
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import row_losses, share, token_mean
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.co_attention import CoDualFusion
from amodal.nn.generation.autoencoder import Autoencoder
from amodal.nn.heads.supervised import SupervisedHead, Target
from amodal.objectives.cox import cox


def biofusionnet(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple = (),
    task: str = "survival",
    event_weight: float = 5.0,
    late: str = "",
    patches: str = "",
    elbo: float = 1.0,
    latent: int = 256,
    depth: int = 3,
    hidden: int = 512,
    dropout: float = 0.1,
) -> BioFusionNet:
    """label: what is to be told, of survival TIME,EVENT; task: "survival", or "auto" for labels of
    other kinds; targets: what the labels hold (read from the data unless given); event_weight: of
    those with the event, against 1; late: a field that joins at the end alone, as the paper's
    clinical variables do; patches: a field whose tokens the autoencoder compresses, the first
    picture unless given; elbo: weight of the autoencoder's loss (0: there is none); latent: of the
    autoencoder; depth: blocks of the transformer; hidden: width of the perceptron's first layer,
    whose others have a half, a quarter and a sixteenth of it; dropout: in its first two layers."""
    for name in filter(None, (late, patches)):
        if name not in encoder.fields:
            raise unknown("field", name, encoder.fields)
    fused = [f for f in encoder.fields if f != late or len(encoder.fields) == 1]
    pictures = [f for f in fused if encoder.fields[f].layout == "grid"]
    compressed = (patches or next(iter(pictures), "")) if elbo else ""
    vae = Autoencoder(encoder.width, 2 * latent, latent) if compressed else None
    shape = {"heads": encoder.num_heads, "depth": depth, "hidden": hidden, "dropout": dropout}
    fusion = CoDualFusion(
        fused, [f for f in encoder.fields if f not in fused], encoder.width, **shape
    )
    head = SupervisedHead([Target.read(t) for t in targets], (), fusion.out_width, joint=True)
    method = BioFusionNet(encoder, fusion, head, vae, compressed)
    method.elbo, method.event_weight = elbo, event_weight
    return method


class BioFusionNet(Method):
    """Features: `told`, the outputs; the labels; and `elbo`, of the tokens that are compressed."""

    views = ("weak",)

    def __init__(
        self,
        encoder: Encoder,
        fusion: CoDualFusion,
        head: SupervisedHead,
        vae: Autoencoder | None,
        compressed: str,
    ):
        super().__init__()
        self.encoder, self.fusion, self.head, self.vae, self.compressed = (
            encoder,
            fusion,
            head,
            vae,
            compressed,
        )
        self.labels = head.labels

    def features(self, batch: Batch) -> Features:
        told, elbo = self.told(batch)
        return Features({"told": told} | elbo | self.head.known(batch), batch.size)

    def told(self, batch: Batch) -> tuple[Column, dict[str, Column]]:
        """The outputs of the rows that have anything, and what the autoencoder loses."""
        context, elbo = alone(self.encoder, batch), {}
        bags = {
            f: self.encoder.pools[f].strip(context[f]) for f in self.encoder.fields if f in context
        }
        if self.vae is not None and self.compressed in bags:
            bags[self.compressed], loss_T = self.vae.compress(bags[self.compressed], batch.seeds)
            elbo["elbo"] = row_losses(loss_T, bags[self.compressed])
        return self.head(Embeddings({FUSED: self.fusion(bags, batch.seeds)}, batch.size)), elbo

    def losses(self, features: Features) -> dict[str, Tensor]:
        found = share(self.head.losses(features["told"], features, survival=self.survival))
        return found | (
            {"elbo": self.elbo * token_mean(features["elbo"])} if "elbo" in features else {}
        )

    def survival(self, risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
        return cox(risk, time, event, torch.where(event, self.event_weight, 1.0))

    def predict(self, batch: Batch) -> Column:
        return self.told(batch)[0]
