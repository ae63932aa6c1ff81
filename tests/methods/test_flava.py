"""What FLAVA alone does: which rows have which loss, codes, and pairs that do not match."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

import amodal
from amodal import data, methods
from amodal.adapt import adapt
from amodal.core import AmodalError, Column, Ragged
from amodal.data import Loader
from amodal.masking.hashing import hash_bits
from amodal.methods.masked.flava import text_keys
from amodal.methods.shared.shapes import token_column
from amodal.nn.codebook import Codebook, TokenSample
from amodal.nn.encoder import Encoder
from amodal.nn.image_codes import ImageCodes
from amodal.objectives.matching import swap_partners
from tests.methods.bench import FIELDS, batch, exact, method

PAIR = ("picture", "words")
PAPER = {"unimodal": "unpaired", "mismatched": 0.1}


def partly_paired(sources=PAIR, size=8):
    """Rows with both fields, but 1 has a picture and 2 and 5 have words alone."""
    whole = exact(batch(("plain",), size=size, patchy=False, sources=sources))
    columns = {}
    for f, column in whole.columns.items():
        without = {"picture": (2, 5), "words": (1,)}.get(f, (1, 2, 5))
        columns[f] = column.at(torch.tensor([r not in without for r in column.rows.tolist()]))
    return dataclasses.replace(whole, columns=columns)


def test_rows_with_one_field_have_its_loss_alone_and_rows_with_more_have_the_others():
    m = exact(method("flava", sources=PAIR, **PAPER))
    z = m.features(partly_paired())
    counts = {f: c.flat[:, 1] for f, c in z.unimodal.items()}
    assert z.unimodal["picture"].rows.tolist() == [1]
    assert {*z.unimodal["words"].rows.tolist()} <= {2, 5}  # of a single token nothing is hidden
    pairs = [0, 3, 4, 6, 7]
    assert z.joint.rows.tolist() == pairs
    assert z.mmm["picture"].rows.tolist() == pairs
    assert {*z.mmm["words"].rows.tolist()} <= {*pairs} and len(z.mmm["words"])
    assert counts["picture"].tolist() == [2]  # .38 of four patches
    every = exact(method("flava", sources=PAIR, unimodal="all")).features(partly_paired())
    assert every.unimodal["picture"].rows.tolist() == [0, 1, 3, 4, 6, 7]
    assert every.mmm["picture"].rows.tolist() == pairs


def test_a_row_with_one_field_teaches_that_field_alone():
    m = exact(method("flava", sources=PAIR, **PAPER))
    terms = m.losses(m.features(partly_paired()))
    assert set(terms) == {
        "info_nce/picture~words",
        "unimodal/picture",
        "unimodal/words",
        "mmm/picture",
        "mmm/words",
        "itm/words",
    }
    terms["unimodal/words"].backward()
    moved = {n for n, p in m.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("trunks.words" in n for n in moved) and "masks.words" in moved
    assert not any("picture" in n or "pools.fused" in n or "mmm" in n for n in moved)


def test_without_pairs_and_without_single_fields_losses_are_zeros_of_the_graph():
    m = exact(method("flava", sources=PAIR, **PAPER))
    lone = m.losses(m.features(exact(batch(m.views, sources=PAIR, absent=("picture",)))))
    assert lone["unimodal/words"] > 0
    for name in ("info_nce/picture~words", "mmm/words", "itm/words", "unimodal/picture"):
        assert lone[name] == 0 and lone[name].requires_grad
    paired = m.losses(m.features(exact(batch(m.views, sources=PAIR, patchy=False))))
    assert paired["unimodal/words"] == 0 and paired["mmm/words"] > 0


def test_what_is_hidden_changes_what_is_predicted_and_nothing_that_predicts():
    m = exact(method("flava", sources=PAIR, codes=0, **PAPER))
    b = exact(batch(m.views, sources=PAIR, patchy=False))
    content = m.encoder.patchify(b)["picture"]
    hidden = m.hidden(content, b)
    assert 0 < hidden.sum() < len(hidden)
    values = b["picture"].values.clone()
    tiles = values.unflatten(2, (2, 8)).unflatten(4, (2, 8))  # (N, C, row, 8, column, 8)
    for token in hidden.nonzero().flatten().tolist():
        row, place = divmod(token, 4)
        tiles[row, :, place // 2, :, place % 2, :] += torch.rand(3, 8, 8).double()
    changed = dataclasses.replace(
        b, columns={**b.columns, "picture": Column(values, b["picture"].rows)}
    )
    one, other = m.features(b), m.features(changed)
    assert not torch.equal(b["picture"].values, changed["picture"].values)
    torch.testing.assert_close(one.joint.flat, other.joint.flat)
    torch.testing.assert_close(one.mmm["words"].flat, other.mmm["words"].flat)
    assert not torch.allclose(one.mmm["picture"].flat, other.mmm["picture"].flat)
    assert not torch.allclose(one.aligned["picture"].flat, other.aligned["picture"].flat)


def test_the_contrast_is_of_whole_values():
    m = exact(method("flava", sources=PAIR, temperature=0.2, contrastive_weight=3.0))
    b = exact(batch(m.views, sources=PAIR))
    image, text = (normalize(x, dim=1) for x in m.encoder(b).pair(*PAIR))
    logits, own = image @ text.T / 0.2, torch.arange(len(image))
    mean = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    loss = m.losses(m.features(b))["info_nce/picture~words"]
    assert loss.item() == pytest.approx(3 * mean.item(), rel=1e-6)


def test_matching_is_of_own_texts_and_of_texts_of_other_rows():
    m = exact(method("flava", sources=PAIR, mismatched=0.5, itm_weight=2.0))
    b = partly_paired(size=12)
    z = m.features(b)
    seen = []
    heads = m.itm_head.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    loss = m.losses(z)["itm/words"]
    heads.remove()
    (joint, logits), pairs = seen[0], z.joint.rows.tolist()
    assert len(joint) == len(pairs) == 9
    own = [i for i in range(9) if (joint == z.joint.flat[i]).all(1).any()]
    wrong = len(joint) - len(own)
    assert 0 < wrong < 9
    labels = torch.tensor([1] * len(own) + [0] * wrong)
    assert loss.item() == pytest.approx(2 * cross_entropy(logits, labels).item(), rel=1e-6)
    # what does not match: the row's picture and another row's text, by the multimodal encoder
    swapped = [pairs[i] for i in range(9) if i not in own]
    texts, pictures = (
        dict(zip(z.tokens[f].rows.tolist(), z.tokens[f].values.split()))
        for f in ("words", "picture")
    )
    for row, vector in zip(swapped, joint[len(own) :]):
        made = {
            other: m.multimodal.read(
                {
                    "picture": Column(Ragged.of([pictures[row]]), torch.tensor([0])),
                    "words": Column(Ragged.of([texts[other]]), torch.tensor([0])),
                },
                1,
            )[0].flat[0]
            for other in pairs
        }
        fits = [other for other, x in made.items() if torch.allclose(x, vector)]
        assert fits and row not in fits


def test_no_row_gets_its_own_text_by_another_rows_hand():
    seeds = hash_bits(torch.arange(2000))
    group = torch.arange(2000) % 4
    partner = swap_partners(seeds, 0.1, group_N=group)
    moved = partner != torch.arange(2000)
    assert (group[partner[moved]] != group[moved]).all()
    assert 0.07 < moved.double().mean() < 0.13
    assert (swap_partners(seeds, 1.0, group_N=group * 0) == torch.arange(2000)).all()
    b = batch(("plain",), size=40, patchy=False, sources=PAIR)
    keys = text_keys(b, "words").flat.tolist()
    texts = [tuple(x.tolist()) for x in b["words"].values.split()]
    assert len(set(texts)) < len(texts)  # of the bench some are equal
    assert len(set(keys)) == len(set(texts)) == len({*zip(keys, texts)})
    assert torch.equal(text_keys(b, "picture").flat, b.seeds)


def test_codes_are_the_nearest_of_centres_that_are_fitted_to_all_records():
    torch.manual_seed(0)
    book = Codebook(3, 2)
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    points = centres.repeat(50, 1) + 0.1 * torch.randn(150, 2)
    book.fit(points)
    assert torch.cdist(book.centres, centres).amin(1).max() < 0.1
    codes = book(points).view(50, 3)
    assert (codes == codes[0]).all() and len({*codes[0].tolist()}) == 3
    few = Codebook(5, 2)
    few.fit(points[:2])
    assert {*few(points[:2]).tolist()} < {0, 1, 2, 3, 4} and len({*few(points[:2]).tolist()}) == 2
    before = few.centres.clone()
    few.fit(points[:0])
    assert torch.equal(few.centres, before)


def test_a_sample_is_of_all_parts_in_their_order():
    def drawn(count):
        some = TokenSample(count)
        for part in torch.arange(1000.0)[:, None].split(7):
            some.add(part)
        return some.tokens.flatten()

    assert len(drawn(100)) == 100 and (drawn(100).diff() > 0).all()
    assert drawn(100)[0] < 100 and drawn(100)[-1] > 900
    assert torch.equal(drawn(2000), torch.arange(1000.0))
    assert len(TokenSample().tokens) == 0


@pytest.fixture
def codebook(tmp_path):
    """A folder of a small dVAE with random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.FlavaImageCodebookConfig(
        num_groups=4, hidden_size=4, vocab_size=11, num_blocks_per_group=1
    )
    model = transformers.FlavaImageCodebook(config).eval()
    model.save_pretrained(tmp_path / "dvae")
    return str(tmp_path / "dvae"), model


