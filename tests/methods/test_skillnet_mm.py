"""What the page alone does: its rules, its tasks and their weights."""

import pytest
import torch

from amodal.core import AmodalError
from amodal.core.column import both as shared
from amodal.methods.shared.shapes import token_column
from amodal.objectives.info_nce import info_nce
from tests.methods.bench import batch, exact, method


def test_rules_are_a_skill_of_the_kind_the_general_one_and_one_for_relating():
    m = method("skillnet_mm", skills="words = text + poems, facts=numbers")
    assert m.rules["picture"] == ("image", "general") and m.rules["words"] == ("text", "poems")
    assert m.encoder.block_hook.rules["facts"] == ("numbers", "relating")
    alone = method("skillnet_mm", contrast=0.0)
    assert alone.encoder.block_hook.rules == alone.rules and alone.encoder.heads is None
    assert all("relating" not in n for n, _ in alone.encoder.trunks.named_parameters())


def test_each_task_weighs_as_often_as_it_would_be_drawn():
    m = exact(
        method("skillnet_mm", sources=("picture", "words"), masked=2.0, contrast=3.0, alpha=0.5)
    )
    b = exact(batch(m.views, sources=("picture", "words")))
    m.fit_statistics([b, batch(m.views, sources=("picture", "words"), size=4, absent=("words",))])
    pictures, words, both = (
        6 + 3,
        6,
        4,
    )  # of rows 0 to 7 every fourth lacks a picture, every fourth other the words; of 0 to 3 one
    torch.testing.assert_close(m.records, torch.tensor([pictures, words, both]).to(m.records))
    p = torch.tensor([pictures, words, both]).double().sqrt()
    p = p / p.sum()
    z = m.features(b)
    losses = m.losses(z)
    pair = [c.values for c in shared(z.vectors["picture"], z.vectors["words"])]
    torch.testing.assert_close(
        losses["info_nce/picture~words"],
        3 * p[2] * info_nce(*pair, temperature=1 / m.scale()),
    )
    total, count = z.masked["words"].values.sum(0)
    torch.testing.assert_close(losses["masked/words"], 2 * p[1] * total / count)
    even = method("skillnet_mm", alpha=0.0)
    even.records[0] = 0  # no record, no weight
    assert (
        even.shares()[0] == 0
        and even.shares()[1:].unique().numel() == 1
        and even.shares().sum() == pytest.approx(1)
    )


def test_masked_tokens_are_read_with_the_skills_of_their_field_alone():
    """The masked part of the loss is that of an encoder whose rules never had the skill for
    relating."""
    m = exact(method("skillnet_mm"))
    b = exact(batch(m.views))
    found = m.features(b).masked["signal"].values
    m.encoder.block_hook.rules = m.rules
    torch.testing.assert_close(m.features(b).masked["signal"].values, found)
    part, content = m.masked["signal"], m.encoder.patchify(b)["signal"]
    hidden = part.draw(m.encoder, content, b)
    x = torch.where(hidden[:, None], part.token, content.x)
    context = m.encoder.encode({"signal": m.encoder.add_positions(content.with_x(x))})["signal"]
    modality, target = (
        m.encoder.fields["signal"],
        m.encoder.fields["signal"].targets(b["signal"].values),
    )
    rows = token_column(content).rows
    for k, row in enumerate(r for r in rows if bool(hidden[content.row == r].any())):
        mine = hidden & (content.row == row)
        loss = modality.token_loss(part.predictor(context.x[mine]), target[mine])
        torch.testing.assert_close(
            found[k], torch.stack([loss.sum(), torch.tensor(float(mine.sum())).double()])
        )


@pytest.mark.parametrize("where", ["attention", "mlp"])
def test_a_field_alone_goes_through_a_plain_trunk_that_does_the_same(where):
    m = exact(method("skillnet_mm", sources=("picture", "words"), where=where, contrast=0.0))
    with torch.no_grad():
        for p in m.parameters():
            p += 0.05 * torch.randn_like(p)
    tokens = m.encoder.tokenize(exact(batch(m.views, sources=("picture", "words"))))
    for field in ("picture", "words"):
        only = {field: tokens[field]}
        plain = m.encoder.block_hook.alone(m.encoder.trunks["all"], field)
        assert not any(type(part).__name__ == "Copies" for part in plain.modules())
        found = plain(tokens[field]).x
        torch.testing.assert_close(found, m.encoder.encode(only)[field].x)
        assert not any(p.grad_fn for p in plain.parameters())


def test_without_a_record_no_task_has_weight():
    m = method("skillnet_mm", sources=("picture", "words"))
    m.records.zero_()
    assert m.shares().tolist() == [0, 0, 0]


def test_errors():
    with pytest.raises(AmodalError, match="Did you mean words"):
        method("skillnet_mm", skills="word=text")
    with pytest.raises(AmodalError, match="both weights are 0"):
        method("skillnet_mm", masked=0.0, contrast=0.0)
    with pytest.raises(AmodalError, match="words has none"):
        method("skillnet_mm", skills="words=")
