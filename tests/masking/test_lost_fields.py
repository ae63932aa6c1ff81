"""Records that lose a field, the same ones in every epoch."""

import dataclasses

import torch

from amodal.core import Batch, Column
from amodal.masking.lost_fields import lose_fields

FIELDS = ("a", "b:1", "b:2")


def whole(size=400, salt=0, without=()):
    columns = {}
    for number, source in enumerate(FIELDS):
        rows = torch.tensor([i for i in range(size) if (source, i) not in without])
        columns[source] = Column(rows.float()[:, None] + number / 10, rows)
    return Batch.of(size, columns, [f"r{i}" for i in range(size)], salt=salt)


def lacking(batch):
    present = batch.present()
    assert all(torch.equal(c.values[:, 0].long(), c.rows) for c in batch.columns.values())
    return ~present


def test_a_share_of_the_complete_records_loses_one_field_with_all_its_views():
    lost = lacking(lose_fields(whole(), 0.7))
    assert torch.equal(lost[:, 1], lost[:, 2]) and not (lost[:, 0] & lost[:, 1]).any()
    assert 0.6 < lost.any(1).float().mean() < 0.8
    assert 0.4 < lost[:, 0].float().sum() / lost.any(1).float().sum() < 0.6


def test_it_is_a_function_of_the_key_alone():
    first, epoch = lose_fields(whole(), 0.5), lose_fields(whole(salt=9), 0.5)
    assert torch.equal(first.present(), epoch.present())
    parts = torch.cat([lose_fields(b, 0.5).present() for b in whole().split(7)])
    assert torch.equal(first.present(), parts)
    more = lacking(lose_fields(whole(), 0.8)).any(1)
    assert (more | ~lacking(first).any(1)).all()  # who loses at a lower share loses at a higher one


def test_named_fields_and_incomplete_records():
    named = lacking(lose_fields(whole(), 1.0, ["b"]))
    assert not named[:, 0].any() and named[:, 1:].all()
    without = {("a", i) for i in range(0, 400, 2)}
    some = lacking(lose_fields(whole(without=without), 1.0, ["b"]))
    assert some[::2, 0].all() and not some[::2, 1:].any() and some[1::2, 1:].all()
    plain = whole()
    assert lose_fields(plain, 0.0) is plain
    labelled = dataclasses.replace(
        plain, labels={"y": Column(torch.zeros(1), torch.zeros(1).long())}
    )
    assert lose_fields(labelled, 0.5).labels is labelled.labels
