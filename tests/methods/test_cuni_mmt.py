"""What the translator learns from and writes, against the published definitions."""

import numpy as np
import pytest
import torch
from amodal_claims._arms import Budget, fit
from torch.nn.functional import cosine_similarity

from amodal import data, load, methods, modalities
from amodal.adapt import write_predictions
from amodal.cli import main
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


@pytest.mark.parametrize(
    ("images", "options"), [("read", {}), ("imagine", {}), ("read", {"tied": True, "dropout": 0.1})]
)
def test_what_is_only_in_the_picture_is_translated_by_those_who_read_it(images, options):
    numbers, captions = records()
    m = fit(
        made(numbers.fields, images=images, **options),
        numbers,
        range(24),
        Budget(120 if options else 60, 24),
        0,
        6e-3,
    )
    assert m.source == "digits" and m.target == "told"
    b = next(iter(Loader(numbers, range(24), batch=24, shuffle=False)))
    found = m.eval().generate(b if images == "read" else b.only("digits"), beams=2, longest=10)
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


def test_texts_of_two_vocabularies_are_not_tied():
    fields = records()[0].fields
    for other in (modalities.make("text", max_length=8, patch=2), fields["image"]):
        with pytest.raises(AmodalError, match="'digits' and 'told' are none: leave backbones"):
            made(fields | {"digits": other}, source="digits", tied=True)


TOML = """records = {records}
split = "part"
fields.english.modality = "text"
fields.german.modality = "text"
"""


def test_back_translation(tmp_path):
    """What the reverse direction writes of German alone trains the direction that is wanted."""
    english, german = "one two three four".split(), "eins zwei drei vier".split()
    rng = np.random.default_rng(0)
    lines = ["key,part,english,german"]
    for i in range(60):
        a, b = rng.integers(4, size=2)
        part = "test" if i % 5 == 0 else "train"
        lines.append(f"r{i},{part},{english[a]} and {english[b]},{german[a]} und {german[b]}")
    pairs, mono = tmp_path / "pairs", tmp_path / "mono"
    for folder, names in ((pairs, '["pairs.csv", "back.csv"]'), (mono, '"mono.csv"')):
        folder.mkdir()
        (folder / "dataset.toml").write_text(TOML.format(records=names), encoding="utf-8")
    (pairs / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    toml = (pairs / "dataset.toml").read_text(encoding="utf-8")
    (pairs / "dataset.toml").write_text(toml.replace(', "back.csv"', ""), encoding="utf-8")
    alone = ["key,part,english,german"]
    alone += [f"m{i},train,,{german[i % 4]} und {german[i // 4 % 4]}" for i in range(32)]
    (mono / "mono.csv").write_text("\n".join(alone), encoding="utf-8")
    options = ["--size", "nano", "--batch-size", "32", "--method.depth", "1", "--lr", "0.006"]
    options += ["--method.tied", "true", "--data", str(pairs)]
    turned = ["--method.source", "german", "--method.target", "english"]
    main(["pretrain", "cuni_mmt", "--out", str(tmp_path / "r"), "--steps", "80", *options, *turned])
    back = str(pairs / "back.csv")
    asked = ["--data", str(mono), "--out", back, "--copy", "german,part"]
    main(["predict", str(tmp_path / "r"), *asked])
    (pairs / "dataset.toml").write_text(toml, encoding="utf-8")
    records = data.open(pairs)
    assert len(records) == 92 and records.split("test").tolist() == list(range(0, 60, 5))
    made = [records.raw(i, "english") for i in range(60, 92)]
    words = dict(zip(german, english))
    right = [f"{words[german[i % 4]]} and {words[german[i // 4 % 4]]}" for i in range(32)]
    assert np.mean([m == r for m, r in zip(made, right)]) > 0.5
    main(["pretrain", "cuni_mmt", "--out", str(tmp_path / "f"), "--steps", "2", *options])
    model = load(tmp_path / "f")
    assert model.method.target == "german" and model.config["data"]["records"] == 92
    for columns, message in (
        ("german,english", "'english' is what is predicted"),
        ("x", "called 'x'"),
    ):
        with pytest.raises(AmodalError, match=message):
            write_predictions(load(tmp_path / "r"), mono, back, copy=columns.split(","))
