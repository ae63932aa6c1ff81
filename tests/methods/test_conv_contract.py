"""Every method with a convolutional network for its images: it keeps the contract of
`amodal.methods.contract`, or refuses the network in a sentence."""

import copy

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError
from amodal.core.protocols import CombinesGradients
from amodal.methods.contract import Clock
from amodal.nn import config as encoder_config
from amodal.nn.batch_norm import WholeBatchNorm, active_norms
from amodal.train import distributed
from amodal.train.step import gradients
from tests.methods.bench import FIELDS, REFUSED, batch, exact, method
from tests.methods.test_contract import (
    assert_same_gradient,
    gradient,
    share_of,
    without_late_words,
)
from tests.processes import run_ranks

LOCKED = {
    "ape": "a few-shot head of a frozen encoder",
    "cca": "closed-form maps of frozen encoders",
    "cpp": "heads of a frozen encoder",
    "dinotxt": "the first field that is no text is locked",
    "linear_heads": "heads of frozen encoders",
    "lit": "the first field is locked",
    "missing_aware_prompts": "prompts of a frozen encoder",
    "missing_joint_embedding": "biases alone learn (BitFit), and statistics stay",
    "scarf": "tables alone learn, pictures stay as they are",
    "structure_reg": "heads of a frozen encoder",
    "ts2vec": "series alone learn, pictures stay as they are",
}
"""Methods that do not train the network, by default -> why: it stays in evaluation mode."""
NAMES = [name for name in methods.names() if name not in REFUSED]
each_method = pytest.mark.parametrize("name", NAMES)


def conv(name, norm="batch", **options):
    """The method with a tiny network for pictures."""
    spec = f"convnet:width=8,stages=2,norm={norm}"
    return method(name, backbones={"picture": spec}, **options)


def statistics(module):
    return {
        n: b.clone()
        for prefix, m in module.named_modules()
        if isinstance(m, WholeBatchNorm)
        for n, b in m.named_buffers(prefix=prefix)
    }


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_that_it_would_break_says_so(name):
    with pytest.raises(AmodalError, match=REFUSED[name]) as error:
        conv(name)
    assert "picture" in str(error.value) and ("eave" in str(error.value))


def test_a_method_that_can_do_without_the_broken_part_says_how():
    assert conv("cma_harmonize", drop=0.0)


@each_method
def test_losses_are_finite_and_statistics_follow_what_learns(name):
    m = conv(name)
    before, learning = statistics(m.encoder), active_norms(m.encoder)
    terms = gradients(m, batch(m.views))
    assert torch.stack(list(terms.values())).isfinite().all()
    assert all(g.isfinite().all() for g in gradient(m).values())
    moved = [n for n, b in statistics(m.encoder).items() if not torch.equal(b, before[n])]
    # mean, variance and count of each; members of an ensemble learn one after another
    assert len(moved) == 3 * len(learning)
    assert bool(learning) is (name not in LOCKED)


@each_method
@pytest.mark.parametrize("absent", [("picture",), FIELDS])
def test_pictures_may_be_absent(name, absent):
    m = conv(name)
    before = statistics(m.encoder)
    terms = gradients(m, batch(m.views, absent=absent))
    assert torch.stack(list(terms.values())).isfinite().all()
    assert all(g.isfinite().all() for g in gradient(m).values())
    # the network is part of the graph, and learns no statistics from what is not there
    trained = {n for n, p in m.named_parameters() if "tokenizers.picture" in n and p.requires_grad}
    assert trained <= gradient(m).keys()
    assert all(torch.equal(b, before[n]) for n, b in statistics(m.encoder).items())


@each_method
def test_one_present_row_is_enough(name):
    m = conv(name)
    one = batch(m.views, size=9)
    one = one.between(2, 2 + max(m.min_batch_size, 1))
    assert torch.stack(list(gradients(m, one).values())).isfinite().all()


@each_method
def test_a_row_gives_the_same_features_wherever_it_stands(name):
    m = conv(name).eval()
    whole = batch(m.views, size=8)
    with torch.no_grad():
        all_rows, part = m.features(whole), m.features(whole.between(3, 6))
    for source in part:
        expected = all_rows[source].between(3, 6)
        torch.testing.assert_close(part[source].flat, expected.flat, rtol=1e-4, atol=1e-5)


@each_method
def test_micro_batches_are_exact_with_a_norm_of_rows_and_refused_with_one_of_batches(name):
    whole, pieces = exact(conv(name, "group")), exact(conv(name, "group"))
    gradients(whole, exact(batch(whole.views, size=9)))
    gradients(pieces, exact(batch(pieces.views, size=9)), micro=2)
    assert_same_gradient(gradient(whole), gradient(pieces))
    if name not in LOCKED:
        m = conv(name)
        with pytest.raises(AmodalError, match="cannot have the batch statistics of the whole"):
            gradients(m, batch(m.views, size=9), micro=2)


@each_method
def test_an_encoder_survives_a_round_trip(name):
    m = conv(name)
    gradients(m, batch(m.views))
    m.on_step_end(Clock(1, 10))
    encoder = m.encoder.eval()
    rebuilt = encoder_config.build(encoder.spec)
    # by name: a network that is not trained has torch's layers, which have the same names
    rebuilt.load_state_dict(encoder.state_dict())
    plain = batch(("plain",))
    with torch.no_grad():
        one, other = encoder(plain), rebuilt.eval()(plain)
    for source in one:
        assert torch.equal(one[source].values, other[source].values)


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    found = {}
    for name in NAMES:
        m = exact(conv(name))
        distributed.broadcast_module(m)
        mine = share_of(without_late_words(exact(batch(m.views))), rank)
        terms = gradients(m, mine)
        found[name] = terms, gradient(m), statistics(m)
    torch.save(found, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_gradient_and_statistics_of_one(tmp_path):
    run_ranks(one_rank, tmp_path)
    ranks = [torch.load(tmp_path / f"rank{r}.pt") for r in range(2)]
    for name in NAMES:
        alone = exact(conv(name))
        terms = gradients(alone, without_late_words(exact(batch(alone.views))))
        for values, grads, buffers in (found[name] for found in ranks):
            for term in terms:
                torch.testing.assert_close(
                    values[term], terms[term], rtol=1e-9, atol=1e-9, msg=f"{name} {term}"
                )
            assert_same_gradient(gradient(alone), grads)
            for n, b in statistics(alone).items():
                torch.testing.assert_close(buffers[n], b, rtol=1e-9, atol=1e-9, msg=f"{name} {n}")


def test_methods_that_compute_features_twice_follow_the_batch_once():
    m = conv("cma_harmonize", drop=0.0)
    assert isinstance(m, CombinesGradients)
    gradients(m, batch(m.views))
    sources = len([s for s in batch(m.views).sources if s.startswith("picture")])
    assert {int(norm.num_batches_tracked) for norm in active_norms(m.encoder)} == {sources}


def test_a_teacher_sees_its_own_batch():
    m = conv("dino")
    student = copy.deepcopy(statistics(m.encoder))
    m.features(batch(m.views))
    teacher = statistics(m.teacher)
    assert active_norms(m.teacher)
    assert all(not torch.equal(teacher[n], b) for n, b in student.items())
    gradients(m, batch(m.views))
    before = statistics(m.teacher)
    m.on_step_end(Clock(1, 10))
    assert all(torch.equal(b, before[n]) for n, b in statistics(m.teacher).items())
