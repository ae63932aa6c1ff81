"""What the benchmarks leave behind, and the page made of it. Nothing is timed here."""

import math
import sys
from pathlib import Path

import torch

from benchmarks import __main__ as command
from benchmarks import _chart, _limits, _results
from benchmarks._limits import counted
from benchmarks._timing import Row

ROOT = Path(__file__).parent.parent
NAN = math.nan


def test_a_run_leaves_json_and_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(_limits, "SIDE", 256)  # a processor without bfloat16 takes minutes
    _limits.limits.cache_clear()
    rows = [
        Row("fast", "peer", 2.0, 1.0, 2.0, 4.0, 8.0, (1.5, 2.5), goal=1.5, note="as it is"),
        Row("alone", "by count", NAN, 1.0, NAN, 4.0, 8.0, (NAN, NAN)),
    ]
    path = _results.write("try", "a trial", rows, tmp_path, peers=("no-such-distribution",))
    entry = _results.read_one(path)
    fast, alone = entry["rows"]
    assert fast["speed"] == 2 and fast["memory"] == 2 and fast["spread"] == [1.5, 2.5]
    assert "speed" not in alone and "spread" not in alone and alone["peer_mib"] == 8
    assert (
        entry["versions"]["torch"] == torch.__version__
        and entry["threads"] >= 1
        and entry["date"]
        and entry["machine"]
    )
    assert entry["limits"]["f32 GFLOP/s"] > 0 and entry["limits"]["memory GB/s"] > 0
    assert _chart.draw(entry, tmp_path).stat().st_size > 5000
    assert _chart.draw(entry | {"rows": [alone]}, tmp_path) is None


def test_operations_are_counted_forward_and_backward():
    a, b = torch.randn(8, 16, requires_grad=True), torch.randn(16, 4, requires_grad=True)
    product = 2 * 8 * 16 * 4
    assert counted(lambda: (a @ b).sum().backward()) == 3 * product
    q = torch.randn(2, 3, 32, 16, requires_grad=True)
    attention = 2 * 2 * 2 * 3 * 32 * 32 * 16
    assert counted(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)) == attention


def test_an_unknown_name_gets_the_nearest(capsys):
    assert command.main(["loses"]) == 2
    assert "Did you mean losses?" in capsys.readouterr().err


def test_every_known_benchmark_can_be_run_by_its_name():
    folder = Path(command.__file__).parent
    for name in command.known():
        assert "\ndef run() -> list[Row]:" in (folder / f"{name}.py").read_text(encoding="utf-8"), (
            name
        )


def test_the_page_is_what_the_results_say():
    sys.path.insert(0, str(ROOT / "scripts"))
    import benchmarks_page

    text = benchmarks_page.PAGE.read_text(encoding="utf-8")
    assert benchmarks_page.written(text) == text, "run: python scripts/benchmarks_page.py"


def test_a_profile_counts_each_operation_once_where_it_belongs():
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.profiles import shares

    a = torch.randn(64, 64, requires_grad=True)
    q = torch.randn(1, 2, 8, 16, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU]) as record:
        torch.nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()
        optimizer = torch.optim.AdamW([a])
        (a @ a).sum().backward()
        optimizer.step()
    found = shares(record.events())
    assert {"products", "attention", "optimizer"} <= found.keys()
    assert math.isclose(
        sum(found.values()), sum(event.self_cpu_time_total for event in record.events())
    )
