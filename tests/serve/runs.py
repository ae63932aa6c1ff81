"""A run with every kind of field, an index and a head, as a server has it."""

import io
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import soundfile
import uvicorn
from PIL import Image

import amodal
from amodal import data as records
from amodal.serve.server import uvicorn_config

RECORDS = 24
RATE = 8000


def png(seed: int = 0, side: int = 16) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def wav(seed: int = 0, samples: int = 4000, rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, np.random.default_rng(seed).normal(0, 0.1, samples), rate, format="WAV")
    return stream.getvalue()


def data():
    """24 records with six fields and the label `colour`."""
    rng = np.random.default_rng(0)
    numbers = range(RECORDS)
    return records.open(
        {
            "image": [png(i) for i in numbers],
            "sound": [wav(i) for i in numbers],
            "text": [f"a thing, number {i}" for i in numbers],
            "cells": [{"age": float(i), "kind": "ab"[i % 2]} for i in numbers],
            "curve": [rng.normal(size=(20, 2)).tolist() for _ in numbers],
            "visits": [
                [{"time": float(j), "item": "xy"[(i + j) % 2]} for j in range(5)] for i in numbers
            ],
            "colour": ["red", "blue"] * (RECORDS // 2),
        }
    )


def served(folder):
    """A model that tells the colour, with its index."""
    dataset = data()
    first = amodal.pretrain(
        "clip", dataset, folder / "first", size="nano", steps=1, batch=8, progress=False
    )
    model = first.adapt(dataset, folder / "told", label="colour", steps=1, progress=False)
    model.index(dataset)
    return model


@contextmanager
def running(application, protocol=None):
    """The application on a free port of this machine, in a thread; gives the port."""
    bound = socket.create_server(("127.0.0.1", 0))  # a port that nobody takes in the meantime
    port = bound.getsockname()[1]
    config = uvicorn_config(application, port=port, level="critical")
    config.http = protocol or config.http
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server could not start"
        time.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(10)
