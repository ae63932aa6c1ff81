"""What BEiT alone does: a tokenizer that learns first, codebooks, and which fields have what codes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import amodal
from amodal import data, methods, modalities
from amodal.core import AmodalError, Recipe
from amodal.methods.contract import Clock
from amodal.modalities.image import Image
from amodal.nn.encoder import Encoder
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.loop import train
from amodal.train.step import gradients
from tests.methods.bench import FIELDS, batch, exact, fields, method
from tests.processes import run_ranks

LEARNED = {"tokenizer": "vq", "codes": 6, "hidden": 8, "code_width": 4}
QUICK = {"size": "nano", "batch_size": 8, "progress": False, "device": "cpu", "logger": None}


def learning(m):
    return {n for n, p in m.named_parameters() if p.requires_grad}


def page_at(stage, sources=FIELDS, **options):
    m = exact(method("beit", sources=sources, **(LEARNED | options)))
    m.on_stage_start(stage)
    return m


def test_stages_train_the_tokenizer_and_then_everything_else():
    m = method("beit", **LEARNED)
    every = {n for n, _ in m.named_parameters()}
    books = {n for n in every if n.startswith("books.")}
    assert m.stages == (0.2, 1.0) and books
    assert learning(m) == books  # before a loop says so
    for stage in (1, 0, 0, 1, 1):
        m.on_stage_start(stage)
        assert learning(m) == (every - books if stage else books)
    assert method("beit", **(LEARNED | {"tokenizer_share": 0.5})).stages == (0.5, 1.0)


@pytest.mark.parametrize("tokenizer", ["vq", "kmeans"])
def test_what_was_frozen_stays_so_in_every_stage(tokenizer):
    torch.manual_seed(0)
    encoder = Encoder(fields(("picture", "words")), size="nano", positions="relative")
    encoder.tokenizers["picture"].requires_grad_(False)  # as a pretrained one is
    frozen = {f"encoder.{n}" for n, p in encoder.named_parameters() if not p.requires_grad}
    m = methods.build("beit", encoder, **(LEARNED | {"tokenizer": tokenizer}))
    every = {n for n, _ in m.named_parameters() if not n.startswith("books.")}
    for stage in (0, 1, 0, 1) if tokenizer == "vq" else (0, 0):
        m.on_stage_start(stage)
        if tokenizer == "kmeans" or stage:
            assert learning(m) == every - frozen and frozen


@pytest.mark.parametrize("stage", [0, 1])
def test_terms_of_a_record_are_the_same_in_any_batch(stage):
    m = page_at(stage).eval()
    whole = exact(batch(m.views))
    with torch.no_grad():
        together = m.features(whole)
        for row in range(8):
            alone = m.features(whole.between(row, row + 1))
            assert set(alone) == set(together)
            for source in alone:
                expected = together[source].between(row, row + 1)
                assert alone[source].rows.tolist() == expected.rows.tolist()
                torch.testing.assert_close(alone[source].flat, expected.flat)


@pytest.mark.parametrize("stage", [0, 1])
def test_parts_of_a_batch_give_the_step_of_the_whole(stage):
    """Gradients, and the codebook after it."""
    whole, parts = page_at(stage), page_at(stage)
    rows = exact(batch(whole.views, size=9))
    for _ in range(2):
        one, other = gradients(whole, rows), gradients(parts, rows, micro=4)
        assert_close(one, other)
        assert_close(of_gradients(whole), of_gradients(parts))
        for m in (whole, parts):
            m.on_step_end(Clock(1, 4))
            m.zero_grad()
    assert_close(dict(whole.state_dict()), dict(parts.state_dict()))
    assert whole.books["picture"].quantizer.steps == (0 if stage else 2)


def of_gradients(m):
    return {n: p.grad.clone() for n, p in m.named_parameters() if p.grad is not None}


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-9, msg=name)


def steps_of(share):
    """Two steps of each stage; `share` of a batch is what this process has of it."""
    found = []
    for stage in (0, 1):
        m = page_at(stage)
        for seed in range(2):
            terms = gradients(m, share(exact(batch(m.views, size=9, seed=seed))))
            found += [terms, of_gradients(m)]
            m.on_step_end(Clock(seed + 1, 4))
            m.zero_grad()
        found.append({n: v for n, v in m.state_dict().items() if "quantizer" in n})
    return found


def one_rank(rank, folder):
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    torch.save(
        steps_of(lambda b: b.between(0, 7) if rank == 0 else b.between(7, 9)), f"{folder}/{rank}"
    )
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_codebook_of_one(tmp_path):
    run_ranks(one_rank, tmp_path)
    for rank in range(2):
        for one, other in zip(steps_of(lambda b: b), torch.load(tmp_path / str(rank)), strict=True):
            assert_close(one, other)


@pytest.mark.parametrize("absent", [("picture",), ("words",), FIELDS])
@pytest.mark.parametrize("stage", [0, 1])
def test_any_field_may_be_absent(stage, absent):
    m = page_at(stage)
    rows = exact(batch(m.views, absent=absent))
    before = {n: v.clone() for n, v in m.state_dict().items()}
    terms = m.losses(m.features(rows))
    wanted = {f"codes/{f}" for f in FIELDS} if stage else {"pixels/picture", "commitment/picture"}
    assert set(terms) == wanted
    assert all(v == 0 and v.requires_grad for n, v in terms.items() if n.split("/")[1] in absent)
    sum(terms.values()).backward()
    m.on_step_end(Clock(1, 4))
    if stage or "picture" in absent:
        assert all(torch.equal(v, before[n]) for n, v in m.state_dict().items())


def test_a_field_of_which_a_batch_has_no_column_waits():
    m = page_at(0, sources=("picture", "words"))
    rows = exact(batch(m.views, sources=("picture", "words"))).only("words")
    assert m.losses(m.features(rows)) == {}
    m.on_step_end(Clock(1, 4))
    assert m.books["picture"].quantizer.steps == 0
    m.on_stage_start(1)
    assert set(m.losses(m.features(rows))) == {"codes/words"}


def test_the_last_step_of_the_tokenizer_changes_nothing_later():
    m = page_at(0, sources=("picture",))
    rows = exact(batch(m.views, sources=("picture",)))
    m.losses(m.features(rows))
    m.on_step_end(Clock(1, 4))
    made = {n: v.clone() for n, v in m.state_dict().items()}
    m.on_stage_start(1)
    m.on_step_end(Clock(2, 4))
    assert all(torch.equal(v, made[n]) for n, v in m.state_dict().items())


def test_centres_are_fitted_and_the_tokenizer_is_not():
    m = method("beit", **LEARNED)
    assert {f: type(b).__name__ for f, b in m.books.items()} == {
        "picture": "VqAutoencoder",
        "signal": "Codebook",
    }
    before = {n: v.clone() for n, v in m.books.state_dict().items()}
    m.fit_statistics(iter([batch(("plain",), patchy=False, seed=s) for s in range(2)]))
    changed = {n for n, v in m.books.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"signal.centres"}
    m = method("beit", **(LEARNED | {"tokenizer": "kmeans"}))
    m.fit_statistics(iter([batch(("plain",), patchy=False, seed=s) for s in range(2)]))
    b = batch(("plain",))
    for f in ("picture", "signal"):
        tokens = m.encoder.fields[f].targets(b[f].values)
        nearest = torch.cdist(tokens, m.books[f].centres).argmin(1)
        assert torch.equal(m.targets(f, b), nearest) and len({*nearest.tolist()}) > 1


def test_pictures_of_any_sides_and_rasters_have_centres():
    torch.manual_seed(0)
    own = {"picture": Image(32, 3, 8, "native"), **fields(("optical",))}
    m = methods.build("beit", Encoder(own, size="nano", positions="relative"), **LEARNED)
    assert m.stages == (1.0,) and all(type(b).__name__ == "Codebook" for b in m.books.values())
    assert set(m.books) == {"picture", "optical"} and len(m.books["picture"].centres) == 6
    square = own | {"picture": modalities.make("image", size=16, channels=3, patch=8)}
    m = methods.build("beit", Encoder(square, size="nano", positions="relative"), **LEARNED)
    assert m.stages == (0.2, 1.0)


@pytest.mark.parametrize("kind", ["pictures", "rasters"])
def test_a_run_with_centres_of_what_has_no_square_pictures(kind, tmp_path):
    rng = np.random.default_rng(0)
    if kind == "pictures":
        shapes = [(40, 90), (90, 40), (64, 64), (24, 32)] * 4
        values = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
        field = Image(32, 3, 8, "native")
    else:
        values = [rng.normal(size=(3, 16, 16)).astype(np.float32) for _ in range(16)]
        field = fields(("optical",))["optical"]
    d = amodal.open({"place": values}, fields={"place": field})
    amodal.pretrain("beit", d, tmp_path / "run", options=LEARNED, steps=2, workers=1, **QUICK)
    m = amodal.load(tmp_path / "run").method
    assert m.stages == (1.0,) and type(m.books["place"]).__name__ == "Codebook"


def missing_samples(rng):
    value = rng.normal(size=(20, 2)).astype(np.float32)
    value[rng.integers(0, 20), 0] = np.nan
    return value


@pytest.mark.parametrize("tokens", ["with missing samples", "of which the last is not whole"])
@pytest.mark.parametrize("name", ["beit", "flava"])
def test_a_run_with_centres_of_signals_with_gaps(name, tokens, tmp_path):
    """What is missing does not count."""
    rng = np.random.default_rng(0)
    long = [rng.normal(size=(int(rng.integers(500, 700)), 2)) for _ in range(16)]
    gaps = [missing_samples(rng) for _ in range(16)]
    d = amodal.open(
        {
            "signal": gaps if "missing" in tokens else long,
            "words": [f"it is {i}" for i in range(16)],
        }
    )
    amodal.pretrain(name, d, tmp_path / "run", options={"codes": 6}, steps=2, **QUICK)
    m = amodal.load(tmp_path / "run").method
    books = m.books if name == "beit" else m.codebooks
    assert books["signal"].centres.isfinite().all()


@pytest.fixture
def codebook(tmp_path):
    """A folder of a small dVAE with random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.FlavaImageCodebookConfig(
        num_groups=4, hidden_size=4, vocab_size=11, num_blocks_per_group=1
    )
    model = transformers.FlavaImageCodebook(config).eval()
    model.save_pretrained(tmp_path / "dvae")
    return str(tmp_path / "dvae"), model


