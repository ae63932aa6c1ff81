"""CoCa: contrastive captioners. One text decoder is cut in two: its first half reads the text alone
and is contrasted with the picture, its second half reads the picture too and writes the text.

Yu, Wang, Vasudevan, Yeung, Seyedhosseini and Wu, TMLR 2022, arXiv:2205.01917, section 3.2. Loss:
their equation 4, a contrast in both directions (equation 2, the sum of two means) and the
cross-entropy of the text given the picture (equation 3). Any other fields may be described beside
pictures: the decoder reads what there is of them, and every two fields are contrasted. Rows without
a text, or with nothing else, have the losses that are left.

Differs:

- encoder: the trunk of the text is causal and the first half of the decoder, as deep as the size
  says; with the second half (`depth`) at `--size base` these are CoCa-Base's 12, 12 and 12 blocks.
  Blocks have biases. Pictures have fixed positions; their networks may be backbones
  (`--backbone image=timm:vit_base_patch16_224@scratch`), those of the text are refused.
- captioning: the mean over tokens of a batch, where equation 3 is a sum over a text (open_clip and
  others have the mean too).
- end of a text: a chance of its own beside the next token, which together are a softmax with an
  end, so that any field can be written. A learned token begins a text. It and the class token have
  no position.
- poolers: a norm before keys and values, of which the paper does not speak; open_clip norms queries
  and the result as well. The state of the trunk's last norm is what the second half reads.
- temperature: its inverse is bounded by 100; the paper names no bound.
- tokens: up to 8,192 subwords learned from the texts, theirs are 64,000. The classes of JFT as
  texts, and their prompts, are a matter of the data.
- optimizer: `PAPER_RECIPE` ends without their epoch at 576 pixels (`--init-from RUN --resolution
  576`); gradients are not clipped, of which they do not speak.
- views: `weak` of all but the text, which is whole; the paper names none.
- product: retrieval, zero-shot classes, probes and search by their verbs; captions by `amodal
  predict RUN --data DIR --out FILE.csv`, a beam search with a length penalty, of a text with one id
  a token, which computes a text anew for each token. Of a frozen encoder the paper learns a new
  pooler; probes here are of the vectors. Videos as the mean of frames, and questions (VQA), are not
  here. Nor are graphs of ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged, Recipe
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.matching import pick_text_field
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import (
    field_pairs,
    ragged,
    refuse_backbones,
    share,
    token_column,
    token_mean,
    two_fields,
)
from amodal.nn.attention.cross import join_lists
from amodal.nn.caption_pools import CaptionerPool, CausalTextPool
from amodal.nn.causal_fields import CausalFields
from amodal.nn.encoder import Encoder
from amodal.nn.generation.beam import beam_search
from amodal.nn.generation.field_decoder import (
    can_be_written,
    decoded_from,
    every_row,
    next_scores,
    text_of,
    value_losses,
)
from amodal.nn.generation.multimodal_decoder import MultimodalDecoder
from amodal.nn.scale import Scale
from amodal.nn.transformer import size_of
from amodal.nn.trunks import SourceTokens
from amodal.objectives.info_nce import info_nce

PAPER_RECIPE = Recipe(
    optimizer="adafactor",
    lr=8e-4,
    weight_decay=0.01,
    betas=(0.9, 0.999),
    schedule="linear",
    warmup=0.02,
    clip=0.0,
    batch_size=65536,
    steps=500_000,
    resolution=288,
)
"""Section 4.1, but for an epoch at 576 pixels that ends it."""
PAPER_RECORDS = 100_000_000


def coca(
    encoder: Encoder,
    *,
    text_field: str = "",
    width: int = 512,
    queries: int = 256,
    cascade: bool = True,
    depth: int = 0,
    contrastive_weight: float = 1.0,
    caption_weight: float = 2.0,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> CoCa:
    """Build CoCa.

    Args:
        encoder: Gets poolings, a causal order of the text, and heads into a common space; needs two
            fields, each with a trunk of its own.
        text_field: The field that is written from all others. Default: the first text field.
        width: Width of the common space.
        queries: Of the pooler that the decoder reads, in each other field; 0 for none, so that it
            reads the tokens of the trunk.
        cascade: Whether the pooler with a single query, for the contrast, reads what the first one
            gives, or the tokens of the trunk beside it.
        depth: Blocks of the decoder's second half; 0 for as many as its first half, the trunk of
            the text, has.
        contrastive_weight: Lambda of the contrast.
        caption_weight: Lambda of captioning.
        temperature: Initial value of the learned softmax temperature.
        max_scale: Upper bound of its inverse.

    Raises:
        AmodalError: For a single field, a trunk that fields share, and a backbone of the text.
    """
    text_field, others = pick_text_field(two_fields(encoder), text_field)
    refuse_backbones(
        encoder,
        "coca",
        "they give away the text that is to be written",
        fields=[text_field],
        instead="choose another text_field",
    )
    if encoder.trunk != "separate" or encoder.mixer != "attention":
        raise AmodalError(
            "coca reads the text in a causal order and all else in none, so it needs "
            f'trunk="separate" and mixer="attention", not {encoder.trunk!r} and {encoder.mixer!r}'
        )
    if queries < 0 or depth < 0:
        raise AmodalError(f"coca has 0 queries and blocks or more, not {queries} and {depth}")
    heads = encoder.num_heads
    encoder.set_pool(text_field, CausalTextPool(encoder.width))
    for f in others:
        encoder.set_pool(f, CaptionerPool(encoder.width, heads, queries=queries, cascade=cascade))
    encoder.set_block_hook(CausalFields([text_field]))
    return CoCa(
        encoder.align(width),
        decoder=MultimodalDecoder(encoder.width, depth or size_of(encoder.size).depth, heads),
        scale=Scale(1 / temperature, most=max_scale),
        text_field=text_field,
        contrastive_weight=contrastive_weight,
        caption_weight=caption_weight,
    )


@dataclass(frozen=True, kw_only=True)
class CoCaFeatures(FeatureRecord):
    """Vectors of all fields, and what the captions cost.

    Args:
        aligned: field -> (N, D).
        captions: (N, 2) of the rows that have a text and anything else: the sum of the losses of
            the text's tokens and end, and their number.
    """

    aligned: Columns
    captions: Column


class CoCa(Method):
    """See `coca`.

    Args:
        encoder: Its text has a causal trunk and a `CausalTextPool`, all else a `CaptionerPool`.
        decoder: The second half of the text decoder.
        scale: The learned inverse temperature.
        text_field, contrastive_weight, caption_weight: As of `coca`.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        *,
        decoder: MultimodalDecoder,
        scale: Scale,
        text_field: str,
        contrastive_weight: float,
        caption_weight: float,
    ):
        super().__init__()
        self.encoder, self.decoder, self.scale = encoder, decoder, scale
        self.text_field = self.generated_field = text_field
        # a slice of a text would teach the decoder to end in its middle
        self.views = {f: ("plain" if f == text_field else "weak",) for f in encoder.fields}
        self.contrastive_weight, self.caption_weight = contrastive_weight, caption_weight
        self.predictor = encoder.fields[text_field].predictor(encoder.width)
        self.ends = nn.Linear(encoder.width, 1)

    def logit_scale(self) -> Scale:
        """The learned scale of cosines."""
        return self.scale

    def features(self, batch: Batch) -> CoCaFeatures:
        context = alone(self.encoder, batch)
        text = context[self.text_field]
        pooled, seen = self.read(context, batch.size)
        pooled[self.text_field] = self.text_pool(text)
        aligned = self.encoder.project(Embeddings(pooled, batch.size))
        states = token_column(self.text_pool.states(text))
        index = decoded_from([seen])[states.rows].nonzero().squeeze(1)
        rows = states.rows[index]
        targets = self.encoder.fields[self.text_field].targets(batch[self.text_field].values)
        wanted = Ragged(targets, ragged(states).lengths - 1)[index].flat
        losses = value_losses(
            self.decoder(ragged(states)[index], seen[rows]),
            wanted,
            self.encoder.fields[self.text_field],
            self.predictor,
            self.ends,
        )
        return CoCaFeatures(size=batch.size, aligned=aligned.columns, captions=Column(losses, rows))

    def losses(self, features: CoCaFeatures) -> dict[str, Tensor]:
        z = Embeddings({f: features.aligned[f] for f in self.encoder.fields}, features.size)
        # equation 2 adds up both directions; `info_nce` is their mean
        pairs = {
            f"info_nce/{a}~{b}": self.contrastive_weight
            * 2
            * info_nce(*z.pair(a, b), temperature=1 / self.scale())
            for a, b in field_pairs(z)
        }
        caption = self.caption_weight * token_mean(features.captions)
        return share(pairs) | {f"caption/{self.text_field}": caption}

    def read(self, context: SourceTokens, size: int) -> tuple[dict[str, Column], Ragged]:
        """Pool all fields but the text.

        Args:
            context: Source -> its tokens after the trunk.
            size: B.

        Returns:
            Field -> (N, D) before its head; and for each row of the batch a list of what the
            decoder reads, empty for a row that has none of these fields.
        """
        pooled, lists = {}, []
        for f in (f for f in self.encoder.fields if f in context and f != self.text_field):
            pool = self.encoder.pools[f]
            assert isinstance(pool, CaptionerPool)
            column = pool.read(context[f])
            pooled[f] = pool.summarise(context[f], column)
            lists.append(every_row(column, size))
        return pooled, join_lists(lists)

    @property
    def text_pool(self) -> CausalTextPool:
        """The pooling of the text."""
        pool = self.encoder.pools[self.text_field]
        assert isinstance(pool, CausalTextPool)
        return pool

    @torch.no_grad()
    def generate(
        self, batch: Batch, *, beams: int = 4, longest: int = 64, alpha: float = 0.6
    ) -> dict[int, str]:
        """Caption the rows that have any field but the text.

        Args:
            batch: The text may lack.
            beams: Of the beam search.
            longest: Ids of a text at most.
            alpha: Of the length penalty.

        Returns:
            Row -> text.

        Raises:
            AmodalError: Unless the text field is text with one id a token.
        """
        modality = self.encoder.fields[self.text_field]
        if not can_be_written(modality):
            raise AmodalError("only text with one id a token (patch = 1) can be written")
        others = [s for s in batch.sources if s != self.text_field]
        if not others:
            return {}
        seen = self.read(alone(self.encoder, batch.only(*others)), batch.size)[1]
        rows = decoded_from([seen]).nonzero().squeeze(1)
        lists = seen[rows]

        def step(ids: Tensor, owner: Tensor, parent: Tensor) -> Tensor:
            states = self.decoder(self.states_of(ids), lists[owner])
            last = states.lengths.cumsum(0) - 1
            return next_scores(states.flat[last], self.predictor, self.ends)

        texts = beam_search(
            step, len(rows), beams=beams, longest=longest, alpha=alpha, device=rows.device
        )
        return dict(zip(rows.tolist(), (text_of(modality, ids) for ids, _ in texts)))

    def states_of(self, ids: Tensor) -> Ragged:
        """The states of texts in writing.

        Args:
            ids: (M, t) what is written so far.

        Returns:
            M lists (t + 1, D), before each id and after the last.
        """
        field, length = self.text_field, ids.shape[1]
        # in a causal order what stands behind the start changes nothing of its state
        some = ids if length else ids.new_zeros(len(ids), 1)
        rows = torch.arange(len(ids), device=ids.device)
        column = Column(Ragged(some.flatten(), torch.full_like(rows, some.shape[1])), rows)
        tokens = self.encoder.add_positions(self.encoder.tokenizers[field](column, field, len(ids)))
        states = self.text_pool.states(self.encoder.encode({field: tokens})[field])
        table = states.x.unflatten(0, (len(ids), -1))[:, : length + 1]
        return Ragged(table.flatten(0, 1), torch.full_like(rows, length + 1))
