"""LSE+NL: image-report matching as multiple-instance learning, by regions and as a whole.

Wang, Wells, Berkowitz, Horng and Golland, IPMI 2023, arXiv:2212.05561, section 3. Local score: S(X,
Y) = mean over sentences m of (1 / g) log mean_n exp(g <x_n, y_m>) over regions n. Global score:
mean_m <x, y_m>, with x an image vector for which regions have attended to each other (here the mean
of the trunk's tokens, which its self-attention has correlated). Each has InfoNCE in both
directions. Row 81 of the catalogue. Texts should hold a sentence a line. Of a single line,
stretches are taken.

Differs (there is no program of the authors to compare with):

- encoder: a transformer over patches, from scratch. The paper has a ResNet-50 of 2,048 x 15 x 15
  regions and a BERT of radiology reports: `--backbone image=timm:resnet50 --backbone
  report=transformers:DIR --train-backbones`, with the regions of its last map.
- non-local score: the image's vector is pooled from tokens that have attended to each other in the
  trunk. The paper has an attention layer of its own for that, whose query a sentence makes.
- sentences: `captions` of them are drawn of each text, with replacement, where the paper has all of
  a report. Stretches of a single line, where a text has no lines, are a choice of ours.
- poolings other than log-sum-exp are those that section 3 compares; the threshold of `noisy_or`,
  0.5, is ours.
- temperatures are learned, one for each score; sharpness and weights are not the paper's, which
  searches them.
- more fields: every field that is no text is tied to every text; two of them have CLIP's loss.
- recipe: the paper's is not released; that of the package is taken.
- product: `amodal map RUN --queries FILE.txt` lays the scores of a sentence with each region over
  the picture, and measures them against masks (`--label`); boxes of phrases are for
  `amodal.evaluate.grounding`, in Python. The linear probe, zero-shot classes and retrieval read the
  vectors of wholes.
- open: the attention layer of the non-local score, whose form and width were not read, and the
  recipe. Waits for the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Embeddings, Ragged, field_of, views_of
from amodal.core.column import shared_rows
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.regions import alone, regions, sentences, texts_and_others, vectors
from amodal.methods.shared.shapes import field_pairs, share
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce
from amodal.objectives.mil import bag_nce, pooling
from amodal.objectives.packed import pad_packed
from amodal.objectives.score_nce import score_nce


def mil_vl(
    encoder: Encoder,
    *,
    pool: str = "lse",
    sharpness: float = 10.0,
    local: float = 1.0,
    whole: float = 1.0,
    captions: int = 4,
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> MilVL:
    """InfoNCE over pooled scores of regions and sentences, and over scores of wholes.

    Args:
        encoder: Gets heads into a common space; needs a text field and another kind.
        pool: Pooling over regions: "lse", "mean", "max", "attention" or "noisy_or".
        sharpness: g of lse, and of the softmax of attention and the sigmoid of noisy_or (the paper
            searches it).
        local: Weight of the local loss, 0 leaves it out.
        whole: Weight of the global loss, 0 leaves it out.
        captions: Sentences drawn of each text in each step, with replacement.
        width: Width of the common space.
        temperature: Initial value of the learned softmax temperatures.
        max_scale: Upper bound of their inverse.

    Raises:
        AmodalError: If both weights are 0, or there is no text field or no other.
    """
    if not local and not whole:
        raise AmodalError(
            "mil_vl compares nothing without `local` and without `whole`; give one of them a weight"
        )
    texts, others = texts_and_others(encoder)
    region_pool = pooling(pool, sharpness)
    scales = nn.ModuleDict({k: Scale(1 / temperature, most=max_scale) for k in ("local", "whole")})
    return MilVL(
        encoder.align(width),
        texts=texts,
        others=others,
        region_pool=region_pool,
        local=local,
        whole=whole,
        captions=captions,
        scales=scales,
    )


@dataclass(frozen=True, kw_only=True)
class MilFeatures(FeatureRecord):
    """Vectors of all sources, and the regions of those that are no text."""

    aligned: Columns  # source -> (N, D)
    regions: Columns  # source -> N lists of (D,) in the common space


class MilVL(Method):
    """See `mil_vl`.

    Args:
        texts, others: The fields that are text, and those that are not.
        region_pool: Pools scores over regions, of `amodal.objectives.mil.pooling`.
        scales: "local" and "whole".
        local, whole, captions: As of `mil_vl`.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        *,
        texts: Sequence[str],
        others: Sequence[str],
        region_pool: Callable[..., Tensor],
        local: float,
        whole: float,
        captions: int,
        scales: nn.ModuleDict,
    ):
        super().__init__()
        self.encoder, self.texts, self.others = encoder, tuple(texts), tuple(others)
        self.region_pool, self.scales = region_pool, scales
        self.local, self.whole, self.captions = local, whole, captions
        self.views: Mapping[str, tuple[str, ...]] = {
            f: ("local",) * captions if f in texts else ("weak",) for f in encoder.fields
        }

    def features(self, batch: Batch) -> MilFeatures:
        context = alone(self.encoder, batch)
        return MilFeatures(
            size=batch.size,
            aligned=vectors(self.encoder, context, batch.size).columns,
            regions={s: regions(self.encoder, context[s]) for s in self.others},
        )

    def losses(self, features: MilFeatures) -> dict[str, Tensor]:
        z = Embeddings(dict(features.aligned), features.size)
        others = Embeddings(
            {s: c for s, c in features.aligned.items() if field_of(s) in self.others}, z.size
        )
        t = 1 / self.scales["whole"]()
        between_others = {
            f"info_nce/{a}~{b}": info_nce(*others.pair(a, b), temperature=t)
            for a, b in field_pairs(others)
        }
        local, whole = {}, {}
        for s in self.others:
            for text_field in self.texts:
                text, pair = sentences(z, views_of(text_field, self.captions)), f"{s}~{text_field}"
                rows, text_rows = shared_rows(z[s], text)
                lines = normalize(text.flat[text_rows], dim=2)
                if self.local:
                    lists = features.regions[s].values[rows]
                    assert isinstance(lists, Ragged)
                    local[f"local/{pair}"] = self.local * self.of_regions(lists, lines)
                if self.whole:
                    # mean_m <x, y_m> = <x, mean_m y_m>: one product for all sentences
                    score = global_score(normalize(z[s].flat[rows], dim=1), lines.mean(1), t)
                    whole[f"whole/{pair}"] = self.whole * score
        return share(between_others) | share(local) | share(whole)

    def of_regions(self, lists: Ragged, lines: Tensor) -> Tensor:
        """The local loss of N lists of regions and (N, M, D) unit vectors of sentences."""
        block, present = pad_packed(lists)
        t = 1 / self.scales["local"]()
        loss: Tensor = bag_nce(block, present, lines, temperature=t, pool=self.region_pool)
        return loss


def global_score(images: Tensor, texts: Tensor, temperature: Tensor) -> Tensor:
    """InfoNCE in both directions over mean_m <x, y_m>.

    Args:
        images: (N, D) unit vectors.
        texts: (N, D) means of the unit vectors of a text's sentences.
    """
    loss: Tensor = score_nce(lambda x: x @ texts.T, images, temperature=temperature)
    return loss