def test_a_codebook_of_images_gives_the_codes_of_their_patches(codebook):
    folder, model = codebook
    m = method("flava", codebook=folder)
    images = batch(("plain",))["picture"].values  # 16 pixels, patches of 8: a code is of 8 x 8
    codes = m.targets("picture", images).view(-1, 2, 2)
    with torch.no_grad():
        own = model.blocks(0.8 * images + 0.1).argmax(1)
    assert torch.equal(codes, own) and len({*codes.flatten().tolist()}) > 1
    assert m.mmm_heads["picture"].out.out_features == 11
    assert m.mmm_heads["signal"].out.out_features == 6  # by k-means
    assert not any("dvae" in n or "blocks.input" in n for n in m.state_dict())
    larger = torch.nn.functional.interpolate(images, size=(32, 32), mode="nearest")
    assert ImageCodes(folder, 8)(larger).shape == (len(images) * 16,)
    assert ImageCodes(folder, 16)(larger).shape == (len(images) * 4,)  # shrunk to 16 pixels


def test_a_run_with_a_codebook_opens_without_its_folder(codebook, tmp_path):
    folder, _ = codebook
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 255, (16, 16, 16, 3), dtype=np.uint8))
    d = amodal.open({"image": pictures, "told": [f"it is {i}" for i in range(16)]})
    options = {"codebook": folder, "depth": 1}
    quick = {"size": "nano", "steps": 2, "batch_size": 8, "progress": False, "device": "cpu"}
    amodal.pretrain("flava", d, tmp_path / "run", options=options, **quick)
    shutil.rmtree(folder)
    opened = amodal.load(tmp_path / "run")
    assert len(opened.embed(d).aligned["image"]) == 16
    with pytest.raises(AmodalError, match="there is no directory"):
        opened.method.targets("image", torch.rand(1, 3, 16, 16))


