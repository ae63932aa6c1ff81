"""Sound models of transformers as backbones, beside what transformers makes of each clip alone."""

import json

import pytest
import torch

from amodal import data
from amodal.core import AmodalError, Column, Ragged
from amodal.modalities import make
from amodal.nn.backbones.hf_sound import hears
from amodal.nn.backbones.pretrained import Backbone, backbone
from amodal.train import packaged

transformers = pytest.importorskip("transformers")
SHAPE = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32}
LENGTHS = (9000, 5000, 9000, 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sound")


def saved(model, extractor, path):
    model.eval().save_pretrained(path)
    extractor.save_pretrained(path)
    return path, model, extractor


@pytest.fixture(scope="module")
def wav2vec2(folder):
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        num_hidden_layers=2,
        conv_dim=(16, 16),
        conv_kernel=(10, 3),
        conv_stride=(8, 4),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        **SHAPE,
    )
    extractor = transformers.Wav2Vec2FeatureExtractor()
    return saved(transformers.Wav2Vec2Model(config), extractor, folder / "wav2vec2")


@pytest.fixture(scope="module")
def whisper(folder):
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    sides = {
        f"{side}_{name}": number
        for side in ("encoder", "decoder")
        for name, number in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 32))
    }
    config = transformers.WhisperConfig(
        d_model=24, vocab_size=60, max_source_positions=50, **sides, **special
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    return saved(transformers.WhisperModel(config), extractor, folder / "whisper")


@pytest.fixture(scope="module")
def spectrograms(folder):
    torch.manual_seed(0)
    config = transformers.ASTConfig(num_hidden_layers=2, max_length=64, num_mel_bins=64, **SHAPE)
    extractor = transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=64)
    return saved(transformers.ASTModel(config), extractor, folder / "ast")


@pytest.fixture(scope="module")
def clap(folder):
    torch.manual_seed(0)
    config = transformers.ClapConfig(
        text_config={"num_hidden_layers": 1, "vocab_size": 50, **SHAPE},
        audio_config={
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "hidden_size": 32,
            "patch_embeds_hidden_size": 16,
        },
        projection_dim=12,
    )
    extractor = transformers.ClapFeatureExtractor(truncation="rand_trunc")
    return saved(transformers.ClapModel(config), extractor, folder / "clap")


def sounds(lengths=LENGTHS, rows=None):
    generator = torch.Generator().manual_seed(1)
    waves = [torch.randn(n, generator=generator) * 0.1 for n in lengths]
    return Column(Ragged.of(waves), torch.tensor(rows or list(range(len(waves)))))


def field(seconds=1.0, rate=16000):
    return make("audio", rate=rate, max_seconds=seconds)


def features_by_clip(made, column):
    features, lengths, positions = made.features(column)
    assert len(features) == len(positions) == lengths.sum()
    return list(zip(features.split(lengths.tolist()), positions.split(lengths.tolist())))


def test_waves_give_what_each_clip_gives_alone(wav2vec2):
    path, model, extractor = wav2vec2
    made = backbone(f"transformers:{path}", field(), 8)
    clips = features_by_clip(made, sounds((9000, 5000, 9000)))
    for wave, (got, position) in zip(sounds((9000, 5000, 9000)).values.split(), clips):
        values = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_values
        with torch.no_grad():
            torch.testing.assert_close(got, model(values).last_hidden_state[0])
        # the middle of what the first state has seen: 10 samples, then 3 of them 8 apart
        assert position[0, 0].item() == pytest.approx((10 + 2 * 8) / 2 / 16000)
        assert position[1, 0] - position[0, 0] == pytest.approx(32 / 16000)
    # a clip that is shorter than what a state sees is filled up with silence
    assert len(features_by_clip(made, sounds((7,)))[0][0]) == 1


