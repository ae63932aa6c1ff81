"""Deep visual-semantic alignments: which word goes with which region, learned from whole pairs.

Karpathy and Fei-Fei, CVPR 2015, arXiv:1412.2306. Row 157 of the catalogue.
- Words go through a bidirectional RNN: eq. 2-6.
- Score of a picture and a sentence: eq. 8, S_kl = sum over words t of max over regions i of
  v_i.s_t.
- Structured max-margin loss: eq. 9.
- Words are assigned to regions along the sentence: eq. 10-12, in `amodal.stats.chain_crf`.
- A caption generator is trained in a second stage, on whole pictures and on the regions' snippets:
  eq. 13-15.

Products: `amodal map --texts align` places the words of each record's sentence on regions of its
picture, by eq. 10-12; `--texts write` writes a text for each region, and `amodal predict` one for
the whole picture, by eq. 13-15 and a beam search.

Differs:

- regions: the tokens of the picture's trunk, and their mean as the whole. The paper has the 19 best
  boxes of an R-CNN and the whole picture, each 4,096 numbers of a network that is fine-tuned;
  `--backbone image=timm:vgg16 --train-backbones` has the tokens of its last map.
- words: learned, where the paper has 300 fixed numbers of word2vec. A token is a subword or a
  letter, as the schema says; the authors' generator has words that occur 5 times.
- heads: maps without a bias, of words too; the paper takes the words' vectors as they are.
- loss: a mean over pairs where theirs is a sum.
- generator: reads the trunk's vectors of the whole and of regions, frozen; the paper's learns with
  the network of pictures. Every run of words of one region is a snippet, and every whole text.
- recipe: the paper's rate and weight decay are cross-validated and not given; it has SGD with
  momentum 0.9 and batches of 100 for the alignment (`--optimizer sgd --batch-size 100`), and for
  the generator RMSprop, gradients clipped element by element, and dropout of all layers but the
  recurrent ones, which are left out here.
- vectors: those that `embed` gives are the mean of the parts, which only approximates the score.
  `scores` has the score itself.
- any field may be the words. All other fields are paired with it.
- open: boxes of an R-CNN whose network learns on, and the generator's own recipe (RMSprop,
  dropout). Waits for a detector's weights, and work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Ragged
from amodal.core.column import shared_rows
from amodal.core.region_text import WHOLE, RegionText
from amodal.methods.contract import Columns, FeatureRecord, StagedMethod
from amodal.methods.shared.matching import pick_text_field, token_features
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import share, token_mean, two_fields
from amodal.methods.shared.snippets import assign, by_word, cut, scores
from amodal.methods.shared.typed_parts import text_modality
from amodal.modalities.shared.learnt import HasWords
from amodal.nn.attention.cross import join_lists
from amodal.nn.encoder import Encoder
from amodal.nn.generation.captioner import Captioner
from amodal.nn.patch_vectors import patch_features, token_boxes
from amodal.objectives.margin import ranking_hinge_of_scores
from amodal.stats.chain_crf import snippets

ENCODER = {"mixer": "brnn"}
Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of a picture."""


def deepvs(
    encoder: Encoder,
    *,
    text_field: str = "",
    width: int = 600,
    margin: float = 1.0,
    reduction: str = "sum",
    regions: bool = True,
    captions: float = 0.0,
    beta: float = 1.0,
    hidden: int = 512,
) -> DeepVS:
    """A max-margin loss over scores of words and regions, then a caption generator.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        text_field: The field whose tokens are matched with regions. Default: the first text field.
        width: h, width of the common space (300 to 1600 in the paper).
        margin: By how much a pair must score above mismatched ones.
        reduction: Reduction over a row's mismatches: "sum", "mean" or "hardest".
        regions: False leaves the whole as the only region, a dot product of whole pictures and
            words.
        captions: Share of the steps, at the end, that train the generator (0: none).
        beta: Smoothness of the assignment along the sentence; higher makes longer snippets.
        hidden: Width of the generator's state.

    Raises:
        AmodalError: If there is one field only, or `captions` is set and `text_field` is not a text
            field with `patch = 1`.
    """
    name, _ = pick_text_field(two_fields(encoder), text_field)
    is_text = encoder.fields[name].takes_prompts
    if captions and (not is_text or text_modality(encoder, name).patch > 1):
        raise AmodalError(
            f"captions are written id by id: {name} must be a text field with patch = 1"
        )
    aligned = encoder.align(width)
    writer = None
    if captions:
        alphabet = text_modality(encoder, name).vocab_size
        writer = Captioner(encoder.width, alphabet, hidden)
    return DeepVS(
        aligned,
        text_field=name,
        margin=margin,
        reduction=reduction,
        regions=regions,
        writer=writer,
        captions=captions,
        beta=beta,
    )


@dataclass(frozen=True, kw_only=True)
class DeepVSFeatures(FeatureRecord):
    """Parts in the first stage, losses of captions in the second."""

    parts: Columns  # source -> N lists of (D,) in the common space; the whole first, but for words
    captions: Columns  # source -> (N, 2), sum and number of the losses of its captions


