"""The build's bar: how long it takes yet, from the first steps on."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from rich.console import Console

from edgeopt.cli.boundary import configure_logging
from edgeopt.cli.console import Pace, StageDisplay


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_second_step_tells_how_long_it_takes_yet() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.left(1, 100) == "-:--"
    clock.now_s += 2
    assert pace.left(2, 100) == "3:16"
    clock.now_s += 7200
    assert pace.left(3, 100) == "97:01:37"


def test_what_an_earlier_run_did_is_not_counted() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.left(900, 1000)
    clock.now_s += 1
    assert pace.left(901, 1000) == "1:39"


def test_another_thing_that_is_counted_has_its_own_pace() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.left(1, 100)
    clock.now_s += 1000
    pace.left(2, 100)
    assert pace.left(8, 341) == "-:--"
    clock.now_s += 1
    assert pace.left(16, 341) == "0:41"
    assert pace.left(3, 100) == "-:--"


def test_a_summary_keeps_its_brackets() -> None:
    shown = io.StringIO()
    with StageDisplay(Console(file=shown, width=100)) as display:
        display.begin("data")
        display.end("20 of the 200 images that [calibrate] images asks for", reused=False)
    assert "that [calibrate] images" in shown.getvalue()


def test_a_message_goes_to_what_is_standard_error_now(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("edgeopt")
    before = (logger.handlers, logger.propagate, logger.level)
    try:
        configure_logging(verbose=False)
        bar = io.StringIO()
        monkeypatch.setattr(sys, "stderr", bar)
        logging.getLogger("edgeopt.train").warning("slower now")
        assert bar.getvalue() == "WARNING: slower now\n"
    finally:
        logger.handlers, logger.propagate, logger.level = before


def test_brackets_in_what_a_stage_says_are_shown_and_do_nothing() -> None:
    console = Console(width=100, record=True)
    with StageDisplay(console) as display:
        display.begin("data")
        display.update(1.0, 2.0, "photos[/bold].jpg")
        display.end("fewer than [calibrate] images asks for, of photos[/red]", reused=False)
    assert "data       fewer than [calibrate] images asks for, of photos[/red]" in console.export_text()
