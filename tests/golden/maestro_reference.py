"""The reference of MAESTRO, Labatie et al. 2025, arXiv:2508.10894, section 3, with the masks, the
normalisation and the weights of losses of the authors' program.

Of one record after the other, with its tokens in lists.
"""

import math
import struct

import torch

from tests.golden import naive
from tests.golden.harness import Reference
from tests.golden.transformers import block, linear, norm

GRIDS = ("optical", "radar", "thermal", "picture")
BANDS = {"optical": "rgn", "radar": ("vv", "vh"), "thermal": "t", "picture": "abc"}
TRIES = 64


class Maestro(Reference):
    fusion = "group"
    together: tuple = ()
    """Fields of each group of more than one."""
    joint_depth, blocks = 1, 2
    ratio, ratio_scale = 0.75, 0.0
    hide_field, hide_bands, hide_date, hide_place = 0.25, 0.0, 0.25, 0.25
    parts: object = "patch"
    """Or field -> lists of bands."""
    error = "l1"
    width, depth, decoder_heads = 32, 1, 1
    grouped: dict = {}

    def __init__(self, page):
        super().__init__(page)
        self.e = {
            n.removeprefix("trunks.all."): p
            for n, p in self.encoder.named_parameters()
            if n.startswith("trunks.all.")
        }
        self.heads = self.encoder.num_heads
        self.by_date = self.fusion in ("shared", "monotemp")

    def group_of(self, field):
        """By the first of its fields."""
        if self.fusion == "shared":
            return "all"
        return next((g[0] for g in self.together if field in g), field)

    def check_start(self):
        """A tower and a decoder for each group; mask tokens of each group of bands."""
        fields = list(self.encoder.fields)
        groups = {self.group_of(f) for f in fields}
        alone, joint = self.blocks - self.joint_depth, self.joint_depth
        towers = {f"towers.{g}": alone for g in groups} | ({"joint.all": joint} if joint else {})
        assert {".".join(n.split(".")[:2]) for n in self.e} == set(towers)
        for name, count in towers.items():
            found = {n.split(".")[3] for n in self.e if n.startswith(f"{name}.blocks.")}
            assert found == set(map(str, range(count))), name
            assert f"{name}.norm.weight" in self.e
        assert {n.split(".")[1] for n in self.w if n.startswith("decoders.")} == groups
        for field in fields:
            name = f"decoders.{self.group_of(field)}"
            bands = (len(self.grouped[field]),) if field in self.grouped else ()
            shapes = {"in_proj.weight": (self.width, self.encoder.width)}
            shapes |= {f"mask.{field}": (*bands, self.width), f"field.{field}": (self.width,)}
            self.assert_shapes(
                **{f"{name}.{n}".replace(".", "__"): shape for n, shape in shapes.items()}
            )
            for part in ("mask", "field"):
                assert 0.012 < self.w[f"{name}.{part}.{field}"].std() < 0.03
            assert f"{name}.trunk.blocks.{self.depth - 1}.up.weight" in self.w
            assert f"{name}.trunk.blocks.{self.depth}.up.weight" not in self.w

    def losses(self, batch):
        tokens = self.encoder.tokenize(batch)
        segments = self.segments(tokens, batch.seeds.tolist())
        for segment in segments:
            self.mask(segment)
        self.encode(tokens, segments)
        errors = {s: [] for s in tokens}
        targets = {s: self.targets(s, batch[s]) for s in tokens}
        for segment in segments:
            for token, guess in self.decode(tokens, segment):
                s = token.source
                guess = linear(self.w, f"predictors.{s}{'.0' * (s == 'words')}", guess)
                errors[s].append(self.errors(s, guess, targets[s][token.number]))
        # modalities count by their dates and places, however many groups of bands they have
        weight = {s: len(tokens[s]) / len(self.grouped.get(s, "1")) for s in tokens if errors[s]}
        terms = {}
        for s in tokens:
            zero = 0 * sum(p.sum() for p in self.w.values() if p.requires_grad)
            mean = torch.cat(errors[s]).mean() if errors[s] else zero
            terms[f"reconstruct/{s}"] = mean * weight.get(s, 0) / max(sum(weight.values()), 1e-9)
        return terms

    # masks

    def segments(self, tokens, seeds):
        """Tokens that one encoder sees: of a row and a group, or a row, a field and a date."""
        made = {}
        for row, seed in enumerate(seeds):
            for s, t in tokens.items():
                present = (t.row == row).nonzero()[:, 0].tolist()
                here = [Token(s, t, i, self.grouped.get(s)) for i in present]
                dates = len({token.date for token in here})
                for token in here:
                    token.dates = dates
                    group = self.group_of(s)
                    code = token.date if self.by_date else naive.code(group)
                    place = made.setdefault((row, group, code), Segment(row, group))
                    place.seed = naive.bits(seed, code)
                    place.tokens.append(token)
        return list(made.values())

    def chances(self, token):
        """Of its field, bands, date and place, where there are others of the kind."""
        if self.by_date:
            return (0, 0, 0, 0)
        grid = token.source in GRIDS
        return (
            self.hide_field * any(token.source in g for g in self.together),
            self.hide_bands * (len(self.grouped.get(token.source, ())) > 1),
            self.hide_date * (grid and token.dates > 1),
            self.hide_place * grid,
        )

    def mask(self, segment):
        """Units first, as they are drawn until they leave something; then tokens."""
        hidden = [False] * len(segment.tokens)
        for attempt in range(TRIES):
            drawn = [
                any(
                    naive.uniform(segment.seed, 0, kind, attempt, code) < chance
                    for kind, (code, chance) in enumerate(zip(token.units(), self.chances(token)))
                )
                for token in segment.tokens
            ]
            if not all(drawn):
                hidden = drawn
                break
        pairs = len({(t.date, t.bands) for t in segment.tokens})
        # one date at a time has the ratio as it is
        left = (1 - self.ratio) / pairs ** (0 if self.by_date else self.ratio_scale)
        count = max(1, round(len(hidden) * left + 1e-9))
        order = sorted(
            range(len(hidden)), key=lambda i: (hidden[i], signed(naive.bits(segment.seed, 1, i)))
        )
        for i, token in enumerate(segment.tokens):
            token.seen = i in order[:count]

    # networks

    def tower(self, name, x):
        for i in range(self.blocks):
            if f"{name}.blocks.{i}.up.weight" in self.e:
                x = block(self.e, f"{name}.blocks.{i}", x, self.heads)
        return norm(self.e, f"{name}.norm", x)

    def encode(self, tokens, segments):
        """What is seen, group by group, and in the last blocks all groups of a row together."""
        for segment in segments:
            x = torch.stack([tokens[t.source].x[t.number] for t in segment.tokens if t.seen])
            segment.states = self.tower(f"towers.{segment.group}", x)
        for row in {s.row for s in segments} if self.joint_depth else ():
            here = [s for s in segments if s.row == row]
            x = self.tower("joint.all", torch.cat([s.states for s in here]))
            for segment, states in zip(here, x.split([len(s.states) for s in here])):
                segment.states = states

    def decode(self, tokens, segment):
        """Each hidden token with its state at the end of the decoder of the group."""
        name = f"decoders.{segment.group}"
        seen = [t for t in segment.tokens if t.seen]
        hidden = [t for t in segment.tokens if not t.seen]
        if not hidden:
            return []
        masks = [self.w[f"{name}.mask.{t.source}"] for t in hidden]
        masks = [m[t.band_group] if t.source in self.grouped else m for m, t in zip(masks, hidden)]
        x = torch.cat([linear(self.w, f"{name}.in_proj", segment.states), torch.stack(masks)])
        fields = [self.w[f"{name}.field.{t.source}"] for t in seen + hidden]
        x = x + torch.stack(fields) + self.places(tokens, seen + hidden)
        for i in range(self.depth):
            x = block(self.w, f"{name}.trunk.blocks.{i}", x, self.decoder_heads)
        return list(zip(hidden, norm(self.w, f"{name}.trunk.norm", x)[len(seen) :]))

    def places(self, tokens, chosen):
        """A quarter of the width each for time, height, width (in steps of ten metres) and month."""
        made, count = [], self.width // 8
        # in single precision, and angles in that of the coordinates; an encoder has one for all
        rates = torch.tensor(1e4) ** -(torch.arange(count) / count)
        for token in chosen:
            t, i = tokens[token.source], token.number
            mates = [tokens[s].position[:1] for s in tokens if token.seen and self.meet(s, token)]
            position = torch.cat([t.position[i : i + 1], *mates])[0]
            scale = float(t.attributes["metres"][i]) / 10 if "metres" in t.attributes else 1.0
            steps = position * position.new_tensor([1.0, scale, scale])
            angle = (steps[:, None] * rates).flatten()
            month = torch.zeros(2, dtype=angle.dtype)
            if "date" in t.attributes and not t.attributes["date"][i].isnan():
                turn = 2 * torch.pi * t.attributes["date"][i] / 12
                month = torch.stack([turn.sin(), turn.cos()])
            made.append(torch.cat([angle.sin(), angle.cos(), month.repeat_interleave(count)]))
        return torch.stack(made)

    def meet(self, source, token):
        """Whether tokens of a source enter an encoder with this one."""
        same = self.group_of(source) == self.group_of(token.source)
        return bool(self.joint_depth) or (same and self.fusion == "group")

    # targets

    def targets(self, source, column):
        """Of each token."""
        if source == "picture" and source not in self.grouped:
            pixels = (column.values.double() - 0.5) / 0.25
            return [
                image[:, i : i + 8, j : j + 8].flatten()
                for image in pixels
                for i in range(0, image.shape[1], 8)
                for j in range(0, image.shape[2], 8)
            ]
        if source == "words":
            texts = [text.tolist() for text in column.values.split()]
            return [text[i : i + 4] for text in texts for i in range(0, len(text), 4)]
        if source == "signal":
            return self.samples(column)
        if source == "facts":  # the columns of a token's cells, and their numbers or codes
            return self.encoder.fields["facts"].targets(column.values)
        return column.values.flat[:, 4:]  # behind place and month

    def samples(self, column):
        series, made = self.encoder.fields["signal"], []
        mean, std = (torch.tensor(v).double() for v in series.scale())
        for value in column.values.split():
            x = (value.double() - mean) / std
            x = torch.nn.functional.pad(x, (0, 0, 0, -len(x) % series.patch), value=math.nan)
            made.append(x.reshape(-1, series.patch * x.shape[1]))
        return torch.cat(made)

    def errors(self, source, guess, target):
        """Of each pixel of a patch that exists, or one of a token of something else."""
        if source == "words":  # cross-entropy of bytes
            logits = guess.view(4, -1)
            each = [row.logsumexp(0) - row[byte] for row, byte in zip(logits, target)]
            return torch.stack([sum(each) / len(each)])
        if source == "facts":
            return self.cells(guess, *target.chunk(2))[None]
        real = ~target.isnan()
        if source == "signal":
            return ((guess - target)[real] ** 2).mean()[None]
        target = target.clone()
        for part in self.values_of_parts(source, len(target)):
            at = [i for i in part if real[i]]
            if at:
                x = target[at]
                var = ((x - x.mean()) ** 2).sum() / max(len(x) - 1, 1)
                target[at] = (x - x.mean()) / (var + 1e-6).sqrt()
        gap = (guess - target)[real]
        return gap.abs() if self.error == "l1" else gap**2

    def cells(self, guess, columns, values):
        """Mean error of a token's cells: squared, or the cross-entropy of a code in its column."""
        sizes, each = self.encoder.fields["facts"].num_codes(), []
        for column, value in zip(columns.tolist(), values.tolist()):
            if math.isnan(value):
                continue
            column = int(column)
            if sizes[column]:
                first = len(sizes) + sum(sizes[:column])
                logits = guess[first : first + sizes[column]]
                each.append(logits.logsumexp(0) - logits[int(value)])
            else:
                each.append((guess[column] - value) ** 2)
        return sum(each) / len(each)

    def values_of_parts(self, source, count):
        """Numbers of the values that are standardised together. Pictures are one part."""
        if self.parts == "none":
            return []
        if source == "picture" and source not in self.grouped:
            return [range(count)]
        bands = list(BANDS[source])
        size = count // len(bands)
        parts = [bands] if self.parts == "patch" else [[b] for b in bands]
        if isinstance(self.parts, dict):
            parts = [list(p) for p in self.parts.get(source, ())]
            parts.append([b for b in bands if not any(b in p for p in parts)])
        return [[bands.index(b) * size + i for b in part for i in range(size)] for part in parts]


class Token:
    """Its field, its number there, and the codes of what it is of."""

    def __init__(self, source, tokens, number, names):
        self.source, self.number, self.seen, self.dates = source, number, True, 0
        self.band_group = int(tokens.attributes["group"][number]) if names else 0
        on_grid = source in GRIDS
        date, y, x = (single(p * on_grid) for p in tokens.position[number].tolist())
        code = naive.code(source)
        self.field = code
        self.bands = naive.code(f"{source}.{names[self.band_group]}") if names else code
        self.date, self.place = naive.bits(code, date), naive.bits(code, y, x)

    def units(self):
        return self.field, self.bands, self.date, self.place


class Segment:
    def __init__(self, row, group):
        self.row, self.group, self.seed, self.tokens, self.states = row, group, 0, [], None


def signed(value):
    return value - 2**64 if value >= 2**63 else value


def single(x):
    """The bits of a number in single precision."""
    return struct.unpack("<i", struct.pack("<f", x))[0]


def maestro(**options):
    return type("Maestro", (Maestro,), options)
