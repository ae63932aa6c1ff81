"""CLaMR, Wan et al. 2025, arXiv:2506.06144: sections 3.2 to 3.4, appendix A.1, and the authors' code
(scores are means over the tokens of a query)."""

import pytest
import torch

from amodal.core import AmodalError
from amodal.methods.embedding_retrieval.clamr import PAPER_RECIPE
from tests.golden.harness import defaults, golden, unit
from tests.golden.pairs import LearnedTemperature
from tests.methods.bench import batch, exact, method


class Clamr(LearnedTemperature):
    """One direction: a query finds its record among those of the batch."""

    text_field, score, contrast, label, names = "words", "fields", "records", "", ()

    def check_start(self):
        super().check_start()
        assert self.encoder.trunk == "joint"  # fields are read together, 3.2

    def vectors(self, batch):
        """Row -> (n, D) of the query, and row -> field -> (n, D) of the record: all fields of a
        record in one sequence, its query in another."""
        tokens = self.encoder.tokenize(batch)
        query = {f: t for f, t in tokens.items() if f == self.text_field}
        record = {f: t for f, t in tokens.items() if f != self.text_field}
        queries, records = {}, {}
        for parts, put in (
            (query, lambda row, f, x: queries.update({row: x})),
            (record, lambda row, f, x: records.setdefault(row, {}).update({f: x})),
        ):
            if not parts:
                continue
            for f, t in self.encoder.encode(parts).items():
                if f not in parts:
                    continue
                for row in sorted(set(t.row.tolist())):
                    x = t.x[t.row == row] @ self.encoder.heads[f].weight.T
                    put(row, f, unit(x))
        return queries, records

    def late_interaction(self, query, tokens):
        """Equation 1 of the tokens of one field or of all."""
        return sum((tokens @ q).max() for q in query) / len(query)

    def whole(self, query, record):
        """Equation 3: of the field that fits best; equation 1: of all fields in one."""
        if self.score == "fields":
            return torch.stack([self.late_interaction(query, x) for x in record.values()]).max()
        return self.late_interaction(query, torch.cat(list(record.values())))

    def losses(self, batch):
        queries, records = self.vectors(batch)
        rows = [row for row in sorted(queries) if row in records]
        if len(rows) < 2:
            return {"records": 0 * self.w["learned.log"] * sum(p.sum() for p in self.anything())}
        aim = self.aims(batch)
        total = 0
        for k in rows:
            s = {j: self.whole(queries[k], records[j]) * self.scale() for j in rows}
            positive, others = s[k], [s[j] for j in rows if j != k]
            field = aim.get(k)
            if self.contrast != "records" and field in records[k]:
                positive = self.late_interaction(queries[k], records[k][field]) * self.scale()
                if self.contrast == "negatives":  # 5: also each field of every record
                    others += [
                        self.late_interaction(queries[k], x) * self.scale()
                        for j in rows
                        for f, x in records[j].items()
                        if (j, f) != (k, field)
                    ]
            total = total + torch.stack([positive, *others]).logsumexp(0) - positive
        return {"records": total / len(rows)}

    def aims(self, batch):
        """Row -> the field that its query is about, of those that are known."""
        if not self.label:
            return {}
        known = batch.labels[self.label]
        names = self.names or [f for f in self.encoder.fields if f != self.text_field]
        return {r: names[c] for r, c in zip(known.rows.tolist(), known.values.tolist())}

    def anything(self):
        return self.encoder.heads.parameters()


def hold(fields=("picture", "words", "signal", "facts"), rows=6, classes="", **options):
    contrast = options.get("contrast", "records")
    label = "" if contrast == "records" else "kind"
    options = {"contrast": contrast, "label": label, "width": 8} | options
    names = [f.strip() for f in classes.split(",")] if classes else []
    reference = type("Clamr", (Clamr,), options | {"names": names})
    also = {"fields": classes} if classes else {}  # of the page, not of `golden`
    golden("clamr", reference, views=("plain",), fields=fields, rows=rows, also=also, **options)


@pytest.mark.parametrize("contrast", ["records", "positives", "negatives"])
@pytest.mark.parametrize("score", ["fields", "tokens"])
def test_two_steps(score, contrast):
    hold(score=score, contrast=contrast, rows=9)


@pytest.mark.parametrize("contrast", ["positives", "negatives"])
def test_classes_stand_for_fields_that_are_named(contrast):
    hold(contrast=contrast, rows=9, classes="facts, picture,signal")
    hold(contrast=contrast, rows=9, text_field="signal")


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.02}, {"max_scale": 5.0}, {"temperature": 0.3, "contrast": "negatives"}],
)
def test_two_steps_at_another_temperature(options):
    hold(**options)


@pytest.mark.parametrize("contrast", ["records", "negatives"])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows, contrast):
    """Of one record nothing is learnt, though its query has another field to be told from."""
    hold(contrast=contrast, rows=rows)
    hold(contrast=contrast, rows=rows, classes="facts, signal, picture")


def test_one_field_alone():
    """A retriever of one modality: rows that lack it have no record."""
    for score in ("fields", "tokens"):
        hold(("words", "facts"), rows=7, score=score)


def test_what_records_are_indexed_by_is_what_was_trained():
    """A list of unit vectors of each value, of a record's fields in company and of a query alone."""
    m = exact(method("clamr", label="", contrast="records", width=8)).eval()
    b = exact(batch(("plain",)))
    queries, records = Clamr(m).vectors(b)
    lists, _ = m.encoder.multi_vector.of_records(m.encoder, b)
    assert "words" not in lists
    for field in lists:
        own = dict(zip(lists[field].rows.tolist(), lists[field].values.split()))
        assert own.keys() == {row for row in records if field in records[row]}
        for row, x in own.items():
            assert torch.allclose(x, records[row][field], rtol=1e-9)
    asked = m.encoder.multi_vector.of_query(m.encoder, b, "words").split()
    for row, x in zip(b["words"].rows.tolist(), asked):
        assert torch.allclose(x, queries[row], rtol=1e-9)


def test_defaults():
    """The best field in training, 3.4; vectors of 128; CLIP's temperature, where the paper has none."""
    assert defaults("clamr") == {
        "text_field": "",
        "score": "fields",
        "contrast": "records",
        "label": "",
        "fields": "",
        "width": 128,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    hold(width=128, contrast="records")
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-5, 0.01, (0.9, 0.999))
    assert (r.schedule, r.warmup, r.clip) == ("linear", 0.1, 1.0)
    assert (r.batch_size, r.epochs) == (16, 1.0)


def test_wrong_options():
    with pytest.raises(AmodalError, match="Did you mean fields"):
        method("clamr", score="field")
    with pytest.raises(AmodalError, match="Did you mean negatives"):
        method("clamr", contrast="negative")
    for wrong in ({"label": "kind", "contrast": "records"}, {"label": "", "contrast": "positives"}):
        with pytest.raises(AmodalError, match="says which field a query is about"):
            method("clamr", **wrong)
