from dataclasses import replace

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError, Batch, Column
from amodal.methods.embedding_retrieval.clamr import interaction_scores, token_vectors
from amodal.nn.encoder import Encoder
from tests.methods.bench import batch, fields, method


def ordered(names):
    torch.manual_seed(0)
    return methods.build(
        "clamr",
        Encoder(fields(), size="nano", trunk="joint"),
        contrast="positives",
        label="kind",
        fields=names,
    )


def test_scores_are_means_over_the_words_of_a_query_of_the_best_of_a_record():
    clamr = method("clamr").eval()
    z = token_vectors(clamr.encoder, batch(("plain",)), "words")
    whole, each, rows = interaction_scores(z.columns, z.size, "words", clamr.record_fields)
    lists = {s: dict(zip(z[s].rows.tolist(), z[s].values.split())) for s in z}
    assert rows.tolist() == sorted(
        r for r in lists["words"] if any(r in lists[s] for s in clamr.record_fields)
    )
    for i, a in enumerate(rows.tolist()):
        for j, b in enumerate(rows.tolist()):
            query = lists["words"][a]
            record = torch.cat([lists[s][b] for s in clamr.record_fields if b in lists[s]])
            torch.testing.assert_close(
                whole[i, j], torch.stack([(record @ q).max() for q in query]).mean()
            )
            for k, s in enumerate(clamr.record_fields):
                if b in lists[s]:
                    torch.testing.assert_close(
                        each[i, j, k], (query @ lists[s][b].T).amax(1).mean()
                    )
                else:
                    assert each[i, j, k] == -torch.inf


def test_fields_of_a_record_are_read_in_company_and_its_query_is_not():
    clamr, whole = method("clamr").eval(), batch(("plain",), patchy=False)
    seen = token_vectors(clamr.encoder, whole, "words")
    for left_out, changes in (("facts", "picture"), ("picture", "words")):
        fewer = Batch.of(
            whole.size, {s: c for s, c in whole.columns.items() if s != left_out}, whole.keys
        )
        same = torch.allclose(
            token_vectors(clamr.encoder, fewer, "words")[changes].values.flat,
            seen[changes].values.flat,
            atol=1e-6,
        )
        assert same is (changes == "words")


def test_a_label_says_which_field_a_query_is_about():
    clamr = ordered("signal, picture, facts")
    z = clamr.features(batch(("plain",)))
    labelled = clamr.losses(z)["records"]
    other = replace(z, label=Column((z.label.values + 1) % 3, z.label.rows))
    assert clamr.labels == ("kind",) and not torch.isclose(labelled, clamr.losses(other)["records"])
    plain = method("clamr", contrast="records", label="")
    assert plain.labels == () and plain.features(batch(("plain",))).label is None


def test_what_is_not_a_field_of_the_record_is_refused():
    with pytest.raises(AmodalError, match="Did you mean"):
        ordered("pictur")


def test_a_label_of_more_classes_than_fields_is_refused():
    for wrong in ("", "picture, facts"):
        clamr = ordered(wrong)
        z = clamr.features(batch(("plain",)))
        classes = torch.arange(len(z.label.values)).clamp(max=3)
        more = replace(z, label=Column(classes, z.label.rows))
        with pytest.raises(
            AmodalError,
            match=r"'kind' has 4 classes or more.*stand for [23] fields: .*--method.fields",
        ):
            clamr.losses(more)


def test_scores_are_cosines_whatever_the_length_of_vectors():
    clamr = method("clamr").eval()
    z = token_vectors(clamr.encoder, batch(("plain",)), "words")
    longer = {s: c.with_flat(c.flat * (k + 2)) for k, (s, c) in enumerate(z.columns.items())}
    for one, other in zip(
        interaction_scores(z.columns, z.size, "words", clamr.record_fields),
        interaction_scores(longer, z.size, "words", clamr.record_fields),
    ):
        torch.testing.assert_close(one, other)
