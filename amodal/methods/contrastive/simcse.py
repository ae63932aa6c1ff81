"""SimCSE: two passes of the same value, which differ by dropout alone, find each other within the
batch. Gao, Yao & Chen, EMNLP 2021, arXiv:2104.08821. Loss: their equation 4, without labels.

It is made for sentences; any field that a transformer reads can do it, each for itself, and the
loss is the mean over fields. What embeds is the class token, without the head that training has.

Differs:
- Start: the paper goes on from BERT or RoBERTa. `--backbone text=transformers:DIR@first
  --train-backbones --pool mean` takes one with its class token, and makes its dropout draw from
  the seeds of rows; a linear map to the encoder's width (768 in size base) is between its state
  and the head. Otherwise a transformer begins at random, for which their rate of 3e-5 is small;
  its norms stand before each half of a block, BERT's behind it.
- Dropout: of embeddings and of what each half of a block adds, as in BERT. BERT also drops
  attention weights; here none are dropped.
- Recipe: of their BERT-base; RoBERTa has batches of 512 and a rate of 1e-5, BERT-large a rate of
  1e-5. They keep the checkpoint that is best on the development part of STS-B; here the last one
  is kept. Half precision there is `precision` here. Texts have 32 tokens there, and here what
  `dataset.toml` says.
- Biases and the head start as torch has them, theirs as BERT.
- Left out: pairs with labels and hard negatives (their supervised models), and the masked-language
  term of their appendix.

Learns: no. FOLDOC, categories of 308 test texts after 150 steps of 64 texts from a random start,
`--size nano --lr 1e-3`; a minute of one core. Accuracy of a linear probe: .195 +- .045, untrained
.188, tf-idf .542, chance .133; of 20 neighbours .143, .133, .594. The paper begins with BERT.
"""

from __future__ import annotations

from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Embeddings, Recipe
from amodal.core.features import Features
from amodal.methods.shared.ranges import check_positive
from amodal.methods.shared.shapes import Towers, share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.hidden_dropout import HasDropout, hidden_dropout
from amodal.objectives.info_nce import info_nce

ENCODER = {"pool": "cls"}
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=3e-5,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    schedule="linear",
    warmup_steps=0,
    clip=1.0,
    batch_size=64,
    epochs=1,
)
"""Of BERT-base and a million sentences of Wikipedia: appendix A, and the authors' script."""


def simcse(encoder: Encoder, *, dropout: float = 0.1, temperature: float = 0.05) -> SimCse:
    """Build SimCSE without labels.

    Args:
        encoder: Of fields that a transformer reads.
        dropout: Chance of each entry of a hidden state to be dropped. It is all that tells the two
            passes of a value apart.
        temperature: Of the softmax.

    Raises:
        AmodalError: For an option out of its range, and for a field without dropout.
    """
    check_positive(temperature=temperature)
    if not 0 <= dropout < 1:
        raise AmodalError(f"dropout is a probability from 0 to below 1, not {dropout:g}")
    return SimCse(encoder, dropout=dropout, temperature=temperature)


class SimCse(Towers):
    """Two passes of a value as two views; see `simcse` for the arguments."""

    def __init__(self, encoder: Encoder, *, dropout: float, temperature: float):
        let_dropout(encoder)

        def objective(z: Embeddings) -> dict[str, Tensor]:
            return share(
                {
                    f"info_nce/{a}~{b}": info_nce(
                        *z.pair(a, b), temperature=temperature, symmetric=False
                    )
                    for a, b in view_pairs(z)
                }
            )

        heads = {
            f: nn.Sequential(nn.Linear(width, width), nn.Tanh())
            for f, width in ((f, encoder.feature_width(f)) for f in encoder.fields)
        }
        super().__init__(encoder, objective, heads=heads, views=("plain", "plain"))
        self.dropout = dropout

    def features(self, batch: Batch) -> Features:
        if self.training:
            refuse_frozen(self.encoder)
        # two sources of a row draw for themselves, so two plain views are the two passes
        with hidden_dropout(self.dropout if self.training else 0.0, batch.seeds):
            return super().features(batch)


def let_dropout(encoder: Encoder) -> None:
    """Let backbones drop entries, and refuse fields whose two passes would be the same.

    Args:
        encoder: Its backbones are changed.

    Raises:
        AmodalError: For any such field.
    """
    for field, modality in encoder.fields.items():
        network = encoder.tokenizers[field]
        if not encoder.contextual(field):
            if encoder.mixer != "attention" and modality.is_sequence:
                raise refusal(field, f"there is no dropout in a trunk of mixer={encoder.mixer}")
        elif not isinstance(network, HasDropout) or not network.let_dropout():
            raise refusal(field, "there is no dropout in its backbone")
        elif encoder.pool_name == "cls":
            raise refusal(field, "a class token sees nothing of a backbone; take --pool mean")


def refuse_frozen(encoder: Encoder) -> None:
    """Raise AmodalError for a backbone that does not learn. A run that is opened has such ones, so
    it is asked for in training."""
    for field in encoder.fields:
        if encoder.contextual(field) and getattr(encoder.tokenizers[field], "frozen", False):
            raise refusal(field, "its backbone is frozen; --train-backbones lets it learn")


def refusal(field: str, why: str) -> AmodalError:
    """The error for a field that cannot learn by dropout."""
    return AmodalError(
        f"simcse learns from two passes that differ by dropout. {field}: {why}. Leave the "
        "field or its backbone out, or take a method with other views, such as simclr"
    )
