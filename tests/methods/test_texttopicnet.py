"""TextTopicNet: whose texts the topics come from, and what they teach."""

import numpy as np
import pytest
import torch

import amodal
from amodal import data, methods, modalities
from amodal.core import AmodalError, Batch, Column, Ragged, Recipe, part
from amodal.nn import config as encoder_config
from amodal.nn.backbones.topics import TopicTokens
from amodal.nn.encoder import Encoder
from amodal.nn.heads.mixtures import MixtureHead, RootHead
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.loop import train
from tests.methods.bench import batch, fields, method, raw


def test_targets_are_the_mixtures_of_all_texts_of_a_row():
    torch.manual_seed(0)
    two = {"picture": fields()["picture"], "words": fields()["words"], "more": fields()["words"]}
    m = methods.build("texttopicnet", Encoder(two, size="nano"), topics=4)
    records = data.open(
        {
            "picture": [raw("picture", np.random.default_rng(0))] * 3,
            "words": ["red boat", None, "of the"],
            "more": ["sea", "sea boat", None],
        }
    ).with_fields(two)
    b = next(iter(data.Loader(records, range(3), batch=3, shuffle=False)))
    target = m.features(b).topics
    assert target.rows.tolist() == [0, 1], "the third has function words alone"
    expected = m.topics(m.topics.count(["red boat\nsea", "sea boat"]))
    torch.testing.assert_close(target.values, expected)
    terms = m.losses(m.features(b))
    assert set(terms) == {"topics/picture", "topics/words", "topics/more"}


def test_the_run_studies_the_records_to_train_on_and_no_others(tmp_path):
    rng = np.random.default_rng(1)
    words = ["boat sea wave" if i % 2 else "barn cow hay" for i in range(20)] + [
        "boat sea secret"
    ] * 20
    columns = {"picture": [raw("picture", rng) for _ in words], "words": words}
    own = fields(("picture", "words"))
    records = data.open(columns).with_fields(own)
    m = method("texttopicnet", sources=("picture", "words"), min_df=5, max_df=0.6, topics=2)

    def run(survey):
        def batches(first, groups=None):
            return data.Loader(
                records, range(20), batch=10, views=m.views, steps=2, start_step=first
            )

        quiet = dict(monitor=CollapseMonitor([]), tensorboard=False, progress=False)
        return train(m, batches, Recipe(steps=2, lr=1e-3), tmp_path, records=survey, **quiet)

    with pytest.raises(AmodalError, match="needs all records"):
        run(None)
    run(data.Loader(records, range(20), batch=8, shuffle=False))
    counts = m.topics.count(["boat barn secret"])
    assert len(counts.word) == 2, "what only other records say is unknown"
    mixed = m.topics(m.topics.count(["boat wave", "barn cow"]))
    assert (mixed[0] - mixed[1]).abs().max() > 0.5


# 24 tokens of four bytes; up to three bytes may be empty where a character was cut in two
@pytest.mark.parametrize(
    "text, fills",
    [
        ("red boat " * 50, True),
        ("red boat " * 10 + "red", True),
        ("red boat " * 10 + "re", False),
        ("red boat", False),
    ],
)
def test_texts_that_fill_their_room_are_warned_of_and_shorter_ones_are_not(text, fills, recwarn):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(8)]
    records = data.open({"picture": pictures, "words": [text] * 8}).with_fields(
        fields(("picture", "words"))
    )
    m = method(
        "texttopicnet", sources=("picture", "words"), min_df=1, max_df=1.0, topics=2, buckets=64
    )
    m.fit_statistics(data.Loader(records, range(8), batch=4, shuffle=False))
    found = any("8 of 8 texts fill all the room" in str(w.message) for w in recwarn.list)
    assert found == fills


