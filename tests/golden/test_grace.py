"""GRACE, Li et al. 2024, arXiv:2402.10805: section 3, learning to memorize and to retrieve.

The paper begins from a language model with CLIP's picture encoder; here a symmetric InfoNCE (CLIP,
figure 3) stands for what that had learned. The writer is the decoder of Vaswani et al. 2017,
section 3.1, with the norms in front.
"""

import itertools
import math

import pytest
import torch

from amodal.core import AmodalError, Column, Embeddings, row_seeds
from tests.golden.harness import Reference, common, defaults, golden, unit
from tests.methods.bench import batch, exact, method

KNOWN = 11
"""Records that training begins with: the six of step 1, and of step 2 all but the last."""


def layer_norm(w, name, x):
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / (var + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attention(w, name, query, key, causal=False):
    """Of one row; a head is 32 wide."""
    key_value = linear(w, f"{name}.key_value", key).chunk(2, -1)
    every = (linear(w, f"{name}.query", query), *key_value)
    heads = []
    for q, k, v in zip(*(x.split(32, 1) for x in every), strict=True):
        logits = q @ k.T / math.sqrt(32)
        if causal:
            later = torch.ones(len(q), len(k), dtype=torch.bool).triu(1)
            logits = logits.masked_fill(later, -math.inf)
        heads.append(logits.softmax(1) @ v)
    return linear(w, f"{name}.out", torch.cat(heads, 1))


def place(number, width):
    """Vaswani et al. 2017, 3.5; of six parts of the width, one is of the number of the token and
    two halves, sines and cosines, are of two coordinates that a text has not (they are zero)."""
    bands = width // 6
    angle = torch.tensor([number / 1e4 ** (i / bands) for i in range(bands)])
    rest = torch.zeros(width - 6 * bands)
    return torch.cat(
        [angle.sin(), torch.zeros(2 * bands), angle.cos(), torch.ones(2 * bands), rest]
    )


class Grace(Reference):
    kind, memorise, contrast, temperature = "atomic", True, 1.0, 0.07
    branch, depth, width, stage, warmup = 4, 1, 8, 1, 0.3

    def __init__(self, page):
        if not page.register.known.any():
            self.begin(page)
        super().__init__(page)
        first = page.register
        self.code = dict(zip(first.known.tolist(), first.codes.tolist()))
        self.records, self.stages = list(page.record_fields), page.stages

    def begin(self, page):
        """The survey of records, before training; the identifiers, before the last stage."""
        sources = (*page.record_fields, page.query_field)
        order = sorted(sources, key=["picture", "words", "signal", "facts"].index)
        whole = [
            batch(self.views, size=n, seed=s, sources=order) for s, n in ((1, 6), (2, KNOWN - 6))
        ]
        page.fit_statistics(whole)
        keys = [key for part in whole for key in part.keys]
        assert page.register.known[:KNOWN].tolist() == row_seeds(keys).tolist()
        page.refresh(self.stage, lambda: self.survey(page))
        page.on_stage_start(self.stage)

    views = ("plain",)

    def survey(self, page):
        """Vectors of the records that have a picture or whatever else is retrieved."""
        g = torch.Generator().manual_seed(5)
        columns = {}
        for k, s in enumerate(("picture", "words", "signal", "facts")):
            if s in (*page.record_fields, page.query_field):
                rows = [
                    6 * b + i for b, n in enumerate((6, KNOWN - 6)) for i in range(n) if (i + k) % 4
                ]
                columns[s] = Column(
                    torch.randn(len(rows), page.encoder.width, generator=g).double(),
                    torch.tensor(rows),
                )
        return Embeddings(columns, KNOWN)

    def check_start(self):
        assert self.encoder.space_width == self.width and self.min_batch_size == 2
        start = self.w["scale.log"].detach().exp()
        assert torch.isclose(start, torch.tensor(1 / self.temperature).double(), rtol=1e-6)
        blocks = {n.split(".")[3] for n in self.w if n.startswith("writer.decoder.blocks.")}
        assert len(blocks) == self.depth
        assert self.stages == ((self.warmup, 1.0) if self.warmup else (1.0,))
        if self.records == ["picture"]:
            # what has no picture has no identifier; the others are numbered in their order
            have = [i for i in range(KNOWN) if i in (1, 2, 3, 5, 7, 8, 9)]
            codes = self.w["register.codes"]
            assert (codes[:, 0] >= 0).nonzero().flatten().tolist() == have
            named = [[t for t in codes[i].tolist() if t >= 0] for i in have]
            if self.kind == "atomic":
                assert named == [[i] for i in range(len(have))]
            elif self.kind == "numeric":
                base = self.branch
                assert named == [[i // base, i % base] for i in range(len(have))]
            else:
                assert len({tuple(code) for code in named}) == len(have)

    def losses(self, batch):
        query = "words"
        columns = self.encoder(batch).columns
        terms = {}
        pairs = list(itertools.combinations(columns, 2))
        for s, t in pairs:
            a, b = (unit(x) for x in common(columns, s, t))
            # at the full weight until there are identifiers
            weight = self.contrast if self.stage == len(self.stages) - 1 else 1
            terms[f"info_nce/{s}~{t}"] = weight * self.clip(a, b) / len(pairs)
        if self.stage < len(self.stages) - 1:
            return terms
        context = self.encoder.encode(self.encoder.tokenize(batch))
        for s in self.records if self.memorise else ():
            terms[f"memorise/{s}"] = self.nll(batch, context, s) / len(self.records)
        terms[f"retrieve/{query}"] = self.nll(batch, context, query)
        return terms

    def clip(self, a, b):
        log = self.w["scale.log"]
        scale = log.exp() if log.detach().exp() < 100 else 100 * (log - log.detach()).exp()
        logits = a @ b.T * scale
        n = len(logits)
        if n < 2:
            return 0 * logits.sum()
        rows = sum(logits[i].logsumexp(0) - logits[i, i] for i in range(n)) / n
        columns = sum(logits[:, i].logsumexp(0) - logits[i, i] for i in range(n)) / n
        return (rows + columns) / 2

    def nll(self, batch, context, source):
        """Equations 1 and 2: -log p of each token of the identifier, given those before it and what
        is asked. Their mean over tokens, as a language model is trained."""
        total, count = 0 * sum(v.sum() for v in self.w.values() if v.requires_grad), 0
        seeds = row_seeds(batch.keys).tolist()
        tokens = context[source]
        for row in range(batch.size):
            read = tokens.x[tokens.row == row]
            code = [t for t in self.code.get(seeds[row], []) if t >= 0]
            if len(read) and code:
                for state, token in zip(self.states(read, code[:-1]), code, strict=True):
                    logits = linear(self.w, "writer.out", state)
                    total, count = total + logits.logsumexp(0) - logits[token], count + 1
        return total / max(count, 1)

    def states(self, read, before):
        w, name = self.w, "writer.decoder"
        key = linear(
            w,
            f"{name}.source_projections.0.1",
            layer_norm(w, f"{name}.source_projections.0.0", read),
        )
        x = [w[f"{name}.start"]]
        x += [linear(w, f"{name}.in_proj", w["writer.token.weight"][t]) for t in before]
        x = torch.stack([v + place(i, len(v)) for i, v in enumerate(x)])
        for d in range(self.depth):
            block = f"{name}.blocks.{d}"
            own = layer_norm(w, f"{block}.norm1", x)
            x = x + attention(w, f"{block}.self_attention", own, own, causal=True)
            x = x + attention(
                w, f"{block}.source_attention.0", layer_norm(w, f"{block}.norms.0", x), key
            )
            hidden = linear(w, f"{block}.up", layer_norm(w, f"{block}.norm3", x))
            hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
            x = x + linear(w, f"{block}.down", hidden)
        return layer_norm(w, f"{name}.norm", x)


def steps(fields=("picture", "words"), stage=1, rows=6, **options):
    reference = type("Grace", (Grace,), {"stage": stage} | options)
    options = {"width": 8, "kind": "atomic", "capacity": 16} | options
    # the wavelengths of positions are in single precision
    golden(
        "grace",
        reference,
        views=("plain",),
        fields=fields,
        rows=rows,
        tolerance=1e-6,
        also=options,
    )


@pytest.mark.parametrize("kind", ["atomic", "numeric", "string", "structured"])
def test_two_steps(kind):
    steps(kind=kind)


@pytest.mark.parametrize(
    "options",
    [
        {"contrast": 0.3, "temperature": 0.5, "depth": 2},
        {"contrast": 0.3, "stage": 0},
        {"contrast": 0.0, "warmup": 0.0, "stage": 0},
        {"temperature": 0.005, "warmup": 0.6},
        {"memorise": False, "branch": 3, "kind": "numeric"},
    ],
)
def test_two_steps_with_other_options(options):
    steps(**options)


@pytest.mark.parametrize("stage", [0, 1])
def test_two_steps_of_records_with_two_fields(stage):
    steps(("picture", "words", "facts"), stage)


@pytest.mark.parametrize("rows", [1, 2])
def test_little_to_compare_or_to_write(rows):
    steps(rows=rows)


def test_queries_of_another_field():
    page = made(fields=("picture", "words", "facts"), text_field="words")
    assert page.query_field == "words" and page.record_fields == ["picture", "facts"]
    with pytest.raises(AmodalError, match="words"):
        made(text_field="word")
    with pytest.raises(AmodalError, match="compares fields"):
        made(fields=("words",))


def test_defaults():
    """The contrast is 0 in the paper, whose networks have been trained beforehand."""
    assert defaults("grace") == {
        "text_field": "",
        "kind": "structured",
        "memorise": True,
        "branch": 10,
        "leaf": 10,
        "levels": 6,
        "capacity": 4096,
        "depth": 2,
        "warmup": 0.3,
        "contrast": 1.0,
        "width": 256,
        "temperature": 0.07,
    }
    page = made(**defaults("grace"))
    assert page.stages == (0.3, 1.0) and not page.refresh_first and not page.writes
    assert page.register.codes.shape == (4096, 6) and page.encoder.space_width == 256
    assert page.writer.token.weight.shape == (60, page.encoder.width)
    assert len(page.writer.decoder.blocks) == 2
    early = made(warmup=0.0)
    assert early.stages == (1.0,) and early.refresh_first and early.writes
    for warmup in (-0.1, 1.0):
        with pytest.raises(AmodalError, match="warmup"):
            made(warmup=warmup)


# Section 3.1: identifiers.


def made(fields=("picture", "words"), **options):
    small = {"width": 8, "capacity": 16, "branch": 2, "leaf": 2, "depth": 1}
    return method("grace", sources=fields, **(small | options)).double()


def on_a_circle(page, *angles):
    """Enter records and give them identifiers; the aligned vectors of their pictures are at these
    angles, every second one of another length."""
    page.register.enter([f"record {i}" for i in range(len(angles))])
    a = torch.tensor(angles).double()
    wanted = torch.zeros(len(a), 8).double()
    wanted[:, 0], wanted[:, 1] = a.cos(), a.sin()
    wanted[::2] *= 3
    x = wanted @ torch.linalg.pinv(page.encoder.heads["picture"].weight.detach()).T
    column = Column(x, torch.arange(len(a)))
    other = Column(torch.randn_like(x), column.rows)
    page.refresh(1, lambda: Embeddings({"picture": column, "words": other}, len(a)))
    rest = page.register.codes[len(a) :]
    assert bool((rest == -1).all()) and bool(page.register.known[: len(a)].all())
    return [[t for t in code if t >= 0] for code in page.register.codes[: len(a)].tolist()]


def test_paths_of_a_cluster_tree():
    """{0, 3} and the rest; of the rest {1, 4} and {2, 5, 6}; of those {2} and {5, 6}."""
    for order in ([0.0, 1.5, 1.8, 0.01, 1.51, 1.9, 1.91],):
        names = on_a_circle(made(), *order)
        assert [len(n) for n in names] == [2, 3, 4, 2, 3, 4, 4]

        def shared(i, j, names=names):
            return next(k for k, (a, b) in enumerate(zip(names[i], names[j])) if a != b)

        assert [shared(0, j) for j in range(1, 7)] == [0, 0, 1, 0, 0, 0]
        assert [shared(1, j) for j in (2, 4, 5, 6)] == [1, 2, 1, 1]
        assert [shared(2, j) for j in (5, 6)] == [2, 2] and shared(5, 6) == 3
        # a level has tokens of its own, and the last one is the place in the cluster
        assert all(t // 2 == level for n in names for level, t in enumerate(n))
        assert [n[-1] % 2 for n in names] == [0, 0, 0, 1, 1, 0, 1]


def test_tokens_of_a_level_are_as_many_as_branches_or_places_in_a_leaf():
    names = on_a_circle(made(branch=2, leaf=3), 0.0, 1.5, 1.51, 0.01, 1.52)
    assert sorted(n[0] for n in names) in ([0, 0, 1, 1, 1], [0, 0, 0, 1, 1])
    assert [n[1] for n in names] == [3, 3, 4, 4, 5]
    names = on_a_circle(made(branch=3, leaf=1), 0.0, 0.7, 1.5)
    assert sorted(n[0] for n in names) == [0, 1, 2] and [n[1] for n in names] == [3, 3, 3]
    names = on_a_circle(made(branch=2, leaf=3), 0.0, 0.1, 1.5)
    assert names == [[0], [1], [2]]  # one leaf


def test_a_cluster_that_the_levels_below_cannot_name_is_cut_evenly():
    """Along the first principal component: six are close, and two levels name four in a cluster."""
    angles = [0.05, 1.5, 0.0, 0.03, 0.01, 0.04, 0.02]
    names = on_a_circle(made(branch=2, leaf=4, levels=2), *angles)
    near = [n[0] for n in (names[i] for i in (2, 4, 6, 3, 5, 0, 1))]
    assert near in ([0, 0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0])
    assert len({tuple(n) for n in names}) == 7
    # what is alike in everything is cut too
    names = on_a_circle(made(branch=2, leaf=2, levels=3), *[0.3] * 7)
    assert len({tuple(n) for n in names}) == 7 and max(map(len, names)) <= 3
    assert sum(n[0] == 0 for n in names) in (3, 4)
    page = made(branch=2, leaf=2, levels=3)
    assert len({tuple(n) for n in on_a_circle(page, *[i / 9 for i in range(8)])}) == 8
    with pytest.raises(AmodalError, match="cannot name 9"):
        on_a_circle(page, *[i / 9 for i in range(9)])
    for wrong in ({"branch": 1, "leaf": 9}, {"leaf": 0}):
        with pytest.raises(AmodalError, match="cannot name 3"):
            on_a_circle(made(**wrong), 0.0, 0.5, 1.0)


@pytest.mark.parametrize("kind", ["numeric", "string"])
def test_digits(kind):
    page = made(kind=kind, branch=3, levels=2)
    names = on_a_circle(page, *[0.1 * i for i in range(8)])
    assert page.writer.token.weight.shape[0] == 3
    assert all(len(n) == 2 and 0 <= min(n) <= max(n) < 3 for n in names)
    numbers = [3 * a + b for a, b in names]
    assert len(set(numbers)) == 8 and (numbers == list(range(8))) == (kind == "numeric")
    drawn = torch.randperm(9, generator=torch.Generator().manual_seed(0))[:8].tolist()
    assert kind == "numeric" or numbers == drawn
    on_a_circle(page, *[0.1 * i for i in range(9)])
    with pytest.raises(AmodalError, match="10 records need identifiers of 3 tokens.*for 2"):
        on_a_circle(page, *[0.1 * i for i in range(10)])
    # new identifiers leave nothing of the old ones, and a single record has one too
    assert [len(n) for n in on_a_circle(page, 0.1, 0.2)] == [1, 1]
    assert on_a_circle(page, 0.1) == [[0]] or kind == "string"
    assert [len(n) for n in on_a_circle(page, 0.1)] == [1]


def test_one_token_a_record():
    page = made(kind="atomic", capacity=9, levels=3)
    assert page.writer.token.weight.shape[0] == 9
    assert on_a_circle(page, 0.3, 0.2, 0.1) == [[0], [1], [2]]
    with pytest.raises(AmodalError, match="10 records, and room for 9"):
        on_a_circle(page, *[0.1] * 10)
    on_a_circle(page, *[0.1] * 9)


# Section 3.4: inference.


@pytest.mark.parametrize("kind", ["atomic", "numeric", "string", "structured"])
def test_a_query_finds_records_by_their_identifiers(kind):
    """Constrained beam search, against all identifiers and against a beam of one by hand."""
    page = made(kind=kind, branch=3, leaf=2, capacity=16)
    reference = type("Grace", (Grace,), {"depth": 1})(page)
    assert kind != "structured" or len({len(c) for c in codes_of(page).values()}) > 1
    torch.manual_seed(3)
    with torch.no_grad():
        for p in reference.w.values():
            if p.is_floating_point() and p.dim():
                p += 0.3 * torch.randn_like(p)
    page.load_state_dict(reference.state())
    asked = exact(batch(("plain",), size=6, seed=3, sources=("picture", "words")))
    tokens = reference.encoder.encode(reference.encoder.tokenize(asked))["words"]
    codes = codes_of(page)
    found, score, names = page.retrieve(asked, beams=len(codes) + 2)
    assert names is page.register.codes and not score.requires_grad
    assert found.rows.tolist() == [0, 1, 2, 4, 5]
    assert (
        page.find(asked, beams=3).values.tolist()
        == page.retrieve(asked, beams=3)[0].values.tolist()
    )
    assert page.find(asked).values.shape == page.retrieve(asked)[1].shape == (5, 10)
    best = page.retrieve(asked, beams=1)
    for i, row in enumerate(found.rows.tolist()):
        read = tokens.x[tokens.row == row]
        scores = {r: float(sum(step_scores(reference, read, code))) for r, code in codes.items()}
        order = sorted(scores, key=scores.get, reverse=True)
        assert found.values[i].tolist() == [*order, -1, -1]
        wanted = torch.tensor([scores[r] for r in order] + [-math.inf] * 2).double()
        assert torch.allclose(score[i].double(), wanted, rtol=1e-5, atol=1e-5)
        greedy, so_far = [], 0.0
        while greedy not in codes.values():
            nexts = {c[len(greedy)] for c in codes.values() if c[: len(greedy)] == greedy}
            each = {t: float(step_scores(reference, read, [*greedy, t])[-1]) for t in nexts}
            greedy.append(max(each, key=each.get))
            so_far += each[greedy[-1]]
        assert codes[int(best[0].values[i, 0])] == greedy
        assert abs(float(best[1][i, 0]) - so_far) < 1e-4


def test_a_short_identifier_ends_before_the_longest():
    """One beam, one query at a time, so that nothing else goes on."""
    page = made()
    on_a_circle(page, 0.0, 1.5, 1.8, 0.01, 1.51, 1.9, 1.91)
    reference, codes, seen = Grace(page), codes_of(page), set()
    for seed in range(12):
        asked = exact(batch(("plain",), size=1, seed=seed, sources=("picture", "words")))
        read = page.read(page.encoder.encode(page.encoder.tokenize(asked)), "words")
        with torch.no_grad():
            page.writer.token.weight.copy_(torch.randn(page.writer.token.weight.shape))
            page.writer.out.weight.copy_(torch.randn(page.writer.out.weight.shape))
        reference.w = {n: v.clone() for n, v in page.state_dict().items()}
        found, score, _ = page.retrieve(asked, beams=1)
        code, wanted = [], 0.0
        while code not in codes.values():
            nexts = {c[len(code)] for c in codes.values() if c[: len(code)] == code}
            each = {
                t: float(step_scores(reference, read.values.flat, [*code, t])[-1]) for t in nexts
            }
            code.append(max(each, key=each.get))
            wanted += each[code[-1]]
        assert codes[int(found.values)] == code and abs(float(score) - wanted) < 1e-4
        seen.add(len(code))
    assert len(seen) > 1


def test_nothing_to_find_and_nobody_who_asks():
    page = made()
    asked = exact(batch(("plain",), size=6, seed=3, sources=("picture", "words")))
    found, score, _ = page.retrieve(asked, beams=3)
    assert found.rows.tolist() == [0, 1, 2, 4, 5]
    assert bool((found.values == -1).all()) and bool((score == -math.inf).all())
    on_a_circle(page, 0.0, 1.5, 1.8)
    mute = exact(batch(("plain",), absent=("words",), sources=("picture", "words")))
    found, score, _ = page.retrieve(mute, beams=3)
    assert found.values.shape == score.shape == (0, 3)


def test_neither_a_survey_nor_a_search_keeps_gradients():
    page, seen = made(), []
    on_a_circle(page, 0.0, 1.5, 1.8)
    for module in (*page.encoder.modules(), *page.writer.modules()):
        module.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    on_a_circle(page, 0.0, 1.5, 1.8)
    asked = exact(batch(("plain",), size=6, seed=3, sources=("picture", "words")))
    page.find(asked, beams=2)
    page.retrieve(asked, beams=2)
    assert seen and not any(seen)


def codes_of(page):
    """Number of a record -> its identifier."""
    codes = [[t for t in code if t >= 0] for code in page.register.codes.tolist()]
    return {i: code for i, code in enumerate(codes) if code}


def step_scores(reference, read, code):
    """log p of each token."""
    with torch.no_grad():
        logits = linear(reference.w, "writer.out", reference.states(read, code[:-1]))
        return [row.log_softmax(0)[t] for row, t in zip(logits, code, strict=True)]
