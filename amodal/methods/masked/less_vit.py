"""LESS ViT: a masked autoencoder of rasters of any bands, whose attention over channels and places
is a Kronecker product of two small ones.

Si, Wan, Do, Vasisht, Zhao and Hamann 2025, arXiv:2503.12843. Row 70 of the catalogue. Every band of
a patch is a token. One patch embedding serves all bands of a field, which are known by their
wavelengths alone, so that a trained run embeds bands that it has never seen. Class tokens stand for
each channel, each place and the record. Half of the channels and three quarters of the places are
hidden, independently of each other, and their pixels predicted.

Differs: from the authors' program (uiuctml/GeospatialFM of March 2025, which the paper links) and
its script launch_train.sh:

- groups of sensors: a field is one, with a patch embedding and a map to pixels of its own; theirs
  are optical and radar. What has no bands, such as a text or a picture, is one channel whose places
  are its tokens, with the embedding of its field in place of that of a wavelength.
- grid: fields whose tokens have the same side and corner on the ground share places; theirs have
  one grid. Cells without data do not exist: nothing reads or predicts them. Each date is a place.
  Where a field has more than one, sines of the month are added; there is one date there.
- positions: in metres of the corner of a patch over 16, which is theirs, the number of a patch
  times the resolution of a pixel, for their patches of 16 pixels. Without a known resolution a
  patch counts as 160 m. Angles are in single precision, as there.
- radius: between centres, of places on one ground; their 640 m.
- hidden places: of the row's seed. With a radius all records of a batch hide the same places there.
  The places of each ground are drawn by themselves, and one of each is seen at least. Where no seen
  channel has data at a seen place, one more place is seen.
- rank: 1, as in the defaults of their classes (d_c = 4 and rank 1); the script of that month has
  d_c = 2 and rank 8.
- decoder: half as wide as the encoder, of 2 blocks; 512 there, of 4 blocks in the script.
- targets: pixels standardised by band. The script leaves the option for it out, and so it is off
  there, of pixels in [0, 1], two deviations to each side of the mean. `norm_pixels` standardises
  each patch of a band, as their classes do by default.
- loss: missing pixels take no part. Fields that are not on a grid are predicted as their modality
  says. The mean over fields is over those of which something is hidden, as there.
- views: `weak`, beside other grids turned and mirrored alike; crops and mirrors there.
- dropout: .1 of attention and of what it and the perceptron give there, none here. Drop path is
  that of a record.
- optimizer: biases, norms and tokens do not decay here. Their rate ends at 0, ours at a hundredth.
- product: `fused` is the class token of the record, as there; a field has the mean of its tokens.

Learns: no. On generated scenes of eight minerals (`spectra`), 150 and 300 steps of 64 at 2e-3,
`--size nano`, two seeds, with bands known by their numbers (the pilot of the claim), a linear probe
of the mineral has .558 and .494, and .390 and .532; .481 untrained, simple features .961. What was
trained with wavelengths was not measured beyond that.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings, Recipe, Tokens, field_of
from amodal.core.host import host_copy
from amodal.masking.grid import grid_keep
from amodal.methods.contract import Method
from amodal.methods.shared.grids import views_together
from amodal.methods.shared.shapes import refuse_backbones, refuse_pool
from amodal.modalities import Modality
from amodal.modalities.shared.protocols import ReadByWavelength
from amodal.nn.channel_grid import ChannelGrid
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.less_trunk import LessTrunk, initialise
from amodal.nn.generation.less_decoder import LessDecoder
from amodal.nn.transformer import size_of
from amodal.nn.trunks import ALL, SourceTokens
from amodal.objectives.reconstruction import masked_mse

ENCODER = {"trunk": "joint", "positions": "none"}
BANDS = "wavelength"
"""How bands of fields are read: one by one, known by their wavelengths."""
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-4,
    weight_decay=0.05,
    betas=(0.9, 0.95),
    schedule="cosine",
    warmup=0.05,
    clip=1.0,
    drop_path=0.1,
    precision="bf16",
    batch_size=1024,
    epochs=300.0,
)
"""Of LESS ViT-B on SSL4EO-S12: launch_train.sh, on the eight cards and for the epochs of the
README."""
HEAD = 32
"""Width of a head of the decoder."""


def less_vit(
    encoder: Encoder,
    *,
    channel_width: int = 4,
    rank: int = 1,
    radius: float = 640.0,
    place_ratio: float = 0.75,
    channel_ratio: float = 0.5,
    norm_pixels: bool = False,
    decoder_width: int = 0,
    decoder_depth: int = 2,
    decoder_channel_width: int = 4,
) -> LessVit:
    """Build LESS ViT.

    Args:
        encoder: With a joint trunk, in whose place its own comes.
        channel_width: d_c, dimensions of a head for channels, which divide the head's; the others
            are for places, d_s = d / d_c.
        rank: Kronecker products of attention that are added up.
        radius: Metres within which places attend to each other; 0 for any distance.
        place_ratio: Share of the places that is hidden.
        channel_ratio: Share of the channels that is hidden; two are seen at least.
        norm_pixels: Predict pixels as they deviate from their own patch and band.
        decoder_width: Of the decoder; 0 for half of the encoder's (512 in the authors' program).
        decoder_depth: Its blocks.
        decoder_channel_width: d_c of its heads, which are 32 wide.

    Raises:
        AmodalError: For backbones, other encoders and bad options.
    """
    refuse_backbones(encoder, "less_vit")
    refuse_pool(encoder)
    if encoder.pool_name != "mean" or encoder.positions != "none":
        raise AmodalError(
            "less_vit has class tokens and positions of its own: leave --pool and --positions out, "
            f'not pool="{encoder.pool_name}" and positions="{encoder.positions}"'
        )
    for name, ratio in (("place_ratio", place_ratio), ("channel_ratio", channel_ratio)):
        if not 0 <= ratio < 1:
            raise AmodalError(f"less_vit.{name} is a share from 0 to below 1, not {ratio}")
    width, depth = decoder_width or encoder.width // 2, size_of(encoder.size).depth
    if not radius >= 0 or rank < 1 or width < 1 or decoder_depth < 1:
        raise AmodalError(
            "less_vit.radius is at least 0, rank, decoder_width and decoder_depth at least 1, not "
            f"{radius}, {rank}, {width} and {decoder_depth}"
        )
    heads = max(1, width // HEAD)
    check_width("channel_width", channel_width, encoder.width, encoder.num_heads)
    check_width("decoder_channel_width", decoder_channel_width, width, heads)
    check_fields(encoder.fields, radius)
    encoder.set_trunk(
        LessTrunk(
            encoder.width,
            depth,
            encoder.num_heads,
            channel_width=channel_width,
            rank=rank,
            radius=radius,
            dateless=[f for f, m in encoder.fields.items() if getattr(m, "dates", 0) == 1],
        )
    )
    decoder = LessDecoder(
        [f for f, m in encoder.fields.items() if not is_by_wavelength(m)],
        encoder.width,
        width=width,
        depth=decoder_depth,
        heads=heads,
        channel_width=decoder_channel_width,
        rank=rank,
    )
    ratios = {"channel_ratio": channel_ratio, "place_ratio": place_ratio}
    return LessVit(encoder, decoder, width, ratios, norm_pixels=norm_pixels)


def check_width(name: str, channel_width: int, width: int, heads: int) -> None:
    """Raise AmodalError for dimensions of channels that do not divide those of a head, and for
    widths that have no embedding of places.

    Args:
        name: Of the option.
        channel_width: d_c.
        width: D.
        heads: H.
    """
    if width % heads or channel_width < 1 or (width // heads) % channel_width:
        raise AmodalError(
            f"less_vit.{name} divides the width of a head, {width} / {heads}, and {channel_width} "
            "does not"
        )
    if width % 4:
        raise AmodalError(
            f"less_vit has sines and cosines of rows and of columns, so a width of {width} must be "
            "a multiple of 4: take another decoder_width"
        )


def check_fields(fields: Mapping[str, Modality], radius: float) -> None:
    """Refuse bands that are not known by their wavelengths, and, for a radius in metres, pixels of
    unknown size.

    Args:
        fields: Name -> modality.
        radius: See `less_vit`.

    Raises:
        AmodalError: For such a field, with what to do.
    """
    for name, modality in fields.items():
        if not isinstance(modality, ReadByWavelength):
            continue
        if not modality.by_wavelength:
            raise AmodalError(
                f"less_vit reads the bands of {name!r} one by one, known by their wavelengths: "
                "make the encoder of what modality.read_by_wavelength() gives, as `amodal "
                "pretrain` does"
            )
        if radius and not modality.ground_step:
            raise AmodalError(
                f"less_vit attends to places within {radius:g} m, and the size of a pixel of "
                f"{name!r} is not known: give resolution = METRES in dataset.toml, or "
                "--method.radius 0"
            )


def is_by_wavelength(modality: Modality) -> bool:
    """Whether the tokens of a field are known by their wavelengths."""
    return isinstance(modality, ReadByWavelength) and modality.by_wavelength


class LessVit(Method):
    """See `less_vit`.

    Args:
        encoder: With a `LessTrunk`.
        decoder: Of its cells.
        width: Of the decoder.
        ratios: Of `grid_keep`.
        norm_pixels: Whether patches are standardised.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: LessDecoder,
        width: int,
        ratios: Mapping[str, float],
        *,
        norm_pixels: bool,
    ):
        super().__init__()
        self.encoder, self.decoder, self.ratios = encoder, decoder, dict(ratios)
        self.predictors = nn.ModuleDict({f: m.predictor(width) for f, m in encoder.fields.items()})
        self.predictors.apply(initialise)
        self.norm_pixels, self.views = norm_pixels, views_together(encoder)

    @property
    def trunk(self) -> LessTrunk:
        """Of the encoder."""
        trunk = self.encoder.trunks[ALL]
        assert isinstance(trunk, LessTrunk)
        return trunk

    def features(self, batch: Batch) -> Embeddings:
        """Source -> (N, 4): the sum of the errors of tokens whose place is hidden and their number,
        and both for those whose channel is."""
        tokens = self.encoder.tokenize(batch)
        joined = Tokens.join(list(tokens.values()))
        whole = self.trunk.grid(joined)
        channel_T, place_T = self.draw(whole, batch.seeds)
        keep_T = channel_T & place_T
        shown = joined.keep(keep_T)
        seen = self.trunk.grid(shown)
        decoded = self.decoder(self.trunk.encode(shown.x, seen), seen, whole, keep_T)
        hidden_T2 = ~torch.stack([place_T, channel_T], 1)
        return Embeddings(self.errors(joined.with_x(decoded), hidden_T2, tokens, batch), batch.size)

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        sums = {s: features[s].flat.sum(0) for s in features}
        terms = {}
        for name, at in (("places", 0), ("channels", 2)):
            # the mean over the sources of which any is hidden
            sources = torch.stack([x[at + 1].detach() > 0 for x in sums.values()]).sum()
            for source, x in sums.items():
                mean = x[at] / x[at + 1].detach().clamp(min=1)
                terms[f"{name}/{source}"] = mean / sources.clamp(min=1)
        return terms

    def draw(self, grid: ChannelGrid, seeds_B: Tensor) -> tuple[Tensor, Tensor]:
        """Draw what is hidden.

        Args:
            grid: Of all tokens, T.
            seeds_B: Of the rows.

        Returns:
            (T,) bool and (T,) bool, on the CPU: whether the channel, and the place, of each token
            is seen.
        """
        row_T, codes = host_copy(grid.tokens.row), grid.codes
        return grid_keep(
            row_T,
            host_copy(seeds_B)[row_T],
            codes.channel_T,
            codes.place_T,
            codes.ground_T,
            **self.ratios,
        )

    def errors(
        self, decoded: Tokens, hidden_T2: Tensor, tokens: SourceTokens, batch: Batch
    ) -> dict[str, Column]:
        """The errors of each row, see `features`.

        Args:
            decoded: All tokens, x (T, width).
            hidden_T2: (T, 2) bool, on the CPU: whether its place, and its channel, is hidden.
            tokens: The same by source.
            batch: They are of.
        """
        columns, source_T = {}, host_copy(decoded.source)
        for source in tokens:
            field, part = field_of(source), decoded.only(source)
            modality = self.encoder.fields[field]
            prediction = self.predictors[field](part.x)
            target = modality.targets(batch[source].values)
            if is_by_wavelength(modality):
                loss_T = masked_mse(prediction, target, normalise=self.norm_pixels)
            else:
                loss_T = modality.token_loss(prediction, target)
            loss_T = loss_T.to(torch.promote_types(loss_T.dtype, torch.float32))
            hidden_t2 = hidden_T2[source_T == decoded.index(source)].to(loss_T.device, loss_T.dtype)
            error_t4 = torch.stack([loss_T[:, None] * hidden_t2, hidden_t2], 2).flatten(1)
            rows = part.rows()
            total = error_t4.new_zeros(batch.size, 4).index_add(0, part.row, error_t4)
            columns[source] = Column(total[rows], rows)
        return columns
