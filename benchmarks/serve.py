"""`amodal serve` under load: requests per second and the time to an answer at 1, 16 and 64 clients,
nothing lost, memory flat.

The peer is the same server without batches: each request goes through the network by itself. Both
run in a process of their own, with one thread for the network; the clients are in this one and keep
their connections. Requests take turns between a short text and a small picture, to /embed. The
columns ours ms and peer ms are the medians of the time to an answer, speed the ratio of requests
per second over several turns. The memory columns are what the server grew by while it was loaded
(after a round that warms it).
"""

import asyncio
import base64
import io
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import amodal
from benchmarks._timing import Row

CLIENTS = (1, 16, 64)
SECONDS, TURNS = 2.0, 3
SERVER = """
import sys, torch
torch.set_num_threads(1)
import uvicorn
from amodal import load
from amodal.serve import Limits, app, server
made = app(load(sys.argv[1], device="cpu"), limits=Limits())
made.state.service.network.most = int(sys.argv[3])
uvicorn.Server(server.uvicorn_config(made, port=int(sys.argv[2]))).run()
"""

Server = tuple[int, int]
"""Port and process."""


@dataclass(frozen=True)
class Load:
    """rate: answers per second; times: of each answer in seconds; lost: requests without a good
    answer; grown: MiB."""

    rate: float
    times: list[float]
    lost: int
    grown: float

    def __str__(self) -> str:
        p99 = 1000 * float(np.quantile(self.times, 0.99))
        return f"{self.rate:.0f}/s, p99 {p99:.0f} ms, {self.lost} of {len(self.times) + self.lost} lost"


def run() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        trained(Path(folder) / "run")
        with serving(Path(folder) / "run", 64) as ours, serving(Path(folder) / "run", 1) as peer:
            for server in (ours, peer):
                asyncio.run(loaded(*server, clients=max(CLIENTS), seconds=SECONDS))
            rows += [compared(clients, ours, peer) for clients in CLIENTS]
    return rows


def compared(clients: int, ours: Server, peer: Server) -> Row:
    """In turns, so that what else the machine does disturbs both; who goes first alternates."""
    loads: dict[Server, list[Load]] = {ours: [], peer: []}
    for turn in range(TURNS):
        for server in (ours, peer) if turn % 2 == 0 else (peer, ours):
            loads[server].append(asyncio.run(loaded(*server, clients=clients, seconds=SECONDS)))
    ratios = [mine.rate / theirs.rate for mine, theirs in zip(loads[ours], loads[peer])]
    mine, theirs = (together(loads[server]) for server in (ours, peer))
    return Row(
        f"/embed, {clients} clients: {mine}",
        f"one at a time: {theirs}",
        statistics.median(ratios),
        1000 * statistics.median(mine.times),
        1000 * statistics.median(theirs.times),
        max(0.0, mine.grown),
        max(0.0, theirs.grown),
        (min(ratios), max(ratios)),
    )


def together(loads: Sequence[Load]) -> Load:
    times = [t for load in loads for t in load.times]
    rate = statistics.median(load.rate for load in loads)
    return Load(rate, times, sum(load.lost for load in loads), sum(load.grown for load in loads))


def trained(folder: Path) -> None:
    """A small encoder of texts and pictures; what it has learnt does not matter here."""
    data = {"text": [f"picture {i}" for i in range(32)], "image": [picture(i) for i in range(32)]}
    amodal.pretrain(
        "clip", amodal.data.open(data), folder, size="tiny", steps=1, batch=16, progress=False
    )


def picture(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@contextmanager
def serving(run_folder: Path, most: int) -> Iterator[Server]:
    """(port, process id) of a server that puts up to `most` records into one run of the network."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(run_folder), str(port), str(most)]
    )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError("the server did not start") from None
                time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)


async def loaded(port: int, pid: int, *, clients: int, seconds: float) -> Load:
    """So many clients, each of which asks again as soon as it has its answer."""
    asked = [
        {"text": "a picture of something"},
        {"image": {"base64": base64.b64encode(picture(0)).decode()}},
    ]
    bodies = [json.dumps({"records": [record]}).encode() for record in asked]
    head = "POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"
    requests = [head.format(len(body)).encode() + body for body in bodies]
    before, times, lost, began = resident(pid), [], 0, time.perf_counter()

    async def client(first: int) -> None:
        nonlocal lost
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        number = first
        while time.perf_counter() - began < seconds:
            start = time.perf_counter()
            writer.write(requests[number % len(requests)])
            try:
                answer = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(re.search(rb"content-length: (\d+)", answer)[1]))
                good = answer.startswith(b"HTTP/1.1 200")
            except (ConnectionError, asyncio.IncompleteReadError):
                lost += 1
                return
            if good:
                times.append(time.perf_counter() - start)
            else:
                lost += 1
            number += 1
        writer.close()

    await asyncio.gather(*map(client, range(clients)))
    return Load(len(times) / (time.perf_counter() - began), times, lost, resident(pid) - before)


def resident(pid: int) -> float:
    """MiB in memory; 0 where /proc does not say."""
    try:
        return (
            int(
                re.search(
                    r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
                )[1]
            )
            / 1024
        )
    except OSError:
        return 0.0