@pytest.mark.parametrize("tokenizer", ["vq", "kmeans"])
def test_a_codebook_of_images_gives_the_codes_of_their_patches(codebook, tokenizer):
    folder, model = codebook
    m = method("beit", codebook=folder, **(LEARNED | {"tokenizer": tokenizer}))
    assert m.stages == (1.0,)  # it has learned
    assert not any(n.startswith("books.picture") for n in learning(m))
    b = batch(("plain",))
    codes = m.targets("picture", b).view(-1, 2, 2)
    with torch.no_grad():
        wanted = model.blocks(0.8 * b["picture"].values + 0.1).argmax(1)
    assert torch.equal(codes, wanted) and len({*codes.flatten().tolist()}) > 1
    assert m.heads["picture"].out_features == 11 and m.heads["signal"].out_features == 6
    assert not any("blocks.input" in n for n in m.state_dict())
    sum(m.losses(m.features(batch(m.views))).values()).backward()
    assert m.heads["picture"].weight.grad.abs().sum() > 0


def test_a_run_with_a_codebook_opens_without_its_folder(codebook, tmp_path):
    folder, _ = codebook
    pictures = list(np.random.default_rng(0).integers(0, 255, (16, 16, 16, 3), dtype=np.uint8))
    d = amodal.open({"image": pictures})
    amodal.pretrain("beit", d, tmp_path / "run", options={"codebook": folder}, steps=2, **QUICK)
    shutil.rmtree(folder)
    assert len(amodal.load(tmp_path / "run").embed(d).features["image"]) == 16
    with pytest.raises(AmodalError, match="three channels.*words, facts"):
        method("beit", sources=("words", "facts"), codebook=folder)


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(24)]
    words = [" ".join(rng.choice(["red", "boat", "on", "sea"], 3)) for _ in range(24)]
    known = fields(("picture", "words"))
    return data.open({"picture": pictures, "words": words}).with_fields(known)


