"""MERL: signals and their reports find each other, and two dropouts of one latent vector find each
other too. Liu et al., ICML 2024, arXiv:2403.06659. Loss: cross-modal alignment (CMA) plus uni-modal
alignment (UMA), whose two views are made in the latent space (a linear map and a dropout each),
since a signal that is cut or distorted may lose what a doctor sees in it. Row 9 of the catalogue.
Prompts that are enriched from a base of knowledge, for zero-shot tests:
`amodal.evaluate.knowledge_prompts`.

Differences: any fields, every two aligned, and latent views of each that is not text; a transformer
for the ResNet, whose pooling is the attention of learned queries, and a mean of its tokens for the
latent views; heads of one shape for all fields. The authors add the two directions of each loss,
here they are averaged: a constant factor of both terms. They freeze the text encoder or half of it,
which is a matter of the backbone here."""

from torch import Tensor, nn

from amodal.core import Batch, Column, Embeddings, field_of, name_code
from amodal.methods.contract import Features, Method
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.nn.dropout import seeded_dropout
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce

ENCODER = {"pool": "attention"}


def merl(
    encoder: Encoder,
    *,
    weight: float = 1.0,
    dropout: float = 0.1,
    width: int = 256,
    hidden: int = 256,
    temperature: float = 0.07,
) -> Method:
    """weight: of the latent views' loss (0 is cross-modal alignment alone); dropout: of each view.
    width: of the common space and of the latent views; hidden: of the heads' hidden layer;
    temperature: of both losses, fixed."""
    fields = [f for f, m in two_fields(encoder).fields.items() if not m.takes_prompts] or list(
        encoder.fields
    )
    return Merl(encoder.align(width, hidden), fields, weight, dropout, temperature)


class Merl(Method):
    min_batch_size = 2

    def __init__(
        self, encoder: Encoder, fields: list[str], weight: float, dropout: float, temperature: float
    ):
        super().__init__()
        self.encoder, self.weight, self.dropout, self.temperature = (
            encoder,
            weight,
            dropout,
            temperature,
        )
        widths = encoder.width, encoder.heads_width
        self.views_of = nn.ModuleDict(
            {f: nn.ModuleList(nn.Linear(*widths, bias=False) for _ in range(2)) for f in fields}
        )

    def features(self, batch: Batch) -> Features:
        context = alone(self.encoder, batch)
        columns = dict(vectors(self.encoder, context, batch.size).columns)
        for source in (s for s in batch.sources if self.weight and field_of(s) in self.views_of):
            mean = self.encoder.pools[field_of(source)].strip(context[source]).pool()
            for number, linear in enumerate(self.views_of[field_of(source)]):
                code = name_code(f"latent {source} {number}")
                seen = seeded_dropout(
                    linear(mean.values), batch.seeds[mean.rows], self.dropout, code
                )
                columns[f"latent/{number}/{source}"] = Column(seen, mean.rows)
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        z = Embeddings({s: features[s] for s in features if "/" not in s}, features.size)
        across = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=self.temperature)
            for a, b in field_pairs(z)
        }
        views = {
            s: [features[f"latent/{n}/{s}"].values for n in range(2)]
            for s in z
            if f"latent/0/{s}" in features
        }
        latent = {s: info_nce(*pair, temperature=self.temperature) for s, pair in views.items()}
        within = {f"latent/{s}": self.weight * term for s, term in latent.items()}
        return share(across) | share(within)
