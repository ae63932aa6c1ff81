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
- vocabulary: bytes, or a tokenizer's parts; the two texts have embeddings of their own, the
  paper's share one vocabulary of parts of words and its embeddings.
- transformer: the decoder is as wide as the encoder, and its perceptrons 4 times as wide; what a
  source says is normed and mapped first; queries, keys and values have biases; no dropout.
- imagination: one hidden layer as wide as the encoder; its weight is reconstructed. The mean over
  fields, where several are imagined.
- recipe: that of the encoder's size. The paper's could not be had (the authors' program is public,
  their configuration is not), so there is no `PAPER_RECIPE`, and averaging of checkpoints is an
  average of the weights (`--ema`).
- data: `amodal curate --by in_domain` chooses more texts of the kind; there is no back-translation.
- product: `amodal predict RUN --data DIR --out FILE.csv` writes translations, by a beam search with
  a length penalty, of a text with one byte or part a token (`patch = 1`); `amodal evaluate
  --protocols generation` has BLEU and chrF, and no METEOR, which needs stems and synonyms.
- open: one vocabulary with shared embeddings, dropout, back-translation, METEOR, and the recipe.
  Waits for work, and the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from amodal.nn.encoder import Encoder
from amodal.nn.generation.field_decoder import FieldDecoder, decoded_from, every_row
from amodal.objectives.margin import ranking_hinge

ENCODER = {"trunk": "shared"}
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
    """
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
    read = [source, *pictures] if images != "imagine" else [source]
    writer = FieldDecoder(
        encoder.fields[target],
        encoder.width,
        width=encoder.width,
        depth=depth,
        heads=encoder.num_heads,
        sources=len(read),
        strategy=strategy,
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
    )


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
    ):
        super().__init__()
        self.encoder, self.writer, self.target = encoder, writer, target
        self.generated_field = target
        self.source, self.read = source, list(read)
        self.weight, self.margin, width = weight, margin, encoder.width
        heads = (
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in imagined
        )
        self.imagine = nn.ModuleDict(dict(zip(imagined, heads)))
        if target in encoder.trunks:  # it is generated and never read
            encoder.trunks[target].requires_grad_(False)

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
        pooled, lists = self.encode(batch)
        values = batch[self.target].values
        tokens = token_column(self.encoder.patchify(batch.only(self.target))[self.target])
        targets = Ragged(self.encoder.fields[self.target].targets(values), ragged(tokens).lengths)
        index = decoded_from(lists)[tokens.rows].nonzero().squeeze(1)
        rows, text = tokens.rows[index], pooled[self.source]
        losses = self.writer([s[rows] for s in lists], ragged(tokens)[index], targets[index].flat)
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
            self.encoder.tokenizers[self.target],
            beams=beams,
            longest=longest,
            alpha=alpha,
        )
        return dict(zip(rows.tolist(), texts))
