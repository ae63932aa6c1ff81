"""A frozen transformer that is told what is missing."""

import dataclasses

import numpy as np
import pytest
import torch

import amodal
from amodal import methods
from amodal.core import AmodalError
from amodal.core.embeddings import FUSED
from amodal.nn.adapters.deep_prompts import PatternPrompts
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Target
from tests.methods.bench import FIELDS, batch, fields, method
from tests.tiny_vilt import vilt_folder

NAME = "missing_aware_prompts"


def stepped(m, rows):
    before = {n: p.detach().clone() for n, p in m.named_parameters()}
    optimizer = torch.optim.SGD([p for p in m.parameters() if p.requires_grad], 1.0)
    sum(m.losses(m.features(rows)).values()).backward()
    optimizer.step()
    return before, {n for n, p in m.named_parameters() if not torch.equal(p, before[n])}


@pytest.mark.parametrize("prompt_type", ["input", "attention"])
def test_prompts_and_head_learn_and_nothing_else(prompt_type):
    m = method(NAME, prompt_type=prompt_type, length=4)
    _, changed = stepped(m, batch(m.views))
    assert changed == {
        "encoder.block_hook.tokens",
        *(n for n, _ in m.named_parameters() if n.startswith("head.")),
    }
    assert m.encoder.block_hook.tokens.shape == (15, 2, 4, 64)


@pytest.mark.parametrize("present", [("picture",), ("facts",), ("picture", "words"), FIELDS])
def test_only_the_prompts_of_what_rows_have_are_learnt(present):
    m = method(NAME, length=2)
    rows = batch(m.views, absent=[f for f in FIELDS if f not in present], patchy=False)
    before, _ = stepped(m, rows)
    moved = (m.encoder.block_hook.tokens - before["encoder.block_hook.tokens"]).abs().sum(
        (1, 2, 3)
    ) > 0
    fields = list(m.encoder.fields)
    assert moved.nonzero().flatten().tolist() == [sum(2 ** fields.index(f) for f in present) - 1]


def test_prompts_are_the_papers_by_default():
    prompts = PatternPrompts(("picture", "words"), 8, 12)
    assert prompts.tokens.shape == (3, 6, 16, 8)
    assert (prompts.level, prompts.accumulate, prompts.missing_aware) == ("input", True, True)


def test_what_the_head_reads_while_learning_is_what_the_saved_encoder_gives():
    m = method(NAME).eval()
    rows = batch(("plain",))
    with torch.no_grad():
        torch.testing.assert_close(
            m.head_inputs(rows)[FUSED].values, m.encoder.features(rows)[FUSED].values
        )
    assert m.label_head is m.head and m.head.hidden == 128


def test_a_pooling_with_weights_learns_along():
    """As the paper's pooler does."""
    every = fields(FIELDS[:2])
    encoder = Encoder(every, size="nano", trunk="joint", pool="attention")
    m = methods.build(NAME, encoder, targets=(Target("kind", "classes", ("a", "b", "c")),))
    learns = {n for n, p in m.named_parameters() if p.requires_grad}
    pools = {n for n, _ in m.named_parameters() if n.startswith(f"encoder.pools.{FUSED}.")}
    assert pools and pools < learns
    assert not any(n.startswith("encoder.trunks") for n in learns)


@pytest.mark.parametrize("sources", [FIELDS[:2], FIELDS[:3]])
def test_any_number_of_fields_and_one_set_for_all(sources):
    assert method(NAME, sources=sources).encoder.block_hook.tokens.shape[0] == 2 ** len(sources) - 1
    assert method(NAME, sources=sources, aware=False).encoder.block_hook.tokens.shape[0] == 1


def test_wrong_options_are_refused():
    with pytest.raises(AmodalError, match="Did you mean input"):
        method(NAME, prompt_type="inputs")
    with pytest.raises(AmodalError, match="already \\(PatternPrompts\\)"):
        methods.build(NAME, method(NAME).encoder, targets=(Target("kind", "classes", ("a", "b")),))
    with pytest.raises(AmodalError, match="nothing to predict"):
        method(NAME, targets=())