@pytest.mark.parametrize("step, share", [(5, 0.75), (4, 0.5), (6, 0.5)])
def test_a_run_passes_both_stages_and_resumes_in_either(step, share, records, tmp_path):
    """The tokenizer learns for some of eight steps, and then stays as it is."""

    def run(folder, resume=False):
        m = method("beit", sources=("picture", "words"), **(LEARNED | {"tokenizer_share": share}))

        def batches(first, groups=None):
            some = dict(views=m.views, groups=groups, seed=3, steps=8, start_step=first)
            return data.Loader(records, range(24), batch=8, **some)

        quiet = dict(monitor=CollapseMonitor([]), tensorboard=False, progress=False)
        survey = data.Loader(records, range(24), batch=16, shuffle=False)
        recipe = Recipe(steps=8, lr=1e-3, weight_decay=0.1)
        train(m, batches, recipe, folder, resume=resume, records=survey, save_every=step, **quiet)
        return m.state_dict()

    for folder in ("straight", "stopped"):
        (tmp_path / folder / "checkpoints").mkdir(parents=True)
    begin = method("beit", sources=("picture", "words"), **LEARNED).state_dict()
    straight, saved = run(tmp_path / "straight"), Path("checkpoints", f"step-{step:08d}")
    then = load_file(tmp_path / "straight" / saved / "model.safetensors")
    then = {n.removeprefix("method."): v for n, v in then.items() if n.startswith("method.")}
    assert then.keys() == begin.keys()
    for name, value in then.items():
        if name.startswith("books."):
            assert torch.equal(value, straight[name]) or step < 8 * share, name
        else:
            assert torch.equal(value, begin[name]) or step > 8 * share, name
    assert straight["books.picture.quantizer.steps"] == 8 * share
    assert not all(torch.equal(straight[n], begin[n]) for n in begin if n.startswith("encoder."))
    (tmp_path / "straight" / saved).rename(tmp_path / "stopped" / saved)
    resumed = run(tmp_path / "stopped", resume=True)
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


