"""What the processes said, on disk."""

import itertools
from contextlib import closing
from pathlib import Path

from compose.cli.logs import Filter
from compose.launcher.journal import NAME, Journal, LogLine, LogReader

JOB, OTHER = "01a207b4-0da0-76eb-8b84-9486d49425aa", "01a207b4-0da0-76eb-8b84-000000000000"


def lines(folder: Path, older: int = 3) -> list[LogLine]:
    with closing(LogReader(folder, older)) as reader:
        return list(reader.past())


def texts(folder: Path) -> list[str]:
    return [line.text for line in lines(folder)]


def test_what_is_written_is_read_in_order_whoever_said_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "logs")
    journal.write("api", "first  with   spaces")
    journal.write("redis", "")
    journal.close()
    journal.write("worker-sd", "böse \udcff bytes")

    journal.close()
    assert [(line.process, line.text) for line in lines(tmp_path / "logs")] == [
        ("api", "first  with   spaces"),
        ("redis", ""),
        ("worker-sd", "böse ? bytes"),
    ]
    assert (tmp_path / "logs" / NAME).stat().st_mode & 0o777 == 0o600


def test_it_never_takes_more_than_its_share(tmp_path: Path) -> None:
    with closing(Journal(tmp_path, most_bytes=1000, older=3)) as journal:
        for number in range(500):
            journal.write("api", f"line {number}")

    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 4 * 1100
    assert len(list(tmp_path.iterdir())) <= 4
    kept = texts(tmp_path)
    assert kept == [f"line {number}" for number in range(500 - len(kept), 500)]


def test_who_follows_misses_nothing_when_a_new_file_begins(tmp_path: Path) -> None:
    with closing(Journal(tmp_path, most_bytes=200, older=20)) as journal, closing(LogReader(tmp_path, 20)) as reader:
        journal.write("api", "before")
        assert list(reader.past()) == []
        future = reader.future()
        seen = [next(future).text]
        for start in range(0, 40, 4):
            for number in range(start, start + 4):
                journal.write("api", f"line {number}")
            seen += [line.text for line in itertools.islice(future, 4)]

    assert seen == ["before", *(f"line {number}" for number in range(40))]
    assert len(list(tmp_path.iterdir())) > 5


def test_who_reads_slowly_misses_nothing_and_is_told_nothing_twice(tmp_path: Path) -> None:
    with closing(Journal(tmp_path, most_bytes=200, older=20)) as journal:
        journal.write("api", "before")
        with closing(LogReader(tmp_path, 20)) as reader:
            for number in range(10):
                journal.write("api", f"line {number}")
            past = [line.text for line in reader.past()]
            for number in range(10, 40):
                journal.write("api", f"line {number}")
            future = [line.text for line in itertools.islice(reader.future(), 41 - len(past))]

    assert [*past, *future] == ["before", *(f"line {number}" for number in range(40))]
    assert len(list(tmp_path.iterdir())) > 5


def test_who_follows_waits_for_the_first_line_and_for_the_end_of_a_line(tmp_path: Path) -> None:
    with closing(LogReader(tmp_path)) as reader:
        assert list(reader.past()) == []
        with (tmp_path / NAME).open("w") as file:
            file.write("2026-11-23T12:00:00.000+00:00 api whole\n2026-11-23T12:00:00.000+00:00 api ha")
            file.flush()
            future = reader.future()
            assert next(future).text == "whole"
            file.write("lf\n")

        assert next(future).text == "half"


def test_a_disk_that_takes_nothing_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    journal = Journal(tmp_path / "file" / "logs")
    journal.write("api", "lost")
    journal.close()

    assert texts(tmp_path / "file") == []


def test_a_jobs_entries_are_whole() -> None:
    said = [
        ("worker-sd", f"12:00:00 ERROR   job {JOB} failed unexpectedly"),
        ("api", "12:00:00 INFO    something else"),
        ("worker-sd", "Traceback (most recent call last):"),
        ("worker-sd", '  File "a.py", line 1, in <module>'),
        ("worker-sd", f"12:00:01 INFO    job {OTHER} succeeded in 12 ms"),
        ("worker-sd", "  of no concern"),
        ("housekeeper", f'{{"message": "delivered", "job_id": "{JOB}"}}'),
    ]
    chosen = Filter((), JOB)

    assert [said.index(line) for line in said if chosen.wants(LogLine(*line))] == [0, 2, 3, 6]


def test_processes_are_chosen_by_name() -> None:
    chosen = Filter(("api", "redis"), None)

    assert [chosen.wants(LogLine(name, "x")) for name in ("api", "redis", "worker-sd")] == [True, True, False]