class DeepVS(StagedMethod):
    """See `deepvs`.

    Args:
        text_field: The field whose tokens are matched with regions.
        writer: The caption generator, None for a single stage.
        margin, reduction, regions, captions, beta: As of `deepvs`.
    """

    min_batch_size = 2
    views = ("weak",)

    def __init__(
        self,
        encoder: Encoder,
        *,
        text_field: str,
        margin: float,
        reduction: str,
        regions: bool,
        writer: Captioner | None,
        captions: float,
        beta: float,
    ):
        super().__init__()
        self.encoder, self.text_field, self.regions = encoder, text_field, regions
        self.generated_field = text_field
        self.margin, self.reduction = margin, reduction
        self.writer, self.beta, self.stage = writer, beta, 0
        self.trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
        """Of the encoder, in the first stage: a frozen backbone is none of these."""
        if writer is not None:
            self.stages = (1 - captions, 1.0)
            self.on_stage_start(0)

    def on_stage_start(self, stage: int) -> None:
        self.stage = stage
        if self.writer is not None:
            for name, p in self.encoder.named_parameters():
                p.requires_grad_(stage == 0 and name in self.trained)
            self.writer.requires_grad_(stage == 1)

    def features(self, batch: Batch) -> DeepVSFeatures:
        if self.stage and self.writer is not None:
            captions = self.caption_losses(batch, self.writer)
            return DeepVSFeatures(size=batch.size, parts={}, captions=captions)
        return DeepVSFeatures(size=batch.size, parts=self.encode_parts(batch)[0], captions={})

    def encode_parts(self, batch: Batch) -> tuple[Columns, Columns]:
        """Source -> N lists of parts: in the common space, and as the trunk left them."""
        encoder, context = self.encoder, alone(self.encoder, batch)
        whole = encoder.pool(context)
        aligned, trunk = {}, {}
        assert encoder.heads is not None
        fields = [f for f in encoder.fields if f in context]
        for name, column in token_features(encoder, context, fields).items():
            s, lists = name.removeprefix("tokens/"), column.values
            assert isinstance(lists, Ragged)
            if s != self.text_field:
                # the whole picture is a region too, the first
                first = Ragged(whole[s].flat, torch.ones_like(column.rows))
                lists = join_lists([first, lists]) if self.regions else first
            trunk[s] = Column(lists, column.rows)
            aligned[s] = Column(Ragged(encoder.heads[s](lists.flat), lists.lengths), column.rows)
        return aligned, trunk

    def caption_losses(self, batch: Batch, writer: Captioner) -> Columns:
        """Field -> (N, 2), sum and number of the losses of the whole text and of all snippets."""
        losses, text = {}, batch[self.text_field]
        with torch.no_grad():
            aligned, trunk = self.encode_parts(batch)
        for s in (s for s in trunk if s != self.text_field):
            a, b = shared_rows(trunk[s], text)
            words = lists_of(aligned[self.text_field], b)
            # eq. 10-12, then the snippets that each region got, and eq. 13-15 on them
            paths = assign(lists_of(aligned[s], a), words, self.beta)
            owner, vectors, snippets = cut(lists_of(trunk[s], a), lists_of(text, b), paths)
            per_snippet = writer(vectors, snippets)
            sums = per_snippet.new_zeros(len(a), 2).index_add(0, owner, per_snippet)
            losses[s] = Column(sums, trunk[s].rows[a])
        return losses

    @torch.no_grad()
    def generate(self, batch: Batch, *, beams: int = 5, longest: int = 40) -> dict[int, str]:
        """Caption the first field of each row that is not text.

        Args:
            batch: The text may lack.
            beams: Of the beam search.
            longest: Ids of a text at most.

        Returns:
            Row -> text.

        Raises:
            AmodalError: For a run that was trained without captions.
        """
        writer = self.need_writer()
        texts: dict[int, str] = {}
        field = text_modality(self.encoder, self.text_field)
        others = [s for s in batch.sources if s != self.text_field]
        context = alone(self.encoder, batch.only(*others))
        for column in self.encoder.pool(context).values():
            for row, vector in zip(column.rows.tolist(), column.flat):
                if row not in texts:
                    ids, _ = writer.write(vector, beams=beams, longest=longest)
                    texts[row] = field.text(np.array(ids, dtype=np.int64))
        return texts

    @torch.no_grad()
    def place_texts(self, batch: Batch, field: str) -> list[RegionText]:
        """Place the words of each text on regions of its picture; see `PlacesTexts`.

        A score is the mean over the words of v.s, in eq. 8.

        Raises:
            AmodalError: Where words have no tokens of their own.
        """
        batch = batch.only(field, self.text_field)
        aligned, boxes = self.encode_parts(batch)[0], self.boxes_of(batch, field)
        a, b = shared_rows(aligned[field], aligned[self.text_field])
        if not len(a):
            return []
        words, starts = self.words_of(lists_of(aligned[self.text_field], b), batch, b)
        seen = lists_of(aligned[field], a)
        paths = assign(seen, words, self.beta).split()
        ids = lists_of(batch[self.text_field], b).split()
        texts, placed = text_modality(self.encoder, self.text_field), []
        rows = aligned[field].rows[a].tolist()
        for row, path, begins, line, word_WD, part_RD in zip(
            rows, paths, starts, ids, words.split(), seen.split()
        ):
            for start, stop, region in snippets(path):
                span = line[begins[start] * texts.patch : begins[stop] * texts.patch]
                text = " ".join(texts.text(span.cpu().numpy()).split())
                score = float((word_WD[start:stop] @ part_RD[region]).mean())
                placed.append(RegionText(row, text, boxes[row][region], score))
        return placed

    def words_of(
        self, tokens: Ragged, batch: Batch, index: Tensor
    ) -> tuple[Ragged, list[list[int]]]:
        """The words of some texts, as of `by_word`; without words of a language, their tokens.

        Args:
            tokens: Of the n texts, in the common space.
            batch: With the texts.
            index: (n,) which of them.
        """
        texts = lists_of(batch[self.text_field], index)
        patch = text_modality(self.encoder, self.text_field).patch
        if not torch.equal(tokens.lengths, -(-texts.lengths // patch)):
            raise AmodalError(
                f"the backbone of {self.text_field} gives one vector of a text, so no word has a "
                "region; take one with a token for each word"
            )
        modality = self.encoder.fields[self.text_field]
        if isinstance(modality, HasWords):
            return by_word(tokens, modality.words(texts).to(tokens.flat.device))
        one_each = torch.arange(len(tokens.flat), device=tokens.flat.device)
        return by_word(tokens, one_each)

    def boxes_of(self, batch: Batch, field: str) -> dict[int, list[Box]]:
        """Row -> the boxes of its regions, the whole first.

        Raises:
            AmodalError: For pictures whose tokens form no grid.
        """
        if not self.regions:
            return {row: [WHOLE] for row in batch[field].rows.tolist()}
        boxes = token_boxes(patch_features(self.encoder, batch, field))
        if len(boxes) < len(batch[field]):
            raise AmodalError(
                f"the tokens of {field} form no grid, so its regions have no places; take a "
                "network that keeps places, such as the default one or a ViT"
            )
        return {row: [WHOLE, *own] for row, own in boxes.items()}

    @torch.no_grad()
    def write_texts(
        self, batch: Batch, field: str, *, beams: int = 4, longest: int = 40
    ) -> list[RegionText]:
        """Write a text for each region of each picture; see `PlacesTexts`.

        A score is the mean log probability of an id.
        """
        writer, texts = self.need_writer(), text_modality(self.encoder, self.text_field)
        batch = batch.only(field)
        regions, boxes = self.region_vectors(batch, field), self.boxes_of(batch, field)
        written = []
        for row, vector_RD in zip(regions.rows.tolist(), cast(Ragged, regions.values).split()):
            own = []
            for vector_D, box in zip(vector_RD, boxes[row]):
                ids, total = writer.write(vector_D, beams=beams, longest=longest)
                text = texts.text(np.array(ids, dtype=np.int64))
                own.append(RegionText(row, text, box, total / (len(ids) + 1)))
            written += sorted(own, key=lambda region: -region.score)
        return written

    def region_vectors(self, batch: Batch, field: str) -> Column:
        """N lists of regions as the trunk left them, the whole first, of a batch without texts."""
        context = alone(self.encoder, batch)
        whole = self.encoder.pool(context)[field]
        column = token_features(self.encoder, context, [field])[f"tokens/{field}"]
        first = Ragged(whole.flat, torch.ones_like(column.rows))
        lists = join_lists([first, cast(Ragged, column.values)]) if self.regions else first
        return Column(lists, column.rows)

    @torch.no_grad()
    def pair_scores(self, batch: Batch, field: str) -> Tensor:
        """Eq. 8 of every picture with every text, of the rows that have both; see `PlacesTexts`."""
        aligned = self.encode_parts(batch.only(field, self.text_field))[0]
        a, b = shared_rows(aligned[field], aligned[self.text_field])
        return scores(lists_of(aligned[field], a), lists_of(aligned[self.text_field], b))

    def need_writer(self) -> Captioner:
        """The caption generator. Raises AmodalError without one."""
        if self.writer is None:
            raise AmodalError("this deepvs has no captioner: train it with captions above 0")
        return self.writer

    def losses(self, features: DeepVSFeatures) -> dict[str, Tensor]:
        if self.stage:
            return share(
                {f"caption/{s}": token_mean(column) for s, column in features.captions.items()}
            )
        hinges, words = {}, features.parts[self.text_field]
        for s in (f for f in self.encoder.fields if f != self.text_field):
            a, b = shared_rows(features.parts[s], words)
            # eq. 8 for every two rows, and eq. 9 on the table
            table = scores(lists_of(features.parts[s], a), lists_of(words, b))
            hinges[f"hinge/{s}~{self.text_field}"] = ranking_hinge_of_scores(
                table, margin=self.margin, over=self.reduction
            )
        return share(hinges)


def lists_of(column: Column, index: Tensor) -> Ragged:
    """The lists at `index` (n,)."""
    lists = column.values[index]
    assert isinstance(lists, Ragged)
    return lists
