"""I-JEPA, Assran et al. 2023, arXiv:2301.08243: section 3, with the numbers of appendix A.1."""

import math

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError, Recipe
from amodal.nn.encoder import Encoder
from tests.golden import naive
from tests.golden.harness import Reference, defaults, golden
from tests.golden.transformers import block, linear, norm
from tests.methods.bench import batch, fields, method

VIEWS = ("i_jepa",)
CODE = naive.code("picture")


class IJEPA(Reference):
    blocks, scale_low, scale_high, context_low = 4, 0.15, 0.2, 0.85
    aspect_low, aspect_high, least = 0.75, 1.5, 10
    width, depth, heads, beta = 32, 2, 1, 1.0
    momentum, final_momentum = 0.996, 1.0

    def __init__(self, page):
        super().__init__(page)
        self.teacher = self.add_network("teacher")

    def check_start(self):
        """The target encoder begins as the context encoder; mask tokens deviate by 0.02."""
        for key, value in self.teacher.state_dict().items():
            assert torch.equal(value, self.encoder.state_dict()[key]), key
        name, wide = "predictors.picture", self.encoder.width
        assert tuple(self.w[f"{name}.decoder.in_proj.weight"].shape) == (self.width, wide)
        assert tuple(self.w[f"{name}.out_proj.weight"].shape) == (wide, self.width)
        assert f"{name}.decoder.trunk.blocks.{self.depth - 1}.up.weight" in self.w
        assert f"{name}.decoder.trunk.blocks.{self.depth}.up.weight" not in self.w
        assert 0.01 < self.w[f"{name}.decoder.mask.picture"].std() < 0.04

    def losses(self, batch):
        tokens = self.encoder.tokenize(batch)
        masks = {s: self.draw(s, t, batch) for s, t in tokens.items()}
        shown = {s: torch.cat([m.seen for m in masks[s]]) for s in tokens}
        context = self.encoder.encode({s: t.keep(shown[s]) for s, t in tokens.items()})
        with torch.no_grad():
            whole = self.teacher.encode(self.teacher.tokenize(batch))
        terms = {}
        for s, t in tokens.items():
            losses = []
            for row, mask in enumerate(masks[s]):
                at = (t.row == row).nonzero()[:, 0]
                seen = context[s].x[context[s].row == row]
                for target in mask.targets:
                    guess = self.predict(s, seen, t.position[at[mask.seen]], t.position[at[target]])
                    losses.append(self.distance(guess, plain_norm(whole[s].x[at[target]])))
            # over all tokens of all target blocks, as the authors' program has it
            every = torch.cat(losses) if losses else 0 * context[s].x.sum(1)
            terms[f"predict/{s}"] = every.sum() / max(len(every), 1) / len(tokens)
        return terms

    def draw(self, source, tokens, batch):
        """Section 3, figure 4: target blocks, and a context block without what they cover."""
        places = [tokens.position[tokens.row == row].tolist() for row in range(batch.size)]
        seeds = [naive.bits(seed, naive.code(source)) for seed in batch.seeds.tolist()]
        return [Masks(self, *both) for both in zip(places, seeds)]

    def predict(self, source, seen, places, wanted):
        """The predictor sees the encoded context, and a mask token at each place of a block."""
        name = f"predictors.{source}.decoder"
        x = linear(self.w, f"{name}.in_proj", seen) + naive.positions(places, self.width)
        asked = self.w[f"{name}.mask.{source}"] + naive.positions(wanted, self.width)
        x = torch.cat([x, asked]) + self.w[f"{name}.field.{source}"]
        for i in range(self.depth):
            x = block(self.w, f"{name}.trunk.blocks.{i}", x, self.heads)
        x = norm(self.w, f"{name}.trunk.norm", x[len(seen) :])
        return linear(self.w, f"predictors.{source}.out_proj", x)

    def distance(self, guess, target):
        """Smooth L1, of each token the mean over dimensions."""
        error = (guess - target).abs()
        small = error**2 / (2 * self.beta)
        return torch.where(error < self.beta, small, error - self.beta / 2).mean(1)

    def after_step(self, step, steps):
        """The weights of the target encoder are an exponential moving average, whose momentum
        rises linearly."""
        m = self.momentum + (self.final_momentum - self.momentum) * step / steps
        student = self.encoder.state_dict()
        for name, value in self.teacher.state_dict().items():
            value.copy_(m * value + (1 - m) * student[name])


