"""GRAM, Cicchetti, Grassucci, Sigillo and Comminiello 2025, arXiv:2412.11959: sections 3 and 4, with
the label smoothing of the authors' code and its matching of texts with all other fields."""

import pytest
import torch
from torch.nn.functional import gelu

from amodal.core import AmodalError
from amodal.masking.hashing import hash_bits, uniform
from amodal.objectives.gram_volume import gram_info_nce, gram_volume
from tests.golden.harness import assert_same, defaults, golden, unit
from tests.golden.naive import code
from tests.golden.pairs import PairsOfFields
from tests.golden.transformers import linear, norm, read_block
from tests.methods.bench import batch as bench_batch
from tests.methods.bench import exact, method

HEADS = 2


class Gram(PairsOfFields):
    anchor, smoothing, match, depth = "words", 0.1, 0.1, 4

    def check_start(self):
        super().check_start()
        assert any(n.startswith("matcher.") for n in self.w) == bool(self.match)
        if self.match:
            d, last = self.encoder.width, f"matcher.cross.blocks.{self.depth - 1}.up.weight"
            self.assert_shapes(matcher__head__0__weight=(d, d), matcher__head__3__weight=(1, d))
            assert (
                last in self.w
                and last.replace(f".{self.depth - 1}.", f".{self.depth}.") not in self.w
            )

    def losses(self, batch):
        """Rows that have the same fields compete as tuples; for a tuple, all rows that have its
        anchor do. The paper's records are complete, so there all of a batch compete for both."""
        vectors = {
            s: dict(zip(c.rows.tolist(), unit(c.values)))
            for s, c in self.encoder(batch).columns.items()
        }
        order = sorted(vectors, key=lambda s: s != self.anchor)
        groups = {}
        for row in range(batch.size):
            names = tuple(s for s in order if row in vectors[s])
            if len(names) > 1:
                groups.setdefault(names, []).append(row)
        total = 0 * sum(v.sum() for column in vectors.values() for v in column.values())
        for names, rows in groups.items():
            first, others = vectors[names[0]], [vectors[s] for s in names[1:]]
            anchors = rows + [r for r in first if r not in rows]
            logits = [[self.logit(first[a], [o[r] for o in others]) for r in rows] for a in anchors]
            logits = torch.stack([torch.stack(row) for row in logits])
            to_data = self.direction(logits[: len(rows)])
            to_anchor = self.direction(logits.T)
            if len(anchors) > 1:
                total = total + len(rows) * (to_data + to_anchor) / 2
        terms = {"volume": total / max(sum(map(len, groups.values())), 1)}
        if self.match:
            terms["match"] = self.match * self.matching(batch, vectors, groups)
        return terms

    def matching(self, batch, vectors, groups):
        """Two classes: an anchor and its tuple, an anchor and a wrong tuple, a tuple and a wrong
        anchor. Wrong ones have the same fields, and are drawn by the softmax of volumes and 1e-4."""
        tokens = {
            s: self.encoder.encode({s: t})[s] for s, t in self.encoder.tokenize(batch).items()
        }
        same, wrong = [], []
        for names, rows in groups.items():
            words = [tokens[names[0]].x[tokens[names[0]].row == r] for r in rows]
            others = [torch.cat([tokens[s].x[tokens[s].row == r] for s in names[1:]]) for r in rows]
            same += [self.judge(w, o) for w, o in zip(words, others)]
            logits = [
                [self.logit(vectors[names[0]][a], [vectors[s][r] for s in names[1:]]) for r in rows]
                for a in rows
            ]
            logits = torch.stack([torch.stack(row) for row in logits]).detach()
            for way, table in (("anchor>tuple", logits), ("tuple>anchor", logits.T)):
                for i, j in enumerate(
                    self.drawn(table, hash_bits(batch.seeds[rows], code(way)), batch.seeds[rows])
                ):
                    if j is not None:
                        pair = (
                            (words[i], others[j])
                            if way == "anchor>tuple"
                            else (words[j], others[i])
                        )
                        wrong.append(self.judge(*pair))
        loss = [-x.sigmoid().log() for x in same] + [-(1 - x.sigmoid()).log() for x in wrong]
        return sum(loss) / len(loss) if loss else 0 * sum(v.sum() for v in self.w.values())

    def drawn(self, logits, seeds, columns):
        """The largest of logits plus Gumbel noise is a draw."""
        chance, found = logits.softmax(1) + 1e-4, []
        for i in range(len(logits)):
            u = uniform(seeds[i], columns).double() + 2.0**-25
            noisy = {j: chance[i, j].log() - (-u[j].log()).log() for j in range(len(u)) if j != i}
            found.append(max(noisy, key=noisy.get) if noisy else None)
        return found

    def judge(self, words, others):
        """Words read the tokens of the other fields; their mean goes through two layers."""
        x, y = words, norm(self.w, "matcher.cross.norm_keys", others)
        for i in range(self.depth):
            x = read_block(self.w, f"matcher.cross.blocks.{i}", x, y, HEADS)
        x = norm(self.w, "matcher.cross.norm", x).mean(0)
        x = gelu(linear(self.w, "matcher.head.0", x))
        x = (x - x.mean()) / (x.var(unbiased=False) + 1e-12).sqrt()
        x = x * self.w["matcher.head.2.weight"] + self.w["matcher.head.2.bias"]
        return linear(self.w, "matcher.head.3", x)[0]

    def logit(self, anchor, others):
        return -self.volume([anchor, *others]) * self.scale()

    def volume(self, vectors):
        """Of the parallelotope of some vectors, the root of the determinant of their products."""
        a = torch.stack(vectors)
        return torch.linalg.det(a @ a.T).abs().sqrt()

    def direction(self, logits):
        """Cross-entropy of smoothed labels: entry i of row i is meant."""
        total = 0
        for i, row in enumerate(logits):
            for j in range(len(row)):
                wanted = self.smoothing / len(row) + (1 - self.smoothing) * (i == j)
                total = total - wanted * (row[j] - row.logsumexp(0))
        return total / len(logits)


