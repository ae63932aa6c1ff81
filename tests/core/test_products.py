"""float32 products by the quicker library: as exact as before, and the process's setting is what it was afterwards."""

import threading

import pytest
import torch

from amodal.core import matmul as products
from amodal.core.matmul import ALLOWED, PLAIN, are_fast, fast_products

helps = pytest.mark.skipif(not products.helps(), reason="this CPU is as quick with torch's own choice, or rounds")


@pytest.fixture(autouse=True)
def as_it_was():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)
    assert not fast_products.on


def test_as_exact_as_torchs():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(300, 300, generator=g) for _ in range(2))
    exact = a.double() @ b.double()
    with fast_products():
        ours = (a @ b - exact).norm()
    assert ours < 2 * (a @ b - exact).norm()


def test_gradients_too():
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(200, 128, generator=g), torch.randn(96, 128, generator=g, requires_grad=True)
    with fast_products():
        (quick,) = torch.autograd.grad((x @ w.T).sin().sum(), w)
    (plain,) = torch.autograd.grad((x @ w.T).sin().sum(), w)
    torch.testing.assert_close(quick, plain)


@helps
def test_holds_until_the_last_leaves_in_whatever_thread():
    entered, leave = threading.Event(), threading.Event()

    @fast_products()
    def other() -> None:
        entered.set()
        leave.wait(10)

    thread = threading.Thread(target=other)
    with fast_products():
        thread.start()
        entered.wait(10)
        assert torch.get_float32_matmul_precision() == ALLOWED and are_fast(torch.zeros(1))
    assert torch.get_float32_matmul_precision() == ALLOWED
    leave.set()
    thread.join()
    assert torch.get_float32_matmul_precision() == PLAIN and not are_fast(torch.zeros(1))


@helps
def test_double_and_half_are_no_business_of_it():
    with fast_products():
        assert not are_fast(torch.zeros(1, dtype=torch.float64)) and not are_fast(torch.zeros(1, dtype=torch.bfloat16))


def test_what_somebody_has_set_stays():
    torch.set_float32_matmul_precision("high")
    with fast_products():
        assert torch.get_float32_matmul_precision() == "high" and not fast_products.on
    assert torch.get_float32_matmul_precision() == "high"


def test_after_an_error_too():
    with pytest.raises(RuntimeError), fast_products():
        raise RuntimeError
    assert torch.get_float32_matmul_precision() == PLAIN
