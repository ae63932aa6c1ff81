"""Simple features of each kind hold what they are named after."""

import numpy as np
import pytest

from amodal import modalities
from amodal.modalities.shared import tfidf

rng = np.random.default_rng


def nearest(features, queries, bank):
    """The number in `bank` of the most similar value of each query, by cosine."""
    q, b = features(queries), features(bank)
    q, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, b))
    return (q @ b.T).argmax(1).tolist()


def test_image_features_hold_colour_and_the_direction_of_edges():
    def stripes(down, colour, seed):
        picture = np.zeros((32, 32, 3)) + rng(seed).normal(0, 5, (32, 32, 1))
        phase = rng(seed).integers(8)
        wave = 60 * np.sin((np.arange(32) + phase) * 0.9)
        picture += (wave[:, None] if down else wave[None, :])[..., None]
        picture[..., colour] += 90
        return np.clip(picture + 70, 0, 255).astype(np.uint8)

    kinds = [(down, colour) for down in (0, 1) for colour in (0, 1, 2)]
    train = [stripes(*kind, seed) for seed in range(6) for kind in kinds]
    image = modalities.kind("image").infer(train)
    features = image.simple_features(train)
    test = [stripes(*kind, 50 + seed) for seed in range(2) for kind in kinds]
    hits = [kinds[i % 6] == kinds[n % 6] for n, i in enumerate(nearest(features, test, train))]
    assert np.mean(hits) > 0.9


def test_text_features_are_tf_idf_of_words_and_characters():
    topics = ["boat harbour sail", "tiger jungle stripe", "violin sonata bow"]
    train = [
        f"{word} the a of {i} {other}"
        for topic in topics
        for i, word in enumerate(topic.split())
        for other in topic.split()
    ]
    text = modalities.kind("text").infer(train)
    features = text.simple_features(train)
    assert features(train).shape[1] <= tfidf.MAX_COMPONENTS
    found = nearest(features, ["the harbours of 7", "jungles", "a sonatas"], train)
    assert [i // 9 for i in found] == [0, 1, 2]
    assert np.isfinite(features(["", "中文", "\n"])).all()
    with pytest.raises(modalities.NoSimpleFeatures):
        text.simple_features([" ", "\n"])
    many = ["".join(rng(i).choice(list("abcdefg "), 40)) for i in range(300)]
    assert text.simple_features(many)(many[:5]).shape == (5, 256)


def test_audio_features_hold_duration_and_pitch():
    def tone(seconds, hertz, seed):
        time = np.arange(int(4000 * seconds)) / 4000
        loud = rng(seed).uniform(0.1, 0.5)
        clip = loud * np.sin(2 * np.pi * hertz * time) + rng(seed).normal(0, 0.01, len(time))
        return clip.astype(np.float32)

    kinds = [(seconds, hertz) for seconds in (0.2, 0.8) for hertz in (200, 400, 900)]
    train = [tone(*kind, seed) for seed in range(6) for kind in kinds]
    audio = modalities.kind("audio").infer(train, rate=4000)
    features = audio.simple_features(train)
    test = [tone(s * 1.05, h, 70) for s, h in kinds]
    assert [i % 6 for i in nearest(features, test, train)] == list(range(6))
    rows = features(train)
    assert np.ptp(rows[:3, 0]) == 0 < rows[3, 0] - rows[0, 0], "the first column is the duration"


def test_series_features_hold_rhythm_and_length_and_survive_gaps():
    def wave(period, steps, seed):
        x = np.sin(np.arange(steps) * 2 * np.pi / period + seed)[:, None]
        x = x + rng(seed).normal(0, 0.1, (steps, 2))
        x[rng(seed).random((steps, 2)) < 0.1] = np.nan
        return x

    kinds = [(period, steps) for period in (4, 30) for steps in (60, 240)]
    train = [wave(*kind, seed) for seed in range(8) for kind in kinds]
    series = modalities.kind("series").infer(train)
    features = series.simple_features(train)
    test = [wave(*kind, 90) for kind in kinds]
    assert [i % 4 for i in nearest(features, test, train)] == [0, 1, 2, 3]
    empty = np.full((5, 2), np.nan)
    empty[0, 0] = 1.0
    assert np.isfinite(features([empty])).all()


def test_table_features_impute_means_and_flag_what_is_missing():
    table = modalities.make("table", columns=["age", "sex"], categories={"sex": ["f", "m"]})
    train = [{"age": 30, "sex": "f"}, {"age": 50, "sex": "m"}, {"sex": "m"}]
    features = table.simple_features(train)
    rows = features([{"age": 50, "sex": "m"}, {"age": None, "sex": "x"}, {"age": 30}])
    np.testing.assert_allclose(rows, [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [-1, 0, 0, 0, 0]])
    with pytest.raises(modalities.BadValue):
        features([{"height": 3}])


def test_sequence_features_are_frequencies_of_k_mers():
    def dna(word, seed):
        letters = rng(seed).choice(list("ACGT"), 60)
        return "".join(letters[:30]) + word * 8 + "".join(letters[30:])

    words = ["ACAC", "GGTT", "CATG"]
    train = [dna(word, seed) for seed in range(8) for word in words]
    sequence = modalities.kind("sequence").infer(train)
    features = sequence.simple_features(train)
    assert features(train).shape[1] == 1 + 4 + 16 + 64 + 256
    found = nearest(features, [dna(word, 70) for word in words], train)
    assert [i % 3 for i in found] == [0, 1, 2]
    assert np.isfinite(features(["AN", "A"])).all()


def test_events_features_count_kinds_and_gaps():
    def visits(kind, gap, seed):
        times = np.cumsum(rng(seed).exponential(gap, 12))
        other = ("tea", "milk")[seed % 2]
        return [
            {"time": float(t), "item": other if i == 5 else kind, "price": float(i % 3)}
            for i, t in enumerate(times)
        ]

    kinds = [(kind, gap) for kind in ("tea", "milk") for gap in (0.1, 20)]
    train = [visits(*kind, seed) for seed in range(8) for kind in kinds]
    events = modalities.kind("events").infer(train)
    features = events.simple_features(train)
    found = nearest(features, [visits(*kind, 60) for kind in kinds], train)
    assert [i % 4 for i in found] == [0, 1, 2, 3]
    assert features([[{"time": 0.0, "item": None, "price": None}, {"time": 1.0, "price": 2}]]).any()
