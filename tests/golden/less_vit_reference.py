"""The reference of LESS ViT, Si et al. 2025, arXiv:2503.12843, with the numbers of the authors'
program.

Of one record after the other. Attention over the grid of a record is one dense matrix, the
Kronecker product of that of its channels and that of its places.
"""

import math
import struct

import torch

from tests.golden import naive
from tests.golden.harness import Reference
from tests.golden.maestro_reference import Maestro
from tests.golden.transformers import attend, gelu, linear

CLS = "cls"
PIXELS = 6
"""Behind position, month, metres and wavelength."""


class Less(Reference):
    channel_width, rank, radius = 4, 1, 640.0
    place_ratio, channel_ratio, norm_pixels = 0.75, 0.5, False
    width, depth, decoder_channel_width = 32, 2, 4
    rasters: dict = {}
    """Name -> options of the field."""
    rescued: list
    """Records of which no token would be seen, were it not for one more place."""
    samples, cells = Maestro.samples, Maestro.cells

    def __init__(self, page):
        super().__init__(page)
        self.e = dict(self.encoder.named_parameters())
        self.heads, self.decoder_heads = self.encoder.num_heads, max(1, self.width // 32)

    def check_start(self):
        """Names and shapes of all that learns, and how it begins in the authors' program."""
        wide, tokens = self.encoder.width, [p for p in self.e if p.split(".")[-1].endswith("cls")]
        expected = {
            f"encoder.trunks.all.{n}": (wide,) for n in ("cls", "channel_cls", "spatial_cls")
        }
        assert {f"encoder.{n}" for n in tokens} == set(expected)
        expected |= {
            "encoder.trunks.all.norm.weight": (wide,),
            "encoder.trunks.all.norm.bias": (wide,),
        }
        for i in range(2):
            expected |= self.shapes(
                f"encoder.trunks.all.blocks.{i}", wide, self.heads, self.channel_width
            )
        for i in range(self.depth):
            expected |= self.shapes(
                f"decoder.blocks.{i}", self.width, self.decoder_heads, self.decoder_channel_width
            )
        marks = ("mask", "channel_mask", "spatial_mask")
        plain = [f"field.{f}" for f in self.encoder.fields if not self.has_waves(f)]
        expected |= {f"decoder.{n}": (self.width,) for n in (*marks, *plain)}
        expected |= {f"decoder.norm.{n}": (self.width,) for n in ("weight", "bias")}
        expected |= {
            "decoder.in_proj.weight": (self.width, wide),
            "decoder.in_proj.bias": (self.width,),
        }
        weights = {f"encoder.{n}": p for n, p in self.e.items()} | self.w
        found = {
            n: tuple(p.shape)
            for n, p in weights.items()
            if n.startswith(("encoder.trunks.", "decoder."))
        }
        assert found == expected
        for name in found:
            if name.endswith(".gain"):
                assert (weights[name] == 1).all(), name
            if name.split(".")[-1] in (CLS, "channel_cls", "spatial_cls", *marks):
                assert 0.01 < weights[name].std() < 0.03, name
            if name.endswith(".bias"):
                assert not weights[name].any(), name
            if weights[name].ndim == 2:  # Glorot and Bengio (2010)
                assert 0.7 < weights[name].abs().max() / (6 / sum(found[name])) ** 0.5 <= 1, name
        for f in self.encoder.fields:
            if self.has_waves(f):
                side, patch = 2 * wide, self.rasters[f]["patch"] ** 2
                assert self.e[f"tokenizers.{f}.up.weight"].shape == (side, patch)
                assert self.e[f"tokenizers.{f}.down.weight"].shape == (wide, side)
                assert self.w[f"predictors.{f}.weight"].shape == (patch, self.width)
                vector = self.e[f"field_token.{f}"]
                assert not vector.requires_grad and not vector.any()

    def shapes(self, name, width, heads, channel_width):
        """Of a block."""
        vectors = {
            f"{n}.{part}": (width,) for n in ("norm1", "norm2") for part in ("weight", "bias")
        }
        vectors |= {"scale1.gain": (width,), "scale2.gain": (width,)}
        sides = {"channel": channel_width, "place": width // heads // channel_width}
        linears = {
            "attention.out": (width, width),
            "up": (4 * width, width),
            "down": (width, 4 * width),
        }
        for side, each in sides.items():
            low, maps = heads * each, f"attention.{side}s"
            linears |= {
                f"{side}_pool.project": (low, width),
                f"{side}_pool.q": (low, low),
                f"{side}_pool.kv": (2 * low, low),
                f"{side}_pool.out": (low, low),
                f"{maps}.qk": (2 * low * self.rank, low),
                f"{maps}.v": (low, low),
            }
            for n in (f"{side}_pool.norm", f"{maps}.norm"):
                vectors |= {f"{n}.weight": (low,), f"{n}.bias": (low,)}
        for n, shape in linears.items():
            vectors |= {f"{n}.weight": shape, f"{n}.bias": shape[:1]}
        return {f"{name}.{n}": shape for n, shape in vectors.items()}

    def has_waves(self, field):
        return "wavelengths" in self.rasters.get(field, ())

    # the grid of a record

    def records(self, batch):
        """Of each row its cells."""
        rows: list = [[] for _ in range(batch.size)]
        for s, tokens in self.encoder.tokenize(batch).items():
            content, waves = tokens.x, [None] * len(tokens)
            if self.has_waves(s):
                flat = batch[s].values.flat
                pixels = torch.where(flat[:, PIXELS:].isnan(), 0.0, flat[:, PIXELS:])
                content = linear(self.e, f"tokenizers.{s}.up", pixels).clamp(min=0)
                content = linear(self.e, f"tokenizers.{s}.down", content)
                waves = flat[:, PIXELS - 1].tolist()
            for i, row in enumerate(tokens.row.tolist()):
                place = self.place(s, *tokens.position[i].tolist())
                rows[row].append(Cell(s, i, (s, waves[i]), place, content[i]))
        return rows

    def place(self, source, t, y, x):
        """Rasters with known metres lie on one ground; fields of one date do not count it."""
        kind = self.rasters.get(source)
        if kind is None:
            return source, 0.0, t, y, x
        metres = kind["patch"] * kind["resolution"]
        return 0 if metres else source, metres, t if "dates" in kind else 0.0, y, x

    def embedded(self, key, width):
        """The mean of the embeddings of a channel and a place; zeros for CLS."""
        channel, place = key
        made = torch.zeros(width, dtype=torch.float64)
        if channel != CLS and channel[1] is not None:
            made = made + sines(channel[1], width)
        if place != CLS:
            _, metres, t, y, x = place
            step = (metres or 160.0) / 16
            made = made + torch.cat([sines(x * step, width // 2), sines(y * step, width // 2)])
            made = made + sines(t, width) - sines(0.0, width)
        return made / 2

    # masks

    def draw(self, cells, seed):
        """What stays of channels, and of the places of each ground."""
        channels = {c.channel: signed(naive.bits(seed, 0, c.channel_code())) for c in cells}
        places = {c.place: signed(naive.bits(seed, 1, c.place_code())) for c in cells}
        order = sorted(channels, key=channels.get)
        count = max(math.floor(len(order) * (1 - self.channel_ratio) + 1e-9), 2)
        shown = set(order[:count])
        seen = set()
        for ground in {p[0] for p in places}:
            here = sorted((p for p in places if p[0] == ground), key=places.get)
            seen |= set(here[: max(math.floor(len(here) * (1 - self.place_ratio) + 1e-9), 1)])
        if not any(c.channel in shown and c.place in seen for c in cells):
            seen.add(min((c.place for c in cells if c.channel == order[0]), key=places.get))
            self.rescued.append(seed)
        for c in cells:
            c.channel_seen, c.place_seen = c.channel in shown, c.place in seen

    # networks

    def encode(self, cells):
        """The grid of these cells, and its states."""
        grid = Grid(cells)
        starts = {key: cell.content for key, cell in zip(map(Cell.key, cells), cells)}
        made = []
        for key in grid.keys:
            name = "cls" if key == (CLS, CLS) else "channel_cls" if key[0] == CLS else "spatial_cls"
            x = self.e[f"trunks.all.{name}"] if CLS in key else starts[key]
            made.append(x + self.embedded(key, self.encoder.width))
        x = torch.stack(made)
        for i in range(2):
            name = f"trunks.all.blocks.{i}"
            x = block(self.e, name, grid, x, self.heads, self.rank, self.radius)
        return grid, norm(self.e, "trunks.all.norm", x)

    def decode(self, cells, seen, states):
        """The states of all cells at the end of the decoder."""
        grid, made = Grid(cells), []
        states = linear(self.w, "decoder.in_proj", states)
        for key in grid.keys:
            name = "channel_mask" if key[0] == CLS else "spatial_mask" if key[1] == CLS else "mask"
            x = states[seen.numbers[key]] if key in seen.numbers else self.w[f"decoder.{name}"]
            if key[0] != CLS and key[0][1] is None:
                x = x + self.w[f"decoder.field.{key[0][0]}"]
            made.append(x + self.embedded(key, self.width))
        x = torch.stack(made)
        for i in range(self.depth):
            name = f"decoder.blocks.{i}"
            x = block(self.w, name, grid, x, self.decoder_heads, self.rank, self.radius)
        x = norm(self.w, "decoder.norm", x)
        return [x[grid.numbers[cell.key()]] for cell in cells]

    # losses

    def losses(self, batch):
        self.rescued = []
        errors = {kind: {s: [] for s in batch.columns} for kind in ("places", "channels")}
        targets = {s: self.targets(s, batch[s]) for s in batch.columns}
        for cells, seed in zip(self.records(batch), batch.seeds.tolist()):
            if not cells:
                continue
            self.draw(cells, seed)
            grid, states = self.encode([c for c in cells if c.place_seen and c.channel_seen])
            for cell, state in zip(cells, self.decode(cells, grid, states)):
                s = cell.source
                name = f"predictors.{s}{'.0' * (s == 'words')}"
                error = self.error(s, linear(self.w, name, state), targets[s][cell.number])
                if not cell.place_seen:
                    errors["places"][s].append(error)
                if not cell.channel_seen:
                    errors["channels"][s].append(error)
        terms = {}
        for kind, by_source in errors.items():
            sources = [s for s, found in by_source.items() if found]
            for s, found in by_source.items():
                zero = 0 * sum(p.sum() for p in self.parameters().values())
                terms[f"{kind}/{s}"] = torch.stack(found).mean() / len(sources) if found else zero
        return terms

    def targets(self, source, column):
        if source == "picture" and source not in self.rasters:
            pixels = (column.values.double() - 0.5) / 0.25
            size = pixels.shape[2]
            corners = [(y, x) for y in range(0, size, 8) for x in range(0, size, 8)]
            return [
                image[:, y : y + 8, x : x + 8].flatten() for image in pixels for y, x in corners
            ]
        if source == "words":
            texts = [text.tolist() for text in column.values.split()]
            return [text[i : i + 4] for text in texts for i in range(0, len(text), 4)]
        if source == "signal":
            return self.samples(column)
        if source == "facts":  # the columns of a token's cells, and their numbers or codes
            return self.encoder.fields["facts"].targets(column.values)
        return column.values.flat[:, PIXELS if self.has_waves(source) else 4 :]

    def error(self, source, guess, target):
        if source == "words":  # cross-entropy of bytes
            logits = guess.view(4, -1)
            return sum(r.logsumexp(0) - r[b] for r, b in zip(logits, target)) / len(target)
        if source == "facts":
            return self.cells(guess, *target.chunk(2))
        real = ~target.isnan()
        guess, target = guess[real], target[real]
        image = source == "picture" and source not in self.rasters
        if image or (self.norm_pixels and source != "signal"):
            gaps = target - target.mean()
            # one pixel has no variance
            target = gaps / ((gaps**2).sum() / max(len(gaps) - 1, 1) + 1e-6).sqrt()
        return ((guess - target) ** 2).mean()


class Cell:
    """A token: its channel, and its place (ground, metres, date, row, column)."""

    def __init__(self, source, number, channel, place, content):
        self.source, self.number, self.channel, self.place = source, number, channel, place
        self.content, self.place_seen, self.channel_seen = content, True, True

    def key(self):
        return self.channel, self.place

    def channel_code(self):
        return naive.bits(naive.code(self.source), single(self.channel[1] or 0.0))

    def place_code(self):
        ground = naive.code(self.place[0]) if isinstance(self.place[0], str) else 0
        return naive.bits(ground, *map(single, self.place[1:]))


class Grid:
    """Cells that exist, and a CLS token for each channel, each place and the record."""

    def __init__(self, cells):
        self.channels = [CLS, *dict.fromkeys(c.channel for c in cells)]
        self.places = [CLS, *dict.fromkeys(c.place for c in cells)]
        self.keys = [(c, CLS) for c in self.channels] + [(CLS, p) for p in self.places[1:]]
        self.keys += [c.key() for c in cells]
        self.numbers = {key: i for i, key in enumerate(self.keys)}
        assert len(self.numbers) == len(self.keys)

    def lines(self, axis):
        """Of each channel, or each place, the number of its CLS token and those of its cells."""
        for end in (self.channels, self.places)[axis]:
            first = (end, CLS) if axis == 0 else (CLS, end)
            yield self.numbers[first], [i for key, i in self.numbers.items() if key[axis] == end]

    def near(self, radius):
        """(places, places), which attend to which."""
        see = torch.ones(len(self.places), len(self.places), dtype=torch.bool)
        for i, a in enumerate(self.places):
            for j, b in enumerate(self.places):
                if radius and CLS not in (a, b) and a[0] == b[0] and a[1] and b[1]:
                    gaps = [(u + 0.5) * a[1] - (v + 0.5) * b[1] for u, v in zip(a[3:], b[3:])]
                    see[i, j] = gaps[0] ** 2 + gaps[1] ** 2 <= radius**2
        return see

    def dense(self):
        """The number of each cell in the grid of all channels and places."""
        width = len(self.places)
        return [self.channels.index(c) * width + self.places.index(p) for c, p in self.keys]


def norm(w, name, x):
    """LayerNorm with the epsilon of the authors."""
    x = x - x.mean(-1, keepdim=True)
    x = x / ((x**2).mean(-1, keepdim=True) + 1e-6).sqrt()
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def pooled(w, name, x, lines, heads):
    """Of each line its CLS token, and what that reads of the line."""
    x = linear(w, f"{name}.project", x)
    normed = norm(w, f"{name}.norm", x)
    q, (k, v) = linear(w, f"{name}.q", normed), linear(w, f"{name}.kv", normed).chunk(2, 1)
    made = []
    for first, line in lines:
        read = attend(q[first : first + 1], k[line], v[line], heads)
        made.append(x[first : first + 1] + linear(w, f"{name}.out", read))
    return torch.cat(made)


def maps(w, name, x, heads, rank, see=None):
    """Matrices [head][rank], and values [head]."""
    x = norm(w, f"{name}.norm", x)
    values = linear(w, f"{name}.v", x).chunk(heads, 1)
    q, k = (part.chunk(heads * rank, 1) for part in linear(w, f"{name}.qk", x).chunk(2, 1))
    made = []
    for a, b in zip(q, k):
        logits = a @ b.T / math.sqrt(a.shape[1])
        made.append(
            torch.softmax(logits if see is None else logits.masked_fill(~see, -math.inf), 1)
        )
    return [made[h * rank : (h + 1) * rank] for h in range(heads)], values


def block(w, name, grid, x, heads, rank, radius):
    normed = norm(w, f"{name}.norm1", x)
    channels = pooled(w, f"{name}.channel_pool", normed, grid.lines(0), heads)
    places = pooled(w, f"{name}.place_pool", normed, grid.lines(1), heads)
    of_channels, u = maps(w, f"{name}.attention.channels", channels, heads, rank)
    of_places, v = maps(w, f"{name}.attention.places", places, heads, rank, grid.near(radius))
    read = [
        sum(torch.kron(a, b) for a, b in zip(of_channels[h], of_places[h])) @ torch.kron(u[h], v[h])
        for h in range(heads)
    ]
    read = torch.cat(read, 1)[grid.dense()]
    x = x + w[f"{name}.scale1.gain"] * linear(w, f"{name}.attention.out", read)
    inner = gelu(linear(w, f"{name}.up", norm(w, f"{name}.norm2", x)))
    return x + w[f"{name}.scale2.gain"] * linear(w, f"{name}.down", inner)


def sines(value, width):
    """Sines, then cosines, at width / 2 rates."""
    angles = [value / 10000 ** (k / (width / 2)) for k in range(width // 2)]
    return torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)


def signed(value):
    return value - 2**64 if value >= 2**63 else value


def single(x):
    """The bits of a number in single precision."""
    return struct.unpack("<i", struct.pack("<f", x + 0.0))[0]


def less_vit(**options):
    """options: Of the page, and `rasters`, name -> options of the field."""
    named = {"decoder_width": "width", "decoder_depth": "depth"}
    return type("Less", (Less,), {named.get(n, n): v for n, v in options.items()})