def test_a_bad_codebook_is_refused(tmp_path, codebook):
    with pytest.raises(AmodalError, match="there is no directory"):
        method("flava", codebook=str(tmp_path / "nowhere"))
    with pytest.raises(AmodalError, match="holds no codebook of images"):
        method("flava", codebook=str(tmp_path))
    with pytest.raises(AmodalError, match="three channels.*words, facts"):
        method("flava", sources=("words", "facts"), codebook=codebook[0])


def test_a_run_fits_codes_of_images_and_signals_and_predicts_the_rest_as_it_is():
    m = method("flava")
    assert set(m.codebooks) == {"picture", "signal"}
    assert m.mmm_heads["picture"].out.out_features == 6
    whole = [batch(("plain",), size=8, patchy=False, seed=s) for s in range(2)]
    before = {f: b.centres.clone() for f, b in m.codebooks.items()}
    m.fit_statistics(iter(whole))
    for f, book in m.codebooks.items():
        assert not torch.equal(book.centres, before[f])
        targets = m.encoder.fields[f].targets(whole[0][f].values)
        nearest = torch.cdist(targets, book.centres).argmin(1)
        assert torch.equal(m.targets(f, whole[0][f].values), nearest)
    values = method("flava", codes=0)
    assert not values.codebooks
    assert values.mmm_heads["picture"].out.out_features == 3 * 8 * 8


