"""What CoCa alone does: half a decoder reads the text, half reads what it describes too."""

import dataclasses

import numpy as np
import pytest
import torch
from amodal_claims._arms import Budget, fit
from torch.nn.functional import cross_entropy, normalize

from amodal import data, methods, modalities
from amodal.core import AmodalError, Column, Ragged
from amodal.data import Loader
from amodal.export.dense_encoder import why_not_exportable
from amodal.methods.shared.regions import alone
from amodal.nn.adapters.block_tokens import require_no_hook
from amodal.nn.caption_pools import AttentionalPooler, CaptionerPool
from amodal.nn.encoder import Encoder
from tests.methods.bench import batch, exact, method

PAIR = ("picture", "words")


def other_end(b):
    """The batch with another last id in each text."""
    values = b["words"].values
    flat = values.flat.clone()
    flat[values.lengths.cumsum(0) - 1] += 1
    changed = Column(Ragged(flat, values.lengths), b["words"].rows)
    return dataclasses.replace(b, columns={**b.columns, "words": changed})


def test_no_token_of_the_text_reads_what_comes_after_it_but_its_vector_reads_all():
    m = exact(method("coca", sources=PAIR))
    b = exact(batch(m.views, sources=PAIR))
    one, other = (alone(m.encoder, x)["words"] for x in (b, other_end(b)))
    last_word = one.within() == one.lengths()[one.row] - 2
    vector = one.within() == one.lengths()[one.row] - 1
    before = ~last_word & ~vector
    assert before.sum() > 8  # the start of each text, and some tokens
    torch.testing.assert_close(one.x[before], other.x[before])
    assert ((one.x - other.x).abs().amax(1)[~before] > 1e-6).all()
    a, b = (m.text_pool(t).flat for t in (one, other))
    torch.testing.assert_close(a, one.x[vector])
    assert ((a - b).abs().amax(1) > 1e-6).all()


def test_the_second_half_is_causal_too_and_reads_the_picture():
    m = exact(method("coca", sources=PAIR))
    texts = Ragged(torch.randn(9, m.encoder.width).double(), torch.tensor([4, 5]))
    seen = Ragged(torch.randn(5, m.encoder.width).double(), torch.tensor([3, 2]))
    before = m.decoder(texts, seen).flat
    changed = texts.flat.clone()
    changed[2, 0] += 1  # a norm would not notice the same of all dimensions
    after = m.decoder(Ragged(changed, texts.lengths), seen).flat
    differs = (before - after).abs().amax(1) > 1e-9
    assert differs.tolist() == [False, False, True, True] + [False] * 5
    looked = seen.flat.clone()
    looked[4, 0] += 1
    after = m.decoder(texts, Ragged(looked, seen.lengths)).flat
    differs = (before - after).abs().amax(1) > 1e-9
    assert differs.tolist() == [False] * 4 + [True] * 5


def test_pictures_and_tables_are_read_in_no_order():
    m = exact(method("coca"))
    b = exact(batch(m.views))
    values = b["picture"].values.clone()
    values[:, :, -8:, -8:] = 0.1  # the last patch
    changed = dataclasses.replace(
        b, columns={**b.columns, "picture": Column(values, b["picture"].rows)}
    )
    one, other = (alone(m.encoder, x)["picture"] for x in (b, changed))
    assert ((one.x - other.x).abs().amax(1)[one.within() == 0] > 1e-6).all()


def attended(pooler, x):
    """One list, by hand."""
    a = pooler.attention
    y = torch.nn.functional.layer_norm(x, x.shape[1:], pooler.norm.weight, pooler.norm.bias)
    q, (k, v) = a.query(pooler.queries), a.key_value(y).chunk(2, 1)
    heads = []
    for qh, kh, vh in zip(*(t.chunk(a.heads, 1) for t in (q, k, v))):
        heads.append((qh @ kh.T / qh.shape[1] ** 0.5).softmax(1) @ vh)
    return a.out(torch.cat(heads, 1))


def test_a_pooler_is_one_layer_of_attention_by_learned_queries():
    torch.manual_seed(0)
    pooler = AttentionalPooler(8, 2, queries=3).double()
    lists = Ragged(torch.randn(7, 8).double(), torch.tensor([5, 2]))
    out = pooler(lists)
    assert out.lengths.tolist() == [3, 3]
    for mine, x in zip(out.split(), lists.split()):
        torch.testing.assert_close(mine, attended(pooler, x))


@pytest.mark.parametrize("options", [{}, {"cascade": False}, {"queries": 0}])
def test_the_contrast_reads_what_the_decoder_reads_or_the_tokens_beside_it(options):
    m = exact(method("coca", sources=PAIR, **options))
    pool = m.encoder.pools["picture"]
    assert isinstance(pool, CaptionerPool)
    tokens = alone(m.encoder, exact(batch(m.views, sources=PAIR)))["picture"]
    read = pool.read(tokens)
    count = 3 if options.get("queries", 3) else 4  # a picture of the bench has four patches
    assert read.values.lengths.tolist() == [count] * len(read)
    for row, x in enumerate(tokens.x.unflatten(0, (len(read), 4))):
        many = attended(pool.generative, x) if count == 3 else x
        torch.testing.assert_close(read.values.split()[row], many)
        source = many if options.get("cascade", True) else x
        torch.testing.assert_close(pool(tokens).flat[row], attended(pool.contrastive, source)[0])


