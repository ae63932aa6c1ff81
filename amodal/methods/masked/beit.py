"""BEiT: hide blocks of a picture, and predict the codes of what is hidden.

Bao, Dong, Piao and Wei, ICLR 2022, arXiv:2106.08254. A picture has two views: patches, which the
encoder reads, and codes, which a tokenizer gives to each patch. A learned token stands in place of
hidden patches, and a linear map of its state says the code. Any other field can be read so: of a
text the codes are its tokens (BERT), of a sound or a series the nearest of some centres.

Differs: from the paper and the authors' program (microsoft/unilm, beit):

- tokenizer: the dVAE of DALL-E there, trained on 250 million pictures, of 8,192 codes.
  `--method.codebook DIR` takes it (a copy of facebook/flava-image-codebook). Without one the first
  fifth of the steps trains a tokenizer on the data: a convolutional autoencoder of vectors that are
  quantized (VQ-VAE), of 512 codes. `--method.tokenizer kmeans` takes the nearest of as many centres
  of patches. The dVAE's pixels are the view's, resized, theirs are resized from the file.
- masks: blocks of a picture that cover exactly 40 %, as `amodal.masking.block` says and the paper's
  table of settings; 75 of 196 patches in the program. Blocks are drawn without regard to each other
  and may hang over the border; the last one is cut. Of a text 15 % of the tokens, all replaced.
- encoder: `positions` are those of the program, numbers that all blocks share for each difference
  of rows and columns (`relative`), and 0 for the class token, which is left out with pool="mean".
  Those of a text are of the order alone. Begin of weights: Xavier's, theirs normal at .02 and
  smaller in later blocks. Keys have biases here. Dropout and attention dropout are 0 there too.
- optimizer: mask tokens do not decay here. The rate ends at a hundredth, theirs at 1e-5.
- views: `weak`, crops of 60-100 % and flips; theirs are crops of 8-100 %, flips and colours (.4).
- several fields: each by itself, with `--trunk joint` together; terms are averaged.
- product: labels by `amodal adapt`, whose fine-tuning has no intermediate one on ImageNet-22k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Recipe, Tokens, field_of, unknown
from amodal.core.host import constant, where_true
from amodal.masking.by_layout import hider
from amodal.methods.contract import Clock, Columns, FeatureRecord, StagedMethod
from amodal.methods.shared.codes import code_width, codebook_options, fit_codebooks, image_codes
from amodal.methods.shared.shapes import (
    refuse_backbones,
    refuse_pool,
    row_losses,
    share,
    token_mean,
)
from amodal.methods.shared.typed_parts import field_pool
from amodal.modalities import Modality
from amodal.modalities.shared.protocols import Grid, is_pixel_map
from amodal.nn.codebook import Codebook
from amodal.nn.encoder import Encoder
from amodal.nn.image_codes import ImageCodes
from amodal.nn.masked_tokens import masked_tokens
from amodal.nn.vq_autoencoder import VqAutoencoder
from amodal.objectives.reconstruction import masked_cross_entropy

ENCODER = {"positions": "relative"}
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1.5e-3,
    weight_decay=0.05,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_epochs=10.0,
    clip=3.0,
    drop_path=0.1,
    batch_size=2048,
    epochs=800.0,
    resolution=224,
)
"""Of ViT-B on ImageNet-1k, in the authors' instructions; 500,000 steps in the paper are as many."""
TOKENIZERS = VQ, KMEANS = "vq", "kmeans"
Book = VqAutoencoder | Codebook | ImageCodes