def test_words_are_hidden_whole_if_asked():
    texts = [f"the painted lighthouse {i} stands on harbour rocks" for i in range(40)]
    pictures = [np.full((8, 8), 6 * i, dtype=np.uint8) for i in range(40)]
    d = data.open({"image": pictures, "told": texts})
    learnt = dataclasses.replace(d.fields["told"], vocabulary_size=300)
    learnt = learnt.with_learnt(learnt.learn_tokens(texts))
    d = d.with_fields({**d.fields, "told": learnt})
    b = next(iter(Loader(d, range(40), batch=40, shuffle=False)))

    def words_cut(**options):
        torch.manual_seed(0)
        encoder = Encoder(d.fields, size="nano", **methods.encoder_options("flava"))
        m = methods.build("flava", encoder, codes=4, other=0.3, **options)
        tokens = m.encoder.patchify(b)["told"]
        hidden, word = m.hidden(tokens, b), learnt.words(b["told"].values)
        cut = {}
        for row, w, h in zip(tokens.row.tolist(), word.tolist(), hidden.tolist()):
            cut.setdefault((row, w), set()).add(h)
        return sum(len(h) > 1 for h in cut.values()), hidden.double().mean()

    assert words_cut()[0] > 0
    number, share = words_cut(whole_words=True)
    assert number == 0 and share > 0.1


def test_the_multimodal_vector_is_of_all_fields_of_a_row():
    m = exact(method("flava")).eval()
    b = exact(batch(("plain",)))
    z = m.encoder.features(b)["fused"]
    assert z.rows.tolist() == list(range(8)) and z.flat.shape == (8, m.encoder.width)
    fewer = m.encoder.features(b.only("picture", "words"))["fused"]
    assert ((z.flat - fewer.flat).abs().amax(1) > 1e-6).all()


def test_verbs_read_the_class_token_of_a_whole_record(tmp_path):
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 255, (60, 16, 16, 3), dtype=np.uint8))
    texts = [f"it is number {i}" if i % 5 else None for i in range(60)]
    d = amodal.open({"image": pictures, "told": texts, "kind": ["ab"[i % 2] for i in range(60)]})
    d = d.select(["image", "told"])
    quick = {"size": "nano", "steps": 2, "batch_size": 16, "progress": False, "device": "cpu"}
    run = amodal.pretrain("flava", d, tmp_path / "run", options={"depth": 1}, **quick)
    opened = amodal.load(tmp_path / "run")
    embedded = opened.embed(d)
    known = d.with_fields(opened.encoder.fields)  # with the parts of words that it has learnt
    b = next(iter(Loader(known, range(60), batch=60, shuffle=False)))
    with torch.no_grad():
        lists = opened.encoder.encode(opened.encoder.tokenize(b))
        columns = {f: token_column(t) for f, t in lists.items()}
        expected = opened.method.multimodal.read(columns, 60)[0]
    torch.testing.assert_close(embedded.features["fused"].values, expected.values)
    assert len(embedded.features["fused"]) == 60 and "fused" not in embedded.aligned
    asked = {"protocols": ["linear"], "label": "kind", "untrained": False}
    sources = {row["source"] for row in run.evaluate(d, **asked)["linear"].rows}
    assert sources == {"image", "told", "fused"}
    tuned = {"label": "kind", "tuning": "full", "steps": 2, "batch_size": 16, "device": "cpu"}
    model = amodal.load(adapt(tmp_path / "run", d, tmp_path / "tuned", progress=False, **tuned))
    assert model.head.joint and len(model.predict(d)) == 60


def test_errors_say_what_to_do():
    with pytest.raises(AmodalError, match="there is only words"):
        method("flava", sources=("words",))
    with pytest.raises(AmodalError, match="Did you mean unpaired"):
        method("flava", unimodal="unpaird")
    with pytest.raises(AmodalError, match="two codes or none .0., not 1 and 1"):
        method("flava", codes=1)
    with pytest.raises(AmodalError, match="probability below 1.*not 1"):
        method("flava", mismatched=1.0)
    with pytest.raises(AmodalError, match="hiding some of them hides nothing"):
        method("flava", backbones={"picture": "convnet:width=8,stages=2"})
    made = Encoder(method("flava").encoder.fields, size="nano", trunk="joint")
    with pytest.raises(AmodalError, match="trunk=\"separate\".*has 'joint'"):
        methods.build("flava", made)


def test_rows_without_text_are_contrasted_and_masked_but_not_matched():
    m = exact(method("flava", **PAPER))
    b = exact(batch(m.views, absent=("words",)))
    z, terms = m.features(b), m.losses(m.features(b))
    assert len(z.joint) == 8 and terms["itm/words"] == 0 and terms["mmm/signal"] > 0
    assert set(terms) >= {f"mmm/{f}" for f in FIELDS}