class Masks:
    """Of one record: which tokens the context encoder sees, and the target blocks."""

    def __init__(self, numbers, position, seed):
        self.seed, count = seed, len(position)
        cells, height, width = self.cells(position)

        def inside(number, *scales):
            h, w, top, left = self.block(number, height, width, *scales)
            return torch.tensor(
                [top <= y < top + h and left <= x < left + w for y, x in cells], dtype=torch.bool
            )

        context = inside(0, (numbers.context_low, 1.0), (1.0, 1.0))
        least = min(numbers.least, max(1, count // 4))
        covered, self.targets = torch.zeros(count, dtype=torch.bool), []
        for k in range(numbers.blocks):
            target = inside(
                k + 1,
                (numbers.scale_low, numbers.scale_high),
                (numbers.aspect_low, numbers.aspect_high),
            )
            if count - int((covered | target).sum()) >= least:
                covered = covered | target
                self.targets.append(target)
        self.seen = context & ~covered
        if int(self.seen.sum()) < least:
            self.seen = ~covered

    def cells(self, position):
        """Row and column of each token: of pictures by their places, of others in a line."""
        ys, xs = ({p[axis] for p in position} for axis in (1, 2))
        if len(ys) > 1 and len(xs) > 1:
            rows, columns = sorted(ys), sorted(xs)
            found = [(rows.index(y), columns.index(x)) for _, y, x in position]
            return found, len(rows), len(columns)
        return [(i, 0) for i in range(len(position))], len(position), 1

    def block(self, number, height, width, scale, aspect):
        """Height, width, first row and first column of a block."""

        def between(low, high, part):
            return low + (high - low) * naive.uniform(self.seed, number, part)

        area = max(1, int(height * width * between(*scale, 0)))
        ratio = between(*aspect, 1)
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w >= width:  # what does not fit on one side is made up for on the other
            w, h = width, round(area / width)
        elif h >= height:
            h, w = height, round(area / height)
        h, w = min(max(h, 1), height), min(max(w, 1), width)
        top = int(naive.uniform(self.seed, number, 2) * (height - h + 1))
        return h, w, top, int(naive.uniform(self.seed, number, 3) * (width - w + 1))


def plain_norm(x):
    """Layer norm without weights, which the authors' program has of targets."""
    var, mean = torch.var_mean(x, dim=1, keepdim=True, unbiased=False)
    return (x - mean) / (var + 1e-5).sqrt()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"blocks": 2, "scale_low": 0.25, "scale_high": 0.5, "context_low": 0.5, "beta": 0.3},
        {"momentum": 0.5, "final_momentum": 0.9, "least": 2},
    ],
)
def test_two_steps(options, larger_pictures):
    reference = type("IJEPA", (IJEPA,), dict(options))
    golden("i_jepa", reference, views=VIEWS, fields=("picture", "signal"), **options)


def test_two_steps_of_lines_of_tokens():
    golden("i_jepa", IJEPA, views=VIEWS, fields=("picture", "words", "facts"))


def test_two_steps_with_another_predictor(larger_pictures):
    reference = type("IJEPA", (IJEPA,), {"width": 64, "depth": 1, "heads": 2})
    options = {"predictor_width": 64, "predictor_depth": 1}
    golden("i_jepa", reference, views=VIEWS, fields=("picture",), **options)


def test_one_row_without_a_picture():
    """Nothing is hidden, and nothing is lost."""
    golden("i_jepa", IJEPA, views=VIEWS, fields=("picture",), rows=1)


def test_defaults():
    """Appendix A.1, and the authors' configuration of ViT-H/14."""
    assert defaults("i_jepa") == {
        "blocks": 4,
        "scale_low": 0.15,
        "scale_high": 0.2,
        "context_low": 0.85,
        "least": 10,
        "predictor_width": 0,
        "predictor_depth": 2,
        "beta": 1.0,
        "momentum": 0.996,
        "final_momentum": 1.0,
    }


def test_the_recipe_of_the_paper():
    assert methods.paper_recipe("i_jepa") == Recipe(
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.04,
        weight_decay_end=0.4,
        betas=(0.9, 0.999),
        schedule="cosine",
        warmup_epochs=40.0,
        clip=0.0,
        batch_size=2048,
        epochs=300.0,
    )


@pytest.mark.parametrize("wrong, message", [
    ({"blocks": 0}, "blocks"),
    ({"scale_low": 0.0}, "scale_low"),
    ({"scale_low": 0.3}, "scale_high"),
    ({"scale_high": 1.5}, "scale_high"),
    ({"context_low": 0.0}, "context_low"),
    ({"context_low": 1.1}, "context_low"),
    ({"least": 0}, "least"),
    ({"predictor_width": 40}, "multiple of 32"),
    ({"predictor_depth": 0}, "predictor_depth"),
])  # fmt: skip
def test_wrong_numbers_are_refused(wrong, message):
    with pytest.raises(AmodalError, match=message):
        method("i_jepa", sources=("picture",), **wrong)


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_a_class_token_is_neither_context_nor_target(pool, larger_pictures):
    torch.manual_seed(0)
    page = methods.build("i_jepa", Encoder(fields(("picture",)), size="nano", pool=pool))
    rows, seen = batch(VIEWS, sources=("picture",)), []
    page.predictors["picture"].decoder.in_proj.register_forward_pre_hook(
        lambda module, inputs: seen.append(len(inputs[0]))
    )
    found = page.features(rows)["picture"]
    masks = [
        Masks(IJEPA, [[0, i // 4, i % 4] for i in range(16)], naive.bits(int(rows.seeds[r]), CODE))
        for r in found.rows
    ]
    assert seen == [4 * sum(int(m.seen.sum()) for m in masks)]
    assert found.values[:, 1].tolist() == [sum(int(t.sum()) for t in m.targets) for m in masks]


def test_a_pooling_that_nothing_trains_is_refused():
    encoder = Encoder(fields(("picture",)), size="nano", pool="attention")
    with pytest.raises(AmodalError, match="would stay random"):
        methods.build("i_jepa", encoder)
