"""Galileo, Tseng et al. 2025, arXiv:2502.09356, with the numbers of the authors' configuration.

Of one record after the other, with its tokens in lists.
"""

import math
import struct

import numpy as np
import pytest
import torch

from amodal import methods
from amodal.core import AmodalError, Recipe
from tests.golden import naive
from tests.golden.harness import Reference, defaults, golden, unit
from tests.golden.transformers import block, linear, mlp, norm, read
from tests.methods import bench

VIEWS = ("weak",)
ENCODE, IGNORE, DECODE = range(3)
METRES = {"picture": 40.0}
"""Of a patch of 4 pixels of 10 metres: ten metres are one step, so rows and columns count by 4."""


@pytest.fixture
def rasters(grouped_rasters):
    """Rasters of two groups of bands, at two dates, in place of pictures; some patches lack some
    bands."""

    def draw(rng):
        values = rng.normal(size=(2, 3, 12, 12)).astype(np.float32)
        values[rng.integers(2), rng.integers(3), : 4 * rng.integers(1, 3)] = np.nan
        return {"values": values, "dates": ["2020-03-01", "2020-08-15"]}

    grouped_rasters(draw)


GROUPS = {"picture": ("near", "b")}


class Galileo(Reference):
    encode, decode, temperature = 0.1, 0.5, 0.1
    momentum, final_momentum = 0.996, 1.0
    tasks: tuple = ("global", "local")
    width, depth, heads = 64, 2, 2
    groups: dict = {}
    exits: dict = {}
    """(field, group) -> blocks; both of them, unless it is here."""

    def __init__(self, page):
        super().__init__(page)
        self.teacher = self.add_network("teacher")

    def check_start(self):
        """The target encoder begins as the encoder. Each task has a predictor."""
        for key, value in self.teacher.state_dict().items():
            assert torch.equal(value, self.encoder.state_dict()[key]), key
        total = sum(len(self.groups.get(f, (0,))) for f in self.encoder.fields)
        for task in self.tasks:
            name = f"predictors.{task}"
            self.assert_shapes(**{
                f"{name}.group".replace(".", "__"): (total, self.width),
                f"{name}.mask".replace(".", "__"): (self.width,),
                f"{name}.in_proj.weight".replace(".", "__"): (self.width, self.encoder.width),
                f"{name}.out_proj.weight".replace(".", "__"): (self.encoder.width, self.width),
            })  # fmt: skip
            for part in ("mask", "group"):
                assert 0.01 < self.w[f"{name}.{part}"].std() < 0.04
            assert f"{name}.reader.blocks.{self.depth - 1}.up.weight" in self.w
            assert f"{name}.reader.blocks.{self.depth}.up.weight" not in self.w
        assert not [n for n in self.w if "self_attention" in n]

    def losses(self, batch):
        tokens, plain = self.encoder.tokenize(batch), self.teacher.patchify(batch)
        records = [Record(self, tokens, row) for row in range(batch.size)]
        terms = {}
        for task in self.tasks:
            masks = [
                self.draw(task, record, naive.bits(seed, naive.code(task)))
                for record, seed in zip(records, batch.seeds.tolist())
            ]
            seen = self.see(tokens, records, masks)
            lost = []
            for row, (record, mask) in enumerate(zip(records, masks)):
                if DECODE in mask:
                    targets = self.targets(task, record, plain, row)
                    lost.append(self.lose(task, record, mask, seen[row], targets))
            every = torch.stack(lost) if lost else 0 * sum(t.x.sum() for t in tokens.values())[None]
            # the mean of both tasks
            terms[task] = every.mean() / len(self.tasks)
        return terms

    def see(self, tokens, records, masks):
        """What the encoder makes of the tokens with state 0, row by row in the order of sources."""
        keep = {}
        for s, t in tokens.items():
            states = [m for r, k in zip(records, masks) for m, i in zip(k, r.items) if i.field == s]
            keep[s] = torch.tensor([state == ENCODE for state in states], dtype=torch.bool)
            assert len(keep[s]) == len(t)
        made = self.encoder.encode({s: t.keep(keep[s]) for s, t in tokens.items()})
        return [
            torch.cat([made[s].x[made[s].row == row] for s in tokens])
            for row in range(len(records))
        ]

    def targets(self, task, record, plain, row):
        """Of a target encoder that sees all of the record; nothing of it learns."""
        weights = self.teacher.state_dict()
        with torch.no_grad():
            content = torch.cat([t.x[t.row == row] for t in plain.values()])
            states = [content]
            x = content + self.places(record, self.encoder.width)
            for i, item in enumerate(record.items):
                x[i] += weights[f"field_token.{item.field}"]
                if item.field in self.groups:
                    x[i] += weights[f"group_token.{item.field}"][item.group]
            for number in range(2):
                x = block(weights, f"trunks.all.blocks.{number}", x, self.heads)
                states.append(x)
            chosen = []
            for i, item in enumerate(record.items):
                # the local task has the linear projection of each token
                exit = self.exits.get((item.field, item.group), 2) if task == "global" else 0
                chosen.append(states[exit][i])
            return norm(weights, "trunks.all.norm", torch.stack(chosen))

    def lose(self, task, record, mask, seen, targets):
        """The predictor's queries attend to the encoded tokens; PatchDisc within the record."""
        name = f"predictors.{task}"
        where = self.places(record, self.width, joined=True)
        first, total = {}, 0
        for field in self.encoder.fields:
            first[field], total = total, total + len(self.groups.get(field, (0,)))
        marks = torch.stack(
            [self.w[f"{name}.group"][first[i.field] + i.group] for i in record.items]
        )
        shown = [i for i, state in enumerate(mask) if state == ENCODE]
        asked = [i for i, state in enumerate(mask) if state == DECODE]
        y = linear(self.w, f"{name}.in_proj", seen) + where[shown] + marks[shown]
        y = norm(self.w, f"{name}.reader.norm_keys", y)
        x = self.w[f"{name}.mask"] + where[asked] + marks[asked]
        for i in range(self.depth):
            at = f"{name}.reader.blocks.{i}"
            x = x + read(self.w, f"{at}.cross_attention", norm(self.w, f"{at}.norm2", x), y, 2)
            x = x + mlp(self.w, at, norm(self.w, f"{at}.norm3", x))
        x = linear(self.w, f"{name}.out_proj", norm(self.w, f"{name}.reader.norm", x))
        logits = unit(x) @ unit(targets[asked]).T / self.temperature
        losses = [row.logsumexp(0) - row[i] for i, row in enumerate(logits)]
        return 2 * self.temperature * torch.stack(losses).mean()

    def places(self, record, width, joined=False):
        """A quarter of the width each for time, height, width (in steps of ten metres) and month."""
        made, count = [], width // 8
        # in single precision, and angles in that of the coordinates
        rates = torch.tensor(1e4) ** -(torch.arange(count) / count)
        for item in record.items:
            scale = METRES.get(item.field, 10.0) / 10 if item.field in self.groups else 1.0
            # the places of all fields in one list have one precision, that of the finest
            position = item.position.to(record.precision if joined else item.position.dtype)
            steps = position * item.position.new_tensor([1.0, scale, scale])
            angle = (steps[:, None] * rates).flatten()
            month = torch.zeros(2, dtype=angle.dtype)
            if item.date is not None:
                turn = 2 * torch.pi * item.date / 12
                month = torch.stack([turn.sin(), turn.cos()])
            made.append(torch.cat([angle.sin(), angle.cos(), month.repeat_interleave(count)]))
        return torch.stack(made)

    def draw(self, task, record, seed):
        if task == "local":
            return self.random(len(record.items), seed, 0)
        return self.structured(record, seed) or self.random(len(record.items), seed, 6)

    def share(self, count):
        """How many of so many are seen, and predicted."""
        return tuple(max(1, math.floor(count * s + 1e-9)) for s in (self.encode, self.decode))

    def states(self, ordered):
        """Unit -> state, of units in a random order."""
        seen, predicted = self.share(len(ordered))
        return {
            u: ENCODE if i < seen else DECODE if i < seen + predicted else IGNORE
            for i, u in enumerate(ordered)
        }

    def random(self, count, seed, stream):
        states = self.states(sorted(range(count), key=lambda i: signed(seed, stream, i)))
        return [states[i] for i in range(count)]

    def structured(self, record, seed):
        """Groups that are seen, others that are predicted, by dates or by places."""
        groups = {}
        for item in record.items:
            groups.setdefault(item.code, []).append(item.place)
        ordered = sorted(groups, key=lambda g: signed(seed, 3, g))
        wanted = min(2 + int(5 * naive.uniform(seed, 2)), len(ordered) // 2)
        wanted = max(wanted, 1)
        seen, rest = ordered[:wanted], ordered[wanted:]
        predicted = [g for g in rest if naive.uniform(seed, 4, g) < 0.5] or ordered[-1:]
        dated = {g for g, places in groups.items() if len({p[0] for p in places}) > 1}
        placed = {g for g, places in groups.items() if len({p[1:] for p in places}) > 1}
        by_date = bool(dated) and (not placed or naive.uniform(seed, 1) < 0.5)
        parted = dated if by_date else placed
        states = {}
        for field in {i.field for i in record.items}:
            units = {i.unit(by_date) for i in record.items if i.field == field and i.code in parted}
            order = sorted(units, key=lambda u: signed(seed, 5, *map(single, u)))
            states[field] = self.states(order) if order else {}
        mask = []
        for item in record.items:
            whole = item.code not in parted
            state = IGNORE if whole else states[item.field][item.unit(by_date)]
            if item.code in seen and (whole or state == ENCODE):
                mask.append(ENCODE)
            elif item.code in predicted and (whole or state == DECODE):
                mask.append(DECODE)
            else:
                mask.append(IGNORE)
        return mask if {ENCODE, DECODE} <= set(mask) else None

    def after_step(self, step, steps):
        """An exponential moving average, whose momentum rises linearly."""
        m = self.momentum + (self.final_momentum - self.momentum) * step / steps
        student = self.encoder.state_dict()
        for name, value in self.teacher.state_dict().items():
            value.copy_(m * value + (1 - m) * student[name])


class Item:
    """A token: its field, the number and the code of its group, and where it lies."""

    def __init__(self, field, group, names, position, date):
        self.field, self.group, self.position, self.date = field, group, position, date
        self.code = naive.code(f"{field}.{names[group]}" if names else field)
        has_date, has_place = field in ("picture", "signal"), field == "picture"
        t, y, x = position.tolist()
        self.place = (t * has_date, y * has_place, x * has_place)

    def unit(self, by_date):
        return (self.place[0], 0.0, 0.0) if by_date else (0.0, *self.place[1:])


class Record:
    """The tokens of one row, source after source."""

    def __init__(self, numbers, tokens, row):
        self.items = []
        self.precision = torch.cat([t.position for t in tokens.values()]).dtype
        for s, t in tokens.items():
            for i in (t.row == row).nonzero()[:, 0].tolist():
                group = int(t.attributes["group"][i]) if s in numbers.groups else 0
                date = t.position[i, 0] if s in numbers.groups else None
                self.items.append(Item(s, group, numbers.groups.get(s), t.position[i], date))


def signed(seed, *counters):
    value = naive.bits(seed, *counters)
    return value - 2**64 if value >= 2**63 else value


def single(x):
    """The bits of a number in single precision."""
    return struct.unpack("<i", struct.pack("<f", x))[0]


@pytest.mark.parametrize(
    "options, exits",
    [
        ({}, {}),
        ({"half": "picture.b, signal", "linear": "facts"},
         {("picture", 1): 1, ("signal", 0): 1, ("facts", 0): 0}),
        ({"half": "picture", "linear": " picture.near ,", "encode": 0.3, "decode": 0.4},
         {("picture", 1): 1, ("picture", 0): 0}),
    ],
)  # fmt: skip
def test_two_steps(options, exits, rasters):
    own = {name: value for name, value in options.items() if name not in ("half", "linear")}
    reference = type("Galileo", (Galileo,), own | {"groups": GROUPS, "exits": exits})
    golden("galileo", reference, views=VIEWS, fields=("picture", "signal", "facts"), **options)


def test_two_steps_of_pictures_and_texts(larger_pictures):
    options = {"momentum": 0.5, "final_momentum": 0.9, "temperature": 0.3}
    reference = type("Galileo", (Galileo,), options)
    golden("galileo", reference, views=VIEWS, fields=("picture", "words"), **options)


def test_two_steps_with_another_predictor():
    reference = type("Galileo", (Galileo,), {"width": 32, "depth": 1})
    options = {"predictor_width": 32, "predictor_depth": 1}
    golden("galileo", reference, views=VIEWS, fields=("picture",), **options)


@pytest.mark.parametrize("task", ["global", "local"])
def test_two_steps_of_one_task(task, rasters):
    reference = type("Galileo", (Galileo,), {"tasks": (task,), "groups": GROUPS})
    golden("galileo", reference, views=VIEWS, fields=("picture", "facts"), tasks=task)


def test_one_row_without_a_picture():
    """Nothing is hidden, and nothing is lost."""
    golden("galileo", Galileo, views=VIEWS, fields=("picture",), rows=1)


def test_defaults():
    """The authors' configuration."""
    assert defaults("galileo") == {
        "encode": 0.1,
        "decode": 0.5,
        "tasks": "both",
        "half": "",
        "linear": "",
        "predictor_width": 0,
        "predictor_depth": 2,
        "temperature": 0.1,
        "momentum": 0.996,
        "final_momentum": 1.0,
    }
    assert methods.encoder_options("galileo") == {"trunk": "joint", "positions": "ground"}


def test_the_recipe_of_the_paper():
    assert methods.paper_recipe("galileo") == Recipe(
        optimizer="adamw",
        lr=1e-4,
        weight_decay=0.03,
        betas=(0.9, 0.999),
        schedule="cosine",
        warmup_epochs=30.0,
        clip=1.0,
        drop_path=0.1,
        batch_size=128,
        epochs=500.0,
    )


@pytest.mark.parametrize("wrong, message", [
    ({"encode": 0.0}, "encode and decode are shares"),
    ({"decode": 1.0}, "encode and decode are shares"),
    ({"half": "pictures"}, "Did you mean picture"),
    ({"linear": "picture.b"}, "no field, or FIELD.GROUP"),
    ({"half": "picture", "linear": "picture"}, "both in half and in linear"),
    ({"predictor_width": 33}, "multiple of the encoder's 2 heads"),
    ({"predictor_depth": 0}, "predictor_depth"),
    ({"tasks": "globe"}, "Did you mean global"),
])  # fmt: skip
def test_wrong_numbers_are_refused(wrong, message):
    with pytest.raises(AmodalError, match=message):
        bench.method("galileo", sources=("picture",), **wrong)
