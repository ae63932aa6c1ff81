"""DINOv3, Siméoni et al. 2025, arXiv:2508.10104: sections 3.2 (losses and positions) and 4.2 to 4.4
(Gram anchoring)."""

import contextlib
import math

import pytest
import torch
from torch import nn

from amodal import methods
from amodal.core import AmodalError, Recipe
from amodal.nn.encoder import Encoder
from tests.golden import naive
from tests.golden.harness import defaults, golden, unit
from tests.golden.masked_distillation import LAYOUT, MaskedDistillation
from tests.methods.bench import batch, exact, fields, method

VIEWS = ("dinov3", "dinov3_solarized", "dinov3_local")
TWICE = ("dinov3_half", "dinov3_half_solarized", "dinov3_quarter",
         "dinov3_gram", "dinov3_gram_solarized")  # fmt: skip
SMALL = {
    "prototypes": 7,
    "patch_prototypes": 5,
    "local_views": 1,
    "koleo_group": 3,
    "gram_start": 0.25,
    "gram_snapshot": 0.25,
}
"""Of four steps the first is without Gram anchoring and the second has it."""
FROM_THE_START = {"gram_start": 0.0, "gram_snapshot": 0.0}


def layer_norm(x, weight, bias):
    mean = x.mean(1, keepdim=True)
    variance = ((x - mean) ** 2).mean(1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def cubic(distance):
    """Keys 1981 with a = -3/4."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def resampling(count, wanted):
    """(wanted, count): what each new place takes of each old one; at borders the last repeats."""
    weights = torch.zeros(wanted, count, dtype=torch.float64)
    for i in range(wanted):
        centre = (i + 0.5) * count / wanted - 0.5
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            weights[i, min(max(j, 0), count - 1)] += cubic(centre - j)
    return weights


def sides(position):
    """Rows and columns of a grid of patches."""
    return len(position[:, 1].unique()), len(position[:, 2].unique())


class DINOv3(MaskedDistillation):
    teacher_temperature = patch_temperature = 0.07
    teacher_warmup, fixed_prototypes, iterations = 0.08, 0.004, 3
    shared_head, momentum, registers, local_norm = False, 0.994, 4, True
    patch_hidden, patch_bottleneck = 256, 64
    cls_weight, koleo_weight, koleo_group = 1.0, 0.1, 16
    gram_weight, gram_scale, clamp_negative, gram_local_weight = 2.0, 1, False, 0.5
    gram_snapshot, gram_start, gram_every, gram_updates = 0.17, 0.83, 10000, 3
    gram_momentum, layer_scale = 0.999, 0.0

    def __init__(self, page):
        super().__init__(page)
        self.gram_teacher = self.add_network("gram_teacher") if self.gram_weight else None
        self.anchored = self.gram_snapshot <= 0
        self.refining = self.gram_start <= 0 and self.gram_weight > 0
        self.refined = 0
        self.read = 2 + self.local_views

    def check_start(self):
        """Section 4.2: the Gram teacher is the teacher of some moment; before it, the student."""
        super().check_start()
        assert self.encoder.pool_name == "cls" and self.encoder.positions == "axial:rescale=2"
        assert not any("center" in name for name in self.w)
        if self.gram_teacher is not None:
            for key, value in self.gram_teacher.state_dict().items():
                assert torch.equal(value, self.encoder.state_dict()[key]), key
        else:
            assert not any(name.startswith("gram_teacher") for name in self.w)
        for network in (self.encoder, self.teacher):
            found = {n for n in network.state_dict() if n.endswith(".registers")}
            wanted = {f"pools.{f}.registers" for f in self.fields} if self.registers else set()
            assert found == wanted
            assert all(len(network.state_dict()[n]) == self.registers for n in found)
            scales = [
                v for n, v in network.state_dict().items() if ".scale1." in n or ".scale2." in n
            ]
            assert bool(scales) is bool(self.layer_scale)
            assert all(bool((v == self.layer_scale).all()) for v in scales)
        norms = {n: value for n, value in self.w.items() if n.startswith("local_norms.")}
        wanted = {f"local_norms.{f}.{p}" for f in self.fields for p in ("weight", "bias")}
        assert set(norms) == (wanted if self.local_norm and self.local_views else set())
        for name, value in norms.items():
            assert value.shape == (self.encoder.width,) and value.requires_grad
            assert bool((value == name.endswith("weight")).all()), name
        self.assert_shapes(
            patch_heads__picture__mlp__0__weight=(self.patch_hidden, self.encoder.width),
            patch_heads__picture__mlp__4__weight=(self.patch_bottleneck, self.patch_hidden),
            patch_heads__picture__prototypes=(self.patch_prototypes, self.patch_bottleneck),
        )
        for name, value in self.flags().items():
            assert self.w[name].dtype == value.dtype and torch.equal(self.w[name], value), name
        assert self.w["progress"] == 0

    def flags(self):
        return {
            "anchored": torch.tensor(self.anchored),
            "refining": torch.tensor(self.refining),
            "refined": torch.tensor(self.refined),
        }

    def encoded(self, tokens, norms):
        """Tokens after the student's blocks, with a final LayerNorm that is written out.

        norms: field -> weight and bias.
        """
        trunks = self.encoder.trunks
        final = {field: trunk.norm for field, trunk in trunks.items()}
        with contextlib.ExitStack() as stack:
            for field, trunk in trunks.items():
                stack.callback(setattr, trunk, "norm", final[field])
                trunk.norm = nn.Identity()
            bare = self.encoder.encode(tokens)
        return {
            s: part.with_x(layer_norm(part.x, *norms[s.partition(":")[0]]))
            for s, part in bare.items()
        }

    def patches(self, tokens):
        """Without the class token and the registers, which come first."""
        return tokens.keep(tokens.within() > self.registers)

    def losses(self, batch):
        views = {f: [f"{f}:{i + 1}" for i in range(self.read)] for f in self.fields}
        large = [s for f in self.fields for s in views[f][:2]]
        small = [s for f in self.fields for s in views[f][2:]]
        content = self.encoder.patchify(batch.only(*large, *small))
        hidden = {s: self.hide(s, content[s], batch.seeds) for s in large}
        for s in large:
            mask = self.w[f"mask.{s.partition(':')[0]}"]
            x = [mask if h else x for h, x in zip(hidden[s].tolist(), content[s].x)]
            content[s] = content[s].with_x(torch.stack(x) if x else content[s].x)
        shown = {s: self.encoder.add_positions(tokens) for s, tokens in content.items()}
        norms = {f: (t.norm.weight, t.norm.bias) for f, t in self.encoder.trunks.items()}
        states = self.encoded({s: shown[s] for s in large}, norms)
        if self.local_norm and self.local_views:
            norms = {
                f: (self.w[f"local_norms.{f}.weight"], self.w[f"local_norms.{f}.bias"])
                for f in self.fields
            }
        if small:
            states |= self.encoded({s: shown[s] for s in small}, norms)
        first = {s: t.x[t.within() == 0] for s, t in states.items()}
        with torch.no_grad():
            whole = self.teacher.encode(self.teacher.tokenize(batch.only(*large)))
            anchor = self.anchors(batch) if self.refining else None
        fixed, terms = self.done < self.fixed_prototypes, {}
        for f in self.fields:
            two = views[f][:2]
            s = [self.head(f"heads.{f}", first[v], fixed) for v in views[f]]
            bare = [self.patches(states[v]) for v in two]
            guess = [
                self.head(f"patch_heads.{f}", t.x[hidden[v]], fixed) for v, t in zip(two, bare)
            ]
            with torch.no_grad():
                t = [whole[v].x[whole[v].within() == 0] for v in two]
                p = self.balanced([self.head(f"teacher_heads.{f}", x) for x in t])
                t = [self.patches(whole[v]).x[hidden[v]] for v in two]
                q = self.balanced([self.head(f"teacher_patch_heads.{f}", x) for x in t])
            terms[f"cls/{f}"] = self.cls_weight * self.cross_views(s, p)
            rows = [t.row[hidden[v]] for v, t in zip(two, bare)]
            patch = sum(self.masked_mean(guess[v], q[v], rows[v], len(s[v])) for v in range(2))
            terms[f"patch/{f}"] = self.patch_weight * patch / 2
            terms[f"koleo/{f}"] = self.koleo_weight * sum(self.koleo(first[v]) for v in two)
            if self.refining:
                terms[f"gram/{f}"] = self.gram_weight * self.gram(bare, anchor[f], f)
        return {name: term / len(self.fields) for name, term in terms.items()}

    def balanced(self, logits):
        """Sinkhorn-Knopp of two crops together: each prototype gets 1 / K of the mass, then each
        sample 1 / N."""
        q = torch.exp(torch.cat(logits) / self.now(self.teacher_temperature))
        for _ in range(self.iterations):
            for k in range(q.shape[1]):
                q[:, k] = q[:, k] / q[:, k].sum() / q.shape[1]
            for i in range(len(q)):
                q[i] = q[i] / q[i].sum() / len(q)
        return (q * len(q)).split([len(x) for x in logits])

    def cross_views(self, student, targets):
        """Section 3.2; pairs with local crops count less where Gram anchoring is (section 4.3)."""
        total, pairs = 0, 0
        for i, p in enumerate(targets):
            for j, s in enumerate(student):
                if i == j:
                    continue
                entropy = 0 * s.sum()
                for row in range(len(s)):
                    scores = s[row] / self.temperature
                    log = scores - scores.exp().sum().log()
                    entropy = entropy - (p[row] * log).sum() / len(s)
                share = self.gram_local_weight if self.refining and j >= 2 else 1.0
                total, pairs = total + share * entropy, pairs + 1
        return total / pairs

    def koleo(self, x):
        """Within groups of the rows in their order, as even as can be, and none of a row alone."""
        total, start = 0 * x.sum(), 0
        groups = min(math.ceil(len(x) / self.koleo_group), len(x) // 2)
        for g in range(groups):
            size = len(x) // groups + (g < len(x) % groups)
            z = [vector / (vector * vector).sum().sqrt() for vector in x[start : start + size]]
            start += size
            for i in range(size):
                gaps = [((z[i] - z[j] + 1e-8) ** 2).sum().sqrt() for j in range(size) if j != i]
                total = total - (min(gaps) + 1e-8).log() / len(x)
        return total

    def larger(self, field):
        """Whether the Gram teacher reads crops of its own, as of pictures alone."""
        return self.gram_scale == 2 and LAYOUT.get(field) == "grid"

    def anchors(self, batch):
        """Field -> what the Gram teacher makes of the patches of both crops."""
        first = {f: self.read if self.larger(f) else 0 for f in self.fields}
        sources = {f: [f"{f}:{first[f] + i + 1}" for i in range(2)] for f in self.fields}
        flat = [s for both in sources.values() for s in both]
        whole = self.gram_teacher.encode(self.gram_teacher.tokenize(batch.only(*flat)))
        return {f: [self.patches(whole[s]) for s in both] for f, both in sources.items()}

    def gram(self, student, anchor, field):
        """Section 4.2, equation 2: cosines of all pairs of patches of a picture, mean over P^2."""
        total, pictures = sum(0 * part.x.sum() for part in student), 0
        for mine, other in zip(student, anchor):
            assert sorted(set(mine.row.tolist())) == sorted(set(other.row.tolist()))
            for row in sorted(set(mine.row.tolist())):
                x, y = mine.x[mine.row == row], other.x[other.row == row]
                if self.larger(field):
                    y = self.resized(y, other, mine, row)
                x, y, gap = unit(x), unit(y), 0
                assert len(x) == len(y)
                for i in range(len(x)):
                    a, b = (x[i] * x).sum(1), (y[i] * y).sum(1)
                    if self.clamp_negative:
                        a, b = a * (a > 0), b * (b > 0)
                    gap = gap + ((a - b) ** 2).sum()
                total, pictures = total + gap / len(x) ** 2, pictures + 1
        return total / max(pictures, 1)

    def resized(self, y, large, small, row):
        """Section 4.3: the map of twice the resolution at the student's, by bicubic weights."""
        high, wide = sides(large.position[large.row == row])
        rows, columns = sides(small.position[small.row == row])
        assert (high, wide) == (2 * rows, 2 * columns), (high, wide, rows, columns)
        grid = y.view(high, wide, -1)
        down, across = resampling(high, rows), resampling(wide, columns)
        return torch.stack([
            sum(down[i, a] * across[j, b] * grid[a, b] for a in range(high) for b in range(wide))
            for i in range(rows)
            for j in range(columns)
        ])  # fmt: skip

    def after_step(self, step, steps):
        """Momentum is constant, and another while refining; the Gram teacher is taken from the
        teacher, and again after so many steps of refinement (section 4.2)."""
        m = self.gram_momentum if self.refining else self.momentum
        with torch.no_grad():
            for t, s in zip(self.teacher.parameters(), self.encoder.parameters()):
                t.copy_(m * t + (1 - m) * s)
            for name in [n for n in self.w if n.startswith("teacher_")]:
                self.w[name] = m * self.w[name] + (1 - m) * self.w[name.removeprefix("teacher_")]
        self.refined += self.refining
        self.done = step / steps
        self.w["progress"] = torch.tensor(self.done, dtype=self.w["progress"].dtype)
        due = self.gram_every > 0 and self.refined % max(self.gram_every, 1) == 0
        first = not self.anchored and self.done >= self.gram_snapshot
        refresh = self.refining and due and self.refined <= self.gram_every * self.gram_updates
        if self.gram_teacher is not None and (first or refresh):
            self.gram_teacher.load_state_dict(self.teacher.state_dict())
            self.anchored = True
        self.refining = self.done >= self.gram_start and self.gram_weight > 0
        self.w |= self.flags()


def two_steps(views=VIEWS, names=("picture", "signal"), rows=6, **options):
    options = SMALL | options
    reference = type("DINOv3", (DINOv3,), dict(options))
    golden("dinov3", reference, views=views, fields=names, rows=rows, tolerance=1e-10, **options)


@pytest.mark.parametrize("options", [
    {},
    # the first stage alone; the Gram teacher is taken after step 1, and not after step 2
    {"gram_start": 0.83, "gram_snapshot": 0.17},
    {"gram_start": 0.5, "gram_snapshot": 0.5, "koleo_group": 2},
    # the Gram teacher is the encoder as it began
    {"gram_snapshot": 0.0},
    FROM_THE_START,
    FROM_THE_START | {"gram_every": 1, "gram_updates": 1},
    FROM_THE_START | {"gram_every": 1, "gram_updates": 2},
    FROM_THE_START | {"gram_every": 2, "gram_updates": 1, "gram_local_weight": 0.0},
    FROM_THE_START | {"gram_every": 0, "gram_updates": 5, "gram_momentum": 0.7},
    # it is taken, and never refreshed
    {"gram_snapshot": 0.25, "gram_every": 1, "gram_updates": 0},
    {"gram_weight": 0.0},
    FROM_THE_START | {"gram_weight": 0.0, "gram_every": 1},
    FROM_THE_START | {"local_norm": False},
    FROM_THE_START | {"registers": 0},
    FROM_THE_START | {"registers": 1, "local_views": 2, "gram_local_weight": 0.3},
    {
        "temperature": 0.3,
        "teacher_temperature": 0.2,
        "teacher_start": 0.1,
        "teacher_warmup": 0.5,
        "fixed_prototypes": 0.0,
        "cls_weight": 0.7,
        "koleo_weight": 0.5,
        "iterations": 1,
        "momentum": 0.6,
        "gram_weight": 0.4,
        "gram_momentum": 0.8,
    },
    {
        "masked": 1.0,
        "ratio_low": 0.3,
        "ratio_high": 0.4,
        "patch_weight": 2.0,
        "teacher_warmup": 0.0,
        "fixed_prototypes": 0.3,
        "hidden": 32,
        "bottleneck": 8,
        "patch_hidden": 24,
        "patch_bottleneck": 6,
        "koleo_group": 16,
        "layer_scale": 0.125,
    },
])  # fmt: skip
def test_two_steps(options, larger_pictures):
    views = VIEWS[:2] + VIEWS[2:] * options.get("local_views", 1)
    two_steps(views, **options)


def test_negative_cosines_are_nothing(larger_pictures):
    two_steps(clamp_negative=True, **FROM_THE_START)


@pytest.mark.parametrize("local_views", [0, 1])
@pytest.mark.parametrize("options", [{}, FROM_THE_START | {"gram_every": 1, "masked": 0.9}])
def test_a_gram_teacher_of_twice_the_resolution(local_views, options, larger_pictures):
    views = TWICE[:2] + TWICE[2:3] * local_views + TWICE[3:]
    two_steps(views, gram_scale=2, local_views=local_views, **options)


def test_two_steps_of_other_fields_and_without_local_views():
    options = FROM_THE_START | {"local_views": 0, "masked": 0.8}
    two_steps(VIEWS[:2], ("picture", "words", "facts"), **options)


@pytest.mark.parametrize("rows", [1, 2])
def test_no_picture_and_one(rows):
    two_steps(names=("picture",), rows=rows, **FROM_THE_START)


def boxed(position, axes, seed, source, shift, jitter, rescale):
    """Coordinates of the patches of one crop: a box from -1 to 1 along each axis, which draws move
    and stretch. Without a seed it stays as it is.

    position: of its patches. axes: those that the field has, 0 time, 1 height, 2 width.
    """
    patches = [[] for _ in position]
    for axis in axes:
        drawn = [0.0] * 3
        if seed is not None:
            box = naive.code(f"box of {source}")
            drawn = [2 * naive.uniform(seed, box, n) - 1 for n in (axis, 3 + axis, 6)]
        line = sorted(set(position[:, axis].tolist()))
        for patch, place in zip(patches, position[:, axis].tolist()):
            c = 2 * (line.index(place) + 0.5) / len(line) - 1
            patch.append((c + shift * drawn[0]) * jitter ** drawn[1] * rescale ** drawn[2])
    return patches


def turns(patches, before, width):
    """(T, width / 2): by how much pairs of a query or key turn; class token and registers do not.

    The bands of one axis come after those of another, and what is left over does not turn.
    """
    bands = width // (2 * len(patches[0]))
    rates = (torch.tensor(100.0) ** -(torch.arange(bands) / bands)).tolist()  # single precision
    angle = torch.zeros(before + len(patches), width // 2, dtype=torch.float64)
    for t, coordinates in enumerate(patches):
        for axis, c in enumerate(coordinates):
            for b in range(bands):
                angle[before + t, axis * bands + b] = 2 * math.pi * c * rates[b]
    return angle


def turned(x, angle):
    """Pairs are of the first and the second half of a head (Su et al. 2021)."""
    u, v = x.chunk(2, 1)
    return torch.cat([u * angle.cos() - v * angle.sin(), u * angle.sin() + v * angle.cos()], 1)


def class_vector(w, field, content, patches, heads):
    """A vision transformer of one row, written out; the class token comes first."""
    x = content + w[f"field_token.{field}"]
    x = torch.cat([w[f"pools.{field}.token"][None], w[f"pools.{field}.registers"], x])
    width = x.shape[1] // heads
    angle = turns(patches, len(x) - len(patches), width)
    for block in (f"trunks.{field}.blocks.{i}" for i in range(2)):
        y = layer_norm(x, w[f"{block}.norm1.weight"], w[f"{block}.norm1.bias"])
        parts = linear(w, f"{block}.attention.qkv", y).split(width, 1)
        mixed = []
        for h in range(heads):
            q, k, v = parts[h], parts[heads + h], parts[2 * heads + h]
            scores = turned(q, angle) @ turned(k, angle).T / math.sqrt(width)
            mixed.append(torch.softmax(scores, 1) @ v)
        x = x + linear(w, f"{block}.attention.out", torch.cat(mixed, 1))
        y = layer_norm(x, w[f"{block}.norm2.weight"], w[f"{block}.norm2.bias"])
        y = linear(w, f"{block}.up", y)
        x = x + linear(w, f"{block}.down", y * (1 + torch.erf(y / math.sqrt(2))) / 2)
    return layer_norm(x, w[f"trunks.{field}.norm.weight"], w[f"trunks.{field}.norm.bias"])[0]


AXES = {"picture": (1, 2), "signal": (0,), "words": (0,), "anatomy": (0, 1, 2)}


@pytest.mark.parametrize("positions, shift, jitter, rescale, mode", [
    ("axial", 0.0, 1.0, 1.0, "learns"),
    ("axial:rescale=2", 0.0, 1.0, 2.0, "learns"),
    ("axial:shift=0.3", 0.3, 1.0, 1.0, "learns"),
    ("axial:jitter=1.5", 0.0, 1.5, 1.0, "learns"),
    ("axial:shift=0.3,jitter=1.5,rescale=3", 0.3, 1.5, 3.0, "learns"),
    ("axial:shift=0.3,jitter=1.5,rescale=3", 0.3, 1.5, 3.0, "frozen"),
    ("axial:shift=0.3,jitter=1.5,rescale=3", 0.3, 1.5, 3.0, "evaluated"),
])  # fmt: skip
def test_axial_positions(positions, shift, jitter, rescale, mode, larger_pictures):
    """Drawn by row and view where something learns; elsewhere the box is whole."""
    torch.manual_seed(0)
    encoder = Encoder(fields(tuple(AXES)), size="nano", pool="cls", positions=positions)
    encoder = exact(encoder.set_registers(2)).train(mode != "evaluated")
    encoder.requires_grad_(mode != "frozen")
    rows = exact(batch(("plain", "dinov3_local"), size=3, sources=tuple(AXES)))
    features, content, w = encoder.features(rows), encoder.patchify(rows), encoder.state_dict()
    for source, read in rows.columns.items():
        field, column = source.partition(":")[0], features[source]
        assert column.rows.tolist() == read.rows.tolist() != []
        for vector, row in zip(column.values, column.rows.tolist()):
            one = content[source].row == row
            seed = int(rows.seeds[row]) if mode == "learns" else None
            place = content[source].position[one]
            patches = boxed(place, AXES[field], seed, source, shift, jitter, rescale)
            x = content[source].x[one]
            wanted = class_vector(w, field, x, patches, encoder.num_heads)
            # angles are of the precision of positions, which only scans have in double here
            gap = 1e-10 if place.dtype == torch.float64 else 1e-6
            torch.testing.assert_close(vector, wanted, rtol=0, atol=gap)


def test_boxes_move_vectors(larger_pictures):
    """Two views of one value get other boxes, and none when the encoder does not learn."""
    page = exact(method("dinov3", sources=("picture",), prototypes=7, local_views=0)).train()
    rows = exact(batch(("plain", "plain"), sources=("picture",)))
    drawn = page.encoder.features(rows)
    still = page.encoder.eval().features(rows)
    assert not torch.allclose(drawn["picture:1"].values, drawn["picture:2"].values)
    assert not torch.allclose(drawn["picture:1"].values, still["picture:1"].values)
    assert torch.equal(still["picture:1"].values, still["picture:2"].values)


def test_defaults():
    """The paper's numbers; outputs, layers and crops are fewer here."""
    assert defaults("dinov3") == {
        "prototypes": 1024,
        "patch_prototypes": 1024,
        "local_views": 4,
        "hidden": 256,
        "patch_hidden": 256,
        "bottleneck": 64,
        "patch_bottleneck": 64,
        "masked": 0.5,
        "ratio_low": 0.1,
        "ratio_high": 0.5,
        "temperature": 0.1,
        "teacher_temperature": 0.07,
        "teacher_start": 0.04,
        "teacher_warmup": 0.08,
        "fixed_prototypes": 0.004,
        "iterations": 3,
        "momentum": 0.994,
        "cls_weight": 1.0,
        "patch_weight": 1.0,
        "koleo_weight": 0.1,
        "koleo_group": 16,
        "registers": 4,
        "layer_scale": 0.0,
        "local_norm": True,
        "gram_weight": 2.0,
        "gram_snapshot": 0.17,
        "gram_start": 0.83,
        "gram_every": 10000,
        "gram_updates": 3,
        "gram_momentum": 0.999,
        "gram_local_weight": 0.5,
        "gram_scale": 1,
        "clamp_negative": False,
    }
    assert methods.encoder_options("dinov3") == {"pool": "cls", "positions": "axial:rescale=2"}
    page = method("dinov3", sources=("picture",), prototypes=1024, local_views=4)
    assert page.views == VIEWS[:2] + 4 * VIEWS[2:]
    page = method("dinov3", sources=("picture",), local_views=3, gram_scale=2)
    assert page.views == TWICE[:2] + 3 * TWICE[2:3] + TWICE[3:]


def test_the_recipe_of_the_paper():
    """Section 3.2 and appendix: a constant schedule after a linear warm-up."""
    assert methods.paper_recipe("dinov3") == Recipe(
        optimizer="adamw",
        lr=2e-4,
        lr_scaling="sqrt/1024",
        lr_multipliers={"encoder.tokenizers.": 0.2},
        weight_decay=0.04,
        betas=(0.9, 0.99),
        schedule="constant",
        warmup_steps=100_000,
        clip=30.0,
        drop_path=0.4,
        layer_decay=0.98,
        batch_size=4096,
        steps=1_200_000,
        resolution=256,
    )


@pytest.mark.parametrize("wrong, message", [
    ({"gram_scale": 3}, "gram_scale"),
    ({"gram_scale": 0}, "gram_scale"),
    ({"gram_snapshot": 0.9}, "gram_snapshot"),
    ({"gram_snapshot": -0.1}, "gram_snapshot"),
    ({"gram_start": 1.5}, "gram_start"),
    ({"koleo_group": 1}, "koleo_group"),
    ({"iterations": 0}, "iterations"),
    ({"masked": 1.5}, "masked"),
    ({"ratio_low": 0.6}, "ratio_low"),
    ({"teacher_warmup": -0.5}, "teacher_warmup"),
    ({"fixed_prototypes": 2.0}, "fixed_prototypes"),
    ({"gram_every": -1}, "gram_every"),
    ({"registers": -1}, "registers"),
    ({"cls_weight": -1.0}, "cls_weight"),
    ({"patch_weight": -1.0}, "patch_weight"),
    ({"koleo_weight": -0.1}, "koleo_weight"),
    ({"gram_weight": -2.0}, "gram_weight"),
    ({"gram_local_weight": -0.5}, "gram_local_weight"),
])  # fmt: skip
def test_wrong_numbers(wrong, message):
    with pytest.raises(AmodalError, match=message):
        method("dinov3", sources=("picture",), **wrong)
