"""MAESTRO: a masked autoencoder of many sensors, dates and bands.

Labatie et al., WACV 2026, arXiv:2508.10894. Row 18 of the catalogue. Which dates and which sensors
see each other from the first block, and which at the end alone, is one option, `fusion`. What is
hidden are whole sensors, dates and places first, then patches at random. Pixels of a hidden patch
are predicted as they deviate from their patch, all related bands together (`norm_bands`), so that
the ratios of these bands are a part of what is to be learnt.

Differs: from the authors' program (IGNF/MAESTRO) and its defaults:

- encoder: `--size`. Their `tiny` and `small` have perceptrons of twice the width, ours of four
  times. Weights of attention have biases here. Embeddings of patches are not normed over all
  patches of a date, as there, since hidden patches would show in that norm.
- fusion by dates (shared, monotemp): a date of a field is alone with all its groups of bands; each
  of these is alone there. Tokens of fields that are not on a grid have one date.
- positions: `ground`, sines of metres on the ground, of the month of the year and of time. Theirs
  are sines of a grid that all sensors share, beside eight numbers for the day of the year, the hour
  and the time since a reference date. Their fields and groups have no embedding but mask tokens.
- groups of bands: those of `groups` in dataset.toml have tokens and mask tokens of their own, as
  there. Tokens tell their group and field in the encoder and in the decoder.
- masks: of the row's seed, and of the dates and patches that a record has; all records have the
  same there. Only fields on a grid have places and dates that are hidden whole, and dates only of
  records with more than one. Where units hide more than `ratio`, those of them that are seen are
  drawn; the first ones there.
- missing: patches without data are no tokens, pixels without data are not predicted. A field that a
  batch lacks has no weight.
- decoder: half as wide as the encoder; 512 there, with 1 to 4 blocks by size. Its perceptrons are
  four times as wide as it is, theirs four times as wide as the encoder. Its mask tokens begin at
  .02 of a normal number, theirs at 1.
- optimizer: biases, norms and tokens do not decay here. The rate ends at a hundredth, theirs at 0.
- norm_bands: one part for each patch, unless it says more; their configurations have parts of
  4, 4 and 2 bands for the ten of Sentinel-2, of every band for radar, and of near infrared beside
  colours for photographs.
- loss: of fields that are not on a grid, what their modality says.
- views: as for `galileo`: rasters alone are cropped, turned and mirrored; beside other grids turned
  and mirrored alike, and not cropped (a common crop there).
- scale: bands are standardised; theirs are divided by a constant, and radar is in logarithms.
- moving average: theirs of weights, once an epoch over a fifth of the epochs, is not in
  `PAPER_RECIPE`; `--ema` has one by steps.
- product: the mean of tokens; theirs are read by attention that a probe learns.

Learns: no. Colour, relief and climate of `globe`, 300 steps of 128 records at 2e-3, `--size nano`,
two seeds, a linear probe of climate zones from colour: .692 and .680, untrained .633 and .692,
simple features .669. On generated farmland (`crops`), whose crops differ by their season, 300
steps of 64 with dates that see each other (`fusion` mod): .920 and .934, untrained .737, simple
features .482; with each date alone .766 and .796, no more than the .810 that are untrained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import (
    AmodalError,
    Batch,
    Column,
    Embeddings,
    Recipe,
    Tokens,
    field_of,
    name_code,
    unknown,
)
from amodal.core.host import constant, host_copy, take
from amodal.masking.hashing import hash_bits
from amodal.masking.packed import number_segments, rank_in_segment
from amodal.masking.structured import Units, structured_keep
from amodal.methods.contract import Method
from amodal.methods.shared.grids import group_codes, views_together
from amodal.methods.shared.shapes import refuse_backbones, refuse_pool
from amodal.methods.shared.typed_parts import field_pool
from amodal.modalities import Modality
from amodal.modalities.shared.protocols import HasBands
from amodal.nn.attention.bias import is_bias, plane_of, refuse_drawn_patches
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.grouped_trunk import GroupedTrunk, date_numbers, group_names, tower
from amodal.nn.generation.mask_decoder import MaskDecoder
from amodal.nn.positions import additive, is_rotary
from amodal.nn.transformer import size_of
from amodal.nn.trunks import SourceTokens
from amodal.objectives.reconstruction import masked_error

ENCODER = {"trunk": "joint", "positions": "ground"}
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=3e-5,
    lr_scaling="sqrt/3",
    weight_decay=0.01,
    betas=(0.9, 0.99),
    schedule="cosine",
    warmup=0.2,
    clip=0.0,
    batch_size=32,
    epochs=100.0,
)
"""Of the authors' repository, on one card; epochs of TreeSatAI-TS, PASTIS-HD and FLAIR-HUB."""
FUSIONS = SHARED, MONOTEMP, MOD, GROUP_OF_FIELDS = "shared", "monotemp", "mod", "group"
ERRORS = L1, L2 = "l1", "l2"
NONE, PATCH, BAND = "none", "patch", "band"
EVERYTHING = "all"
"""The name of the one network of the fusion "shared"."""


