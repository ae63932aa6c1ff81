"""CUNI's multimodal translation: a text is translated with the help of a picture, which is read, or
only to be imagined. Helcl, Libovický and Variš, WMT 2018, arXiv:1811.04697. Reading several
sources: Libovický et al., arXiv:1811.04716, section 3, in
`amodal.nn.generation.multi_source_decoder`. Imagination: Elliott and Kádár, arXiv:1705.04350, eq.
4-5, a max-margin loss with in-batch negatives; it needs no picture at test time. Row 88 of the
catalogue.

Rows that lack a field are translated from the others, and imagine nothing, so texts alone may be
mixed in.

Differs:

- pictures: are read, or imagined, as their trunk leaves them. It learns with the rest, as a target
  too, unless it is a pretrained backbone (`--backbone image=timm:resnet50`), as in the paper; of
  one, the grid before pooling is read and the pooled vector imagined.
- end of a text: a chance of its own beside the next token, which together are a softmax with an
  end, so that any field can be the target.
- vocabulary: the texts of a run learn one, of byte pairs in place of the paper's parts of words.
  `--method.tied true` gives source, target and the decoder's last layer one table of embeddings, as
  theirs; by default each has its own.
- transformer: the decoder is as wide as the encoder, and its perceptrons 4 times as wide; what a
  source says is normed and mapped first; queries, keys and values have biases.
- dropout: `--method.dropout`, of what enters encoder and decoder and of what each part of a block
  adds. In Neural Monkey hidden layers of perceptrons and, if one wants, attention have it too.
- imagination: one hidden layer as wide as the encoder; its weight is reconstructed. The mean over
  fields, where several are imagined.
- recipe: that of the encoder's size. The paper's could not be had: its program, Neural Monkey, is
  public and has tests of a Transformer, but no configuration of theirs, so there is no
  `PAPER_RECIPE`. Averaging of checkpoints is an average of the weights (`--ema`).
- data: `amodal curate --by in_domain` chooses more texts of the kind. Back-translation is a run of
  the other direction and `amodal predict --copy` (docs/predicting.md).
- product: `amodal predict RUN --data DIR --out FILE.csv` writes translations, by a beam search with
  a length penalty, of a text with one id a token (`patch = 1`); `amodal evaluate --protocols
  generation` has BLEU, chrF and METEOR of exact words, without the stems, synonyms and paraphrases
  of the program that the task is judged by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged, unknown
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.matching import pick_text_field, token_features
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import (
    ragged,
    refuse_backbones,
    share,
    token_column,
    token_mean,
    two_fields,
)
from amodal.modalities.shared.tokenizers.text import TextTokenizer
from amodal.modalities.text import Text
from amodal.nn.encoder import Encoder
from amodal.nn.generation.field_decoder import (
    FieldDecoder,
    can_be_written,
    decoded_from,
    every_row,
)
from amodal.nn.hidden_dropout import hidden_dropout
from amodal.objectives.margin import ranking_hinge

ENCODER = {"trunk": "shared"}
SHARED_TOKENS = True  # both languages have one vocabulary
ROUTES = ("read", "imagine", "both")


def cuni_mmt(
    encoder: Encoder,
    *,
    source: str = "",
    target: str = "",
    images: str = "read",
    strategy: str = "serial",
    depth: int = 6,
    weight: float = 1.0,
    margin: float = 0.1,
    tied: bool = False,
    dropout: float = 0.0,
) -> Translator:
    """Build CUNI's multimodal translation.

    Args:
        encoder: Of at least two fields.
        source: The field that is translated (by default the first text but the target; without
            any, the first other field).
        target: The field that is generated (by default the last text).
        images: What the other fields are for: "read" beside the source, "imagine" as targets for
            the source's mean token, or "both".
        strategy: To read more than one source: "serial", "parallel", "flat" or "hierarchical".
        depth: Blocks of the decoder.
        weight: Lambda of the imagination.
        margin: Of its loss.
        tied: One table of embeddings for the source, the target and the decoder's last layer.
        dropout: Of what enters the encoder and the decoder, and of what each part of their blocks
            adds.

    Raises:
        AmodalError: For an unknown field or choice, nothing to imagine, a dropout that is no
            probability, and tied texts without one vocabulary.
    """
    if not 0 <= dropout < 1:
        raise AmodalError(f"dropout is a probability from 0 to below 1, not {dropout:g}")
    texts = [f for f, m in two_fields(encoder).fields.items() if m.takes_prompts]
    target, others = pick_text_field(encoder, target or (texts[-1] if texts else ""))
    source = source or next((f for f in others if f in texts), others[0])
    if source not in others:
        raise unknown("field to translate", source, others)
    if images not in ROUTES:
        raise unknown("use of what goes with the text", images, ROUTES)
    pictures = [f for f in others if f != source]
    if images != "read" and not pictures:
        raise AmodalError(
            f"nothing is there to imagine: beside {source} and {target} there is no other field"
        )
    refuse_backbones(
        encoder,
        "cuni_mmt",
        "they give away the text that is to be generated",
        fields=[target],
        instead="choose another target",
    )
    ids = shared_ids(encoder, source, target) if tied else 0
    read = [source, *pictures] if images != "imagine" else [source]
    writer = FieldDecoder(
        encoder.fields[target],
        encoder.width,
        width=encoder.width,
        depth=depth,
        heads=encoder.num_heads,
        sources=len(read),
        strategy=strategy,
        tied=ids,
    )
    return Translator(
        encoder,
        writer,
        target=target,
        source=source,
        read=read,
        imagined=pictures if images != "read" else [],
        weight=weight,
        margin=margin,
        tied=tied,
        dropout=dropout,
    )


def shared_ids(encoder: Encoder, source: str, target: str) -> int:
    """How many ids two texts share.

    Args:
        encoder: Of both.
        source: One.
        target: The other.

    Raises:
        AmodalError: Unless they are texts of one vocabulary with one id a token, the source read
            without a backbone.
    """
    texts = [encoder.fields[f] for f in (source, target)]
    names = ("tokens", "vocabulary", "merges", "patch")
    one, other = ([getattr(m, n, None) for n in names] for m in texts)
    if one != other or encoder.contextual(source) or not can_be_written(texts[1]):
        raise AmodalError(
            f"tied embeddings are of two texts of one vocabulary with one id a token, and "
            f"{source!r} and {target!r} are none: leave backbones of {source!r} out, give both "
            "the same tokens (and patch = 1) in dataset.toml, or leave --method.tied out"
        )
    return int(cast(Text, texts[1]).vocab_size)


@dataclass(frozen=True, kw_only=True)
class TranslationFeatures(FeatureRecord):
    """Features of translation.

    Args:
        translated: (N, 2) of the rows that have a source: the sum of the losses of the target's
            tokens and end, and their number.
        imagined: field -> (N, D), predicted from the source.
        actual: field -> (N, D), what should be imagined.
    """

    translated: Column
    imagined: Columns
    actual: Columns


class Translator(Method):
    """A decoder of one field that reads others, and imagines others.

    Args:
        encoder: Reads each field alone.
        writer: The decoder.
        target: The field that is generated.
        source: The field that is translated.
        read: The fields that the decoder reads.
        imagined: The fields that are predicted from the source.
        weight: Lambda of the imagination.
        margin: Of its loss.
        tied: Whether the target has the embeddings of the source.
        dropout: In training.
    """

    def __init__(
        self,
        encoder: Encoder,
        writer: FieldDecoder,
        *,
        target: str,
        source: str,
        read: Sequence[str],
        imagined: Sequence[str],
        weight: float,
        margin: float,
        tied: bool,
        dropout: float,
    ):
        super().__init__()
        self.encoder, self.writer, self.target = encoder, writer, target
        self.generated_field = target
        self.source, self.read = source, list(read)
        self.weight, self.margin, width = weight, margin, encoder.width
        self.tied, self.dropout = tied, dropout
        heads = (
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in imagined
        )
        self.imagine = nn.ModuleDict(dict(zip(imagined, heads)))
        if target in encoder.trunks:  # it is generated and never read
            encoder.trunks[target].requires_grad_(False)
        if tied:
            encoder.tokenizers[target].requires_grad_(False)

    @property
    def tokenizer(self) -> nn.Module:
        """What embeds the target."""
        return self.encoder.tokenizers[self.source if self.tied else self.target]

    @property
    def embedding(self) -> Tensor | None:
        """(V, D) of a tied decoder."""
        return cast(TextTokenizer, self.tokenizer).embed.weight if self.tied else None

    def encode(self, batch: Batch) -> tuple[dict[str, Column], list[Ragged]]:
        """Encode all fields but the target.

        Returns:
            field -> its vectors; and, of each field that is read, a list of tokens for every row of
            the batch.
        """
        present = [*self.read, *(f for f in self.imagine if f in batch.columns)]
        context = alone(self.encoder, batch.only(*dict.fromkeys(present)))
        columns = token_features(self.encoder, context, self.read).values()
        return self.encoder.pool(context), [every_row(c, batch.size) for c in columns]

    def features(self, batch: Batch) -> TranslationFeatures:
        rate = self.dropout if self.training else 0.0
        with hidden_dropout(rate, batch.seeds):
            pooled, lists = self.encode(batch)
        values = batch[self.target].values
        content = self.tokenizer(batch[self.target], self.target, batch.size)
        tokens = token_column(content)
        targets = Ragged(self.encoder.fields[self.target].targets(values), ragged(tokens).lengths)
        index = decoded_from(lists)[tokens.rows].nonzero().squeeze(1)
        rows, text = tokens.rows[index], pooled[self.source]
        losses = self.writer(
            [s[rows] for s in lists],
            ragged(tokens)[index],
            targets[index].flat,
            embedding_VD=self.embedding,
            seeds_N=batch.seeds[rows],
            dropout=rate,
        )
        return TranslationFeatures(
            size=batch.size,
            translated=Column(losses, rows),
            imagined={f: Column(head(text.values), text.rows) for f, head in self.imagine.items()},
            actual={f: pooled[f] for f in self.imagine},
        )

    def losses(self, features: TranslationFeatures) -> dict[str, Tensor]:
        imagined = {}
        for f in self.imagine:
            both = {"imagined": features.imagined[f], "actual": features.actual[f]}
            a, b = Embeddings(both, features.size).pair("imagined", "actual")
            # eq. 4-5 of Elliott and Kádár: the imagined vector must be nearer to its own picture
            # than to others
            hinge = ranking_hinge(a, b, margin=self.margin, symmetric=False)
            imagined[f"imagine/{f}"] = self.weight * hinge
        return {"translate": token_mean(features.translated)} | share(imagined)

    def generate(
        self, batch: Batch, *, beams: int = 4, longest: int = 64, alpha: float = 0.6
    ) -> dict[int, str]:
        """Translate the rows that have anything to translate from.

        Args:
            batch: Needs the columns that are read, if need be without a row.
            beams: Of the beam search.
            longest: Tokens of a text at most.
            alpha: Of the length penalty.

        Returns:
            Row -> text.

        Raises:
            AmodalError: Unless the target is text with one id a token.
        """
        with torch.no_grad():
            lists = self.encode(batch)[1]
        rows = decoded_from(lists).nonzero().squeeze(1)
        texts = self.writer.write(
            [s[rows] for s in lists],
            self.tokenizer,
            embedding_VD=self.embedding,
            beams=beams,
            longest=longest,
            alpha=alpha,
        )
        return dict(zip(rows.tolist(), texts))