def beit(
    encoder: Encoder,
    *,
    codes: int = 512,
    tokenizer: str = "vq",
    tokenizer_share: float = 0.2,
    codebook: str = "",
    commitment: float = 0.25,
    code_width: int = 32,
    hidden: int = 64,
    image: float = 0.4,
    sequence: float = 0.49,
    span: int = 10,
    other: float = 0.15,
    layer_scale: float = 0.1,
) -> Beit:
    """Build BEiT.

    Args:
        encoder: Reads patches.
        codes: How many a tokenizer has that is trained on the data (8192 in the paper).
        tokenizer: Of pictures of one size: "vq", an autoencoder that learns first; "kmeans", the
            nearest of so many centres of patches. Signals, and pictures of any sides, always have
            centres.
        tokenizer_share: Of the steps, in which the autoencoder learns and the encoder does not.
        codebook: Folder of the paper's tokenizer, a dVAE (`FlavaImageCodebook` of transformers),
            for pictures with three channels.
        commitment: Weight of how far the autoencoder's vectors are from their codes.
        code_width, hidden: Dimensions of a code, and channels of the autoencoder.
        image: Share of a picture that is hidden, in blocks, see `amodal.masking.by_layout`.
        sequence: Share of a signal that is hidden.
        span: Tokens of a hidden span of a signal.
        other: Share of any other field that is hidden, such as a text.
        layer_scale: Where learned factors of what blocks add begin (1e-5 of ViT-L); 0 for none.

    Raises:
        AmodalError: For backbones, a pooling with parameters, and bad options.
    """
    refuse_backbones(encoder, "beit")
    refuse_pool(encoder)
    if tokenizer not in TOKENIZERS:
        raise unknown("beit.tokenizer", tokenizer, TOKENIZERS)
    if codes < 2 or code_width < 1 or hidden < 1 or not 0 <= commitment < math.inf:
        raise AmodalError(
            "beit.codes are at least 2, code_width and hidden at least 1 and commitment at least "
            f"0, not {codes}, {code_width}, {hidden} and {commitment}"
        )
    if not 0 < tokenizer_share < 1:
        raise AmodalError(
            "beit.tokenizer_share is above 0 and below 1, so that both learn, not "
            f"{tokenizer_share}"
        )
    encoder.set_layer_scale(layer_scale)
    books = tokenizers(encoder.fields, codes, tokenizer, code_width, hidden)
    if codebook:
        books |= image_codes(encoder.fields, codebook, "beit")
    return Beit(
        encoder,
        books,
        hide=hider("beit", image=image, sequence=sequence, span=span, other=other),
        tokenizer_share=tokenizer_share,
        commitment=commitment,
    )


def tokenizers(
    fields: Mapping[str, Modality], codes: int, kind: str, width: int, hidden: int
) -> dict[str, Book]:
    """Field -> what gives codes to its tokens, of those that have none themselves.

    Args:
        fields: Name -> modality.
        codes, kind, width, hidden: See `beit`.
    """
    made: dict[str, Book] = {}
    for field, modality in fields.items():
        numbers = code_width(modality)
        if kind == VQ and is_pixel_map(modality):
            grid = cast(Grid, modality)
            made[field] = VqAutoencoder(grid.channels, grid.tile, codes, width=width, hidden=hidden)
        elif numbers:
            made[field] = Codebook(codes, numbers)
    return made


@dataclass(frozen=True, kw_only=True)
class BeitFeatures(FeatureRecord):
    """What single rows give.

    Args:
        hidden: source -> (N, 2) sum and number of the losses of hidden tokens.
        tokenizer: source -> (N, 2) of the autoencoder: error of pixels, and distance from codes.
        latents: source -> (N, L, D) of the autoencoder, before they are quantized.
    """

    hidden: Columns
    tokenizer: Columns
    latents: Columns


