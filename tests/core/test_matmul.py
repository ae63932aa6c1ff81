"""float32 products by a library that was measured to be quicker: as exact, kept, and the process's
setting is put back."""

import json
import threading

import pytest
import torch

from amodal.core import AmodalError, matmul
from amodal.core.matmul import ALLOWED, PLAIN, Measurement, are_fast, fast_products


def can_be_had() -> bool:
    return not matmul.reason_against() and matmul.measured().exact


onednn = pytest.mark.skipif(
    not can_be_had(), reason="oneDNN is no choice here: no such build, a GPU, or it rounds"
)


@pytest.fixture(autouse=True)
def as_it_was():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)
    assert not fast_products.on


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path))
    matmul.measured.cache_clear()
    yield tmp_path / "matmul.json"
    matmul.measured.cache_clear()


@onednn
def test_as_exact_as_torchs():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(300, 300, generator=g) for _ in range(2))
    exact = a.double() @ b.double()
    with fast_products("onednn"):
        ours = (a @ b - exact).norm()
    assert ours < 2 * (a @ b - exact).norm()


@onednn
def test_gradients_too():
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(200, 128, generator=g), torch.randn(96, 128, generator=g, requires_grad=True)
    with fast_products("onednn"):
        (other,) = torch.autograd.grad((x @ w.T).sin().sum(), w)
    (plain,) = torch.autograd.grad((x @ w.T).sin().sum(), w)
    torch.testing.assert_close(other, plain)


@onednn
def test_holds_until_the_last_leaves_in_whatever_thread():
    entered, leave = threading.Event(), threading.Event()

    @fast_products("onednn")
    def other() -> None:
        entered.set()
        leave.wait(10)

    thread = threading.Thread(target=other)
    with fast_products("onednn"):
        thread.start()
        entered.wait(10)
        assert torch.get_float32_matmul_precision() == ALLOWED and are_fast(torch.zeros(1))
    assert torch.get_float32_matmul_precision() == ALLOWED
    leave.set()
    thread.join()
    assert torch.get_float32_matmul_precision() == PLAIN and not are_fast(torch.zeros(1))


@onednn
def test_the_choice_of_the_outermost_holds():
    with fast_products("torch"), fast_products("onednn"):
        assert torch.get_float32_matmul_precision() == PLAIN and not are_fast(torch.zeros(1))
    with fast_products("onednn"), fast_products("torch"):
        assert are_fast(torch.zeros(1))
        assert not are_fast(torch.zeros(1, dtype=torch.float64)) and not are_fast(
            torch.zeros(1, dtype=torch.bfloat16)
        )


def test_what_somebody_has_set_stays():
    torch.set_float32_matmul_precision("high")
    with fast_products("onednn" if can_be_had() else "torch"):
        assert torch.get_float32_matmul_precision() == "high" and not fast_products.on
    assert torch.get_float32_matmul_precision() == "high"


def test_after_an_error_too():
    with pytest.raises(RuntimeError), fast_products():
        raise RuntimeError
    assert torch.get_float32_matmul_precision() == PLAIN


# The measurement


@pytest.mark.parametrize(
    "measurement, choice",
    [
        (Measurement(100, 250, True), "onednn"),
        (Measurement(100, 105, True), "torch"),
        (Measurement(100, 80, True), "torch"),
        (Measurement(100, 250, False), "torch"),
    ],
)
def test_auto_takes_what_is_quicker_and_exact(measurement, choice, monkeypatch):
    monkeypatch.setattr(matmul, "reason_against", lambda: "")
    monkeypatch.setattr(matmul, "measured", lambda: measurement)
    assert matmul.choose("auto") == choice and matmul.choose("torch") == "torch"
    assert (
        f"{measurement.torch:.0f} GFLOP/s" in matmul.described()
        and f"{measurement.onednn:.0f} by oneDNN" in matmul.described()
    )
    if measurement.exact:
        assert matmul.choose("onednn") == "onednn"
    else:
        with pytest.raises(AmodalError, match="rounds"):
            matmul.choose("onednn")


def test_it_is_measured_once_for_a_machine_and_cached(own_cache, monkeypatch):
    monkeypatch.setattr(matmul, "reason_against", lambda: "")
    taken = []
    monkeypatch.setattr(
        matmul, "measure", lambda: taken.append(1) or Measurement(100.0, 200.0 + len(taken), True)
    )
    first = matmul.measured()
    matmul.measured.cache_clear()  # as another process
    assert matmul.measured() == first and len(taken) == 1
    assert json.loads(own_cache.read_text(encoding="utf-8"))[matmul.machine()]["onednn"] == 201.0
    own_cache.write_text("{torn", encoding="utf-8")
    matmul.measured.cache_clear()
    assert matmul.measured().onednn == 202.0


def test_of_two_processes_that_measure_at_once_the_first_holds(own_cache, monkeypatch):
    monkeypatch.setattr(matmul, "reason_against", lambda: "")

    def slower_than_another() -> Measurement:
        matmul._store(own_cache, matmul.machine(), Measurement(1.0, 2.0, True))
        return Measurement(2.0, 1.0, True)

    monkeypatch.setattr(matmul, "measure", slower_than_another)
    assert matmul.measured() == Measurement(1.0, 2.0, True)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert matmul._store(
        tmp_path / "file" / "matmul.json", "x", Measurement(1, 2, True)
    ) == Measurement(1, 2, True)


def test_a_real_measurement():
    found = matmul.measure()
    assert found.torch > 0.1 and found.onednn > 0.1
    assert torch.get_float32_matmul_precision() == PLAIN


def test_with_a_gpu_there_is_no_choice(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    matmul.measured.cache_clear()
    try:
        assert matmul.choose("auto") == "torch" and "GPU" in matmul.described()
        with pytest.raises(AmodalError, match="GPU"):
            matmul.choose("onednn")
    finally:
        matmul.measured.cache_clear()


# The run


def test_a_run_goes_on_with_what_it_began_with(monkeypatch):
    monkeypatch.setattr(matmul, "choose", lambda option: "torch" if option == "auto" else option)
    assert matmul.for_run("auto", None) == "torch"
    assert (
        matmul.for_run("auto", "onednn") == "onednn"
        and matmul.for_run("onednn", "onednn") == "onednn"
    )
    assert matmul.for_run("auto", None, agree=lambda decide: "onednn") == "onednn"
    with pytest.raises(AmodalError, match="began with matmul = torch"):
        matmul.for_run("onednn", "torch")


@pytest.mark.parametrize(
    "call", [matmul.choose, fast_products, lambda option: matmul.for_run(option, None)]
)
def test_an_unknown_option_offers_the_nearest(call):
    with pytest.raises(AmodalError, match="Did you mean onednn"):
        call("one_dnn")
