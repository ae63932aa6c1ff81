"""SkillNet of several modalities, Dai et al. 2022, arXiv:2205.06126: section 3, and section 4 for what
trains it. Which copies answer is a rule; their answers are averaged."""

import itertools

import pytest
import torch

from amodal.core import name_code
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from tests.golden import harness
from tests.golden.harness import Reference, defaults, golden, unit
from tests.golden.transformers import attend, gelu, linear, norm
from tests.methods.bench import batch, method

PATCH, LETTERS = 8, 4
KINDS = {"picture": ("image", "general"), "words": ("text", "general")}


class SkillNet(Reference):
    where, masked, contrast, ratio, alpha = "attention", 1.0, 1.0, 0.15, 1.0
    width, temperature, rules, records = 16, 0.07, KINDS, None

    def check_start(self):
        """Copies begin as one trunk; a skill that no field has is not there."""
        p, names = dict(self.encoder.named_parameters()), set()
        for skills in self.rules.values():
            names |= set(skills) | ({"relating"} if self.contrast else set())
        parts = ["attention.qkv"] if self.where == "attention" else ["up", "down"]
        for i, part in itertools.product(range(2), parts):
            at = f"trunks.all.blocks.{i}.{part}."
            copies = {n.removeprefix(at).split(".")[0] for n in p if n.startswith(at)}
            assert copies == names, copies
            first, *others = sorted(names)
            for other, kind in itertools.product(others, ("weight", "bias")):
                assert torch.equal(p[f"{at}{first}.{kind}"], p[f"{at}{other}.{kind}"])
        assert self.min_batch_size == 2
        assert any(n.startswith("masked.") for n in self.w) == (self.masked > 0)
        if self.contrast:
            assert self.encoder.space_width == self.width
            begin = self.w["scale.log"].detach().exp()
            assert torch.isclose(begin, torch.tensor(1 / self.temperature).double(), rtol=1e-6)
        else:
            assert "scale.log" not in self.w and not any("heads" in n for n in p)
        if self.masked:
            for f in self.rules:
                assert 0.01 < self.w[f"masked.{f}.token"].std() < 0.04

    def losses(self, batch):
        fields = list(self.encoder.fields)
        pairs = list(itertools.combinations(fields, 2)) if self.contrast else []
        tasks = (fields if self.masked else []) + pairs
        records = self.w["records"].tolist()
        assert len(records) == len(tasks)
        drawn = [n**self.alpha if n else 0.0 for n in records]
        share = {task: x / sum(drawn) for task, x in zip(tasks, drawn)}
        self.p = dict(self.encoder.named_parameters())
        content, terms = self.encoder.patchify(batch), {}
        for f in fields if self.masked else []:
            terms[f"masked/{f}"] = self.masked * share[f] * self.guess(f, content[f], batch)
        if pairs:
            z = {f: self.vectors(f, content[f]) for f in fields}
            for a, b in pairs:
                terms[f"info_nce/{a}~{b}"] = self.contrast * share[a, b] * self.info_nce(z[a], z[b])
        return terms

    def trunk(self, x, skills):
        """One value's tokens through the blocks, with the skills of the task alone."""

        def mean(part, x):
            return sum(linear(self.p, f"{part}.{s}", x) for s in skills) / len(skills)

        for i in range(2):
            at = f"trunks.all.blocks.{i}"
            z = norm(self.p, f"{at}.norm1", x)
            if self.where == "attention":
                qkv = mean(f"{at}.attention.qkv", z)
            else:
                qkv = linear(self.p, f"{at}.attention.qkv", z)
            heads = self.encoder.num_heads
            x = x + linear(self.p, f"{at}.attention.out", attend(*qkv.chunk(3, 1), heads))
            z = norm(self.p, f"{at}.norm2", x)
            if self.where == "attention":
                x = x + linear(self.p, f"{at}.down", gelu(linear(self.p, f"{at}.up", z)))
            else:
                each = [
                    linear(self.p, f"{at}.down.{s}", gelu(linear(self.p, f"{at}.up.{s}", z)))
                    for s in skills
                ]
                x = x + sum(each) / len(each)
        return norm(self.p, "trunks.all.norm", x)

    def vectors(self, field, content):
        """Row -> place in the common space, by the field's skills and that for relating."""
        tokens = self.encoder.add_positions(content)
        skills = (*self.rules[field], "relating")
        head = self.encoder.heads[field].weight
        return {
            r: self.trunk(tokens.x[tokens.row == r], skills).mean(0) @ head.T
            for r in sorted(set(tokens.row.tolist()))
        }

    def info_nce(self, a, b):
        rows = [r for r in a if r in b]
        if len(rows) < 2:
            return 0 * self.w["scale.log"] + 0 * sum(z.sum() for z in (*a.values(), *b.values()))
        x, y = (torch.stack([unit(z[r]) for r in rows]) for z in (a, b))
        log, total = self.w["scale.log"], 0
        scale = log.exp() if log.exp() <= 100 else 100 * (log - log.detach()).exp()
        logits = scale * x @ y.T
        for i in range(len(rows)):
            total = total + logits[i].logsumexp(0) + logits[:, i].logsumexp(0) - 2 * logits[i, i]
        return total / len(rows) / 2

    def guess(self, field, content, batch):
        """Hidden tokens, from what a learned token in their place has become; the mean over them."""
        bits = hash_bits(batch.seeds, name_code(f"masked {field}"))[content.row]
        hidden = ~random_keep(content.row, bits, content.within(), self.ratio)
        token = self.w[f"masked.{field}.token"]
        x = torch.where(hidden[:, None], token, content.x)
        tokens, losses = self.encoder.add_positions(content.with_x(x)), []
        targets = getattr(self, field)(batch[field])
        for r in targets:
            mine = tokens.row == r
            out = self.trunk(tokens.x[mine], self.rules[field])
            for place in hidden[mine].nonzero()[:, 0].tolist():
                losses.append(self.error(field, out[place], targets[r][place]))
        return sum(losses) / len(losses) if losses else 0 * token.sum()

    def error(self, field, x, target):
        if field == "picture":
            return ((linear(self.w, "masked.picture.predictor", x) - target) ** 2).mean()
        logits = linear(self.w, "masked.words.predictor.0", x).view(LETTERS, -1)
        each = [logits[k].logsumexp(0) - logits[k, b] for k, b in enumerate(target)]
        return sum(each) / len(each)

    def words(self, column):
        return {
            r: [text[i : i + LETTERS].tolist() for i in range(0, len(text), LETTERS)]
            for r, text in zip(column.rows.tolist(), column.values.split())
        }

    def picture(self, column):
        """Patches with mean 0 and deviation 1, as in MAE."""
        found = {}
        for r, image in zip(column.rows.tolist(), (column.values.double() - 0.5) / 0.25):
            steps = range(0, image.shape[1], PATCH)
            x = [image[:, i : i + PATCH, j : j + PATCH].flatten() for i in steps for j in steps]
            found[r] = [(p - p.mean()) / (p.var() + 1e-6).sqrt() for p in x]
        return found