def test_whisper_is_its_own_at_its_own_length_and_cut_where_the_clip_ends(whisper):
    path, model, extractor = whisper
    made = backbone(f"transformers:{path}", field(1.0), 8)
    for wave, (got, position) in zip(sounds().values.split(), features_by_clip(made, sounds())):
        values = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_features
        with torch.no_grad():
            want = model.encoder(values).last_hidden_state[0]
        assert len(got) == max(1, -(-len(wave) // 320))
        torch.testing.assert_close(got, want[: len(got)])
        assert position[:, 0].tolist() == pytest.approx([(i + 0.5) / 50 for i in range(len(got))])
    short = backbone(f"transformers:{path}", field(0.6), 8)
    assert short.body.positions == 30 and len(short.features(sounds((9000,)))[0]) == 29
    with pytest.raises(AmodalError, match="hears 1 s at most.*1.5 seconds: set max_seconds = 1"):
        backbone(f"transformers:{path}", field(1.5), 8)
    with pytest.raises(AmodalError, match="any number of seconds"):
        backbone(f"transformers:{path}", field(0), 8)


def test_patches_of_a_spectrogram_end_with_the_clip(spectrograms):
    path, model, extractor = spectrograms
    made = backbone(f"transformers:{path}", field(), 8)
    got, position = features_by_clip(made, sounds((5000,)))[0]
    wave = sounds((5000,)).values.flat
    values = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        states = model(values).last_hidden_state[0, 2:]
    # 5 bands x 5 columns, 10 frames apart; 5,000 samples are 29 frames, which 3 columns begin in
    want = states.unflatten(0, (5, 5))[:, :3].flatten(0, 1)
    torch.testing.assert_close(got, want)
    assert position[:4, :2].tolist() == [
        [pytest.approx(s), band] for band, s in ((0, 0.08), (0, 0.18), (0, 0.28), (1, 0.08))
    ]


def test_the_sound_half_of_clap_ends_in_the_common_space(clap):
    path, model, extractor = clap
    made = backbone(f"transformers:{path}@projected", field(10.0, 48000), 12)
    column = sounds((24000, 12000))
    got, lengths, position = made.features(column)
    waves = [wave.numpy() for wave in column.values.split()]
    with torch.no_grad():
        want = model.get_audio_features(
            **extractor(waves, sampling_rate=48000, return_tensors="pt")
        )
    want = getattr(want, "pooler_output", want)
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(unit(got, dim=1), unit(want, dim=1))
    assert lengths.tolist() == [1, 1] and position[:, 0].tolist() == [0.25, 0.125]
    assert made.body.is_space
    with pytest.raises(AmodalError, match="set max_seconds = 10"):
        backbone(f"transformers:{path}@projected", field(20.0, 48000), 12)
    with pytest.raises(AmodalError, match="CLAP with @projected"):
        backbone(f"transformers:{path}", field(10.0, 48000), 12)


@pytest.mark.parametrize("name", ["wav2vec2", "whisper", "spectrograms"])
def test_layers_a_checkpoint_and_no_rows(name, request):
    path, _, _ = request.getfixturevalue(name)
    made = backbone(f"transformers:{path}", field(), 8)
    layers = made.body.hidden_states(sounds().values)
    assert len(layers) == 2 and layers[0].shape == (len(LENGTHS), 24)
    first = backbone(f"transformers:{path}@layer1", field(), 8)
    clips = features_by_clip(first, sounds())
    torch.testing.assert_close(torch.stack([x.mean(0) for x, _ in clips]), layers[0])
    rebuilt = Backbone.from_args(**made._args)
    rebuilt.load_state_dict(made.state_dict())
    assert torch.equal(rebuilt(sounds(), "a", 4).x, made(sounds(), "a", 4).x)
    tuned = backbone(f"transformers:{path}", field(), 8, frozen=False)
    none = Column(Ragged(torch.zeros(0), torch.zeros(0, dtype=torch.int64)), torch.arange(0))
    for column, least in ((none, -1), (sounds(), 0)):
        tuned.zero_grad()
        tuned(column, "a", 4).x.sum().backward()
        learning = [p for p in tuned.body.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in learning)
        assert sum(p.grad.abs().sum() for p in learning) > least


def test_the_data_is_read_at_the_rate_and_length_that_the_model_hears(whisper, wav2vec2, clap):
    assert hears(str(whisper[0])) == (16000, 1.0)
    assert hears(str(wav2vec2[0])) == (16000, 0.0)
    assert hears(f"{clap[0]}@projected") == (48000, 10.0)
    columns = {"s": [torch.zeros(40000).numpy()] * 2}
    dataset = data.open(columns, fields={"s": make("audio", rate=8000, max_seconds=5.0)})
    read = packaged.match_inputs(dataset, {"s": f"transformers:{whisper[0]}"})
    assert (read.fields["s"].rate, read.fields["s"].max_seconds) == (16000, 1.0)
    [line] = packaged.notes_of(dataset, read, {"s": f"transformers:{whisper[0]}"})
    assert line.startswith("s: the first 1 s of a clip are heard")


def test_a_model_in_half_precision_is_whole_also_after_a_checkpoint(wav2vec2, tmp_path):
    path, model, extractor = wav2vec2
    saved(transformers.Wav2Vec2Model.from_pretrained(path).half(), extractor, tmp_path)
    made = backbone(f"transformers:{tmp_path}", field(), 8)
    rebuilt = Backbone.from_args(**made._args)
    assert {p.dtype for p in rebuilt.parameters()} == {torch.float32}
    rebuilt.load_state_dict(made.state_dict())
    assert torch.equal(rebuilt(sounds(), "a", 4).x, made(sounds(), "a", 4).x)


def test_a_model_of_another_kind_of_values_is_refused(whisper, tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")).save(
        str(whisper[0] / "tokenizer.json")
    )
    text = make("text", vocabulary=str(whisper[0]), max_length=4)
    with pytest.raises(AmodalError, match="holds a WhisperEncoder, which does not read text"):
        backbone(f"transformers:{whisper[0]}", text, 8)
    with pytest.raises(AmodalError, match="'transformers:' names no model. Expected timm:NAME@W"):
        backbone("transformers:", text, 8)


def test_what_cannot_be_heard_is_refused(wav2vec2, tmp_path):
    path, model, _ = wav2vec2
    with pytest.raises(AmodalError, match="hears 16000 Hz, and this field has 8000 Hz: set rate"):
        backbone(f"transformers:{path}", field(rate=8000), 8)
    model.save_pretrained(tmp_path)
    with pytest.raises(AmodalError, match="there is no preprocessor_config.json"):
        backbone(f"transformers:{tmp_path}", field(), 8)
    newer = {
        "feature_extractor": json.loads(
            (path / "preprocessor_config.json").read_text(encoding="utf-8")
        )
    }
    (tmp_path / "processor_config.json").write_text(json.dumps(newer), encoding="utf-8")
    assert backbone(f"transformers:{tmp_path}", field(), 8).body.rate == 16000
    newer["feature_extractor"]["feature_extractor_type"] = "NoFeatureExtractor"
    (tmp_path / "processor_config.json").write_text(json.dumps(newer), encoding="utf-8")
    with pytest.raises(AmodalError, match="'NoFeatureExtractor', which transformers .* not have"):
        backbone(f"transformers:{tmp_path}", field(), 8)
    with pytest.raises(AmodalError, match="are for .*audio"):
        backbone("voice:resemblyzer@x", make("image"), 8)
