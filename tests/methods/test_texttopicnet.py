"""TextTopicNet: whose texts the topics come from, and what they teach."""

import numpy as np
import pytest
import torch

from amodal import data, methods
from amodal.core import AmodalError, Recipe
from amodal.nn.encoder import Encoder
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
