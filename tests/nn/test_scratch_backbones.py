"""Networks from scratch as backbones: what a token sees, padding, statistics, options, and the way
through a run."""

import numpy as np
import pytest
import torch

import amodal
from amodal.core import AmodalError, Column, Ragged
from amodal.modalities import make
from amodal.nn.backbones.pretrained import backbone
from amodal.nn.batch_norm import active_norms

IMAGE = make("image", size=28, channels=1, patch=7)
SERIES = make("series", channels=("a", "b"), patch=4)
SOUND = make("audio", rate=8000)
TABLE = make(
    "table",
    columns=("age", "sex", "dose"),
    categories={"sex": ("f", "m")},
    mean=(50.0, 0.0, 2.0),
    std=(10.0, 1.0, 0.001),
)
TEXT = make("text", max_length=24, patch=4)


def images(rows=2, side=28, channels=1):
    return Column(torch.rand(rows, channels, side, side), torch.arange(rows))


def series(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(lengths), 2, generator=generator)
    return Column(Ragged(values, torch.tensor(lengths)), torch.arange(len(lengths)))


def test_a_small_image_keeps_a_map_of_cells():
    net = backbone("convnet:width=8", IMAGE, 16)
    tokens = net(images(), "image", 2)
    assert tokens.x.shape == (2 * 49, 16) and tokens.lengths().tolist() == [49, 49]
    # corners of 7 x 7 cells over the field's own grid of 4 x 4 patches
    assert torch.allclose(tokens.position[0, 1:], torch.tensor(0.5 / 7 * 4 - 0.5))
    assert torch.allclose(tokens.position[48, 1:], torch.tensor(6.5 / 7 * 4 - 0.5))
    assert not net.frozen and all(p.requires_grad for p in net.body.parameters())
    four = make("image", size=28, channels=4)
    assert len(backbone("convnet", four, 16)(images(channels=4), "image", 2))


