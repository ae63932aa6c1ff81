"""Queues against a list."""

import torch

from amodal.nn.queue import Queues


def test_the_last_rows_stay_oldest_first():
    queues, queued = Queues(["a", "b"], 5, 2), []
    for step, n in enumerate([2, 0, 2, 3, 7]):
        new = torch.full((n, 2), float(step)) + torch.arange(n)[:, None] / 10
        queues.push({"a": new})
        queued = (queued + new.tolist())[-5:]
        assert queues.earlier("a").tolist() == queued
    assert len(queues.earlier("b")) == 0
    rebuilt = Queues(["a", "b"], 5, 2)
    rebuilt.load_state_dict(queues.state_dict())
    assert torch.equal(rebuilt.earlier("a"), queues.earlier("a"))
    none = Queues(["a"], 0, 2)
    none.push({"a": torch.ones(3, 2)})
    assert len(none.earlier("a")) == 0
