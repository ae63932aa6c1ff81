"""FLAVA: an encoder for each field and one over all of them, learned from records that have one
field and from records that have several.

Singh, Hu, Goswami, Couairon, Galuba, Rohrbach and Kiela, CVPR 2022, arXiv:2112.04482, sections 3.2
and 3.3. A row with several fields has the multimodal losses: the contrast of the fields over the
rows of all processes (their global contrast, as of every method here); masked multimodal modelling
(MMM), the hidden tokens of each field from all fields of the row; and matching (ITM). A row with
one field has the masked modelling of that field alone (MIM, MLM).

Differs:

- codes: what is predicted of patches are, in the paper, codes of DALL-E's dVAE, of 8,192. Its
  weights do not come with this library: `--method.codebook DIR` takes a copy of
  facebook/flava-image-codebook. Without one they are the nearest of 512 centres of patches by
  k-means, which say less than a dVAE's; series and sounds, which the paper does not have, always
  have such. Authors' pixels of the codebook are resized from the file, these from the view.
- encoder: the fields' trunks are the paper's, pre-norm and with class tokens, ViT-B at `--size
  base`. They begin random; the paper's begin from DINO and from masked language modelling
  (`--init-from RUN`). Backbones are refused: they have seen what is hidden. Positions are fixed.
  What the multimodal encoder reads is normed by the trunks, in the authors' code it is not.
- masks: blocks of a picture that cover 38 %, the 75 of 196 patches of the authors' code, drawn as
  `amodal.masking.block` says; 15 % of the tokens of a text, each replaced by the mask token, which
  is what the paper says (the authors' code leaves a tenth and exchanges another, as BERT).
- matching: of values with hidden tokens, as in the authors' code; the paper does not say. A tenth
  of the pairs get another row's text, as in that code (the paper has no number), and only the other
  ones are positives. The text is of the same batch, theirs is of the whole set. A pair whose text
  is exchanged is whole in the contrast and in MMM, from which the authors leave it out.
- batches: theirs are of pairs (.7), of pictures (.15) or of texts (.15); here a batch holds rows as
  they come, and each loss is a mean over its own tokens or rows in the batch.
- temperature: its inverse is from 1 to 100, as in the authors' code.
- predictions: the last layer is not tied to the embeddings of words, as in the authors' code.
- with more than two fields MMM and unimodal terms are added up, contrasts averaged over pairs of
  fields, and the text is what is exchanged.
- views: `weak` of all but texts, crops of 60-100 % of a picture; theirs are of 90-100 %, unflipped.
- recipe: the steps of `PAPER_RECIPE` are 150,000 of pairs over .7. FP16 is bfloat16 here.
- product: retrieval, zero-shot classes and search compare single fields, as in the paper. The
  vector of a whole record, [CLS_M], on which the paper answers questions, is `fused` of `amodal
  embed` and of the probes of `amodal evaluate`, and what `amodal adapt` puts a head on; of one
  field too, where the paper's probes of pictures and of texts read that field's own class token
  (here beside it, under the field's name). Fine-tuning has a linear map; the paper's, of two layers
  with dropout, is `--method.hidden` without the dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from amodal.core import (
    AmodalError,
    Batch,
    Column,
    Embeddings,
    Ragged,
    Recipe,
    Tokens,
    name_code,
    unknown,
)
from amodal.core.column import shared_rows
from amodal.core.embeddings import FUSED
from amodal.masking.by_layout import hider
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep_units
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.codes import code_width, codebook_options, fit_codebooks, image_codes
from amodal.methods.shared.matching import pick_text_field, seed_column
from amodal.methods.shared.regions import vectors
from amodal.methods.shared.shapes import (
    field_pairs,
    ragged,
    refuse_backbones,
    row_losses,
    share,
    token_column,
    token_mean,
    two_fields,
)
from amodal.methods.shared.typed_parts import field_pool
from amodal.methods.shared.whole_words import units
from amodal.modalities import Modality
from amodal.nn.codebook import Codebook
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.multimodal_encoder import MultimodalEncoder
from amodal.nn.image_codes import ImageCodes
from amodal.nn.scale import Scale
from amodal.objectives.common import connected_zero
from amodal.objectives.info_nce import info_nce
from amodal.objectives.matching import swap_partners
from amodal.objectives.reconstruction import masked_cross_entropy

ENCODER = {"pool": "cls"}
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.1,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_steps=10_000,
    clip=0.0,
    batch_size=8192,
    steps=214_000,
    resolution=224,
)
"""Table A.1; the steps are those in which .7 of the batches, 150,000, are of pairs."""
PAPER_RECORDS = 50_000_000
UNIMODAL = ("unpaired", "all")


def flava(
    encoder: Encoder,
    *,
    text_field: str = "",
    width: int = 512,
    depth: int = 6,
    codes: int = 512,
    codebook: str = "",
    image: float = 0.38,
    sequence: float = 0.49,
    span: int = 10,
    other: float = 0.15,
    whole_words: bool = False,
    mismatched: float = 0.1,
    unimodal: str = "unpaired",
    contrastive_weight: float = 1.0,
    unimodal_weight: float = 1.0,
    mmm_weight: float = 1.0,
    itm_weight: float = 1.0,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Flava:
    """Build FLAVA.

    Args:
        encoder: Gets heads into a common space; needs two fields, each with a trunk of its own.
        text_field: The field that is exchanged for another row's where a pair should not match.
            Default: the first text field.
        width: Width of the common space.
        depth: Blocks of the multimodal encoder.
        codes: Discrete codes of tokens of images and signals, which are what is predicted of them
            (8192 in the paper): the nearest of so many centres of the tokens of all records, by
            k-means; 0 to predict their values.
        codebook: Folder of the paper's codebook of images, a dVAE (`FlavaImageCodebook` of
            transformers), which then gives the codes of images with three channels.
        image: Share of an image that is masked, in blocks, see `amodal.masking.by_layout`.
        sequence: Share of a signal that is masked.
        span: Tokens of a masked span of a signal.
        other: Share of any other field that is masked, such as a text.
        whole_words: Mask words whole where a token is a part of one.
        mismatched: Probability that a row gets another row's text for the matching loss.
        unimodal: Rows that have the losses of single fields: "unpaired", those with one field, or
            "all".
        contrastive_weight: Weight of the contrast.
        unimodal_weight: Weight of masked modelling of single fields.
        mmm_weight: Weight of masked multimodal modelling.
        itm_weight: Weight of matching.
        temperature: Initial value of the learned softmax temperature.
        max_scale: Upper bound of its inverse, which is at least 1.

    Raises:
        AmodalError: For a single field, a trunk that sources share, backbones, and bad options.
    """
    text_field, _ = pick_text_field(two_fields(encoder), text_field)
    refuse_backbones(encoder, "flava")
    if encoder.trunk != "separate":
        raise AmodalError(
            'flava has an encoder for each field, trunk="separate", and makes the one over all of '
            f"them itself; this encoder has {encoder.trunk!r}"
        )
    if unimodal not in UNIMODAL:
        raise unknown("flava.unimodal", unimodal, UNIMODAL)
    if depth < 1 or codes < 0 or codes == 1:
        raise AmodalError(
            "flava needs a block of its multimodal encoder at least, and two codes or none (0), "
            f"not {depth} and {codes}"
        )
    if not 0 <= mismatched < 1:
        raise AmodalError(
            f"flava.mismatched is a probability below 1, so that some pairs match, not {mismatched}"
        )
    fields, heads = list(encoder.fields), encoder.num_heads
    encoder.set_pool(FUSED, MultimodalEncoder(fields, encoder.width, depth=depth, heads=heads))
    return Flava(
        encoder.align(width, bias=True),
        scale=Scale(1 / temperature, least=1.0, most=max_scale),
        text_field=text_field,
        codes=codes,
        codebook=codebook,
        hide=hider("flava", image=image, sequence=sequence, span=span, other=other),
        other=other,
        whole_words=whole_words,
        mismatched=mismatched,
        unimodal=unimodal,
        weights={
            "contrast": contrastive_weight,
            "unimodal": unimodal_weight,
            "mmm": mmm_weight,
            "itm": itm_weight,
        },
    )


@dataclass(frozen=True, kw_only=True)
class FlavaFeatures(FeatureRecord):
    """What single rows give.

    Args:
        aligned: field -> (N, D) of whole values, in the common space.
        unimodal: field -> (N, 2) sum and number of the losses of hidden tokens, from the field.
        mmm: field -> (N, 2) as `unimodal`, from all fields of the row.
        joint: (N, D) the class token of the multimodal encoder, of rows with several fields.
        tokens: field -> N lists of (D,), with some tokens hidden, for pairs that do not match.
        text_keys: (N,) int64 of the rows with a text, equal for equal texts.
        seeds: (B,).
    """

    aligned: Columns
    unimodal: Columns
    mmm: Columns
    joint: Column
    tokens: Columns
    text_keys: Column
    seeds: Column


class PredictionHead(nn.Module):
    """A layer with GELU and a norm, and the predictions of a modality, or logits of codes.

    Args:
        modality: Of the field.
        width: Of tokens.
        codes: How many; 0 for the modality's own predictor.
    """

    def __init__(self, modality: Modality, width: int, codes: int):
        super().__init__()
        self.hidden, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.out = nn.Linear(width, codes) if codes else modality.predictor(width)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(t, width) -> predictions."""
        prediction: Tensor = self.out(self.norm(nn.functional.gelu(self.hidden(x_TD))))
        return prediction