class Beit(StagedMethod):
    """See `beit`.

    Args:
        encoder: Reads patches.
        books: Field -> what gives codes to its tokens.
        hide: (layout, tokens, seeds) -> (T,) bool, True where a token is hidden.
        tokenizer_share, commitment: As of `beit`.
    """

    def __init__(
        self,
        encoder: Encoder,
        books: Mapping[str, Book],
        *,
        hide: Callable[[str, Tokens, Tensor], Tensor],
        tokenizer_share: float,
        commitment: float,
    ):
        super().__init__()
        self.encoder, self.hide, self.commitment = encoder, hide, commitment
        self.views = ("weak",)
        self.books = nn.ModuleDict(books)
        width, fields = encoder.width, encoder.fields
        self.masks = nn.ParameterDict({f: nn.Parameter(torch.randn(width) * 0.02) for f in fields})
        self.heads = nn.ModuleDict(
            {
                f: nn.Linear(width, books[f].codes) if f in books else m.predictor(width)
                for f, m in fields.items()
            }
        )
        self.trained = [n for n, p in self.named_parameters() if p.requires_grad]
        """Names: what is frozen for good is none of these."""
        learns = any(isinstance(b, VqAutoencoder) for b in books.values())
        self.stages = (tokenizer_share, 1.0) if learns else (1.0,)
        self._latents: dict[str, Tensor] = {}
        self.on_stage_start(0)

    @property
    def spec_options(self) -> Mapping[str, object]:
        """The number of codes beside the folder, so that a run opens when the folder is gone."""
        return codebook_options(self.books)

    def on_stage_start(self, stage: int) -> None:
        self.tokenizing = len(self.stages) > 1 and stage == 0
        parameters = dict(self.named_parameters())
        for name in self.trained:
            parameters[name].requires_grad_(name.startswith("books.") == self.tokenizing)

    def fit_statistics(self, records: Iterable[Batch]) -> None:
        """Fit the centres of each field to a sample of its tokens in all records."""
        fit_codebooks(self.books, self.encoder.fields, records)

    def features(self, batch: Batch) -> BeitFeatures:
        if self.tokenizing:
            return self.tokenize(batch)
        content, layouts = self.encoder.patchify(batch), self.encoder.fields
        hidden = {
            s: self.hide(layouts[field_of(s)].layout, tokens, batch.seeds)
            for s, tokens in content.items()
        }
        masked = {
            s: self.encoder.add_positions(masked_tokens(tokens, hidden[s], self.masks[field_of(s)]))
            for s, tokens in content.items()
        }
        context = self.encoder.encode(masked)
        columns = {}
        for s in content:
            part = field_pool(self.encoder, s).strip(context[s]).keep(hidden[s])
            columns[s] = row_losses(
                self.token_losses(part, self.targets(s, batch)[where_true(hidden[s])]), part
            )
        return BeitFeatures(size=batch.size, hidden=columns, tokenizer={}, latents={})

    def tokenize(self, batch: Batch) -> BeitFeatures:
        """What the autoencoders make of the pictures of a batch."""
        losses, latents = {}, {}
        for source, column in batch.columns.items():
            book = self.book(source)
            if isinstance(book, VqAutoencoder):
                images = self.images(source, column)
                made = book(images)
                error = (made.pixels - images).square().flatten(1).mean(1)
                losses[source] = Column(torch.stack([error, made.commitment], 1), column.rows)
                latents[source] = Column(made.latents, column.rows)
        return BeitFeatures(size=batch.size, hidden={}, tokenizer=losses, latents=latents)

    def losses(self, features: BeitFeatures) -> dict[str, Tensor]:
        self._latents = {
            field_of(s): c.flat.detach().flatten(0, 1) for s, c in features.latents.items()
        }
        terms = {}
        for s, column in features.tokenizer.items():
            count = max(len(column.flat), 1)
            pixels, commitment = column.flat.sum(0) / count
            terms[f"pixels/{s}"] = pixels
            terms[f"commitment/{s}"] = self.commitment * commitment
        if self.tokenizing:
            fields = max(len(features.tokenizer), 1)
            return {name: term / fields for name, term in terms.items()}
        return share({f"codes/{s}": token_mean(column) for s, column in features.hidden.items()})

    def on_step_end(self, clock: Clock) -> None:
        """Codes of the autoencoders follow the step's latents."""
        for field, latents in self._latents.items():
            cast(VqAutoencoder, self.books[field]).quantizer.update(latents)
        self._latents = {}

    def book(self, source: str) -> Book | None:
        """What gives codes to the tokens of a source, None for one that has codes itself."""
        field = field_of(source)
        return cast(Book, self.books[field]) if field in self.books else None

    def images(self, source: str, column: Column) -> Tensor:
        """(N, C, H, W) standardised pixels."""
        scale = cast(Grid, self.encoder.fields[field_of(source)]).scale()
        images = cast(Tensor, column.values)
        mean, std = (constant(s, images).view(-1, 1, 1) for s in scale)
        standardised: Tensor = (images - mean) / std
        return standardised

    @torch.no_grad()
    def targets(self, source: str, batch: Batch) -> Tensor:
        """(T, ...) what is predicted of each token: a code, or what the modality says."""
        book, column = self.book(source), batch[source]
        if isinstance(book, VqAutoencoder):
            return book.encode(self.images(source, column)).flatten()
        if isinstance(book, ImageCodes):
            codes: Tensor = book(column.values)
            return codes
        targets: Tensor = self.encoder.fields[field_of(source)].targets(column.values)
        return targets if book is None else book(targets)

    def token_losses(self, tokens: Tokens, targets: Tensor) -> Tensor:
        """(t,) the losses of hidden tokens of one source.

        Args:
            tokens: Their states.
            targets: (t, ...), of `targets`.
        """
        field = field_of(tokens.names[0])
        prediction = self.heads[field](tokens.x)
        if field in self.books:
            return masked_cross_entropy(prediction, targets)
        return self.encoder.fields[field].token_loss(prediction, targets)
