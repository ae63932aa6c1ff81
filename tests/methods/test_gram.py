"""gram: volumes do not know the sign of a vector, and what ranks vectors afterwards must know that."""

import numpy as np
import torch

from amodal import data, modalities
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.open_set import nearest
from amodal.evaluate.protocols.retrieval import ranked, retrieval
from amodal.evaluate.protocols.track_identification import votes
from amodal.nn import config
from amodal.nn.encoder import Encoder
from amodal.search import Index, search
from tests.methods.bench import method


def apart(n=40):
    """Two fields with the same numbers, and an encoder that gives the second the opposite vectors."""
    rng = np.random.default_rng(0)
    rows = [{"x": float(a), "y": float(b)} for a, b in rng.normal(size=(n, 2))]
    table = modalities.kind("table").infer(rows)
    records = data.open({"one": rows, "two": rows}).with_fields({"one": table, "two": table})
    torch.manual_seed(0)
    encoder = Encoder({"one": table, "two": table}, size="nano").align(8)
    for parts in (encoder.tokenizers, encoder.trunks, encoder.pools, encoder.heads):
        parts["two"].load_state_dict(parts["one"].state_dict())
    with torch.no_grad():
        encoder.field_token["two"].copy_(encoder.field_token["one"])
        encoder.heads["two"].weight.neg_()
    return records, encoder


def recall(result):
    return [row["value"] for row in result.rows if row["metric"] == "recall@1"]


def test_the_encoder_says_so_and_a_saved_one_too():
    encoder = method("gram").encoder
    assert encoder.similarity == config.build(encoder.spec).similarity == "abs_cosine"
    assert method("clip").encoder.similarity == "cosine"


def test_retrieval_and_search_find_what_points_the_other_way(tmp_path):
    records, encoder = apart()
    for unsigned in (False, True):
        encoder.similarity = "abs_cosine" if unsigned else "cosine"
        found = recall(retrieval(None, embed_records(encoder, records, range(40))))
        assert min(found) > 0.9 if unsigned else max(found) < 0.1
    index = Index.open(tmp_path, encoder=encoder, fingerprint="f").update(records)
    hit, *_ = search(index, encoder, {"one": records.raw(3, "one")}, k=3, fields=["two"])
    assert hit.key == records.keys[3] and hit.score > 0.999


def test_votes_and_keys_by_size_too():
    torch.manual_seed(0)
    z, own = torch.randn(12, 4), np.arange(12)
    assert (votes(z, -z, own, own, 12, 1, True) == np.eye(12)).all() and votes(
        z, -z, own, own, 12, 1
    ).trace() == 0
    assert (
        torch.equal(nearest(z, -z, True), torch.arange(12))
        and not (nearest(z, -z) == torch.arange(12)).any()
    )


def test_ranks_by_size_do_not_change_when_vectors_turn_round():
    torch.manual_seed(0)
    a, b = torch.randn(2, 30, 4)
    turned = b * torch.randn(30, 1).sign()
    assert ranked(a, b, abs_cosine=True) == ranked(a, turned, abs_cosine=True) != ranked(a, b)