def test_a_run_is_opened_as_it_was(records, tmp_path):
    options = LEARNED | {"tokenizer_share": 0.5, "layer_scale": 0.3}
    trained = amodal.pretrain("beit", records, tmp_path / "run", options=options, steps=4, **QUICK)
    opened = amodal.load(tmp_path / "run")
    assert opened.method.stages == (0.5, 1.0)
    assert opened.method.books["picture"].quantizer.steps == 2
    assert any(n.endswith("scale1.gain") for n in opened.encoder.state_dict())
    assert opened.encoder.relative.plane.abs().sum() > 0
    assert trained is not None and len(opened.embed(records).features["picture"]) == 24


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tokenizer": "vqq"}, "Did you mean vq.*kmeans, vq"),
        ({"codes": 1}, "codes are at least 2.*not 1"),
        ({"code_width": 0}, "code_width and hidden at least 1.*not 6, 0, 64"),
        ({"hidden": 0}, "code_width and hidden at least 1.*not 6, 32, 0"),
        ({"commitment": -0.1}, "commitment at least 0.*-0.1"),
        ({"tokenizer_share": 0.0}, "tokenizer_share is above 0 and below 1.*not 0.0"),
        ({"tokenizer_share": 1.0}, "tokenizer_share is above 0 and below 1.*not 1.0"),
        ({"layer_scale": -1.0}, "layer_scale is above 0, or 0 for none, not -1.0"),
        ({"codebook": "nowhere"}, "there is no directory nowhere"),
        ({"backbones": {"picture": "convnet:width=8,stages=2"}}, "hides nothing"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(AmodalError, match=message):
        method("beit", sources=("picture", "words"), **options)


def test_a_pool_with_parameters_is_refused():
    encoder = Encoder(fields(("words",)), size="nano", positions="relative", pool="attention")
    with pytest.raises(AmodalError, match='pool="attention" would stay random'):
        methods.build("beit", encoder)


@pytest.mark.parametrize("name", ["beit", "flava", "data2vec"])
@pytest.mark.parametrize("options, message", [
    ({"image": 1.5}, "image is the share of tokens that is hidden"),
    ({"sequence": -0.1}, "sequence is the share"),
    ({"other": float("nan")}, "other is the share"),
    ({"span": -1}, "span is 1 token or more"),
])  # fmt: skip
def test_shares_that_are_none(name, options, message):
    with pytest.raises(AmodalError, match=f"{name}.{message}"):
        method(name, sources=("picture", "words"), **options)
