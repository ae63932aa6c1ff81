"""Snippets: where notes are drawn, which tones sound, and who has what."""

import io

import numpy as np
import pytest
from amodal_claims.sets import score_snippets
from amodal_claims.sets.shared.engraving import LINES, Playing, Print, drawn, played
from PIL import Image


def ink(notes, **look):
    page = drawn(notes, 8, np.random.default_rng(0), look=Print(**look))
    return 255.0 - np.asarray(Image.open(io.BytesIO(page)))


def test_a_note_is_drawn_where_its_time_and_pitch_say():
    empty = ink([])
    assert len(LINES) == 10
    where = {}
    for onset, midi in ((0, 60), (4, 60), (4, 72), (4, 48)):
        added = ink([(onset, 4.0, midi)]) - empty
        rows, columns = np.nonzero(np.abs(added) > 60)
        where[onset, midi] = rows.mean(), columns.mean()
    assert where[4, 60][1] - where[0, 60][1] == pytest.approx(4 * 58 / 8, abs=1)
    step = 64 / 44
    assert where[4, 60][0] - where[4, 72][0] == pytest.approx(
        7 * step, abs=1
    )  # an octave is seven steps
    assert where[4, 48][0] - where[4, 60][0] == pytest.approx(7 * step, abs=1)


def test_a_tone_has_its_pitch_when_it_is_played():
    sound = played(
        [(4.0, 4.0, 69)], 8, np.random.default_rng(0), rate=6000, playing=Playing(partials=(1.0,))
    )
    assert len(sound) == 4 * 6000 and np.abs(sound).max() <= 0.9 + 1e-6
    assert np.abs(sound[: 2 * 6000]).max() == 0
    power = np.abs(np.fft.rfft(sound[2 * 6000 :])) ** 2
    assert np.fft.rfftfreq(2 * 6000, 1 / 6000)[power.argmax()] == pytest.approx(440, abs=1)
    faster = played(
        [(4.0, 4.0, 69)], 8, np.random.default_rng(0), rate=6000, playing=Playing(tempo=160)
    )
    assert len(faster) == 3 * 6000


def piece():
    rng = np.random.default_rng(0)
    names = score_snippets.music.CLASSES
    return [
        {"time": t / 2, "duration": 1.0, "octave": 4.0, "pitch": names[rng.integers(12)]}
        for t in range(64)
    ]


def test_a_piece_has_one_role_and_its_records_what_the_role_says():
    roles = {}
    for number in range(60):
        rows = score_snippets.snippets(f"piece {number}", piece()[:32])
        role = rows[0]["role"]
        roles.setdefault(role, rows)
        assert {r["role"] for r in rows} == {role} and {r["piece"] for r in rows} == {
            f"piece {number}"
        }
    assert set(roles) == set(score_snippets.ROLES)
    assert all(r["score"] is None and r["sound"] for r in roles["sound"])
    assert all(r["sound"] is None and r["score"] for r in roles["score"])
    assert {r["condition"] for r in roles["pairs"]} == {"clean"}
    assert {r["condition"] for r in roles["test"]} == {"clean", "real"} and {
        r["split"] for r in roles["test"]
    } == {"test"}
    assert score_snippets.snippets("piece 1", piece()[:32]) == score_snippets.snippets(
        "piece 1", piece()[:32]
    )
    assert score_snippets.snippets("short", piece()[:8]) == []


def test_notes_are_cut_at_the_end_of_their_snippet():
    assert score_snippets.within([(7.0, 3.0, 60), (8.0, 1.0, 62)], 0) == [(7.0, 1.0, 60)]
    assert score_snippets.within([(7.0, 3.0, 60), (9.0, 1.0, 62)], 1) == [(1.0, 1.0, 62)]
