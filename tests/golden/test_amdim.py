"""AMDIM, Bachman, Hjelm and Buchwalter 2019, arXiv:1906.00910: local DIM,
its NCE, efficient NCE computation, multiscale mutual information and mixture-based representations
of section 3."""

import pytest
import torch

from amodal import modalities
from amodal.core import name_code
from amodal.masking.hashing import hash_bits
from tests.golden.harness import Reference, batch_norm, defaults, golden
from tests.methods import bench

SIDE = 2
"""Patches along each axis of the bench's pictures."""


class Amdim(Reference):
    bound, penalty, parts, middle, same_view, mixtures, sharpness = (
        20.0,
        0.04,
        2,
        True,
        False,
        1,
        1.0,
    )
    width = 16

    def check_start(self):
        """Authors' code: a perceptron with a hidden layer, and past it a linear map that begins as
        the identity, as far as there are rows."""
        assert self.min_batch_size == 2  # one row has no negatives
        for scale in ("whole", "regions", "patches"):
            name = f"heads.by_scale.picture.{scale}"
            wide = self.encoder.width
            shapes = {"bypass.weight": (self.width, wide), "bypass.bias": (self.width,)}
            shapes |= {"mlp.0.weight": (self.width, wide), "mlp.2.weight": (self.width, self.width)}
            for key, shape in shapes.items():
                assert tuple(self.w[f"{name}.{key}"].shape) == shape, key
            assert torch.equal(
                self.w[f"{name}.bypass.weight"], torch.eye(self.width, wide).double()
            )
            assert f"{name}.mlp.0.bias" not in self.w and f"{name}.mlp.2.bias" not in self.w

    def losses(self, batch):
        vectors = self.encoder(batch).columns
        tokens = self.encoder.tokenize(batch)
        self.seeds = batch.seeds
        scales = {}
        for s, column in vectors.items():
            head = f"heads.by_scale.{s.partition(':')[0]}"
            rows = column.rows.tolist()
            maps = {
                "whole": [[v] for v in column.values],
                "regions": self.regions(s, tokens[s], rows),
                "patches": [list(tokens[s].x[tokens[s].row == r]) for r in rows],
            }
            scales[s] = {
                scale: dict(zip(rows, self.embedded(f"{head}.{scale}", of_rows)))
                for scale, of_rows in maps.items()
            }
        return self.terms(scales)

    def regions(self, source, tokens, rows):
        """Vectors of parts x parts regions of a picture, or of as many parts of a sequence.

        Encoder: section 3 wants features that see only their own region: its tokens are encoded alone.
        """
        regions = [self.region(source, k, n) for k, n in self.places(tokens.row.tolist())]
        found = {}
        for region in sorted(set(regions)):
            inside = tokens.keep(torch.tensor([r == region for r in regions]))
            made = self.encoder.encode({source: inside})[source]
            for row in set(made.row.tolist()):
                found[row, region] = made.x[made.row == row].mean(0)
        return [[v for (r, _), v in sorted(found.items()) if r == row] for row in rows]

    def places(self, rows):
        """The place of each token in its row, and the tokens of that row."""
        return [(rows[:i].count(row), rows.count(row)) for i, row in enumerate(rows)]

    def region(self, source, place, count):
        """The box around all positions is cut into equal pieces along each axis."""
        grid = source.startswith("picture")
        last = SIDE - 1 if grid else max(count - 1, 1)
        at = divmod(place, SIDE) if grid else (place,)
        return tuple(min(self.parts * k // last, self.parts - 1) for k in at)

    def embedded(self, name, rows):
        """Each scale has an embedding of its own, with BatchNorm at the end (authors' code)."""
        w, x = self.w, torch.cat([torch.stack(vectors) for vectors in rows])
        hidden = (x @ w[f"{name}.mlp.0.weight"].T).relu() @ w[f"{name}.mlp.2.weight"].T
        straight = x @ w[f"{name}.bypass.weight"].T + w[f"{name}.bypass.bias"]
        return batch_norm(w, f"{name}.norm", hidden + straight).split([len(r) for r in rows])

    def terms(self, scales):
        """Multiscale mutual information: 1 -> 5, 1 -> 7 and 5 -> 5, from each view to the other, and their mean."""
        pairs = self.pairs(list(scales))
        terms = {}
        for a, b in pairs:
            asked = [("whole", "regions"), ("whole", "patches")]
            asked += [("regions", "regions")] if self.middle and not self.same_view else []
            penalty = 0
            for source, target in asked:
                both = []
                for one, other in ((a, b), (b, a)):
                    both.append(self.direction(scales, one, other, source, target))
                terms[f"{source}>{target}/{a}~{b}"] = sum(x for x, _ in both) / 2 / len(pairs)
                penalty = penalty + sum(y for _, y in both) / 2 / len(pairs)
            terms[f"penalty/{a}~{b}"] = self.penalty * penalty
        return terms

    def pairs(self, sources):
        return [(a, b) for i, a in enumerate(sources) for b in sources[i + 1 :]]

    def direction(self, scales, one, other, source, target):
        common = [r for r in scales[one][source] if r in scales[other][target]]
        picked = {r: self.antecedent(scales[one][source][r], one, source, r) for r in common}
        targets = {r: scales[one if self.same_view else other][target][r] for r in common}
        return self.nce(picked, targets)

    def antecedent(self, vectors, name, source, row):
        """All of one row's, or of its regions one at random."""
        if source == "whole" and self.mixtures > 1:
            name = f"heads.mixtures.{name.partition(':')[0]}"
            return (self.w[f"{name}.weight"] @ vectors[0] + self.w[f"{name}.bias"]).view(
                self.mixtures, -1
            )
        if source == "whole":
            return vectors
        draw = hash_bits(self.seeds[[row]], name_code(f"amdim {name}"))
        return vectors[int(draw) % len(vectors)][None]

    def nce(self, sources, targets):
        """Efficient NCE computation: each location is told from all those of other rows, with
        scores over the root of the width, softly clipped; and the mean of their squares."""
        losses, squares = [], []
        for r, vectors in sources.items():
            found = []
            for vector in vectors:
                raw = {q: t @ vector / len(vector) ** 0.5 for q, t in targets.items()}
                squares += [score**2 for scores in raw.values() for score in scores]
                clipped = {q: self.clip(scores) for q, scores in raw.items()}
                others = [s for q, scores in clipped.items() if q != r for s in scores]
                found.append([p - torch.stack([p, *others]).logsumexp(0) for p in clipped[r]])
            # of a record the mean over its locations, as records may have several numbers of them
            parts = [-self.mixed(torch.stack(scores)) for scores in zip(*found)]
            losses.append(sum(parts) / len(parts))
        return torch.stack(losses).mean(), torch.stack(squares).mean()

    def clip(self, scores):
        return self.bound * torch.tanh(scores / self.bound) if self.bound else scores

    def mixed(self, scores):
        """Mixture-based representations: weights maximise the mean score and their entropy, whose
        temperature is 1 / sharpness; measured from that of equal vectors, whatever their number."""
        t = self.sharpness
        q = (t * scores).exp() / (t * scores).exp().sum()
        entropy = -(q * q.log()).sum() - torch.tensor(len(q)).double().log()
        return (q * scores).sum() + entropy / t


def amdim(**options):
    return type("Amdim", (Amdim,), options)


TWO = {"views": ("strong", "strong"), "fields": ("picture",)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bound": 2.0, "penalty": 0.3},
        {"bound": 0.0, "parts": 1},
        {"middle": False},
        {"same_view": True},
        {"mixtures": 3, "sharpness": 2.0},
        {"mixtures": 2},
    ],
)
def test_two_steps(options):
    golden("amdim", amdim(**options), **TWO, width=16, **options)


def test_two_steps_of_fields():
    """Section 3: views may be of several modalities."""
    golden("amdim", Amdim, views=("weak",), fields=("picture", "words"), width=16)
    golden("amdim", Amdim, views=("weak",), fields=("picture", "words", "signal"), width=16)


class OfMaps(Amdim):
    """Section 3: the maps of 5 x 5 and 7 x 7 cells of one convolutional network are the scales."""

    def check_start(self):
        wide = {"whole": self.encoder.width, "regions": 16, "patches": 16}
        for scale, width in wide.items():
            bypass = self.w[f"heads.by_scale.picture.{scale}.bypass.weight"]
            assert torch.equal(bypass, torch.eye(self.width, width).double())

    def losses(self, batch):
        vectors, scales = self.encoder(batch).columns, {}
        self.seeds = batch.seeds
        for s, column in vectors.items():
            rows, backbone = column.rows.tolist(), self.encoder.tokenizers["picture"]
            maps = backbone.body.at_scales(batch[s].values)[1]
            assert [m.shape[1] for m in maps.values()] == [25, 49]
            lists = {"whole": [[v] for v in column.values]}
            lists |= {scale: [list(cells) for cells in maps[scale]] for scale in maps}
            scales[s] = {
                scale: dict(zip(rows, self.embedded(f"heads.by_scale.picture.{scale}", of_rows)))
                for scale, of_rows in lists.items()
            }
        return self.terms(scales)


@pytest.mark.parametrize("options", [{}, {"middle": False, "bound": 2.0}])
def test_two_steps_with_the_network_of_the_paper(options, monkeypatch):
    picture = modalities.make("image", size=32, channels=3, patch=8)
    monkeypatch.setattr(bench, "fields", lambda names: {"picture": picture})
    reference = type("OfMaps", (OfMaps,), options)
    net = {"picture": "amdim:width=4,depth=2,out=8,norm=none"}
    golden("amdim", reference, **TWO, rows=4, width=16, backbones=net, **options)


def test_defaults():
    """Bound and penalty of the authors' code; the page says that its width is smaller."""
    paper = {"bound": 20.0, "penalty": 0.04, "middle": True, "same_view": False, "mixtures": 1}
    assert defaults("amdim") == paper | {"width": 128, "parts": 2, "sharpness": 1.0}
    golden("amdim", amdim(width=128), **TWO, width=128)
