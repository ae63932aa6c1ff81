"""Draw and play notes with numpy and Pillow alone: a grand staff, and tones made of partials.

A note is (onset, duration) in quarter notes and a MIDI number. The results are far from engraving
and from instruments, and the same on every machine.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Note = tuple[float, float, int]
STEPS = (
    0,
    0,
    1,
    2,
    2,
    3,
    3,
    4,
    5,
    5,
    6,
    6,
)  # the line or space of each pitch class, counted from C: C, C#, D, Eb, E, F, F#, …
SIGNS = {1: "sharp", 3: "flat", 6: "sharp", 8: "flat", 10: "flat"}
LINES = (18, 20, 22, 24, 26, 30, 32, 34, 36, 38)  # G2 to A3 and E4 to F5, in steps from C0
MIDDLE = 28  # C4
OVERSAMPLED = 4


@dataclass(frozen=True)
class Print:
    """The appearance of a page.

    Attributes:
        turned: degrees.
        moved: pixels to the right and down.
        scale: of the notes.
        blur: pixels.
        ink: grey, 0 to 1.
        paper: grey, 0 to 1.
        noise: standard deviation.
        line: width of staff lines, in pixels.
        head: height of a note's head, in pixels.
        blot: side of a square that is blank, in pixels, 0 for none.
    """

    turned: float = 0.0
    moved: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    blur: float = 0.0
    ink: float = 0.0
    paper: float = 1.0
    noise: float = 0.0
    line: float = 0.4
    head: float = 2.6
    blot: int = 0

    @staticmethod
    def worn(rng: np.random.Generator) -> Print:
        """A scan of an old print."""
        moved = tuple(rng.uniform(-2, 2, 2))
        # The order of the draws decides which numbers they are.
        ink, paper, noise = rng.uniform(0, 0.3), rng.uniform(0.75, 1.0), rng.uniform(0.02, 0.08)
        line, head, blot = rng.uniform(0.3, 0.7), rng.uniform(2.2, 3.2), int(rng.integers(0, 14))
        return Print(
            turned=rng.uniform(-2, 2),
            moved=moved,
            scale=rng.uniform(0.93, 1.05),
            blur=rng.uniform(0.2, 0.8),
            ink=ink,
            paper=paper,
            noise=noise,
            line=line,
            head=head,
            blot=blot,
        )


def drawn(
    notes: Sequence[Note],
    quarters: float,
    rng: np.random.Generator,
    *,
    side: int = 64,
    look: Print = Print(),
) -> bytes:
    """Draw notes on a grand staff, proportional in time, enharmonics as in STEPS.

    Args:
        notes: to draw.
        quarters: length of the staff.
        rng: of the noise.
        side: of the picture, in pixels.
        look: the appearance.

    Returns:
        A PNG.
    """
    k = OVERSAMPLED
    page = Image.new("L", (side * k, side * k), 255)
    draw = ImageDraw.Draw(page)
    step, width = side / 44, (side - 6) / quarters

    def y_of(height: int) -> float:
        return (side / 2 - (height - MIDDLE) * step) * k

    for height in LINES:
        draw.line(
            [0, y_of(height), side * k, y_of(height)], fill=0, width=max(1, round(look.line * k))
        )
    for onset, duration, midi in notes:
        height = 7 * (midi // 12 - 1) + STEPS[midi % 12]
        x, y, h = (3 + onset * width) * k, y_of(height), look.head * k / 2
        for line in _ledger(height):
            draw.line(
                [x - 2 * h, y_of(line), x + 2 * h, y_of(line)],
                fill=0,
                width=max(1, round(look.line * k)),
            )
        head = [x - 1.3 * h, y - h, x + 1.3 * h, y + h]
        draw.ellipse(head, fill=255 if duration >= 2 else 0, outline=0, width=max(2, k // 2))
        if duration < 4:
            up = (
                -1 if (height < 34) == (height >= MIDDLE) else 1
            )  # away from the outer side of its staff
            draw.line(
                [x - up * 1.2 * h, y, x - up * 1.2 * h, y + up * 6 * step * k / 1.5],
                fill=0,
                width=max(2, k // 2),
            )
            for flag in range(int(max(0, np.ceil(-np.log2(max(duration, 1 / 16)) - 1e-9)))):
                tip = y + up * (6 * step * k / 1.5 - flag * 1.6 * h)
                draw.line(
                    [x - up * 1.2 * h, tip, x - up * 1.2 * h + 2 * h, tip - up * 1.2 * h],
                    fill=0,
                    width=max(2, k // 2),
                )
        if sign := SIGNS.get(midi % 12):
            left = x - 3.2 * h
            draw.line([left, y - 1.8 * h, left, y + 1.2 * h], fill=0, width=max(2, k // 2))
            if sign == "sharp":
                draw.line(
                    [left + h, y - 1.8 * h, left + h, y + 1.2 * h], fill=0, width=max(2, k // 2)
                )
                draw.line(
                    [left - 0.6 * h, y, left + 1.6 * h, y - 0.5 * h], fill=0, width=max(2, k // 2)
                )
            else:
                draw.ellipse(
                    [left, y - 0.2 * h, left + 1.2 * h, y + 1.2 * h],
                    outline=0,
                    width=max(2, k // 2),
                )
    return _scanned(page, side, look, rng)


def _ledger(height: int) -> list[int]:
    """The ledger lines of a note."""
    if height > LINES[-1] + 1:
        return list(range(LINES[-1] + 2, height + 1, 2))
    if height < LINES[0] - 1:
        return list(range(LINES[0] - 2, height - 1, -2))
    return [MIDDLE] if height == MIDDLE else []


def _scanned(page: Image.Image, side: int, look: Print, rng: np.random.Generator) -> bytes:
    k, middle = OVERSAMPLED, side * OVERSAMPLED / 2
    turn, size = np.deg2rad(look.turned), 1 / look.scale
    a, b = size * np.cos(turn), size * np.sin(turn)
    x, y = (middle + m * k for m in look.moved)
    back = (a, b, middle - a * x - b * y, -b, a, middle + b * x - a * y)
    moved = page.transform(
        page.size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR, fillcolor=255
    )
    if look.blur:
        moved = moved.filter(ImageFilter.GaussianBlur(look.blur * k))
    grey = np.asarray(moved.resize((side, side), Image.Resampling.BOX)).astype(float) / 255
    grey = look.ink + (look.paper - look.ink) * grey
    if look.blot:
        corner = rng.integers(0, side - look.blot, 2)
        grey[corner[0] : corner[0] + look.blot, corner[1] : corner[1] + look.blot] = look.paper
    if look.noise:
        grey = grey + rng.normal(0, look.noise, grey.shape)
    packed = io.BytesIO()
    Image.fromarray((grey.clip(0, 1) * 255).round().astype(np.uint8)).save(packed, "PNG")
    return packed.getvalue()


@dataclass(frozen=True)
class Playing:
    """The sound of notes.

    Attributes:
        tempo: quarters a minute.
        partials: amplitudes of the harmonics.
        decay: seconds until a tone has fallen to 1/e, 0 for tones that do not fall.
        attack: seconds.
        detune: cents.
        vibrato: cents.
        room: seconds of echo.
        noise: decibels below the sound, 0 for none.
        tilt: decibels an octave by which high partials are louder.
    """

    tempo: float = 120.0
    partials: tuple[float, ...] = (1.0, 0.5, 0.3, 0.15, 0.1, 0.05)
    decay: float = 0.9
    attack: float = 0.005
    detune: float = 0.0
    vibrato: float = 0.0
    room: float = 0.0
    noise: float = 0.0
    tilt: float = 0.0

    @staticmethod
    def live(rng: np.random.Generator) -> Playing:
        """One of four sorts of instrument, in a room, with noise."""
        kind = int(rng.integers(4))
        partials = (
            (1, 0.1, 0.5, 0.05, 0.3),
            (1, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2),
            (0.6, 1, 0.3, 0.6, 0.2),
            (1, 0.25, 0.08),
        )[kind]
        decay = (0.0, 0.0, 0.0, 0.4)[kind]
        attack = (0.02, 0.08, 0.03, 0.003)[kind]
        tuned = {
            "detune": rng.uniform(-25, 25),
            "vibrato": rng.uniform(0, 20) if kind == 1 else 0.0,
        }
        place = {
            "room": rng.uniform(0.1, 0.6),
            "noise": rng.uniform(12, 30),
            "tilt": rng.uniform(-3, 3),
        }
        return Playing(rng.uniform(100, 145), partials, decay, attack, **tuned, **place)


def played(
    notes: Sequence[Note],
    quarters: float,
    rng: np.random.Generator,
    *,
    rate: int,
    playing: Playing = Playing(),
) -> np.ndarray:
    """Play notes.

    Args:
        notes: to play.
        quarters: length of the sound.
        rng: of the room and the noise.
        rate: samples a second.
        playing: the sound of the notes.

    Returns:
        (t,) float32, at most 0.9 in absolute value.
    """
    beat = 60 / playing.tempo
    sound = np.zeros(int(quarters * beat * rate))
    for onset, duration, midi in notes:
        start, length = int(onset * beat * rate), max(int(duration * beat * rate), rate // 50)
        t = np.arange(min(length, len(sound) - start)) / rate
        pitch = 440 * 2 ** ((midi - 69 + playing.detune / 100) / 12)
        phase = (
            2
            * np.pi
            * pitch
            * (
                t
                + (playing.vibrato / 1200 * np.log(2) / (2 * np.pi * 5)) * np.sin(2 * np.pi * 5 * t)
            )
        )
        shape = (
            np.minimum(t / playing.attack, 1) * np.minimum((t[-1] - t) / 0.02, 1) if len(t) else t
        )
        shape = shape * np.exp(-t / playing.decay) if playing.decay else shape
        for number, amplitude in enumerate(playing.partials, 1):
            if number * pitch < rate / 2:
                louder = 10 ** (playing.tilt * np.log2(number) / 20)
                sound[start : start + len(t)] += amplitude * louder * shape * np.sin(number * phase)
    if playing.room:
        echo = rng.normal(0, 1, int(playing.room * rate)) * np.exp(
            -4 * np.arange(int(playing.room * rate)) / (playing.room * rate)
        )
        wet = np.fft.irfft(np.fft.rfft(sound, 2 * len(sound)) * np.fft.rfft(echo, 2 * len(sound)))[
            : len(sound)
        ]
        sound = sound + 0.5 * wet * sound.std() / max(wet.std(), 1e-9)
    if playing.noise:
        sound = sound + rng.normal(0, sound.std() * 10 ** (-playing.noise / 20), len(sound))
    return np.asarray(0.9 * sound / max(np.abs(sound).max(), 1e-9), dtype=np.float32)
