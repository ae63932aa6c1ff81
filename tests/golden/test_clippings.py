"""CLIPPINGS, Arora, Yang, Jheng and Dell 2023, arXiv:2304.03464, section 3, and the authors' code:
CLIP's loss between crops and their texts, then SupCon of the pooled vectors."""

import dataclasses
import itertools

import pytest
import torch

from amodal.core import AmodalError, Column, Embeddings
from amodal.methods.embedding_retrieval.clippings import PAPER_RECIPE
from tests.golden.harness import Reference, common, defaults, golden, unit
from tests.methods.bench import batch, exact, method


def cross_entropy(logits):
    """Row i's class is i."""
    n = len(logits)
    return sum(logits[i].logsumexp(0) - logits[i, i] for i in range(n)) / n


class Clippings(Reference):
    stage, width, temperature, max_scale = 0, 8, 0.07, 100.0
    image_weight, label_temperature, unlabelled, label, text = 0.5, 0.1, 0.5, "kind", "words"

    def __init__(self, page):
        super().__init__(page)
        page.on_stage_start(self.stage)
        self.stages, self.labels = page.stages, page.labels

    def check_start(self):
        assert self.encoder.space_width == self.width and self.min_batch_size == 2
        start = self.w["scale.log"].detach()
        assert torch.isclose(start, -torch.tensor(self.temperature).double().log(), rtol=1e-6)
        two = self.unlabelled and self.label
        assert self.stages == ((self.unlabelled, 1.0) if two else (1.0,))
        assert self.labels == ((self.label,) if self.label else ())

    def losses(self, batch):
        z = self.encoder(batch).columns
        if self.label and self.stage == len(self.stages) - 1:
            return {"sup_con": self.sup_con(*self.pooled(z, batch))}
        pairs = list(itertools.combinations(z, 2))
        terms = {}
        for a, b in pairs:
            one, other = (unit(x) for x in common(z, a, b))
            loss = 0 * (one.sum() + other.sum())
            if len(one) > 1:
                logits = one @ other.T * self.scale()
                loss = (cross_entropy(logits) + cross_entropy(logits.T)) / 2
            terms[f"info_nce/{a}~{b}"] = loss / len(pairs)
        return terms

    def scale(self):
        """CLIP clips the parameter after a step; the page its value, past which gradients go."""
        log = self.w["scale.log"]
        if log.detach().exp() > self.max_scale:
            return self.max_scale * (log - log.detach()).exp()
        return log.exp()

    def pooled(self, z, batch):
        """w image + (1 - w) text, both of length 1, and their sum again; a row that lacks one has
        the other. More than one field beside the text share the weight of the image."""
        others = [s for s in z if s != self.text]
        vectors, labels = [], []
        known = dict(zip(batch.labels["kind"].rows.tolist(), batch.labels["kind"].values.tolist()))
        for row in range(batch.size):
            parts = []
            for s, column in z.items():
                weight = (
                    1 - self.image_weight if s == self.text else self.image_weight / len(others)
                )
                if row in column.rows.tolist() and weight:
                    vector = column.values[column.rows.tolist().index(row)]
                    parts.append(weight * unit(vector))
            if parts and row in known:
                vectors.append(unit(sum(parts)))
                labels.append(known[row])
        return vectors, labels

    def sup_con(self, vectors, labels):
        """Khosla et al. 2020, equation 2: the mean over vectors that have a positive."""
        losses = []
        for i, one in enumerate(vectors):
            others = [j for j in range(len(vectors)) if j != i]
            positives = [j for j in others if labels[j] == labels[i]]
            if not positives:
                continue
            logits = {j: one @ vectors[j] / self.label_temperature for j in others}
            total = torch.stack(list(logits.values())).logsumexp(0)
            losses.append(-sum(logits[j] - total for j in positives) / len(positives))
        if not losses:
            return 0 * sum(p.sum() for p in self.parameters().values())
        return sum(losses) / len(losses)


def steps(fields=("picture", "words"), stage=0, rows=6, **options):
    reference = type("Clippings", (Clippings,), {"stage": stage} | options)
    options = {"width": 8, "group": 0} | {n: v for n, v in options.items() if n != "text"}
    golden("clippings", reference, views=("plain",), fields=fields, rows=rows, also=options)


FIELDS = [("picture", "words"), ("picture", "words", "facts")]