def gram(**options):
    return type("Gram", (Gram,), options)


@pytest.mark.parametrize(
    "fields", [("picture", "words"), ("picture", "words", "facts"), ("picture", "signal")]
)
def test_two_steps(fields):
    anchor = "words" if "words" in fields else "picture"
    golden("gram", gram(anchor=anchor), views=("weak",), fields=fields, width=8, rows=9)


def test_two_steps_of_four_fields():
    """The anchor is the first text, unless another is named."""
    fields = ("picture", "words", "signal", "facts")
    golden("gram", Gram, views=("weak",), fields=fields, width=8, rows=8)
    golden("gram", gram(anchor="signal"), views=("weak",), fields=fields, width=8, anchor="signal")


@pytest.mark.parametrize(
    "options",
    [
        {"smoothing": 0.0},
        {"smoothing": 0.4, "temperature": 0.2},
        {"temperature": 2.0, "max_scale": 0.4},
        {"match": 0.0},
        {"match": 2.0, "depth": 1},
    ],
)
def test_two_steps_with_other_options(options):
    golden("gram", gram(**options), views=("weak",), width=8, **options)


@pytest.mark.parametrize("rows", [1, 2])
def test_one_tuple_and_none(rows):
    golden("gram", Gram, views=("weak",), rows=rows, width=8)


def test_defaults():
    """Section 4: width and temperature; smoothing as in the authors' code."""
    assert defaults("gram") == {
        "anchor": "",
        "width": 512,
        "temperature": 0.07,
        "max_scale": 100.0,
        "smoothing": 0.1,
        "match": 0.1,
        "depth": 4,
    }


def test_equal_vectors_span_a_volume_with_a_finite_slope():
    """The root of a determinant has none at 0, so each sine is at least 1e-3."""
    g = torch.Generator().manual_seed(0)
    a = torch.randn(4, 5, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(gram_volume([a, a]), torch.tensor(1e-3).double())
    loss = gram_info_nce(a, [a, a], temperature=0.5)
    loss.backward()
    assert loss.isfinite() and a.grad.isfinite().all()


@pytest.mark.parametrize("anchors", [0, 1])
def test_a_tuple_without_others_is_no_task(anchors):
    a = torch.randn(1, 5)[:anchors]
    more = None if anchors else torch.randn(3, 5)
    assert gram_info_nce(a, [a], temperature=0.5, extra_anchor_MD=more) == 0


def test_rows_are_judged_as_in_training():
    """`match_logits` is the head that the loss trains, of the rows that have two fields."""
    page = exact(method("gram", width=8))
    rows, expected = exact(bench_batch(("weak",), size=6)), Gram(page)
    logits = page.match_logits(rows)
    tokens = {s: page.encoder.encode({s: t})[s] for s, t in page.encoder.tokenize(rows).items()}
    order = sorted(tokens, key=lambda s: s != "words")
    wanted = {}
    for r in range(rows.size):
        parts = [x for s in order if len(x := tokens[s].x[tokens[s].row == r])]
        if len(parts) > 1:
            wanted[r] = expected.judge(parts[0], torch.cat(parts[1:]))
    assert logits.rows.tolist() == list(wanted) and 0 < len(wanted)
    one = {"logits": logits.values}
    assert_same(one, {"logits": torch.stack(list(wanted.values()))}, "logits")


def test_a_run_without_the_head_judges_nothing():
    with pytest.raises(AmodalError, match="without its matching head"):
        method("gram", match=0.0).match_logits(bench_batch(("weak",)))