class Flava(Method):
    """See `flava`.

    Args:
        encoder: A trunk for each field, and the multimodal encoder as the pool of all of them.
        scale: The learned inverse temperature.
        text_field, codes, codebook, other, whole_words, mismatched, unimodal: As of `flava`.
        hide: (layout, tokens, seeds) -> (T,) bool, True where a token is masked.
        weights: Of "contrast", "unimodal", "mmm" and "itm".
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        *,
        scale: Scale,
        text_field: str,
        codes: int,
        codebook: str,
        hide: Callable[[str, Tokens, Tensor], Tensor],
        other: float,
        whole_words: bool,
        mismatched: float,
        unimodal: str,
        weights: Mapping[str, float],
    ):
        super().__init__()
        self.encoder, self.scale = encoder, scale
        # texts stay whole, so that equal ones are known as such
        self.views = {
            f: ("plain" if m.takes_prompts else "weak",) for f, m in encoder.fields.items()
        }
        self.text_field, self.mismatched, self.whole_words = text_field, mismatched, whole_words
        self.unpaired_only, self.weights = unimodal == UNIMODAL[0], dict(weights)
        self.hide, self.other = hide, other
        width, fields = encoder.width, encoder.fields
        coded = {f: code_width(m) for f, m in fields.items()} if codes else {}
        made: dict[str, Codebook | ImageCodes] = {
            f: Codebook(codes, w) for f, w in coded.items() if w
        }
        if codebook:
            made |= image_codes(fields, codebook, "flava")
        self.codebooks = nn.ModuleDict(made)
        self.masks = nn.ParameterDict({f: nn.Parameter(torch.randn(width) * 0.02) for f in fields})

        def heads() -> nn.ModuleDict:
            return nn.ModuleDict(
                {
                    f: PredictionHead(m, width, made[f].codes if f in made else 0)
                    for f, m in fields.items()
                }
            )

        self.unimodal_heads, self.mmm_heads = heads(), heads()
        self.itm_head = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2))

    @property
    def multimodal(self) -> MultimodalEncoder:
        """Reads what the trunks of the fields give."""
        return cast(MultimodalEncoder, self.encoder.pools[FUSED])

    @property
    def spec_options(self) -> Mapping[str, object]:
        """The number of codes beside the folder, so that a run opens when the folder is gone."""
        return codebook_options(self.codebooks)

    def logit_scale(self) -> Scale:
        """The learned scale of cosines."""
        return self.scale

    def fit_statistics(self, records: Iterable[Batch]) -> None:
        """Fit the codes of each field to a sample of its tokens in all records."""
        fit_codebooks(self.codebooks, self.encoder.fields, records)

    def features(self, batch: Batch) -> FlavaFeatures:
        encoder, size = self.encoder, batch.size
        content = encoder.patchify(batch)
        # the contrast sees whole values, everything else those with hidden tokens (section 3.2)
        context = encoder.encode({f: encoder.add_positions(t) for f, t in content.items()})
        aligned = vectors(encoder, context, size)
        hidden = {f: self.hidden(tokens, batch) for f, tokens in content.items()}
        masked = encoder.encode(
            {f: encoder.add_positions(self.replace(t, hidden[f])) for f, t in content.items()}
        )
        targets = {f: self.targets(f, batch[f].values) for f in content}
        paired = fields_of_rows(batch) > 1
        tokens = {f: token_column(part) for f, part in masked.items()}
        joint, read = self.multimodal.read(
            {f: column.at(paired[column.rows]) for f, column in tokens.items()}, size
        )
        unimodal, mmm = {}, {}
        for f, part in masked.items():
            strip = field_pool(encoder, f).strip
            of_pairs = paired[content[f].row]
            counted = ~of_pairs if self.unpaired_only else torch.ones_like(of_pairs)
            unimodal[f] = self.token_losses(
                self.unimodal_heads, f, strip(part), hidden[f], counted, targets[f]
            )
            # of the rows with several fields all tokens are there, in their order
            whole = strip(read[f])
            mmm[f] = self.token_losses(
                self.mmm_heads,
                f,
                whole,
                hidden[f][of_pairs],
                torch.ones_like(whole.row, dtype=torch.bool),
                targets[f][of_pairs],
            )
        return FlavaFeatures(
            size=size,
            aligned=aligned.columns,
            unimodal=unimodal,
            mmm=mmm,
            joint=joint,
            tokens=tokens,
            text_keys=text_keys(batch, self.text_field),
            seeds=seed_column(batch),
        )

    def losses(self, features: FlavaFeatures) -> dict[str, Tensor]:
        z = Embeddings({f: features.aligned[f] for f in self.encoder.fields}, features.size)
        pairs = {
            f"info_nce/{a}~{b}": self.weights["contrast"]
            * info_nce(*z.pair(a, b), temperature=1 / self.scale())
            for a, b in field_pairs(z)
        }
        terms = share(pairs)
        for f in self.encoder.fields:
            terms[f"unimodal/{f}"] = self.weights["unimodal"] * token_mean(features.unimodal[f])
            terms[f"mmm/{f}"] = self.weights["mmm"] * token_mean(features.mmm[f])
        return terms | {f"itm/{self.text_field}": self.weights["itm"] * self.matching(features)}

    def matching(self, features: FlavaFeatures) -> Tensor:
        """The matching loss: some rows have another row's text, and are no pairs.

        Features hold the class tokens of pairs as they are; those that do not match go through the
        multimodal encoder here, once for the whole batch.
        """
        text = features.tokens[self.text_field]
        a, b = shared_rows(features.joint, text)
        rows = features.joint.rows[a]
        partner = swap_partners(
            hash_bits(features.seeds.flat[rows], name_code("itm")),
            self.mismatched,
            group_N=features.text_keys.flat[b],
        )
        swapped = partner != torch.arange(len(partner), device=partner.device)
        lists = {
            f: self.of_rows(features.tokens[f], rows[swapped], features.size)
            for f in features.tokens
        }
        lists[self.text_field] = Column(ragged(text)[b[partner[swapped]]], rows[swapped])
        wrong, _ = self.multimodal.read(lists, features.size)
        joint = torch.cat([features.joint.flat[a[~swapped]], wrong.flat])
        if not len(joint):
            return connected_zero(self.itm_head(joint))
        matches = torch.arange(len(joint), device=joint.device) < len(joint) - len(wrong)
        return cross_entropy(self.itm_head(joint), matches.long())

    def of_rows(self, column: Column, rows: Tensor, size: int) -> Column:
        """The entries of some rows."""
        chosen = torch.zeros(size, dtype=torch.bool, device=rows.device).index_fill(0, rows, True)
        return column.at(chosen[column.rows])

    def hidden(self, tokens: Tokens, batch: Batch) -> Tensor:
        """(T,) bool, which tokens of a field are replaced by its mask token."""
        field = tokens.names[0]
        layout = self.encoder.fields[field].layout
        if self.whole_words and layout == "tokens":
            bits = hash_bits(batch.seeds, name_code(field))[tokens.row]
            unit = units(self.encoder, tokens, batch[field].values, whole_words=True)
            return ~random_keep_units(tokens.row, bits, unit, self.other)
        return self.hide(layout, tokens, batch.seeds)

    def replace(self, tokens: Tokens, hidden_T: Tensor) -> Tokens:
        """The mask token in the place of hidden ones."""
        mask_D = self.masks[tokens.names[0]].to(tokens.x.dtype)
        return tokens.with_x(torch.where(hidden_T.unsqueeze(1), mask_D, tokens.x))

    def targets(self, field: str, values: Any) -> Tensor:
        """(T, ...) what is predicted of each token: a code, or what the modality says."""
        book = self.codebooks[field] if field in self.codebooks else None
        if isinstance(book, ImageCodes):
            codes: Tensor = book(values)
            return codes
        targets = self.encoder.fields[field].targets(values)
        return targets if book is None else book(targets)

    def token_losses(
        self,
        heads: nn.ModuleDict,
        field: str,
        tokens: Tokens,
        hidden_T: Tensor,
        counted_T: Tensor,
        targets: Tensor,
    ) -> Column:
        """The losses of hidden tokens.

        Args:
            heads: field -> its predictions.
            field: Of the tokens.
            tokens: T tokens of one source.
            hidden_T: Which are hidden.
            counted_T: Which count, by their rows.
            targets: (T, ...) of `targets`.

        Returns:
            (N, 2) of `row_losses`.
        """
        chosen = hidden_T & counted_T
        part = tokens.keep(chosen)
        prediction, target = heads[field](part.x), targets[chosen]
        if field in self.codebooks:
            return row_losses(masked_cross_entropy(prediction, target), part)
        return row_losses(self.encoder.fields[field].token_loss(prediction, target), part)


def fields_of_rows(batch: Batch) -> Tensor:
    """(B,) int64: how many fields each row has."""
    return batch.present().sum(1)


def text_keys(batch: Batch, field: str) -> Column:
    """(N,) int64 of the rows that have a field, equal for equal texts; for no text the seeds."""
    column = batch[field]
    values = column.values
    if not isinstance(values, Ragged) or values.flat.is_floating_point() or values.flat.dim() > 1:
        return Column(batch.seeds[column.rows], column.rows)
    owner = torch.repeat_interleave(
        torch.arange(len(values), device=column.rows.device), values.lengths
    )
    place = torch.arange(len(owner), device=owner.device) - values.starts()[owner]
    keys = torch.zeros_like(values.lengths)
    return Column(keys.index_add(0, owner, hash_bits(values.flat, place)), column.rows)
