"""A thousand requests that mean no good: none is a 5xx, none hangs, nothing grows, and good
requests are answered as before."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from tests.serve.hostile import CHUNK, Attack, attacks, embedded

AT_ONCE = 24
SERVER = """
import sys, torch
torch.set_num_threads(1)
from amodal import load
from amodal.serve import Limits, app, server
import uvicorn
server.HEAD_TIMEOUT = 1.0
made = app(load(sys.argv[1], device="cpu"), limits=Limits(upload=2**20, json=2**20, entries=200_000, seconds=2, concurrent=40))
uvicorn.Server(server.uvicorn_config(made, port=int(sys.argv[2]))).run()
"""


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """(port, process, its log)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "stderr"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(model.path), str(port)], stderr=errors
        )
    until = time.time() + 60
    while time.time() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            time.sleep(0.05)
    yield port, process, log
    process.terminate()
    process.wait(10)


def resident(process) -> float:
    """MiB of the server in memory."""
    with open(f"/proc/{process.pid}/status", encoding="utf-8") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1024


async def first_line(reader: asyncio.StreamReader) -> bytes:
    """Of the answer, after an invitation to go on."""
    while (line := await reader.readline()).startswith(b"HTTP/1.1 100"):
        await reader.readline()
    return line


async def asked(port: int, attack: Attack) -> int:
    """The status of the answer; 0 if the connection was closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = None
    try:
        writer.write(attack.send)
        if attack.then == "hang up":
            return 0
        answer = asyncio.ensure_future(first_line(reader))
        while attack.then == "endless" and not answer.done():
            writer.write(CHUNK)
            await writer.drain()
            await asyncio.sleep(0)  # or nothing else gets a turn
        line = await answer
        return int(line.split()[1]) if line.startswith(b"HTTP/1.1 ") else 0
    except ConnectionError:
        return 0
    finally:
        if answer is not None and answer.done() and not answer.cancelled():
            answer.exception()  # looked at, or asyncio complains
        writer.close()


async def all_asked(port: int, made: list[Attack]) -> list[int]:
    """In the order of `made`; -1 for one that hangs."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(attack: Attack) -> int:
        async with gate:
            try:
                async with asyncio.timeout(15):
                    return await asked(port, attack)
            except TimeoutError:
                return -1

    return await asyncio.gather(*map(one, made))


def good(port: int) -> np.ndarray:
    """The vector that a good request gets."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(
            embedded(text="a thing").replace(b"host: x", b"host: x\r\nconnection: close")
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200"), answer[:500]
    return np.array(json.loads(answer.partition(b"\r\n\r\n")[2])["records"][0]["text"])


def fetched(port: int, path: str) -> str:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


ROUNDS = int(os.environ.get("AMODAL_ROUNDS", "2"))
"""Of 500 requests each; more by hand, see docs/robustness.md."""


def test_a_thousand_hostile_requests(server):
    port, process, log = server
    before, memory, kinds = good(port), [], Counter()
    for seed in range(ROUNDS):
        made = attacks(500, seed)
        for attack, status in zip(made, asyncio.run(all_asked(port, made))):
            silent = status == 0 and attack.then in ("hang up", "endless", "hold")
            right = 400 <= status < 500 or silent or attack.fine and 200 <= status < 300
            assert right and status != 429, (attack.kind, status, attack.send[:300])
            kinds[attack.kind] += 1
        memory.append(resident(process))
        assert np.abs(good(port) - before).max() < 1e-5
    assert len(kinds) > 25 and min(kinds.values()) > 5
    assert memory[-1] < memory[0] + 30, f"MiB after each round: {memory}"
    metrics = fetched(port, "/metrics")
    assert not re.search(r'status="5\d\d"', metrics)
    assert "amodal_requests_at_work 0.0" in metrics
    assert "Traceback" not in log.read_text(encoding="utf-8"), log.read_text(encoding="utf-8")[
        -3000:
    ]
