"""For golden tests of MMRL, MMRL++ and others that classify by the names of classes, with tokens of
one learned space in the upper blocks of frozen encoders."""

import torch

from amodal.core import Batch, Column
from tests.golden.harness import Reference, golden, unit
from tests.golden.transformers import block, norm


class NamedClasses(Reference):
    """`layer_tokens(field, i)` are those of layer i of the hooked ones, `into(new, left)` what
    enters a layer, of them and of what the tokens of the layer below have become."""

    alpha, weight, scale, template, words, first, depth = 0.7, 1.0, 100.0, "{}", "words", 1, 2
    view, count, space, width, classes = "weak", 5, 16, 8, ("a", "b", "c")

    def check_start(self):
        """Tokens and their maps learn, and the projection of what they have become, which begins as
        a copy of the class feature's. The encoder is frozen."""
        bank = dict(self.encoder.named_parameters())["block_hook.bank"]
        assert bank.shape == (self.count, self.space)
        tokens = bank if self.space else self.encoder.block_hook.maps[self.words].tokens
        assert 0.01 < tokens.std() < 0.03
        assert self.encoder.space_width == self.width and self.min_batch_size == 1
        learns = {n.split(".")[0] for n, p in self.encoder.named_parameters() if p.requires_grad}
        # an encoder without a common space learns its projections too
        assert learns == {"block_hook", "heads"}
        fields = {n.split(".")[1] for n in self.w}
        assert fields == set(self.encoder.fields) - {self.words}
        self.p = dict(self.encoder.named_parameters())
        for field in fields:
            head = self.p[f"heads.{field}.weight"]
            assert torch.equal(self.representation_head(field), head), field

    def losses(self, batch):
        """Section 3.3; with more fields beside the text the mean over them."""
        self.p = dict(self.encoder.named_parameters())
        names, frozen_names = self.names(batch)
        of_row = dict(zip(batch.labels["kind"].rows.tolist(), batch.labels["kind"].values.tolist()))
        fields = [f for f in self.encoder.fields if f != self.words]
        terms = {}
        for f in fields:
            tokens = self.encoder.tokenize(batch.only(f))[f]
            supervised, near = [], []
            for r in sorted(set(tokens.row.tolist())):
                x = tokens.x[tokens.row == r]
                own, learned = self.trunk(f, x)
                with torch.no_grad():
                    before = unit(self.head(f, self.plain_trunk(f, x)))
                c = unit(self.head(f, own))
                near.append(1 - (c * before).sum())
                if r in of_row:
                    z = unit(learned @ self.representation_head(f).T)
                    ce = [self.cross_entropy(v, names, of_row[r]) for v in (c, z)]
                    supervised.append(self.alpha * ce[0] + (1 - self.alpha) * ce[1])
            n = len(fields)
            terms[f"supervised/{f}"] = self.mean(supervised) / n
            terms[f"near/{f}"] = self.weight * self.mean(near) / n
        near = [1 - (a * b).sum() for a, b in zip(names, frozen_names)]
        terms["near/names"] = self.weight * self.mean(near)
        return terms

    def cross_entropy(self, vector, names, label):
        logits = self.scale * names @ vector
        return logits.logsumexp(0) - logits[label]

    def mean(self, losses):
        if not losses:
            return 0 * self.p["block_hook.bank"].sum()
        return sum(losses) / len(losses)

    def names(self, batch):
        """Vectors of the names of classes, and those of the frozen encoder."""
        text = self.encoder.fields[self.words]
        written = [self.template.format(c.replace("_", " ")) for c in self.classes]
        values = text.collate([text.decode(sentence) for sentence in written])
        rows = torch.arange(len(written))
        only = Batch.of(len(written), {self.words: Column(values, rows)}, written)
        tokens = self.encoder.tokenize(only)[self.words]
        made, frozen = [], []
        for r in rows:
            x = tokens.x[tokens.row == r]
            made.append(unit(self.head(self.words, self.trunk(self.words, x)[0])))
            with torch.no_grad():
                frozen.append(unit(self.head(self.words, self.plain_trunk(self.words, x))))
        return torch.stack(made), torch.stack(frozen)

    def head(self, field, x):
        return x @ self.p[f"heads.{field}.weight"].T

    def plain_trunk(self, field, x):
        for i in range(self.depth):
            x = block(self.p, f"trunks.{field}.blocks.{i}", x, self.encoder.num_heads)
        return norm(self.p, f"trunks.{field}.norm", x).mean(0)

    def trunk(self, field, x):
        """The mean of its own tokens and of those that came in, at the end."""
        own, left = len(x), None
        for i in range(self.depth):
            if i >= self.first - 1:
                new = self.layer_tokens(field, i - self.first + 1)
                left = new if left is None else self.into(new, left)
                x = torch.cat([x[:own], left])
            x = block(self.p, f"trunks.{field}.blocks.{i}", x, self.encoder.num_heads)
            left = x[own:] if i >= self.first - 1 else None
        x = norm(self.p, f"trunks.{field}.norm", x)
        return x[:own].mean(0), x[own:].mean(0)

    def layer_tokens(self, field, i):
        raise NotImplementedError

    def into(self, new, left):
        raise NotImplementedError

    def representation_head(self, field):
        raise NotImplementedError


def hold_space(
    page, reference, fields=("picture", "words"), rows=6, size="nano", depth=2, **options
):
    """Hold a page of tokens of one space against its reference.

    Args:
        depth: Of the encoder.
    """
    options = {"width": 8, "space": 16} | options
    small = type(reference.__name__, (reference,), {"first": 1, "depth": depth} | options)
    if size == "tiny" and "first" not in options:
        small.first = 2  # block 6 of 12, in proportion
    golden(page, small, views=("weak",), fields=fields, rows=rows, size=size, **options)