@pytest.mark.parametrize("fields", FIELDS)
def test_two_steps_without_labels(fields):
    steps(fields)
    steps(fields, label="")


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("image_weight", [0.5, 0.2, 0.0, 1.0])
def test_two_steps_with_labels(fields, image_weight):
    steps(fields, stage=1, rows=9, image_weight=image_weight)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.3, "unlabelled": 0.2},
        {"temperature": 0.015, "max_scale": 20.0},
        {"temperature": 0.005},
        {"unlabelled": 0.0, "label_temperature": 0.4, "rows": 9},
        {"stage": 1, "label_temperature": 0.07, "rows": 9},
    ],
)
def test_two_steps_with_other_options(options):
    steps(**options)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("rows", [1, 2])
def test_little_to_compare(stage, rows):
    steps(stage=stage, rows=rows)


def test_defaults():
    """Half of each (section 3; 0.3 is only the default of the authors' program), 0.1 for SupCon,
    batches of 126 by their program, and the width of ViT-B/32 in CLIP."""
    assert defaults("clippings") == {
        "label": "",
        "text_field": "",
        "image_weight": 0.5,
        "unlabelled": 0.5,
        "group": 126,
        "width": 512,
        "temperature": 0.07,
        "max_scale": 100.0,
        "label_temperature": 0.1,
    }
    page = made(**defaults("clippings"))
    assert page.encoder.space_width == 512 and page.group == 126 and not page.refresh_first
    assert page.stages == (1.0,) and page.labels == () and not page.supervised
    assert page.weights == {"words": 0.5, "picture": 0.5} and page.label_temperature == 0.1
    late, early = made(), made(unlabelled=0.0)
    assert late.stages == (0.5, 1.0) and not late.refresh_first and not late.supervised
    assert early.stages == (1.0,) and early.refresh_first and early.supervised
    three = made(fields=("picture", "words", "facts"), text_field="facts", image_weight=0.2)
    assert three.weights == {"facts": 0.8, "picture": 0.1, "words": 0.1}
    for wrong in (
        {"image_weight": -0.1},
        {"image_weight": 1.1},
        {"unlabelled": -0.1},
        {"unlabelled": 1.0},
    ):
        with pytest.raises(AmodalError, match="image_weight is from 0 to 1 and unlabelled"):
            made(**wrong)
    assert made(image_weight=1.0).weights["words"] == made(image_weight=0.0).weights["picture"] == 0
    with pytest.raises(AmodalError, match="compares fields"):
        made(fields=("words",))


# Section 3.2: batches of what is alike.


def made(fields=("picture", "words"), **options):
    return method("clippings", sources=fields, **({"width": 8} | options)).double()


def groups_of(page, pictures, words, labels, size=None):
    """What `refresh` makes of records.

    pictures, words: row -> (angle, length) of their aligned vectors. labels: row -> class.
    """
    columns = {}
    for s, vectors in (("picture", pictures), ("words", words)):
        wanted = torch.zeros(len(vectors), 8).double()
        for i, (angle, length) in enumerate(vectors.values()):
            a = torch.tensor(angle).double()
            wanted[i, 0], wanted[i, 1] = length * a.cos(), length * a.sin()
        turned = torch.linalg.pinv(page.encoder.heads[s].weight.detach()).T
        columns[s] = Column(wanted @ turned, torch.tensor(list(vectors), dtype=torch.int64))
    known = torch.tensor(list(labels), dtype=torch.int64)
    columns["label/kind"] = Column(torch.tensor(list(labels.values())), known)
    groups = page.refresh(1, lambda: Embeddings(columns, size or max(known.tolist()) + 1))
    assert groups is None or groups.dtype == torch.int64
    return groups


def rows_of_classes(angles, aside=0.0, length=1.0):
    """Two rows of each class. Pictures and words lie aside, each on its side, which their mean does
    not; of every second class on the other side."""
    pictures, words, labels = {}, {}, {}
    for k, angle in enumerate(angles):
        for i, off in enumerate((0.01, -0.01)):
            row, side = 2 * k + i, aside * (-1) ** k
            pictures[row] = (angle + off + side, length)
            words[row] = (angle + off - side, 1.0)
            labels[row] = 10 * k
    return pictures, words, labels


ORDER = [0.6, 0.0, 1.4, 0.2, 1.0, 0.4, 1.2, 0.8]


