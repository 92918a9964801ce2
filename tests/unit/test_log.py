"""The log: one line a message, the same whatever it says and wherever it is written."""

import json
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest
from loguru import logger

from models.errors import StopDaemon
from services import text
from services.runtime import log
from settings import LogLevel, Settings

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z \| [A-Z]+ +\| \S.*")


@pytest.fixture
def logging(tmp_path: Path) -> Iterator[Settings]:
    yield Settings.model_construct(log_file=tmp_path / "app.log")
    logger.remove()


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as environment:
        environment.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


def test_an_exception_is_a_field_of_its_json_line(logging: Settings) -> None:
    log.configure(logging.model_copy(update={"log_json": True}), console=False)
    try:
        raise ValueError("odd\nvalue")
    except ValueError:
        logger.bind(flow="f").exception("it\nfails {}", "{}")
    (line,) = map(json.loads, logging.log_file.read_text().splitlines())
    assert (line["message"], line["level"], line["flow"]) == ("it\nfails {}", "ERROR", "f")
    assert "Traceback" in line["exception"]
    assert line["exception"].endswith("ValueError: odd\nvalue\n")


def test_a_message_of_several_lines_stays_on_one_line(logging: Settings) -> None:
    log.configure(logging, console=False)
    logger.error("{}", "first\nsecond\r\u2028third\x1b[0m")
    (line,) = logging.log_file.read_text().splitlines()
    assert line.endswith(r"first\nsecond\r\u2028third\x1b[0m")


@pytest.mark.parametrize("in_json", [True, False])
def test_a_secret_is_in_no_line(logging: Settings, in_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_secrets", {})
    text.hide('s3cr"t')
    log.configure(logging.model_copy(update={"log_json": in_json}), console=False)
    try:
        raise ValueError('it says s3cr"t')
    except ValueError:
        logger.bind(file='s3cr"t').exception('you sent s3cr"t')
    assert "s3cr" not in logging.log_file.read_text()
    assert "[secret]" in logging.log_file.read_text()


def test_what_an_error_quotes_makes_no_lines_of_the_log(logging: Settings) -> None:
    log.configure(logging, console=False)
    forged = "2026-01-31 12:00:00.000Z | INFO    | all is well"
    try:
        try:
            raise KeyError(f"odd\n{forged}")
        except KeyError as error:
            raise ValueError(f"odd\n{forged}\r\n\x1b[31m\u202e") from error
    except ValueError:
        logger.exception("it fails")
    first, *lines = logging.log_file.read_text().split("\n")
    assert LINE.fullmatch(first)
    assert not any(map(LINE.match, lines))
    assert all(line.isprintable() for line in lines)
    assert sum(line == "Traceback (most recent call last):" for line in lines) == 2
    assert any(line.startswith("ValueError: odd\\n2026") for line in lines)


@pytest.mark.usefixtures("in_tokyo")
@pytest.mark.parametrize("in_json", [True, False])
def test_times_are_utc_in_any_time_zone(logging: Settings, in_json: bool) -> None:
    log.configure(logging.model_copy(update={"log_json": in_json}), console=False)
    logger.info("now")
    (line,) = logging.log_file.read_text().splitlines()
    told = json.loads(line)["time"] if in_json else line.split(" | ")[0]
    assert told.endswith("Z")
    assert datetime.now().astimezone().utcoffset() == timedelta(hours=9)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(told)).total_seconds()) < 60