@pytest.mark.parametrize("count, warns", [(0, False), (2, False), (3, True)])
def test_one_text_in_twenty_may_be_cut(count, warns, recwarn):
    rng = np.random.default_rng(0)
    texts = ["red boat " * 50] * count + ["red boat"] * (40 - count)
    columns = {"picture": [raw("picture", rng)] * 40, "words": texts}
    records = data.open(columns).with_fields(fields(("picture", "words")))
    m = method(
        "texttopicnet", sources=("picture", "words"), min_df=1, max_df=1.0, topics=2, buckets=64
    )
    m.fit_statistics(data.Loader(records, range(40), batch=8, shuffle=False))
    found = [w for w in recwarn.list if "fill all the room" in str(w.message)]
    assert len(found) == warns
    # it points at who called
    assert all(w.filename == __file__ for w in found)


def test_it_needs_text_and_something_beside_it():
    with pytest.raises(AmodalError, match="text"):
        method("texttopicnet", sources=("picture", "signal"))
    with pytest.raises(AmodalError, match="Did you mean softmax"):
        method("texttopicnet", loss="softmx")
    m = method("texttopicnet", loss="softmax")
    assert m.losses(m.features(batch(m.views)))["topics/signal"].isfinite()


def illustrated(rows=90, seed=0):
    """Pictures whose colour says which of three subjects their article is of."""
    rng = np.random.default_rng(seed)
    words = (
        ("boat", "sea", "wave", "sail", "port"),
        ("barn", "cow", "hay", "field", "plough"),
        ("goal", "ball", "team", "match", "coach"),
    )
    columns = {"image": [], "text": [], "subject": []}
    for i in range(rows):
        picture = rng.integers(0, 60, (16, 16, 3), dtype=np.uint8)
        picture[..., i % 3] += 180
        columns["image"].append(picture)
        columns["text"].append(" ".join(rng.choice(words[i % 3], 12)))
        columns["subject"].append(("sea", "farm", "sport")[i % 3])
    return columns


def test_pictures_are_retrieved_by_articles_that_the_topic_model_reads(tmp_path):
    amodal.pretrain(
        "texttopicnet",
        illustrated(),
        tmp_path / "run",
        size="nano",
        steps=60,
        lr=3e-3,
        batch_size=32,
        progress=False,
        workers=0,
        fields=["image", "text"],
        options={"text": "topics", "topics": 3, "min_df": 2, "max_df": 0.9},
    )
    others = illustrated(40, seed=1)
    opened = amodal.load(tmp_path / "run")
    z = opened.embed({n: others[n] for n in ("image", "text")}).aligned
    for column in z.columns.values():
        torch.testing.assert_close(column.values.norm(dim=1), torch.ones(40), atol=1e-5, rtol=0)
        assert (column.values >= 0).all()
    cosines = z["text"].values @ z["image"].values.T
    same = torch.arange(40)[:, None] % 3 == torch.arange(40)[None] % 3
    assert cosines[same].min() > cosines[~same].max()
    # what was fitted is what reads: a text of the sea is of one topic
    assert z["text"].values[0].max() > 0.9
    report = opened.evaluate(
        illustrated(200, seed=1), protocols=["retrieval"], category="subject", untrained=False, progress=False
    )  # fmt: skip
    assert report["retrieval"].value("text", "MAP", target="image") == pytest.approx(1)


def test_what_the_topic_model_needs_is_said():
    two = fields(("picture", "words"))

    def built(**options):
        kind = {"size": "nano"} | options.pop("encoder", {})
        return methods.build("texttopicnet", Encoder(two, **kind), **options)

    with pytest.raises(AmodalError, match="no room for 65 topics"):
        built(text="topics", topics=65)
    with pytest.raises(AmodalError, match='pool="attention" would change'):
        built(text="topics", encoder={"pool": "attention"})
    with pytest.raises(AmodalError, match='trunk="separate"'):
        built(text="topics", encoder={"trunk": "joint"})
    with pytest.raises(AmodalError, match="Did you mean topics"):
        built(text="topic")
    nets = encoder_config.backbones({"picture": "convnet:width=8"}, two, "nano")
    with pytest.raises(AmodalError, match="the backbone of picture has no dropout"):
        built(dropout=0.5, encoder={"backbones": nets})


