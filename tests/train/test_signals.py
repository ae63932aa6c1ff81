"""Ctrl-C and SIGTERM are heeded also where they come too late for the run of the moment."""

import signal

import pytest

from amodal.core import AmodalError
from amodal.studies import run
from amodal.train.signals import interruptions
from tests.studies.fake import Formula, study

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_a_request_that_a_run_does_not_heed_goes_to_what_trains_it(number):
    with interruptions() as outside:
        with interruptions() as inside:
            assert not inside() and not outside()
            signal.raise_signal(number)
            assert inside() and not outside()
        assert outside()
        with interruptions() as another:
            assert not another()
    with interruptions() as later:
        assert not later()


class TrainsToTheEnd(Formula):
    """A run that is interrupted while it writes its last checkpoint."""

    def __call__(self, job, check):
        with interruptions():
            signal.raise_signal(signal.SIGTERM)
        return super().__call__(job, check)


def test_a_study_ends_where_a_run_took_the_signal(tmp_path):
    one, log, storage = study(2, seeds=(0,)), tmp_path / "log", str(tmp_path / "study.journal")
    with pytest.raises(KeyboardInterrupt):
        run(one, TrainsToTheEnd(log), storage, progress=False)
    assert len(log.read_text(encoding="utf-8").splitlines()) == 1
    assert len(run(one, Formula(log), storage, progress=False)) > 1  # and goes on


@pytest.fixture
def usual_handler():
    """That of Python: a shell lets what it runs in the background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_handler")
def test_a_signal_is_not_lost_on_who_handles_an_error():
    with pytest.raises(KeyboardInterrupt), interruptions():
        signal.raise_signal(signal.SIGINT)
        raise AmodalError("timed enough")
    with pytest.raises(AmodalError), interruptions():
        raise AmodalError("without a signal")