def maestro(
    encoder: Encoder,
    *,
    fusion: str = "group",
    groups: str = "",
    joint_depth: int = -1,
    ratio: float = 0.75,
    ratio_scale: float = 0.0,
    hide_field: float = 0.25,
    hide_bands: float = 0.0,
    hide_date: float = 0.25,
    hide_place: float = 0.25,
    norm_bands: str = "patch",
    error: str = "l1",
    decoder_width: int = 0,
    decoder_depth: int = 1,
) -> Maestro:
    """Build MAESTRO.

    Args:
        encoder: With a joint trunk, in whose place one of groups comes.
        fusion: "group": fields of a group see each other, at all dates, and all fields in the last
            blocks; "mod": every field is such a group; "monotemp": each date of a field is alone;
            "shared": that, and all fields have one network.
        groups: Of fields, for the fusion "group", such as "s1_asc+s1_des, spot+naip". What is in
            none is a group by itself.
        joint_depth: Blocks at the end in which all fields see each other; -1 for a quarter of those
            of the size with the fusions "group" and "mod", and none with the others.
        ratio: Share of the tokens of a group (with the fusions by date: of a date) that is hidden.
        ratio_scale: s of the ratio 1 - (1 - ratio) / D^s of a group that has D pairs of a date and
            a group of bands.
        hide_field, hide_bands, hide_date, hide_place: Probability that a field of a group of
            more than one, a group of bands, a date, or a place of a field is hidden first. With the
            fusions by date nothing is hidden so.
        norm_bands: Values that are standardised together: "patch", all of a token; "band", those
            of a band; "none"; or bands by their names, such as "s2.B02+B03+B04, s2.B11+B12".
            Bands of a field that are not named are together.
        error: "l1" or "l2".
        decoder_width: Of the decoders; 0 for half of the encoder's.
        decoder_depth: Blocks of each decoder.

    Raises:
        AmodalError: For backbones, other trunks, and bad options.
    """
    fields = encoder.fields
    refuse_backbones(encoder, "maestro")
    refuse_drawn_patches(fields, "maestro")
    refuse_pool(encoder)
    chosen = fusion_of(encoder, fusion, groups)
    width, depth = decoder_width or encoder.width // 2, size_of(encoder.size).depth
    shares = {"ratio": ratio, "hide_field": hide_field, "hide_bands": hide_bands,
              "hide_date": hide_date, "hide_place": hide_place}  # fmt: skip
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise AmodalError(f"maestro.{name} is a share from 0 to below 1, not {value}")
    if not ratio_scale >= 0 or width < 1 or decoder_depth < 1:
        raise AmodalError(
            "maestro.ratio_scale is at least 0, decoder_width and decoder_depth at least 1, not "
            f"{ratio_scale}, {width} and {decoder_depth}"
        )
    if error not in ERRORS:
        raise unknown("maestro.error", error, ERRORS)
    if joint_depth == -1:
        joint_depth = max(depth // 4, int(depth > 1)) if chosen.together else 0
    if not 0 <= joint_depth < depth or (joint_depth and not chosen.together):
        raise AmodalError(
            f"maestro.joint_depth is below the {depth} blocks of --size {encoder.size}, -1 for a "
            f'quarter of them, and 0 with fusion="{SHARED}" and "{MONOTEMP}", where nothing sees '
            f"another date; it is {joint_depth}"
        )
    encoder.set_trunk(
        GroupedTrunk(
            chosen.groups,
            encoder.width,
            depth - joint_depth,
            encoder.num_heads,
            together=chosen.together,
            dated=chosen.dated,
            joint_depth=joint_depth,
        )
    )
    heads = max(1, width // 32)
    counts = {f: len(m.token_groups) for f, m in fields.items()}
    decoders = {
        name: MaskDecoder(
            [f for f in fields if chosen.groups[f] == name],
            encoder.width,
            width=width,
            depth=decoder_depth,
            heads=heads,
            groups=counts,
            position=additive(encoder.positions, width),
            trunk=tower(width, decoder_depth, heads, chosen.dated),
        )
        for name in group_names(chosen.groups)
    }
    masks = Masks(ratio, ratio_scale, hide_field, hide_bands, hide_date, hide_place)
    return Maestro(encoder, chosen, decoders, width, masks, parts_of(fields, norm_bands), error)


@dataclass(frozen=True)
class Fusion:
    """Which tokens see each other from the first block.

    Attributes:
        groups: Field -> the name of its group, whose weights it has.
        together: Whether fields of a group see each other.
        dated: Fields of which each date is alone.
    """

    groups: dict[str, str]
    together: bool
    dated: tuple[str, ...]


def fusion_of(encoder: Encoder, fusion: str, groups: str) -> Fusion:
    """A fusion by its name.

    Args:
        encoder: Of the fields.
        fusion, groups: See `maestro`.

    Raises:
        AmodalError: For an unknown name, for groups with another fusion, unknown fields and such of
            two groups, and for an encoder that cannot have the fusion.
    """
    if fusion not in FUSIONS:
        raise unknown("maestro.fusion", fusion, FUSIONS)
    if groups and fusion != GROUP_OF_FIELDS:
        raise AmodalError(
            f'maestro.groups are of fusion="{GROUP_OF_FIELDS}", and fusion is {fusion!r}: leave '
            "one of them out"
        )
    dated = tuple(plane_of(encoder.fields)) if fusion in (SHARED, MONOTEMP) else ()
    if is_bias(encoder.positions) or is_rotary(encoder.positions):
        raise AmodalError(
            f"maestro adds embeddings of positions to tokens, and positions={encoder.positions!r} "
            "are of attention: take ground, sincos, learned or none"
        )
    if dated and encoder.pool_name != "mean":
        raise AmodalError(
            f'with fusion="{fusion}" each date is alone, and a class token is of none: take '
            f'pool="mean", not {encoder.pool_name!r}'
        )
    alone = {f: EVERYTHING if fusion == SHARED else f for f in encoder.fields}
    together = fusion not in (SHARED, MONOTEMP)
    return Fusion(alone | named_groups(encoder.fields, groups), together, dated)


def named_groups(fields: Mapping[str, Modality], groups: str) -> dict[str, str]:
    """Field -> the first field of its group, of the fields that are named.

    Args:
        fields: Name -> modality.
        groups: See `maestro`.

    Raises:
        AmodalError: For an unknown field, and one that is named twice.
    """
    named: dict[str, str] = {}
    for group in filter(None, map(str.strip, groups.split(","))):
        members = [name.strip() for name in group.split("+")]
        for field in members:
            if field not in fields:
                raise unknown("field of maestro.groups", field, fields)
            if field in named:
                raise AmodalError(f"maestro.groups: {field!r} is named twice")
            named[field] = members[0]
    return named


def parts_of(fields: Mapping[str, Modality], norm_bands: str) -> dict[str, list[int] | None]:
    """The values of a target that are standardised together.

    Args:
        fields: Name -> modality.
        norm_bands: See `maestro`.

    Returns:
        Field -> (P,) the number of the part of each value, of fields with bands; [] for one part of
        all; None where values are predicted as they are.

    Raises:
        AmodalError: For an unknown field or band, and one that is named twice.
    """
    banded = {f: m for f, m in fields.items() if isinstance(m, HasBands)}
    if norm_bands == NONE:
        return dict.fromkeys(fields)
    parts: dict[str, list[int] | None] = {f: [] for f in fields}
    if norm_bands == PATCH:
        return parts
    if norm_bands == BAND:
        return parts | {f: m.band_of_targets() for f, m in banded.items()}
    if not norm_bands.strip(" ,"):
        raise unknown("part of maestro.norm_bands", norm_bands, (PATCH, BAND, NONE))
    of: dict[str, dict[str, int]] = {}
    for number, item in enumerate(filter(None, map(str.strip, norm_bands.split(","))), 1):
        field = next((f for f in banded if item.startswith(f"{f}.")), None)
        if field is None:
            known = [f"{f}.{band}" for f, m in banded.items() for band in m.bands]
            raise unknown(
                "part of maestro.norm_bands",
                item,
                (PATCH, BAND, NONE, *known),
                "Bands are named by their field, such as FIELD.BAND+BAND.",
            )
        numbers = of.setdefault(field, {})
        for band in map(str.strip, item[len(field) + 1 :].split("+")):
            if band not in banded[field].bands:
                raise unknown(f"band of {field!r}", band, banded[field].bands)
            if band in numbers:
                raise AmodalError(f"maestro.norm_bands: {field}.{band} is named twice")
            numbers[band] = number
    for field, numbers in of.items():
        modality = banded[field]
        part = [numbers.get(band, 0) for band in modality.bands]
        dense = {number: i for i, number in enumerate(dict.fromkeys(part))}
        parts[field] = [dense[part[band]] for band in modality.band_of_targets()]
    return parts


@dataclass(frozen=True)
class Masks:
    """How tokens are hidden; see `maestro`."""

    ratio: float
    scale: float
    field: float
    bands: float
    date: float
    place: float


class Maestro(Method):
    """See `maestro`.

    Args:
        encoder: With a `GroupedTrunk`.
        fusion: Which tokens see each other.
        decoders: Group -> decoder of its tokens.
        width: Of the decoders.
        masks: How tokens are hidden.
        parts: Of `parts_of`.
        error: "l1" or "l2".
    """

    def __init__(
        self,
        encoder: Encoder,
        fusion: Fusion,
        decoders: Mapping[str, MaskDecoder],
        width: int,
        masks: Masks,
        parts: Mapping[str, list[int] | None],
        error: str,
    ):
        super().__init__()
        self.encoder, self.fusion, self.masks = encoder, fusion, masks
        self.decoders = nn.ModuleDict(decoders)
        self.predictors = nn.ModuleDict({f: m.predictor(width) for f, m in encoder.fields.items()})
        self.parts, self.error = dict(parts), error
        self.views = views_together(encoder)

    def features(self, batch: Batch) -> Embeddings:
        """Source -> (N, 3): the sum of the errors of hidden values, their number, and the number of
        pairs of a date and a place, whose share is the weight of the source."""
        tokens = self.encoder.tokenize(batch)
        keep = self.visible(tokens, batch.seeds)
        context = self.encoder.encode({s: t.keep(keep[s]) for s, t in tokens.items()})
        seen = {s: field_pool(self.encoder, s).strip(context[s]) for s in tokens}
        decoded = self.decode(seen, {s: t.keep(~keep[s]) for s, t in tokens.items()})
        columns = {}
        for source, hidden in decoded.items():
            target = self.encoder.fields[field_of(source)].targets(batch[source].values)
            sums_T2 = self.errors(hidden, take(target, ~keep[source]))
            whole = tokens[source]
            total = sums_T2.new_zeros(batch.size, 2).index_add(0, hidden.row, sums_T2)
            groups = max(len(self.encoder.fields[field_of(source)].token_groups), 1)
            weight = whole.lengths().to(total.dtype)[:, None] / groups
            rows = whole.rows()
            columns[source] = Column(torch.cat([total, weight], 1)[rows], rows)
        return Embeddings(columns, batch.size)

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        sums = {s: features[s].flat.sum(0) for s in features}
        # a source of which nothing is hidden has no weight
        weight = {s: (x[2] * (x[1] > 0)).detach() for s, x in sums.items()}
        whole = torch.stack([*weight.values()]).sum().clamp(min=1e-9) if weight else torch.ones(())
        return {
            f"reconstruct/{s}": x[0] / x[1].detach().clamp(min=1) * weight[s] / whole
            for s, x in sums.items()
        }

    def decode(self, seen: SourceTokens, hidden: SourceTokens) -> SourceTokens:
        """Decode hidden tokens, by the decoder of their group.

        Args:
            seen: Source -> encoded tokens.
            hidden: Source -> tokens whose x is not read.

        Returns:
            `hidden`, in its order, with x (T, width).
        """
        groups = self.fusion.groups
        made: SourceTokens = {}
        for name, decoder in self.decoders.items():
            sources = [s for s in hidden if groups[field_of(s)] == name]
            lists = [sources] if self.fusion.together else [[s] for s in sources]
            for names in filter(None, lists):
                out = decoder([seen[s] for s in names], [hidden[s] for s in names])
                made |= dict(zip(names, out))
        return {s: made[s] for s in hidden}

    def errors(self, hidden: Tokens, target: Tensor) -> Tensor:
        """(T, 2) the sum of the errors of each hidden token of a source, and of how many values.

        Args:
            hidden: Decoded tokens.
            target: What is to be predicted of each.
        """
        field = field_of(hidden.names[0])
        modality, prediction = self.encoder.fields[field], self.predictors[field](hidden.x)
        if modality.layout != "grid":
            loss_T = modality.token_loss(prediction, target)
            return torch.stack([loss_T, torch.ones_like(loss_T)], 1)
        parts = self.parts[field]
        numbers = [0] * target.shape[-1] if parts == [] else parts
        part_P = None if numbers is None else constant(numbers, target, torch.int64)
        loss_T = masked_error(prediction, target, part_P=part_P, square=self.error == L2)
        count_T = (~target.isnan()).sum(-1).to(loss_T.dtype)
        return torch.stack([loss_T * count_T, count_T], 1)

    def visible(self, tokens: SourceTokens, seeds_B: Tensor) -> dict[str, Tensor]:
        """Draw the masks.

        Args:
            tokens: Of all sources of a batch.
            seeds_B: Of its rows.

        Returns:
            Source -> (T,) bool, on the CPU: the tokens that the encoder sees.
        """
        parts, seeds_B = [self.places(t) for t in tokens.values()], host_copy(seeds_B)
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        code_T = hash_bits(seeds_B[whole["row"]], whole["segment"])
        segment_T, size_G = number_segments(_pairs(whole["row"], whole["segment"]))
        # D of a segment: pairs of a date and a group of bands
        pair_T = _pairs(segment_T, hash_bits(whole["date"], whole["bands"]))
        first_T = rank_in_segment(pair_T, torch.bincount(pair_T)) == 0
        pairs_G = torch.bincount(segment_T[first_T], minlength=len(size_G)).double()
        masks = self.masks
        scale = masks.scale if self.fusion.together else 0.0
        ratio_T = (1 - (1 - masks.ratio) / pairs_G.pow(scale))[segment_T]
        order_T = rank_in_segment(segment_T, size_G)
        units = [
            Units(whole[kind], whole[f"may hide {kind}"] * chance)
            for kind, chance in (
                ("field", masks.field),
                ("bands", masks.bands),
                ("date", masks.date),
                ("place", masks.place),
            )
        ]
        keep_T = structured_keep(segment_T, code_T, order_T, units, ratio_T)
        return dict(zip(tokens, keep_T.split([len(t) for t in tokens.values()])))

    def places(self, tokens: Tokens) -> dict[str, Tensor]:
        """Rows, segments and units of the tokens of a source, on the CPU.

        Returns:
            Name -> (T,): int64 codes, and "may hide …", 0 or 1, of the kinds of units.
        """
        source = tokens.names[0]
        field, row = field_of(source), host_copy(tokens.row)
        modality, group = self.encoder.fields[field], self.fusion.groups[field]
        position = host_copy(tokens.position).float() + 0.0  # one zero, not two
        placed = modality.layout == "grid"
        bits = (position * placed).contiguous().view(torch.int32).long()
        code = torch.full_like(row, name_code(source))
        date, place = hash_bits(code, bits[:, 0]), hash_bits(code, bits[:, 1], bits[:, 2])
        bands = group_codes(self.encoder, tokens)
        together = self.fusion.together
        segment = torch.full_like(row, name_code(group)) if together else date
        fields = [f for f, of in self.fusion.groups.items() if of == group]
        number = date_numbers(tokens, (field,))
        dates = torch.bincount(row[rank_in_segment(number, torch.bincount(number)) == 0])
        may = {
            "field": torch.full_like(row, len(fields) > 1).float(),
            "bands": torch.full_like(row, len(modality.token_groups) > 1).float(),
            "date": (dates[row] > 1).float() * placed,
            "place": torch.full_like(row, placed).float(),
        }
        whole = {"row": row, "segment": segment, "field": code, "bands": bands, "date": date,
                 "place": place}  # fmt: skip
        return whole | {f"may hide {kind}": value * together for kind, value in may.items()}


def _pairs(one_T: Tensor, other_T: Tensor) -> Tensor:
    """(T,) int64, the number of the pair of two codes, of any numbers."""
    codes, number_T = torch.unique(other_T, return_inverse=True)
    return number_segments(one_T * len(codes) + number_T)[0]