def test_the_wide_layers_of_caffenet_drop_half_in_training_alone():
    one = {"picture": modalities.make("image", size=67, channels=3), "words": fields()["words"]}
    nets = encoder_config.backbones({"picture": "caffenet:width=64,channels=16"}, one, "nano")
    m = methods.build(
        "texttopicnet", Encoder(one, size="nano", backbones=nets), text="topics", topics=4,
        dropout=0.5,
    )  # fmt: skip
    pictures = Column(torch.rand(6, 3, 67, 67), torch.arange(6))
    b = Batch.of(6, {"picture": pictures}, [str(i) for i in range(6)])
    seen = []
    m.encoder.tokenizers["picture"].project.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].detach())
    )
    for training in (True, True, False):
        m.train(training)
        m.features(b)
    assert torch.equal(seen[0], seen[1]), "by the seeds of rows"
    assert not (seen[2] == 0).all(0).any() and 0.3 < (seen[0] == 0).float().mean() < 0.8


def test_an_encoder_with_a_topic_model_is_built_from_its_description():
    two = fields(("picture", "words"))
    m = methods.build("texttopicnet", Encoder(two, size="nano"), text="topics", topics=4, min_df=1)
    made = part.build(m.encoder.spec)
    made.load_state_dict(m.encoder.state_dict())
    values = batch({"picture": ("plain",), "words": ("plain",)}, sources=("picture", "words"))
    with torch.no_grad():
        for one, other in zip(m.encoder(values).columns.values(), made(values).columns.values()):
            torch.testing.assert_close(one.values, other.values)
    assert made.tokenizers["words"].topics.least == 1


def test_the_root_of_a_share_of_zero_has_a_finite_gradient():
    x_ND = torch.tensor([[0.0, 1.0, 5.0]], requires_grad=True)
    root_NK = RootHead(2)(x_ND)
    torch.testing.assert_close(root_NK, torch.tensor([[1e-6, 1.0]]), atol=0, rtol=1e-6)
    root_NK.sum().backward()
    assert x_ND.grad.isfinite().all()
    head = MixtureHead(2, 3, softmax=True)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(torch.tensor([0.0, 0.0, -200.0]))
    shares = torch.tensor([[0.5**0.5, 0.5**0.5, 1e-6]])
    torch.testing.assert_close(head(torch.zeros(1, 2)), shares, atol=0, rtol=1e-6)


def test_topics_compete_with_a_softmax_alone():
    torch.manual_seed(0)
    x_ND = torch.randn(4, 5)
    head = MixtureHead(5, 3)
    share_NK = head.linear(x_ND).sigmoid()
    wanted = (share_NK / share_NK.sum(1, keepdim=True)).sqrt()
    torch.testing.assert_close(head(x_ND), wanted)


def test_a_topic_model_in_the_place_of_a_network():
    options = {"topics": 3, "least": 2, "most": 0.7, "buckets": 64}
    reader = TopicTokens(fields()["words"], 8, **options)
    assert (reader.topics.least, reader.topics.most, len(reader.topics.weight)) == (2, 0.7, 3)
    assert reader.contextual and not reader.frozen and reader.body.is_scratch
    empty = reader.body.example()
    assert empty.flat.shape == (0,) and empty.lengths.tolist() == [0]
    words = Column(Ragged.of([torch.tensor([3, 4]), torch.tensor([5])]), torch.tensor([0, 2]))
    tokens = reader(words, "words", 3)
    assert tokens.x.shape == (2, 8) and tokens.position.shape == (2, 3)


def test_only_what_learns_has_to_be_able_to_drop_entries():
    two = fields(("picture", "words"))
    nets = encoder_config.backbones({"words": "gru"}, two, "nano")  # which drops nothing
    encoder = Encoder(two, size="nano", backbones=nets)
    with pytest.raises(AmodalError, match="the backbone of words has no dropout"):
        methods.build("texttopicnet", encoder, dropout=0.5)