@pytest.mark.parametrize("aside, length", [(0.0, 1.0), (0.5, 5.0)])
def test_groups_are_of_classes_whose_pooled_vectors_are_alike(aside, length):
    """Eight classes on a line, two rows each; groups of four rows are of two neighbours, and their
    numbers are in order along the line."""
    groups = groups_of(made(group=4), *rows_of_classes(ORDER, aside, length)).tolist()
    assert groups[::2] == groups[1::2]
    by_class = dict(zip(ORDER, groups[::2], strict=True))
    along = [by_class[a] for a in sorted(by_class)]
    assert along in ([0, 0, 1, 1, 2, 2, 3, 3], [3, 3, 2, 2, 1, 1, 0, 0])
    whole = groups_of(made(group=16), *rows_of_classes(ORDER)).tolist()
    assert whole == [0] * 16
    halves = groups_of(made(group=15), *rows_of_classes(ORDER)).tolist()
    assert sorted(halves) == [0] * 8 + [1] * 8 and halves[::2] == halves[1::2]


def test_the_weight_of_the_image_counts_in_groups_too():
    pictures, words, labels = rows_of_classes([0.0, 0.2, 1.0, 1.2])
    other = {row: words[(row + 2) % 8] for row in words}
    for weight, pairs in ((1.0, {(0, 1), (2, 3)}), (0.0, {(0, 3), (1, 2)})):
        groups = groups_of(made(group=4, image_weight=weight), pictures, other, labels).tolist()
        found = {tuple(k for k in range(4) if groups[2 * k] == g) for g in (0, 1)}
        assert found == pairs


def test_groups_have_about_half_of_the_rows_and_whole_classes():
    """A class larger than a group is one; three alike are cut after the first from either end."""
    angles = {0: 0.0, 1: 0.1, 2: 0.2, **dict.fromkeys(range(3, 8), 1.0)}
    vectors = {row: (angle, 1.0) for row, angle in angles.items()}
    labels = {row: min(row, 3) for row in vectors}
    groups = groups_of(made(group=4), vectors, vectors, labels).tolist()
    assert groups in ([0] * 3 + [1] * 5, [1] * 3 + [0] * 5)
    pictures, words, labels = rows_of_classes([0.0, 0.5, 1.0])
    groups = groups_of(made(group=4), pictures, words, labels).tolist()[::2]
    assert groups in ([0, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 1])
    # of nine rows a half is four and a half: three classes of 4, 4 and 1 rows
    angles = [0.0] * 4 + [0.5] * 4 + [1.0]
    vectors = {row: (angle, 1.0) for row, angle in enumerate(angles)}
    labels = {row: min(row // 4, 2) for row in vectors}
    groups = groups_of(made(group=8), vectors, vectors, labels).tolist()
    assert groups in ([0] * 4 + [1] * 5, [1] * 4 + [0] * 5)


def test_records_without_a_field_or_without_a_label():
    """One that has a picture alone is where that is; one that has nothing is like no other."""
    pictures, words, labels = rows_of_classes([0.0, 0.2, 1.0, 1.2])
    del words[0], pictures[5], labels[7], labels[2]
    page = made(group=4)
    groups = groups_of(page, pictures, words, labels, size=9).tolist()
    assert groups[2] == groups[7] == groups[8] == -1
    assert groups[0] == groups[1] == groups[3] != groups[4] == groups[5] == groups[6]
    del pictures[1], words[1], pictures[0]
    assert groups_of(page, pictures, words, labels, size=9).tolist()[0] >= 0
    page.group = 0
    assert groups_of(page, pictures, words, labels, size=9).tolist() == [
        0 if row in labels else -1 for row in range(9)
    ]
    assert groups_of(page, *rows_of_classes([0.0, 1.0])) is None
    with pytest.raises(AmodalError, match="no record to train on has the label 'kind'"):
        groups_of(page, pictures, words, {}, size=9)


def test_labels_are_asked_for_when_they_are_learnt_from():
    page = made()
    b = exact(batch(("plain",), size=6, sources=("picture", "words")))
    assert page.features(b).label is None
    page.on_stage_start(1)
    label = page.features(b).label
    assert label.rows.tolist() == [0, 1, 2, 4, 5] and label.values.tolist() == [0, 1, 2, 1, 2]
    with pytest.raises(AmodalError, match="kind"):
        page.features(dataclasses.replace(b, labels={}))


def test_a_survey_keeps_no_gradients():
    page, seen = made(group=4), []
    for head in page.encoder.heads.values():
        head.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    groups_of(page, *rows_of_classes(ORDER))
    assert seen and not any(seen)


def test_the_recipe_is_the_authors():
    """The settings of their program, with the rate of the command that learns from labels."""
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 5e-6, 1e-3, (0.9, 0.98))
    assert (r.schedule, r.warmup, r.clip) == ("cosine", 0.0, 0.0)
    assert (r.batch_size, r.epochs) == (153, 1000.0)