def test_the_contrast_adds_up_both_directions_at_a_learned_temperature():
    options = {"contrastive_weight": 3.0, "temperature": 0.2}
    m = exact(method("coca", sources=PAIR, **options))
    b = exact(batch(m.views, sources=PAIR))
    z = m.encoder(b)
    image, text = (normalize(x, dim=1) for x in z.pair(*PAIR))
    logits, own = image @ text.T / 0.2, torch.arange(len(image))
    loss = m.losses(m.features(b))["info_nce/picture~words"]
    both = cross_entropy(logits, own) + cross_entropy(logits.T, own)
    assert loss.item() == pytest.approx(3 * both.item(), rel=1e-6)
    loss.backward()
    assert m.scale.log.grad != 0


def test_captions_are_of_rows_that_have_something_to_describe():
    m = exact(method("coca"))
    b = exact(batch(m.views))
    z = m.features(b)
    assert z.captions.rows.tolist() == b["words"].rows.tolist()
    lengths = [-(-n // 4) + 1 for n in b["words"].values.lengths.tolist()]  # 4 bytes a token
    assert z.captions.flat[:, 1].tolist() == lengths  # and an end
    total, number = z.captions.flat.sum(0)
    assert m.losses(z)["caption/words"].item() == pytest.approx(2 * (total / number).item())
    lone = m.features(exact(batch(m.views, absent=("picture", "signal", "facts"))))
    assert len(lone.captions) == 0 and len(lone.aligned["words"]) > 0
    silent = m.losses(m.features(exact(batch(m.views, absent=("words",)))))
    assert silent["caption/words"] == 0 and silent["info_nce/signal~facts"] > 0
    assert silent["info_nce/picture~words"] == 0


def records(n=24):
    """Grey pictures and what they are called; some rows lack one of them."""
    names = "black dark light white".split()
    rng = np.random.default_rng(0)
    number = rng.integers(4, size=n)
    pictures = [np.full((8, 8), 20 + 70 * k, dtype=np.uint8) for k in number]
    captions = [names[k] for k in number]
    fields = {
        "image": modalities.make("image", size=8, channels=1, patch=4),
        "told": modalities.make("text", max_length=16),
    }
    shown = [None if i == 3 else p for i, p in enumerate(pictures)]
    texts = [None if i == 5 else t for i, t in enumerate(captions)]
    return data.open({"image": shown, "told": texts}).with_fields(fields), captions


def made(fields, **options):
    torch.manual_seed(0)
    encoder = Encoder(fields, size="nano", **methods.encoder_options("coca"))
    return methods.build("coca", encoder, queries=4, **options)


def test_it_writes_what_it_has_learnt_and_writes_of_the_picture_alone():
    shades, captions = records()
    m = fit(made(shades.fields, depth=1), shades, range(24), Budget(80, 24), 0, 6e-3).eval()
    b = next(iter(Loader(shades, range(24), batch=24, shuffle=False)))
    written = m.generate(b, beams=2, longest=10)
    assert 3 not in written and 5 in written  # nothing to describe; no text to begin with
    right = np.mean([written[i] == captions[i] for i in written])
    assert right > 0.9
    assert m.generate(b.only("image"), beams=2, longest=10) == written
    assert m.generate(b.only("told")) == {}


def test_the_loss_is_minus_log_p_of_the_text_as_it_is_written():
    shades, _ = records()
    m = made(shades.fields).double().eval()
    b = exact(next(iter(Loader(shades, range(3), batch=3, shuffle=False))))
    total, count = m.features(b).captions.flat.detach().T
    seen = m.read(alone(m.encoder, b.only("image")), 3)[1]
    for row, ids in enumerate(b["told"].values.split()):
        assert count[row] == len(ids) + 1
        log = 0.0
        for t in range(len(ids) + 1):
            states = m.decoder(m.states_of(ids[None, :t]), seen[torch.tensor([row])])
            state = states.flat[-1:]
            letters = m.predictor(state)[0, 0].log_softmax(0)
            end = torch.sigmoid(m.ends(state))[0, 0]
            log += (end.log() if t == len(ids) else (1 - end).log() + letters[ids[t]]).item()
        assert float(total[row]) == pytest.approx(-log, rel=1e-6)


def test_errors_say_what_to_do():
    with pytest.raises(AmodalError, match="there is only words"):
        method("coca", sources=("words",))
    with pytest.raises(AmodalError, match="Did you mean words"):
        method("coca", text_field="wrds")
    with pytest.raises(AmodalError, match="0 queries and blocks or more, not -1 and 0"):
        method("coca", queries=-1)
    with pytest.raises(AmodalError, match="patch = 1"):
        m = method("coca")
        m.generate(batch(m.views))
    shades, _ = records(4)
    shared = Encoder(shades.fields, size="nano", trunk="shared")
    with pytest.raises(AmodalError, match='trunk="separate" and mixer="attention", not \'shared\''):
        methods.build("coca", shared)
    recurrent = Encoder(shades.fields, size="nano", mixer="gru")
    with pytest.raises(AmodalError, match="'separate' and 'gru'"):
        methods.build("coca", recurrent)


def test_what_would_undo_its_order_or_has_no_graph_is_refused_by_name():
    m = method("coca")
    with pytest.raises(AmodalError, match="words is read in a causal order.*lora"):
        require_no_hook(m.encoder)
    assert "in a causal order" in why_not_exportable(m.encoder, "words")
    assert "learned queries pool" in why_not_exportable(m.encoder, "picture")


def test_any_field_may_be_what_is_written():
    m = exact(method("coca", text_field="facts"))
    b = exact(batch(m.views))
    z = m.features(b)
    assert z.captions.rows.tolist() == b["facts"].rows.tolist()
    assert m.losses(z)["caption/facts"] > 0 and m.generated_field == "facts"