def skillnet(**options):
    return type("SkillNet", (SkillNet,), options)


SMALL = {"width": 16, "ratio": 0.5}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"where": "mlp"},
        {"masked": 0.3, "contrast": 0.6, "ratio": 0.3, "width": 5, "temperature": 0.2},
        {"contrast": 0.0},
        {"masked": 0.0, "where": "mlp"},
    ],
)
def test_two_steps(options):
    golden("skillnet_mm", skillnet(**(SMALL | options)), views=("weak",), **(SMALL | options))


def test_two_steps_with_other_rules():
    skills = "words=poems+text, picture = image"
    rules = {"picture": ("image",), "words": ("poems", "text")}
    golden("skillnet_mm", skillnet(rules=rules, **SMALL), views=("weak",), skills=skills, **SMALL)


@pytest.mark.parametrize("alpha", [0.5, 0.0])
def test_two_steps_where_tasks_have_more_and_fewer_records(alpha, monkeypatch):
    def counted(*args, **options):
        page = method(*args, **options)
        two = ("picture", "words")
        page.fit_statistics(
            [
                batch(("plain",), sources=two),
                batch(("plain",), size=5, sources=two, absent=("words",)),
                batch(("plain",), size=9, sources=two, absent=("picture",)),
            ]
        )
        # of 8 rows two lack a picture and two others the words
        assert page.state_dict()["records"].tolist() == [6 + 3, 6 + 7, 4]
        return page

    monkeypatch.setattr(harness, "method", counted)
    options = {"alpha": alpha, "where": "mlp", **SMALL}
    golden("skillnet_mm", skillnet(**options), views=("weak",), **options)


@pytest.mark.parametrize("rows", [1, 2])
def test_one_record_has_nothing_to_compare(rows):
    golden("skillnet_mm", skillnet(**SMALL), views=("weak",), rows=rows, **SMALL)


def test_defaults():
    """BERT's share of masked tokens; the paper has seven skills of 768 and says no more."""
    assert defaults("skillnet_mm") == {
        "skills": "",
        "where": "attention",
        "masked": 1.0,
        "contrast": 1.0,
        "ratio": 0.15,
        "alpha": 1.0,
        "width": 128,
        "temperature": 0.07,
    }