@pytest.mark.parametrize("names, lost", [("", {"picture", "words"}), ("words", {"words"})])
def test_some_records_lose_a_field_in_training_the_same_in_every_epoch(names, lost):
    m = method(NAME, sources=FIELDS[:2], missing=0.6, missing_fields=names)
    seen = []
    tokenize = m.encoder.tokenize
    m.encoder.tokenize = lambda batch: seen.append(batch) or tokenize(batch)
    rows = batch(m.views, sources=FIELDS[:2], size=64, patchy=False)
    m.features(rows)
    m.features(dataclasses.replace(rows, seeds=rows.seeds + 1))
    m.predict(rows)
    first, second, predicted = (b.present() for b in seen)
    assert torch.equal(first, second) and predicted.all() and first.any(1).all()
    assert {f for f, has in zip(rows.sources, first.T) if not has.all()} == lost
    assert 0.4 < (~first.all(1)).float().mean() < 0.8
    with pytest.raises(AmodalError, match="Did you mean words"):
        method(NAME, sources=FIELDS[:2], missing=0.6, missing_fields="word")
    with pytest.raises(AmodalError, match="from 0 to 1"):
        method(NAME, sources=FIELDS[:2], missing=70)


def test_the_heads_norm_is_one_option_away():
    plain, normed = (method(NAME, head_norm=norm).head.net for norm in (False, True))
    assert [type(part).__name__ for part in plain] == ["Linear", "GELU", "Linear"]
    assert [type(part).__name__ for part in normed] == ["Linear", "LayerNorm", "GELU", "Linear"]


def test_a_vilt_stays_and_its_pooler_learns(tmp_path):
    """From the command line's options to predictions of a record that lacks a field."""
    folder, model = vilt_folder(tmp_path)
    rng = np.random.default_rng(0)
    words = ["a red apple", "green pear", "a green apple and a pear"]
    kinds = [i % 3 for i in range(48)]
    data = {
        "picture": [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in kinds],
        "words": [words[kind] for kind in kinds],
        "kind": np.array([f"k{kind}" for kind in kinds]),
    }
    dataset = amodal.open(data, fields={"words": "text"})
    run = amodal.pretrain(
        NAME,
        dataset,
        tmp_path / "run",
        trunk=f"transformers:{folder}",
        size="nano",
        steps=60,
        lr=0.05,
        batch_size=16,
        options={"label": "kind", "length": 2, "layers": 2, "missing": 0.3},
    )
    encoder = run.encoder
    trunk, state = encoder.trunks["all"], model.state_dict()
    for name, value in trunk.encoder.state_dict().items():
        torch.testing.assert_close(value, state[f"encoder.{name}"], rtol=0, atol=0)
    pooler = encoder.pools[FUSED].dense.weight
    assert not torch.equal(pooler, state["pooler.dense.weight"])
    assert encoder.block_hook.tokens.shape == (3, 2, 2, 64)
    texts = run.predict({"words": words})["kind"]
    assert texts.to_pylist() == ["k0", "k1", "k2"]
    assert trunk.blank  # as in the paper; and else not
    host = {"trunk": f"transformers:{folder}", "size": "nano", "steps": 1}
    other = amodal.pretrain(
        NAME, dataset, tmp_path / "other", options={"label": "kind", "blank": False}, **host
    )
    assert not other.encoder.trunks["all"].blank
    with pytest.raises(AmodalError, match="for methods that learn a label"):
        amodal.pretrain("clip", dataset, tmp_path / "no", trunk=f"transformers:{folder}", steps=1)
    with pytest.raises(AmodalError, match="leave the backbone of picture out"):
        amodal.pretrain(
            NAME,
            dataset,
            tmp_path / "no",
            trunk=f"transformers:{folder}",
            size="nano",
            steps=1,
            backbones={"picture": "convnet"},
            options={"label": "kind"},
        )
