"""Less bimodal supervision with words hidden inside a pretrained RoBERTa, row by row from the model
of transformers."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, gelu, layer_norm

import amodal
from amodal import methods
from amodal.core import AmodalError, Batch, Column, Ragged, name_code
from amodal.masking.hashing import hash_bits, uniform
from amodal.modalities import make
from amodal.nn import config
from amodal.nn.encoder import Encoder
from tests.tiny_roberta import END, MASK, START, VOCABULARY, roberta_folder

TEXTS = ("a red apple on the sea", "green pear and a red pear", "boat", "the boat and the pear")


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return roberta_folder(tmp_path_factory.mktemp("roberta"))


def made(folder, frozen=False, text="", **options):
    fields = {
        "picture": make("image", size=16, channels=3, patch=8),
        "words": make("text", vocabulary=str(folder), max_length=12),
    }
    torch.manual_seed(0)
    spec = {"words": f"transformers:{folder}{text}"}
    nets = config.backbones(spec, fields, "nano", frozen=frozen)
    encoder = Encoder(fields, size="nano", backbones=nets)
    options = {"pairs": 1.0, "depth": 1, "ratio": 0.5} | options
    return methods.build("less_bimodal", encoder, **options)


def records(m, size=4, missing=()):
    rng, fields = np.random.default_rng(0), m.encoder.fields
    pictures = [rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(size)]
    texts = [TEXTS[i % 4] for i in range(size)]
    columns = {}
    for name, raws in (("picture", pictures), ("words", texts)):
        rows = [i for i in range(size) if (name, i) not in missing]
        values = [fields[name].decode(raws[i]) for i in rows]
        columns[name] = Column(fields[name].collate(values), torch.tensor(rows))
    return Batch.of(size, columns, [f"r{i}" for i in range(size)])


def hidden_of(m, batch):
    """Row -> (ids, which are hidden, what the model reads)."""
    layout = m.masked.content(m.encoder, batch)
    hidden = m.masked.draw(m.encoder, layout, batch)
    out = {}
    for row, ids in zip(batch["words"].rows.tolist(), batch["words"].values.split()):
        seed = hash_bits(batch.seeds[row : row + 1], name_code("replaced words"))
        read = ids.clone()
        own = hidden[layout.row == row]
        for i in own.nonzero().flatten().tolist():
            luck, other = (float(uniform(seed, torch.tensor([i]), k)) for k in (0, 1))
            if luck < 0.8:
                read[i] = MASK
            elif luck < 0.9:
                read[i] = int(other * len(VOCABULARY))
        out[row] = ids, own, read
    return out


def test_words_are_hidden_inside_the_model_and_its_ids_predicted(roberta):
    folder, model = roberta
    m = made(folder)
    batch = records(m, missing={("picture", 3)})
    z = m.features(batch)
    project, p = m.encoder.tokenizers["words"].project, m.masked.predictor
    assert m.masked.vocab_size == len(VOCABULARY)
    losses, count = {}, {}
    for row, (ids, hidden, read) in hidden_of(m, batch).items():
        if row == 3 or not hidden.any():
            continue
        whole = torch.tensor([[START, *read.tolist(), END]])
        states = model(input_ids=whole).last_hidden_state[0, 1:-1]
        words = project(states) + m.encoder.field_token["words"]
        seen = z.tokens["picture"].values.split()[row]
        fused = m.co.read("words", "picture", Ragged.of([words]), Ragged.of([seen])).flat
        inner = gelu(fused[hidden] @ p[0].weight.T + p[0].bias)
        inner = layer_norm(inner, (64,), p[2].weight, p[2].bias)
        logits = inner @ p[3].weight.T + p[3].bias
        losses[row] = cross_entropy(logits, ids[hidden].long(), reduction="sum")
        count[row] = int(hidden.sum())
    masked = dict(zip(z.masked["picture"].rows.tolist(), z.masked["picture"].values))
    assert set(masked) == {0, 1, 2} and losses
    for row, loss in losses.items():
        torch.testing.assert_close(masked[row][0], loss, rtol=1e-4, atol=1e-4)
        assert masked[row][1] == count[row]
    terms = m.losses(z)
    expected = sum(losses.values()) / sum(count.values())
    torch.testing.assert_close(terms["mlm/picture"], expected, rtol=1e-4, atol=1e-4)
    sum(terms.values()).backward()
    word = m.encoder.tokenizers["words"].body.model.embeddings.word_embeddings.weight
    assert word.grad[MASK].abs().sum() > 0


def test_of_hidden_ids_most_are_masks_some_others_and_some_stay(roberta):
    m = made(roberta[0], ratio=0.15)
    batch = records(m, size=3000)
    ids = batch["words"].flat
    layout = m.masked.content(m.encoder, batch)
    hidden = m.masked.draw(m.encoder, layout, batch)
    read = m.masked.masked(batch, layout, hidden)["words"].flat
    assert torch.equal(read[~hidden], ids[~hidden])
    share = lambda x: float(x.double().mean())  # noqa: E731
    assert share(hidden) == pytest.approx(0.15, abs=0.03)
    changed, mask = read[hidden] != ids[hidden], read[hidden] == MASK
    other = len(VOCABULARY)
    assert share(mask) == pytest.approx(0.8 + 0.1 / other, abs=0.02)
    assert share(changed & ~mask) == pytest.approx(0.1 * (other - 2) / other, abs=0.02)
    assert len(read[hidden].unique()) == other


def test_what_is_hidden_is_a_matter_of_rows_alone(roberta):
    m = made(roberta[0])
    batch = records(m)
    whole = m.features(batch).masked["picture"].values
    parts = [m.features(part).masked["picture"].values for part in batch.split(2)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)
    later = dataclasses.replace(batch, seeds=batch.seeds + 1)
    assert not torch.allclose(m.features(later).masked["picture"].values, whole)


def test_other_models_are_refused(roberta, tmp_path):
    with pytest.raises(AmodalError, match="with a mask token and a vector for each id"):
        made(roberta[0], text="@first")
    folder, _ = roberta_folder(tmp_path, mask=False)
    with pytest.raises(AmodalError, match="less_bimodal hides words"):
        made(folder)
    assert made(folder, pairs=0.0, targets=(dict(name="k", kind="classes", classes=["a", "b"]),))


def test_a_run_is_opened_without_the_folder(roberta, tmp_path):
    rng = np.random.default_rng(0)
    data = amodal.open(
        {
            "picture": [rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(40)],
            "words": [f"{TEXTS[i % 4]} {'a ' * int(rng.integers(1, 5))}" for i in range(40)],
            "kind": np.array([f"k{i % 2}" for i in range(40)]),
        },
        fields={"words": "text"},
    )
    model = amodal.pretrain(
        "less_bimodal",
        data,
        tmp_path / "run",
        backbones={"words": f"transformers:{roberta[0]}"},
        train_backbones=True,
        size="nano",
        steps=6,
        batch_size=16,
        lr=1e-3,
        progress=False,
        options={"label": "kind", "depth": 1},
    )
    assert model.method.masked.mask == MASK
    body = model.encoder.tokenizers["words"].body
    before = roberta[1].state_dict()["encoder.layer.0.output.dense.weight"]
    assert not torch.equal(body.model.state_dict()["encoder.layer.0.output.dense.weight"], before)
    assert set(model.predict(data)["kind"].to_pylist()) <= {"k0", "k1"}
