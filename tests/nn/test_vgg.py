"""The network of UCASR over pictures and spectrograms, against its layers written out."""

import numpy as np
import pytest
import torch
from torch.nn.functional import elu

import amodal
from amodal.core import AmodalError, Column, Ragged
from amodal.modalities import make
from amodal.nn.backbones.pretrained import backbone

SOUND = make("audio", rate=8000, mels=32, hop_ms=25.0, window_ms=50.0, max_seconds=1.0)
PAPER_SOUND = make(
    "audio",
    rate=22050,
    mels=92,
    hop_ms=50.0,
    window_ms=93.0,
    max_seconds=4.2,
    spacing="log",
    low_hz=30.0,
    high_hz=6000.0,
)


def clips(*samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Ragged(torch.randn(sum(samples), generator=generator), torch.tensor(samples))


@pytest.mark.parametrize(
    "field, channels, width",
    # 84 frames of 92 bands, and a strip halved; of 5 x 5 and 5 x 6 cells 32 channels each
    [(PAPER_SOUND, 1, 32 * 5 * 5), (make("image", size=100, channels=1), 1, 32 * 6 * 6)],
)
def test_layers_are_those_of_the_authors(field, channels, width):
    body = backbone("vgg", field, 16).body
    shapes = [tuple(m.weight.shape[:2]) for m in body.modules() if isinstance(m, torch.nn.Conv2d)]
    pairs = [(24, channels), (24, 24), (48, 24), (48, 48), (96, 48), (96, 96), (96, 96), (96, 96)]
    assert shapes == [*pairs, (32, 96)] and body.width == width
    kinds = [type(m).__name__ for m in body.layers]
    block = ["Conv2d", "BatchNorm", "ELU"] * 2 + ["MaxPool2d"]
    assert [k.replace("Whole", "") for k in kinds] == [*block * 4, "Conv2d", "BatchNorm"]


def test_a_block_is_convolutions_norms_and_maxima():
    field = make("image", size=16, channels=1, mean=(0.5,), std=(0.25,))
    body = backbone("vgg:width=2,out=3", field, 8).body.double().eval().requires_grad_(False)
    pictures = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    x = (pictures - 0.5) / 0.25
    for conv in (body.layers[0], body.layers[3]):
        x = elu(torch.conv2d(x, conv.weight, padding=1) / (1 + 1e-5) ** 0.5)
    x = x.unflatten(2, (8, 2)).unflatten(4, (8, 2)).amax((3, 5))
    torch.testing.assert_close(body.layers[:7]((pictures - 0.5) / 0.25), x)
    features, lengths, position = body(pictures)
    assert features.shape == (2, 3) and lengths.tolist() == [1, 1]
    assert position.tolist() == [[0, 1.5, 1.5]] * 2


def test_spectrograms_have_one_length_and_clips_do_not_see_each_other():
    net = backbone("vgg:width=4,out=8", SOUND, 8).eval()
    assert net.body.front.shape == (1, 32, 40)
    waves = clips(8000, 3000, 12000)
    maps = net.body.front(waves)
    frames, counts = SOUND.steps(waves)
    assert maps.shape == (3, 1, 32, 40)
    torch.testing.assert_close(maps[0, 0].T[: counts[0]], frames[: counts[0]][:40])
    n, start = int(counts[1]), int(counts[0])
    torch.testing.assert_close(maps[1, 0, :, :n].T, frames[start : start + n])
    assert not maps[1, 0, :, n:].any(), "zeros after a short clip"
    both = net(Column(waves, torch.arange(3)), "sound", 3).x
    alone = net(Column(Ragged(waves.flat[8000:11000], waves.lengths[1:2]), torch.arange(1)), "s", 1)
    torch.testing.assert_close(both[1:2], alone.x)


STRIP = make("image", size=90, patch=10, channels=1, fit="native", mean=(0.5,), std=(0.25,))


def test_strips_of_a_staff_have_their_own_shape():
    """160 x 200 pixels, halved, as the authors read them."""
    net = backbone("vgg:rows=80,columns=100,width=4,out=8", STRIP, 8).eval().requires_grad_(False)
    assert net.body.width == 8 * 5 * 6
    strips = [np.random.default_rng(i).integers(0, 255, (160, 200), dtype=np.uint8) for i in (0, 1)]
    values = [STRIP.decode(strip) for strip in strips]
    assert values[0].shape == (1, 80, 100)
    maps = net.body.front(STRIP.collate(values))
    expected = torch.from_numpy(np.stack(values)).float() / 255
    torch.testing.assert_close(maps, (expected - 0.5) / 0.25)
    other = STRIP.collate([STRIP.decode(strips[0]), STRIP.decode(strips[0][:60])])
    assert net.body.front(other).shape == (2, 1, 80, 100)
    torch.testing.assert_close(net.body.front(other)[:1], maps[:1])
    assert net.body.front(STRIP.collate([])).shape == (0, 1, 80, 100)
    assert net(Column(other, torch.arange(2)), "image", 2).x.shape == (2, 8)


@pytest.mark.parametrize(
    "spec, field, words",
    [
        ("vgg:norm=group,width=12", make("image", size=32), "8 groups divide, got 12 and 32"),
        ("vgg", make("image", size=8), "16 cells a side, and this field has 8 x 8"),
        ("vgg", make("audio", max_seconds=0.0), "set features = .* and max_seconds"),
        ("vgg", make("audio", features="waveform"), "vgg reads spectrograms"),
        ("vgg", make("image", size=32, fit="native"), "say the shape in pixels"),
        ("vgg:rows=32", make("image", size=32, fit="native"), "say the shape in pixels"),
        ("vgg:rows=32,columns=32", make("image", size=32), "leave them out"),
        ("vgg:rows=8,columns=32", make("image", fit="native"), "this field has 8 x 32"),
        ("vgg", make("series", channels=("a",)), "vgg backbones are for audio and image"),
    ],
)
def test_wrong_fields_are_said(spec, field, words):
    with pytest.raises(AmodalError, match=words):
        backbone(spec, field, 8)


def test_music_and_its_print_from_the_command_line_to_votes(tmp_path):
    """Both stages of ucasr with the paper's kind of network and views, and pieces by votes."""
    rng = np.random.default_rng(0)
    data = {"image": [], "audio": [], "piece": []}
    for i in range(72):
        pitch = i % 6
        sheet = np.full((32, 48, 1), 255, dtype=np.uint8)
        sheet[4 + 4 * pitch : 8 + 4 * pitch, 4:44] = rng.integers(0, 60)
        data["image"].append(sheet)
        time = np.arange(4000) / 8000
        tone = np.sin(2 * np.pi * 200 * 1.5**pitch * time + rng.uniform(0, 6))
        data["audio"].append({"array": tone.astype(np.float32) * 0.3, "sampling_rate": 8000})
        data["piece"].append(f"piece {pitch}")
    strip = make("image", size=40, patch=8, channels=1, fit="native", mean=(0.8,), std=(0.3,))
    data = amodal.open(data)
    data = data.with_fields(dict(data.fields) | {"image": strip})
    run = amodal.pretrain(
        "ucasr",
        data,
        tmp_path / "run",
        fields=["image", "audio"],
        backbones={"image": "vgg:rows=32,columns=48,width=8,out=8", "audio": "vgg:width=8,out=8"},
        views={"image": ["weak", "sheet", "sheet"], "audio": ["weak", "music", "music"]},
        size="nano",
        steps=6,
        batch_size=24,
        progress=False,
        workers=0,
    )
    report = run.evaluate(
        data, protocols=["track_identification"], whole="piece", untrained=False, progress=False
    )
    assert report["track_identification"].value("audio", "MRR, by votes", target="image") > 0
