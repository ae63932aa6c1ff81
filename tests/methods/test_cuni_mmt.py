"""What the translator learns from and writes, against the published definitions."""

import numpy as np
import pytest
import torch
from amodal_claims._arms import Budget, fit
from torch.nn.functional import cosine_similarity

from amodal import data, methods, modalities
from amodal.core import AmodalError, Column, Ragged
from amodal.core.column import both
from amodal.data import Loader
from amodal.nn.encoder import Encoder
from tests.methods.bench import batch, exact, method


def test_imagination_is_the_published_hinge():
    m = exact(
        method(
            "cuni_mmt",
            sources=("picture", "words"),
            source="words",
            target="picture",
            images="read",
        )
    )
    assert "imagine" not in " ".join(
        m.losses(m.features(exact(batch(m.views, sources=("picture", "words")))))
    )
    m = exact(method("cuni_mmt", margin=0.3, weight=2.0))
    z = m.features(exact(batch(m.views)))
    losses = m.losses(z)
    assert set(losses) == {"translate", "imagine/signal", "imagine/facts"} and m.source == "picture"
    guess, seen = (c.values for c in both(z.imagined["signal"], z.actual["signal"]))
    total = 0.0
    for i in range(len(guess)):
        own = cosine_similarity(guess[i], seen[i], dim=0)
        for c in range(len(guess)):
            if c != i:
                total = total + torch.relu(0.3 - own + cosine_similarity(guess[i], seen[c], dim=0))
    torch.testing.assert_close(
        losses["imagine/signal"], 2.0 * total / len(guess) / 2
    )  # two fields are imagined


def records(n=24):
    """Numbers written in digits; told are words, of which the first depends on the picture alone."""
    names = "zero one two three".split()
    rng = np.random.default_rng(0)
    number, dark = rng.integers(4, size=n), rng.integers(2, size=n)
    pictures = [np.full((8, 8), 40 + 170 * d, dtype=np.uint8) for d in dark]
    captions = [f"{'ab'[d]} {names[k]}" for k, d in zip(number, dark)]
    texts = {"digits": [str(k) for k in number], "told": captions}
    fields = {
        "image": modalities.make("image", size=8, channels=1, patch=4),
        "digits": modalities.make("text", max_length=8),
        "told": modalities.make("text", max_length=16),
    }
    return data.open({"image": pictures} | texts).with_fields(fields), captions


def made(fields, **options):
    torch.manual_seed(0)
    encoder = Encoder(fields, size="nano", **methods.encoder_options("cuni_mmt"))
    return methods.build("cuni_mmt", encoder, depth=1, **options)


@pytest.mark.parametrize("images", ["read", "imagine"])
def test_what_is_only_in_the_picture_is_translated_by_those_who_read_it(images):
    numbers, captions = records()
    m = fit(made(numbers.fields, images=images), numbers, range(24), Budget(60, 24), 0, 6e-3)
    assert m.source == "digits" and m.target == "told"
    b = next(iter(Loader(numbers, range(24), batch=24, shuffle=False)))
    found = m.generate(b if images == "read" else b.only("digits"), beams=2, longest=10)
    right = np.mean([found[i][2:] == captions[i][2:] for i in range(24)])
    letter = np.mean([found[i][:1] == captions[i][:1] for i in range(24)])
    assert right > 0.9 and (letter == 1 if images == "read" else letter < 0.9)


def test_the_loss_is_minus_log_p_of_the_text_as_it_is_written():
    """The sum over tokens and the end is what a beam search of that text alone would add up."""
    numbers, _ = records()
    m = made(numbers.fields).eval()
    b = next(iter(Loader(numbers, range(3), batch=3, shuffle=False)))
    total, count = m.features(b).translated.values.detach().T
    assert count.tolist() == [len(v) + 1 for v in b["told"].values.split()]
    lists = m.encode(b)[1]
    for row, ids in enumerate(b["told"].values.split()):

        def step(before, row=row):
            lengths = torch.tensor([len(before)])
            content = m.encoder.tokenizers["told"](
                Column(Ragged(before, lengths), torch.tensor([0])), "told", 1
            ).x
            state = m.writer.decoder(
                [s[torch.tensor([row])] for s in lists], Ragged(content, lengths)
            ).flat[-1:]
            return m.writer.predictor(state)[0, 0].log_softmax(0), torch.sigmoid(
                m.writer.ends(state)
            )[0, 0]

        log = 0.0
        for t in range(len(ids) + 1):
            letters, end = step(ids[:t])
            log += float(
                (end.log() if t == len(ids) else (1 - end).log() + letters[ids[t]]).detach()
            )
        assert float(total[row]) == pytest.approx(-log, rel=1e-4)


def test_rows_without_a_source_are_not_decoded_and_errors_say_what_to_do():
    m = method("cuni_mmt")
    b = batch(m.views, absent=("picture", "signal", "facts"))
    assert len(m.features(b).translated) == 0 and m.losses(m.features(b))["translate"] == 0
    with pytest.raises(AmodalError, match="patch = 1"):
        m.generate(b)
    with pytest.raises(AmodalError, match="Did you mean imagine"):
        method("cuni_mmt", images="imagin")
    with pytest.raises(AmodalError, match="Did you mean signal"):
        method("cuni_mmt", source="signl")
    with pytest.raises(AmodalError, match="nothing is there to imagine"):
        method("cuni_mmt", sources=("words", "facts"), images="imagine")