def test_the_console_gets_the_same_lines_as_the_file(logging: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(logging)
    logger.warning("it is so")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == logging.log_file.read_text()
    assert LINE.fullmatch(shown.err.rstrip("\n"))


def test_the_level_is_the_one_of_the_settings(logging: Settings) -> None:
    log.configure(logging.model_copy(update={"log_level": LogLevel.WARNING}), console=False)
    logger.info("small")
    logger.warning("large")
    assert "small" not in logging.log_file.read_text()
    assert "large" in logging.log_file.read_text()


def test_the_file_rotates_and_the_oldest_go(logging: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    with mock.patch.object(log, "ROTATE_BYTES", 1000), mock.patch.object(log, "KEEP_FILES", 3):
        log.configure(logging.model_copy(update={"log_file": folder / "app.log"}), console=False)
        for number in range(100):
            logger.info("line {} {}", number, "x" * 100)
    kept = sorted(folder.iterdir())
    assert [path.name for path in kept] == ["app.log", "app.log.1", "app.log.2", "app.log.3"]
    assert all(path.stat().st_size <= 1000 for path in kept)
    numbers = [int(line.split("line ")[1].split()[0]) for path in kept[::-1] for line in path.read_text().splitlines()]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 99
    assert kept[0].read_text().count("line 99 ") == 1


def test_a_file_that_another_program_moved_away_is_made_anew(logging: Settings) -> None:
    log.configure(logging, console=False)
    logger.info("first")
    logging.log_file.rename(logging.log_file.with_name("elsewhere"))
    logger.info("second")
    assert logging.log_file.read_text().count("\n") == 1
    assert "second" in logging.log_file.read_text()


def test_a_link_in_its_place_is_refused_with_a_sentence(logging: Settings, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    logging.log_file.symlink_to(victim)
    with pytest.raises(StopDaemon, match=r"LOG_FILE .*app\.log cannot be written: it is a link") as said:
        log.configure(logging, console=False)
    assert "set LOG_FILE" in said.value.hint
    logger.error("not there")
    assert victim.read_text() == ""


def test_what_is_no_regular_file_is_refused_and_not_waited_for(logging: Settings) -> None:
    os.mkfifo(logging.log_file)
    with pytest.raises(StopDaemon, match=r"cannot be written: it is no regular file"):
        log.configure(logging, console=False)
    reader = os.open(logging.log_file, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(StopDaemon, match=r"cannot be written: it is no regular file"):
            log.configure(logging, console=False)
    finally:
        os.close(reader)


@pytest.mark.parametrize("full", [False, True], ids=["moved away", "at rotation"])
def test_a_link_that_comes_later_is_not_followed_and_no_line_is_lost(
    logging: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, kept = tmp_path / "victim", logging.log_file.with_name("app.log.1")
    victim.touch()
    log.configure(logging, console=False)
    logger.info("first")

    rotate = log._Sink._rotate

    def rotate_and_plant(sink: log._Sink) -> None:
        rotate(sink)
        logging.log_file.symlink_to(victim)  # in the moment between

    if full:
        monkeypatch.setattr(log, "ROTATE_BYTES", 10)
        monkeypatch.setattr(log._Sink, "_rotate", rotate_and_plant)
    else:
        logging.log_file.rename(kept)
        logging.log_file.symlink_to(victim)
    logger.info("second")
    logger.info("third")
    assert victim.read_text() == ""
    assert [line.split(" | ")[2] for line in kept.read_text().splitlines()] == ["first", "second", "third"]
    said = capsys.readouterr().err
    assert said.count("it is a link") == 1
    logging.log_file.unlink()
    monkeypatch.undo()
    logger.info("fourth")
    assert "fourth" in logging.log_file.read_text()


@pytest.mark.parametrize("in_json", [True, False])
def test_several_messages_of_one_moment_are_lines_of_their_own(logging: Settings, in_json: bool) -> None:
    log.configure(logging.model_copy(update={"log_json": in_json}), console=False)
    log.several(
        [
            log.Line("INFO", "a {}: \n", {"file": "a", "ledger_id": 1}),
            log.Line("INFO", "b", {"file": "b", "ledger_id": 2}),
            log.Line("WARNING", "b is odd", {"file": "b", "ledger_id": 2}),
            log.Line("DEBUG", "not told", {}),
            log.Line("INFO", "c", {"file": "c", "ledger_id": 3}),
        ]
    )
    lines = logging.log_file.read_text().splitlines()
    if in_json:
        told = [(line["level"], line["message"], line["file"], line["ledger_id"]) for line in map(json.loads, lines)]
        assert told == [
            ("INFO", "a {}: \n", "a", 1),
            ("INFO", "b", "b", 2),
            ("WARNING", "b is odd", "b", 2),
            ("INFO", "c", "c", 3),
        ]
        assert all(line.keys() == {"time", "level", "message", "file", "ledger_id"} for line in map(json.loads, lines))
    else:
        assert all(LINE.fullmatch(line) for line in lines)
        assert [line.partition(" | ")[2] for line in lines] == [
            r"INFO    | a {}: \n",
            "INFO    | b",
            "WARNING | b is odd",
            "INFO    | c",
        ]
