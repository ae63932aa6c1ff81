"""Self-distillation of class vectors and of masked tokens, written out from iBOT (Zhou et al. 2022,
arXiv:2111.07832, section 3.2 and algorithm 1), for the pages that have it. Centring and what else a
paper adds are in its own test. Nothing here comes from the package but the draw of masks."""

from __future__ import annotations

import math

import torch

from amodal.masking.by_layout import layout_mask
from tests.golden import naive
from tests.golden.harness import Reference, unit

LAYOUT = {"picture": "grid", "signal": "signal"}


class MaskedDistillation(Reference):
    temperature, teacher_temperature, patch_temperature, teacher_start = 0.1, 0.04, 0.07, 0.04
    teacher_warmup, fixed_prototypes, momentum = 0.3, 0.01, 0.996
    masked, ratio_low, ratio_high, patch_weight = 0.5, 0.1, 0.5, 1.0
    shared_head, prototypes, hidden, bottleneck, done = True, 7, 256, 64, 0.0

    def __init__(self, page):
        super().__init__(page)
        self.teacher = self.add_network("teacher")
        self.fields = list(self.encoder.fields)

    def check_start(self):
        """The teacher begins as the student, and mask tokens as zeros."""
        for key, value in self.teacher.state_dict().items():
            assert torch.equal(value, self.encoder.state_dict()[key]), key
        for name, value in self.w.items():
            if name.startswith("teacher_"):
                assert torch.equal(value, self.w[name.removeprefix("teacher_")]), name
            if name.startswith(("mask.", "centers.", "patch_centers.")):
                assert not value.any(), name
        assert self.shared_head is not any(n.startswith("patch_heads.") for n in self.w)
        self.assert_shapes(
            heads__picture__mlp__0__weight=(self.hidden, self.encoder.width),
            heads__picture__mlp__4__weight=(self.bottleneck, self.hidden),
            heads__picture__prototypes=(self.prototypes, self.bottleneck),
        )

    def head(self, name, x, fixed=False):
        """DINO's: three layers with GELU, a unit vector, weight-normalised prototypes."""
        w = self.w
        for i in (0, 2, 4):
            x = x @ w[f"{name}.mlp.{i}.weight"].T + w[f"{name}.mlp.{i}.bias"]
            if i < 4:
                x = x * (1 + torch.erf(x / math.sqrt(2))) / 2
        prototypes = w[f"{name}.prototypes"]
        return unit(x) @ unit(prototypes.detach() if fixed else prototypes).T

    def patch_head(self, field):
        return f"heads.{field}" if self.shared_head else f"patch_heads.{field}"

    def now(self, last):
        """A temperature of the teacher rises along a line at first."""
        if not self.teacher_warmup:
            return last
        share = min(self.done / self.teacher_warmup, 1)
        return self.teacher_start + share * (last - self.teacher_start)

    def hide(self, source, tokens, seeds):
        """Section 3.3: in half of the views, a share between .1 and .5."""
        hidden = torch.zeros(len(tokens), dtype=torch.bool)
        for row, seed in enumerate(seeds.tolist()):
            if naive.uniform(seed, naive.code(f"whether {source}")) >= self.masked:
                continue
            drawn = naive.uniform(seed, naive.code(f"share of {source}"))
            share = self.ratio_low + (self.ratio_high - self.ratio_low) * drawn
            at = tokens.row == row
            hidden[at] = layout_mask(
                LAYOUT.get(source.partition(":")[0], "other"),
                tokens.keep(at),
                seeds,
                image=share,
                sequence=share,
                span=10,
                other=share,
            )
        return hidden

    def losses(self, batch):
        views = {f: [s for s in batch.columns if s.partition(":")[0] == f] for f in self.fields}
        large = [s for f in self.fields for s in views[f][:2]]
        content = self.encoder.patchify(batch)
        hidden = {s: self.hide(s, content[s], batch.seeds) for s in large}
        shown = {}
        for s, tokens in content.items():
            x = tokens.x
            if s in hidden:
                x = torch.where(hidden[s][:, None], self.w[f"mask.{s.partition(':')[0]}"], x)
            shown[s] = self.encoder.add_positions(tokens.with_x(x))
        states = self.encoder.encode(shown)
        student = self.encoder.pool(states)
        with torch.no_grad():
            whole = self.teacher.encode(self.teacher.tokenize(batch.only(*large)))
            teacher = self.teacher.pool(whole)
        fixed, terms, self.seen = self.done < self.fixed_prototypes, {}, {}
        for f in self.fields:
            two = views[f][:2]
            s = [self.head(f"heads.{f}", student[v].values, fixed) for v in views[f]]
            bare = {v: self.without_class_token(f, states[v]) for v in two}
            name = self.patch_head(f)
            guess = [self.head(name, bare[v].x[hidden[v]], fixed) for v in two]
            with torch.no_grad():
                t = [self.head(f"teacher_heads.{f}", teacher[v].values) for v in two]
                every = [
                    self.head(f"teacher_{name}", self.without_class_token(f, whole[v]).x)
                    for v in two
                ]
            p, q = self.targets(f, t, every, [hidden[v] for v in two])
            rows = [bare[v].row[hidden[v]] for v in two]
            terms[f"cls/{f}"] = self.cross_views(s, p) / len(self.fields)
            patches = sum(self.masked_mean(guess[i], q[i], rows[i], len(s[0])) for i in range(2))
            terms[f"patch/{f}"] = self.patch_weight * patches / 2 / len(self.fields)
            terms |= self.further(f, [student[v].values for v in two])
        return dict(sorted(terms.items(), key=lambda term: term[0]))

    def without_class_token(self, field, tokens):
        return tokens.keep(tokens.within() > 0) if self.encoder.pool_name == "cls" else tokens

    def targets(self, field, vectors, tokens, hidden):
        """Probabilities of the teacher's vectors, and of its tokens where they are hidden.

        vectors, tokens: of each large view, all that the teacher has, as logits.
        """
        raise NotImplementedError

    def further(self, field, vectors):
        """Other terms, of the student's vectors of the large views."""
        return {}

    def cross_views(self, student, targets):
        """Each view of the student against each other view of the teacher."""
        total, pairs = 0, 0
        for i, p in enumerate(targets):
            for j, s in enumerate(student):
                if i != j:
                    q = torch.softmax(s / self.temperature, 1)
                    total, pairs = total - (p * q.log()).sum() / max(len(p), 1), pairs + 1
        return total / pairs

    def masked_mean(self, guess, target, rows, count):
        """The mean over the hidden tokens of each row, then over all rows, also those that hide
        nothing."""
        q = torch.softmax(guess / self.temperature, 1)
        each, total = -(target * q.log()).sum(1), 0 * guess.sum()
        for row in rows.unique():
            total = total + each[rows == row].mean()
        return total / max(count, 1)

    def after_step(self, step, steps):
        """Teacher and heads follow; momentum rises to 1 by a cosine."""
        rest = (1 - self.momentum) * (math.cos(math.pi * step / steps) + 1) / 2
        with torch.no_grad():
            for t, s in zip(self.teacher.parameters(), self.encoder.parameters()):
                t.copy_((1 - rest) * t + rest * s)
            for name in [n for n in self.w if n.startswith("teacher_")]:
                student = self.w[name.removeprefix("teacher_")]
                self.w[name] = (1 - rest) * self.w[name] + rest * student
        self.done = step / steps
        if "progress" in self.w:
            self.w["progress"] = torch.tensor(self.done, dtype=self.w["progress"].dtype)
