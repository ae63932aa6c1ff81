"""A frozen transformer that is told what is missing."""

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError
from amodal.core.embeddings import FUSED
from amodal.nn.adapters.deep_prompts import PatternPrompts
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Target
from tests.methods.bench import FIELDS, batch, fields, method

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
