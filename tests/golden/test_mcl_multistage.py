"""Multistage contrastive learning, Zhang et al. 2024, arXiv:2402.11816, and the authors' code: a stage
has an encoder of its own and negatives that earlier stages took for alike."""

import copy
import itertools

import pytest
import torch

from amodal.core import Column, Embeddings
from amodal.methods.contrastive.mcl_multistage import PAPER_RECIPE
from tests.golden.harness import (
    assert_same,
    common,
    defaults,
    descend,
    golden,
    gradients,
    projector,
    unit,
)
from tests.golden.pairs import LearnedTemperature
from tests.methods.bench import batch, exact, method


class Multistage(LearnedTemperature):
    """The loss of CLIP, of every two fields."""

    parts, stage, width, temperature = 2, 0, 8, 0.07

    def __init__(self, page):
        super().__init__(page)
        self.log = f"stage_heads.{self.stage}.log"

    def check_start(self):
        """Members begin alike; one of them learns, with a temperature of its own."""
        members = self.encoder.members
        assert len(members) == self.parts and self.min_batch_size == 2
        for name, p in self.encoder.named_parameters():
            assert p.requires_grad == name.startswith(f"members.{self.stage}."), name
        for i in range(self.parts):
            for name, value in members[i].state_dict().items():
                assert torch.equal(value, members[0].state_dict()[name]), name
            self.check_head(i, members[i])

    def check_head(self, i, member):
        begin = self.w[f"stage_heads.{i}.log"].detach().exp()
        assert torch.isclose(begin, torch.tensor(1 / self.temperature).double(), rtol=1e-6)
        assert self.w[f"stage_heads.{i}.log"].requires_grad == (i == self.stage)
        for head in member.heads.values():
            assert head.weight.shape == (self.width, self.encoder.width) and head.bias is None

    def losses(self, batch):
        columns = self.encoder.members[self.stage](batch).columns
        pairs = list(itertools.combinations(columns, 2))
        terms = {}
        for a, b in pairs:
            x, y = (unit(z) for z in common(columns, a, b))
            logits, n = x @ y.T * self.scale(), len(x)
            loss = 0 * (x.sum() + y.sum())
            for i in range(n if n > 1 else 0):
                both = logits[i].logsumexp(0) + logits[:, i].logsumexp(0)
                loss = loss + (both / 2 - logits[i, i]) / n
            terms[f"info_nce/{a}~{b}"] = loss / len(pairs)
        return terms


class OneField(Multistage):
    """The loss of SimCLR, of two views."""

    temperature = 0.5

    def check_head(self, i, member):
        wide = self.encoder.width
        assert self.w[f"stage_heads.{i}.0.weight"].shape == (wide, wide)
        assert self.w[f"stage_heads.{i}.3.weight"].shape == (self.width, wide)

    def losses(self, batch):
        z = self.encoder.members[self.stage](batch).columns
        a, b = (projector(self.w, f"stage_heads.{self.stage}", c.values) for c in z.values())
        z, n = unit(torch.cat([a, b])), len(a)
        total = 0 * z.sum()
        for i in range(2 * n):
            logits = z @ z[i] / self.temperature
            others = [k for k in range(2 * n) if k != i]
            total = total + (logits[others].logsumexp(0) - logits[(i + n) % (2 * n)]) / (2 * n)
        return {"nt_xent/picture": total}


def hold(base, fields, rows=6, stage=0, **options):
    views = ("strong", "strong") if base is OneField else ("weak",)
    reference = type("Multistage", (base,), {"stage": stage} | options)
    options = {"width": 8, "parts": 2} | options
    if stage:
        hold_stage(reference, views, fields, rows, stage, **options)
    else:
        golden("mcl_multistage", reference, views=views, fields=fields, rows=rows, **options)


def hold_stage(reference, views, fields, rows, stage, **options):
    """Two steps of a later stage."""
    page = exact(method("mcl_multistage", sources=fields, **options)).train()
    page.on_stage_start(stage)
    reference(page).check_start()
    expected = reference(page)
    for step in (1, 2):
        some = exact(batch(views, size=rows, seed=step, sources=fields))
        terms, wanted = page.losses(page.features(some)), expected.losses(some)
        assert_same(terms, wanted, "loss")
        sum(terms.values()).backward()
        sum(wanted.values()).backward()
        trained = {n: p for n, p in page.named_parameters() if p.requires_grad}
        assert_same(gradients(trained), gradients(expected.parameters()), "gradient")
        descend(trained)
        descend(expected.parameters())
        assert_same(dict(page.state_dict()), expected.state(), "after a step")


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_two_steps_of_a_stage(stage):
    hold(Multistage, ("picture", "words"), stage=stage, parts=3)
    hold(OneField, ("picture",), stage=stage, parts=3)


