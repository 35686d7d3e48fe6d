"""The rotated log files of `imagegen up`, and the filters of `imagegen logs`."""

import itertools
from contextlib import closing
from pathlib import Path

from compose.cli.logs import LogFilter
from compose.launcher.log_files import NAME, LogLine, LogReader, LogWriter

JOB, OTHER = "01a207b4-0da0-76eb-8b84-9486d49425aa", "01a207b4-0da0-76eb-8b84-000000000000"


def lines(folder: Path, backups: int = 3) -> list[LogLine]:
    with closing(LogReader(folder, backups)) as reader:
        return list(reader.past())


def texts(folder: Path) -> list[str]:
    return [line.text for line in lines(folder)]


def test_lines_of_all_processes_are_read_in_order(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "logs")
    writer.write("api", "first  with   spaces")
    writer.write("redis", "")
    writer.close()
    writer.write("worker-sd", "böse \udcff bytes")

    writer.close()
    assert [(line.process, line.text) for line in lines(tmp_path / "logs")] == [
        ("api", "first  with   spaces"),
        ("redis", ""),
        ("worker-sd", "böse ? bytes"),
    ]
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700


def test_the_files_have_a_maximum_size_and_keep_the_newest_lines(tmp_path: Path) -> None:
    with closing(LogWriter(tmp_path, max_bytes=1000, backups=3)) as writer:
        for number in range(500):
            writer.write("api", f"line {number}")

    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 4 * 1100
    assert len(list(tmp_path.iterdir())) <= 4
    kept = texts(tmp_path)
    assert kept == [f"line {number}" for number in range(500 - len(kept), 500)]


def test_following_survives_rotation(tmp_path: Path) -> None:
    with closing(LogWriter(tmp_path, max_bytes=200, backups=20)) as writer, closing(LogReader(tmp_path, 20)) as reader:
        writer.write("api", "before")
        assert list(reader.past()) == []
        future = reader.future()
        seen = [next(future).text]
        for start in range(0, 40, 4):
            for number in range(start, start + 4):
                writer.write("api", f"line {number}")
            seen += [line.text for line in itertools.islice(future, 4)]

    assert seen == ["before", *(f"line {number}" for number in range(40))]
    assert len(list(tmp_path.iterdir())) > 5


def test_a_slow_reader_gets_each_line_once(tmp_path: Path) -> None:
    with closing(LogWriter(tmp_path, max_bytes=200, backups=20)) as writer:
        writer.write("api", "before")
        with closing(LogReader(tmp_path, 20)) as reader:
            for number in range(10):
                writer.write("api", f"line {number}")
            past = [line.text for line in reader.past()]
            for number in range(10, 40):
                writer.write("api", f"line {number}")
            future = [line.text for line in itertools.islice(reader.future(), 41 - len(past))]

    assert [*past, *future] == ["before", *(f"line {number}" for number in range(40))]
    assert len(list(tmp_path.iterdir())) > 5


def test_following_waits_for_the_first_line_and_for_whole_lines(tmp_path: Path) -> None:
    with closing(LogReader(tmp_path)) as reader:
        assert list(reader.past()) == []
        with (tmp_path / NAME).open("w") as file:
            file.write("2026-11-23T12:00:00.000+00:00 api whole\n2026-11-23T12:00:00.000+00:00 api ha")
            file.flush()
            future = reader.future()
            assert next(future).text == "whole"
            file.write("lf\n")

        assert next(future).text == "half"


def test_lines_that_cannot_be_written_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    writer = LogWriter(tmp_path / "file" / "logs")
    writer.write("api", "lost")
    writer.close()

    assert texts(tmp_path / "file") == []


def test_the_filter_by_job_keeps_whole_entries() -> None:
    lines_written = [
        ("worker-sd", f"12:00:00 ERROR   job {JOB} failed unexpectedly"),
        ("api", "12:00:00 INFO    something else"),
        ("worker-sd", "Traceback (most recent call last):"),
        ("worker-sd", '  File "a.py", line 1, in <module>'),
        ("worker-sd", f"12:00:01 INFO    job {OTHER} succeeded in 12 ms"),
        ("worker-sd", "  unrelated"),
        ("housekeeper", f'{{"message": "delivered", "job_id": "{JOB}"}}'),
    ]
    log_filter = LogFilter((), JOB)

    assert [lines_written.index(line) for line in lines_written if log_filter.matches(LogLine(*line))] == [0, 2, 3, 6]


def test_the_filter_by_process() -> None:
    log_filter = LogFilter(("api", "redis"), None)

    assert [log_filter.matches(LogLine(name, "x")) for name in ("api", "redis", "worker-sd")] == [True, True, False]