@pytest.mark.parametrize("layers, wide", [("18", 512), ("34", 512), ("50", 2048)])
def test_a_resnet_for_small_images_is_that_of_timm_but_for_its_stem(layers, wide):
    """He et al.: the same parameters, with a first convolution of 3 pixels in place of 7."""
    import timm

    side = make("image", size=32, channels=3, patch=8)
    body = backbone(f"convnet:layers={layers},width=64", side, 16).body
    reference = timm.create_model(f"resnet{layers}", num_classes=0)
    count = {
        k: sum(p.numel() for p in m.parameters()) for k, m in (("own", body), ("timm", reference))
    }
    assert body.width == reference.num_features == wide
    assert count["timm"] - count["own"] == 64 * 3 * (7 * 7 - 3 * 3)
    # the other layers, in eval mode, compute the same
    own = [m for m in body.modules() if not list(m.children()) and list(m.parameters())]
    theirs = [m for m in reference.modules() if not list(m.children()) and list(m.parameters())]
    with torch.no_grad():
        for m in theirs:
            if isinstance(m, torch.nn.BatchNorm2d):
                m.weight.uniform_(0.5, 1.5), m.bias.uniform_(-1, 1)
        for a, b in zip(own[1:], theirs[1:]):
            a.load_state_dict(b.state_dict())
        maps = torch.randn(2, 64, 8, 8)
        blocks = (reference.layer1, reference.layer2, reference.layer3, reference.layer4)
        expected = torch.nn.Sequential(*blocks).eval()(maps)
        torch.testing.assert_close(body.blocks.eval()(maps), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side, sees", [(32, {"patches": 8, "regions": 16}), (64, {"patches": 16})])
def test_cells_of_the_network_of_amdim_see_their_own_part(side, sees):
    """Without padding: a cell of 7 x 7 of 32 pixels sees 8 x 8 of them, and the last cell all."""
    field = make("image", size=side, channels=3, patch=8)
    body = backbone("amdim:width=4,depth=2,out=8,norm=none", field, 16).body.double()
    torch.manual_seed(0)
    for p in body.parameters():
        p.data += 0.1 * torch.rand_like(p)  # convolutions that begin at zero see nothing
    images = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    whole, maps = body.at_scales(images)
    assert whole.shape == (1, 8) and {k: m.shape[1] for k, m in maps.items()} == {
        "regions": 25,
        "patches": 49,
    }
    for scale, pixels in sees.items():
        cell = maps[scale][0, 0].sum()
        (seen,) = torch.autograd.grad(cell, images, retain_graph=True)
        rows, columns = (seen[0].abs().sum(0).sum(i).nonzero().flatten() for i in (1, 0))
        assert rows.tolist() == columns.tolist() == list(range(pixels))
    (seen,) = torch.autograd.grad(whole.sum(), images)
    seen = seen[0].abs().sum(0) > 0
    assert seen.any(0).all() and seen.any(1).all() and seen.double().mean() > 0.95


def test_the_network_of_amdim_is_that_of_its_authors_and_begins_as_means():
    """Parameters of their classes for 128 pixels, counted by hand; the second convolution of each
    layer is zero at the start, so that all of them average."""
    field, (w, d, out) = make("image", size=128, channels=3, patch=8), (4, 3, 40)
    body = backbone(f"amdim:width={w},depth={d},out={out}", field, 16).body.eval()

    def layers(a, b, kernel):
        return a * b * kernel**2 + b * b + (d - 1) * 2 * b * b

    stem = 3 * w * 25 + w + w * w * 9 + w
    blocks = layers(w, 2 * w, 4) + layers(2 * w, 4 * w, 4) + layers(4 * w, 8 * w, 2)
    last = 2 * layers(8 * w, 8 * w, 3) + 8 * w * out * 9 + out * out + 2 * out
    assert sum(p.numel() for p in body.parameters()) == stem + blocks + last
    images = torch.rand(2, 3, 128, 128)
    whole, maps = body.at_scales(images)
    means = body.stem((images - body.mean) / body.std)
    for kernel in (4, 4, 2):
        means = torch.nn.functional.avg_pool2d(means, kernel, 2)
    torch.testing.assert_close(maps["patches"][:, :, :w].transpose(1, 2), means.flatten(2))
    assert not maps["patches"][:, :, w:].any() and not whole[:, w:].any()
    local = torch.rand(1, 3, 64, 64)  # a small part is enlarged
    assert body.at_scales(local)[1]["regions"].shape == (1, 25, 8 * w)


@pytest.mark.parametrize("wanted", [0, 30, 200])
def test_a_token_of_a_signal_sees_its_receptive_field(wanted):
    spec = f"resnet1d:width=4,norm=layer,receptive_field={wanted}"
    body = backbone(spec, SERIES, 8).body.double().eval()
    assert body.receptive_field >= wanted
    length = 4 * body.receptive_field
    values = torch.randn(length, 2, dtype=torch.float64).requires_grad_()
    features, lengths, position = body(Ragged(values, torch.tensor([length])))
    middle = int(lengths) // 2
    (seen,) = torch.autograd.grad(features[middle].square().sum(), values)
    reached = seen.abs().sum(1).nonzero().squeeze(1)
    assert int(reached[-1] - reached[0]) + 1 == body.receptive_field
    assert position[middle, 0] == (middle + 0.5) * body.stride / 4 - 0.5


def test_padding_is_in_no_statistic():
    net = backbone("resnet1d:width=4", SERIES, 8)
    long, short = series(40, 40, 40), series(40, 12, 25)
    for column in (long, short):
        net.body.stem.norm.reset_running_stats()
        net.train()(column, "s", 3)
        steps = SERIES.steps(column.values)[0]
        rows = [net.body.stem.conv(x.T[None])[0].T for x in split(steps, column)]
        mean = torch.cat(rows).mean(0)
        torch.testing.assert_close(net.body.stem.norm.running_mean, 0.1 * mean)


def split(steps, column):
    return torch.split(steps, column.values.lengths.tolist())


@pytest.mark.parametrize("spec", ["resnet1d:width=4", "gru:width=8", "lstm:width=8,layers=2"])
def test_a_row_is_the_same_beside_longer_ones(spec):
    net = backbone(spec, SERIES, 8).eval()
    column = series(9, 40, 1, 17)
    tokens = net(column, "s", 4)
    for row in range(4):
        alone = Column(column.values[torch.tensor([row])], torch.tensor([row]))
        torch.testing.assert_close(
            net(alone, "s", 4).x, tokens.keep(tokens.row == row).x, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("spec", ["gru:width=8", "lstm:width=8,directions=1"])
@pytest.mark.parametrize("field", [SERIES, SOUND, TEXT, make("sequence")], ids=lambda f: f.kind)
def test_a_recurrent_network_reads_the_tokens_of_a_sequence(spec, field):
    net = backbone(spec, field, 12)
    rng = np.random.default_rng(0)
    raw = {
        "series": [rng.normal(size=(n, 2)).astype(np.float32) for n in (9, 30)],
        "audio": [rng.normal(size=n).astype(np.float32) for n in (2000, 9000)],
        "text": ["a red boat", "sea"],
        "sequence": ["ACGTAC", "GG"],
    }[field.kind]
    column = Column(field.collate([field.decode(v) for v in raw]), torch.arange(2))
    plain = field.tokenizer(8)
    plain.load_state_dict(net.body.tokenizer.state_dict())
    first = plain(column, "x", 2).keep(plain(column, "x", 2).row == 0).x
    tokens = net(column, "x", 2)
    want = net.project(net.body.rnn(first[None])[0][0])
    torch.testing.assert_close(tokens.keep(tokens.row == 0).x, want, rtol=1e-4, atol=1e-5)
    tokens.x.sum().backward()
    assert net.body.rnn.weight_hh_l0.grad.any()


def test_sound_goes_through_convolutions_frame_by_frame():
    net = backbone("resnet1d:width=4", SOUND, 8)
    waves = Ragged(torch.randn(12000), torch.tensor([8000, 4000]))
    tokens = net(Column(waves, torch.arange(2)), "s", 2)
    assert tokens.lengths().tolist() == [25, 13]  # of 100 and 50 frames, every fourth


def test_a_perceptron_reads_numbers_categories_and_what_is_missing():
    body = backbone("mlp:width=6,blocks=1,norm=layer", TABLE, 8).body.double()
    rows = [  # the third dose is 500 deviations away, and held to 10
        {"age": 60, "sex": "m", "dose": 2.0},
        {"age": None, "sex": "f", "dose": 2.001},
        {"age": 50, "sex": None, "dose": 2.5},
        {"age": 50, "sex": "x", "dose": 2.0},
    ]
    values = TABLE.collate([TABLE.decode(row) for row in rows]).double()
    features, lengths, position = body(values)
    numbers, absent = body.numbers.weight, body.missing.weight
    dose = (float(np.float32(2.001)) - 2) / 0.001
    entered = [
        numbers[:, 0] * 1 + body.codes.weight[1],
        absent[:, 0] + body.codes.weight[0] + numbers[:, 2] * dose,
        absent[:, 1] + numbers[:, 2] * 10,
        body.codes.weight[2],  # a category that no list has
    ]
    for row, start in zip(features, entered):
        x = start + body.numbers.bias
        norm, first, _, second = body.blocks[0].body
        normal = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
        hidden = (first.weight @ normal + first.bias).clamp(min=0)
        torch.testing.assert_close(
            row, x + second.weight @ hidden + second.bias, rtol=1e-3, atol=1e-3
        )
    assert lengths.tolist() == [1] * 4 and not position.any()


def test_a_perceptron_of_a_table_without_categories_and_a_batch_of_none():
    net = backbone("mlp:width=8", make("table", columns=("a", "b")), 4)
    assert (
        net(Column(torch.tensor([[1.0, float("nan")]]), torch.tensor([2])), "t", 3)
        .x.isfinite()
        .all()
    )
    nothing = net(Column(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)), "t", 3)
    assert nothing.x.shape == (0, 4)
    (nothing.x.sum() + net(Column(torch.rand(5, 2), torch.arange(5)), "t", 5).x.sum()).backward()
    assert all(p.grad is not None for p in net.body.numbers.parameters())


def test_a_module_of_ones_own_with_batch_norm_is_looked_at_with_one_row(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    frozen = backbone(net, make("table", columns=("a", "b", "c")), 8, frozen=True)
    assert frozen(Column(torch.rand(1, 3), torch.arange(1)), "t", 1).x.shape == (1, 8)
    assert net.training  # the caller's own is not touched


def test_a_model_of_timm_from_scratch_learns_its_statistics():
    net = backbone("timm:resnet18:32/8@scratch", make("image", size=32), 8)
    assert not net.frozen and net.training
    tokens = net(images(3, 32, 3), "i", 3)
    assert tokens.lengths().tolist() == [16] * 3
    assert net.body.model.bn1.running_mean.any()
    assert len(active_norms(net)) == 10  # those of the stages behind the map do not learn
    net.requires_grad_(False)
    before = net.body.model.bn1.running_mean.clone()
    net(images(3, 32, 3), "i", 3)
    assert torch.equal(net.body.model.bn1.running_mean, before)


def test_a_frozen_model_stays_in_evaluation_mode(tmp_path):
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "w.safetensors")
    net = backbone(f"timm:resnet18:32@{tmp_path / 'w.safetensors'}", make("image", size=32), 8)
    assert not active_norms(net.train())
    net.thaw()
    assert len(active_norms(net)) == 20 and not active_norms(net.eval())
    net.train().pass_gradients()  # for low-rank differences, which freeze all weights
    net.body.requires_grad_(False)
    assert not active_norms(net)


def test_caffenet_is_that_of_caffe():
    """Layers and fillers of train_val.prototxt, in the repository of arXiv:1705.08631."""
    field = make("image", size=227, channels=3)
    body = backbone("caffenet", field, 16).body.requires_grad_(False)
    shapes = {n: tuple(p.shape) for n, p in body.named_parameters() if n.endswith("weight")}
    assert list(shapes.values()) == [
        (96, 3, 11, 11),
        (256, 48, 5, 5),
        (384, 256, 3, 3),
        (384, 192, 3, 3),
        (256, 192, 3, 3),
        (4096, 256 * 6 * 6),
        (4096, 4096),
    ]
    biases = [float(p.min()) for n, p in body.named_parameters() if n.endswith("bias")]
    assert biases == [0, 1, 0, 1, 1, 1, 1]
    assert body.maps[0].weight.std() == pytest.approx(0.01, rel=0.05)
    assert body.wide[3].weight.std() == pytest.approx(0.005, rel=0.05)


def test_caffenet_computes_maxima_before_neighbouring_channels():
    """Against a convolution, maxima, and a division that are written out."""
    field = make("image", size=67, channels=1, mean=(0.5,), std=(1.0,))
    net = backbone("caffenet:width=8,channels=16", field, 16).double().requires_grad_(False)
    net.body.maps[0].weight.data *= 100  # so that the division can be seen
    pictures = torch.rand(2, 1, 67, 67, dtype=torch.float64)
    first, (weight, bias) = net.body.maps[:4](pictures - 0.5), net.body.maps[0].parameters()
    for n, channel, y, x in [(0, 0, 0, 0), (1, 2, 3, 5), (0, 5, 6, 6)]:
        cells = torch.zeros(6, dtype=torch.float64)
        for c in range(6):
            window = []
            for i in range(2 * y, 2 * y + 3):
                for j in range(2 * x, 2 * x + 3):
                    seen = pictures[n, :, 4 * i : 4 * i + 11, 4 * j : 4 * j + 11] - 0.5
                    window.append(((seen * weight[c]).sum() + bias[c]).clamp(min=0))
            cells[c] = max(window)
        near = cells[max(channel - 2, 0) : channel + 3]
        expected = cells[channel] / (1 + 1e-4 / 5 * near.square().sum()) ** 0.75
        assert torch.allclose(first[n, channel, y, x], expected, rtol=1e-9)
    states = net.body.hidden_states(pictures)
    assert [s.shape[1] for s in states] == [6, 16, 24, 24, 16, 8, 8]
    assert torch.allclose(net.body.maps[:3](pictures - 0.5).mean((2, 3)), states[0])
    assert torch.equal(net.body(pictures)[0], states[-1])
    tokens = net(Column(pictures, torch.arange(2)), "image", 2)
    assert tokens.x.shape == (2, 16) and tokens.lengths().tolist() == [1, 1]


@pytest.mark.parametrize(
    "spec, field, words",
    [
        ("convnet:widht=3", IMAGE, "Did you mean width"),
        ("convnet:width=0", IMAGE, "whole number of at least 1, got '0'"),
        ("convnet:norm=layer", IMAGE, "There are: batch, group"),
        ("amdim", IMAGE, "squares of 32, 64, 128 pixels"),
        ("caffenet", IMAGE, "squares of at least 67 pixels .* not of 28"),
        ("caffenet:channels=24", make("image", size=67), "a multiple of 16, got 24"),
        ("convnet:layers=20", IMAGE, "Did you mean 50"),
        ("convnet:norm=group,width=4", IMAGE, "a width that 8 groups divide"),
        ("convnet", SERIES, "convnet backbones are for image fields"),
        ("resnet1d:kernel=4", SERIES, "odd number"),
        ("resnet1d:receptive_field=99999999", SERIES, "take more stages"),
        ("gru:width=7", SERIES, "an even width"),
        ("mlp:norm=group", TABLE, "There are: batch, layer"),
        ("mlp", SERIES, "mlp backbones are for table fields"),
        ("timm:resnet18:32/7@scratch", IMAGE, "no stride of a map of resnet18 is called '7'"),
    ],
)
def test_wrong_options_are_said(spec, field, words):
    with pytest.raises(AmodalError, match=words):
        backbone(spec, field, 8)


def test_a_run_with_a_network_from_scratch(tmp_path):
    rng = np.random.default_rng(0)
    data = {"image": [rng.integers(0, 255, (28, 28, 1), dtype=np.uint8) for _ in range(40)]}
    quiet = dict(size="nano", steps=4, batch_size=16, progress=False, workers=0, ema=0.5)
    net = {"image": "convnet:width=8,stages=2"}
    model = amodal.pretrain("simclr", data, tmp_path / "run", backbones=net, **quiet)
    norm = model.encoder.tokenizers["image"].body.stem[1]
    assert norm.running_mean.any() and not norm.training
    other = amodal.load(tmp_path / "run")
    a, b = (m.embed(data).features["image"].values for m in (model, other))
    assert torch.equal(a, b)
    # the untrained one has the statistics of a network that has seen nothing
    assert not model.untrained().encoder.tokenizers["image"].body.stem[1].running_mean.any()
    with pytest.raises(AmodalError, match="batch statistics of the whole batch"):
        amodal.pretrain("simclr", data, tmp_path / "no", backbones=net, micro_batch_size=4, **quiet)