@pytest.mark.parametrize("temperature", [2.0, 0.3])
def test_two_steps_with_other_options(temperature):
    hold(Multistage, ("picture", "words", "facts"), temperature=temperature)
    hold(OneField, ("picture",), temperature=temperature, width=6)


def test_two_steps_at_the_bound_of_the_scale():
    hold(Multistage, ("picture", "words"), temperature=0.005)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    hold(Multistage, ("picture", "words"), rows=rows)
    hold(OneField, ("picture",), rows=rows)


def blobs(groups, generator):
    """Rows in tight bundles of directions, short and long."""
    directions = torch.eye(64).double()
    noise = torch.randn(len(groups), 64, generator=generator, dtype=torch.float64)
    x = directions[torch.tensor(groups)] + 0.02 * noise
    length = torch.tensor([0.1 if i % 4 < 2 else 10.0 for i in range(len(groups))]).double()
    return x * length[:, None]


@pytest.mark.parametrize("field", ["picture", "words"])
def test_groups_are_tuples_of_clusters(field):
    """Of the vectors that each earlier stage has learned, by direction, of one field."""
    g = torch.Generator().manual_seed(0)
    n = 24
    one, two = [i % 2 for i in range(n)], [i // 8 for i in range(n)]
    own = torch.cat([blobs(one, g), blobs(two, g), blobs([0] * n, g)], 1)
    rows = torch.arange(n) + 1  # the first record lacks the field
    other = Column(torch.randn(n + 1, 192, generator=g).double(), torch.arange(n + 1))
    columns = {"picture": other, "words": other} | {field: Column(own, rows)}
    page = exact(
        method(
            "mcl_multistage",
            sources=("picture", "words"),
            parts=3,
            clusters=3,
            width=8,
            cluster_field=field,
        )
    )
    first = page.refresh(1, lambda: Embeddings(columns, n + 1))
    second = page.refresh(2, lambda: Embeddings(columns, n + 1))
    for i, j in itertools.product(range(n), repeat=2):
        if one[i] != one[j]:  # three clusters of two bundles: one bundle may be cut
            assert first[i + 1] != first[j + 1]
            assert second[i + 1] != second[j + 1]
        if two[i] != two[j]:
            assert second[i + 1] != second[j + 1]
        if first[i + 1] == first[j + 1] and two[i] == two[j]:
            assert second[i + 1] == second[j + 1]
    assert first[0] not in first[1:] and second[0] not in second[1:]
    assert not page.refresh_first


@pytest.mark.parametrize("carry_on", [False, True])
def test_where_a_stage_begins(carry_on):
    """The authors' begin at the model of the first, with `carry_on` where the last one ended."""
    page = exact(
        method("mcl_multistage", sources=("words", "facts"), parts=3, width=8, carry_on=carry_on)
    )
    begin = copy.deepcopy(page.encoder.members[2].state_dict())
    with torch.no_grad():
        for p in page.encoder.members[1].parameters():
            p += 1
    x = Column(torch.randn(12, 192).double(), torch.arange(12))
    page.refresh(2, lambda: Embeddings({"words": x, "facts": x}, 12))
    learned = page.encoder.members[1].state_dict()
    for name, value in page.encoder.members[2].state_dict().items():
        assert torch.equal(value, (learned if carry_on else begin)[name]), name


def test_representation_of_all_stages():
    """Section 3: those of all stages side by side, each of length 1."""
    page = exact(method("mcl_multistage", sources=("words", "facts"), parts=3, width=8)).eval()
    for i, member in enumerate(page.encoder.members):
        with torch.no_grad():
            for p in member.parameters():
                p += 0.05 * i * torch.randn_like(p)
    some = exact(batch(("plain",), size=6, sources=("words", "facts")))
    both, parts = page.encoder(some), [m(some) for m in page.encoder.members]
    for f in ("words", "facts"):
        joined = torch.cat([unit(p[f].values) for p in parts], 1)
        torch.testing.assert_close(both[f].values / both[f].values[0].norm(), joined / 3**0.5)


def test_defaults():
    """Ten clusters and the recipe: the authors' code, of CLIP."""
    assert defaults("mcl_multistage") == {
        "parts": 3,
        "clusters": 10,
        "cluster_field": "",
        "carry_on": False,
        "temperature": 0.0,
        "width": 128,
        "first": "train",
        "locked": "",
        "unlocked": 0,
    }
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 5e-4, 0.2, (0.9, 0.98))
    assert (r.schedule, r.warmup_steps, r.clip) == ("constant", 600, 0.0)
    assert (r.batch_size, r.epochs, r.resolution) == (8 * 1000, 3 * 20.0, 224)
