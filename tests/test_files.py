"""Files: whole or not at all, one writer, nothing left behind; on disks that are full too."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bayes_lrmf import files
from bayes_lrmf.checks import InputError
from bayes_lrmf.files import locked, remove_leftovers, written_whole

ROOT = Path(__file__).resolve().parent.parent


def script(text: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path):
    target = tmp_path / "t.csv"
    target.write_text("old")

    def write() -> None:
        with written_whole(target) as temporary:
            temporary.write_text("half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError) as caught:
        write()
    assert str(caught.value) == (
        f"{target}: could not be written to its end (No space left on device); "
        "the old file is as it was; make room, or choose another folder"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]
    assert target.read_text() == "old"


def test_a_disk_that_turns_out_full_when_it_is_flushed(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match="quota exceeded"), written_whole(tmp_path / "t") as one:
        one.write_text("all of it")
    assert list(tmp_path.iterdir()) == []


def test_a_limit_on_the_size_of_files_is_an_error_of_one_line(tmp_path):
    """A real refusal of the system, in the middle of a write."""
    resource = pytest.importorskip("resource")
    assert resource
    done = script(
        "import resource, sys\n"
        "from bayes_lrmf.files import written_whole\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "with written_whole(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(bytes(100_000))\n",
        tmp_path / "t",
    )
    _, said = done.communicate(timeout=60)
    assert "InputError" in said.splitlines()[-1]
    assert "could not be written to its end (File too large)" in said
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_contents_is_raised_as_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), written_whole(tmp_path / "t"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_many_writers_of_one_file_leave_one_whole_text(tmp_path):
    target, texts = tmp_path / "t", [letter * 300_000 for letter in "abcdefgh"]

    def write(text: str) -> None:
        for _ in range(5):
            with written_whole(target) as temporary:
                temporary.write_text(text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not target.exists() or target.read_text() in texts
    assert target.read_text() in texts
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_leftovers_of_this_file_alone_are_removed(tmp_path):
    names = [
        ".p-being-written-abcd1234.nc",
        ".p-being-written-abcd12345.nc",
        ".pp-abcd1234.nc",
        ".p-being-written-abcd1234.csv",
        "p.nc",
    ]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "p.nc")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[1:])


def test_names_of_leftovers_are_those_of_temporary_files(tmp_path):
    with written_whole(tmp_path / "p.nc") as temporary:
        left = temporary.with_name(temporary.name)
        remove_leftovers(tmp_path / "p.nc")
        assert not left.exists()
        temporary.touch()


def test_one_holder_at_a_time(tmp_path):
    with locked(tmp_path / "p", fix="wait"):
        with pytest.raises(InputError, match=f"process {os.getpid()} is writing it; wait"):
            locked(tmp_path / "p", fix="wait").__enter__()
        with locked(tmp_path / "q", fix="wait"):
            pass
    with locked(tmp_path / "p", fix="wait"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_ends_with_the_process_that_was_killed(tmp_path):
    holder = script(
        "import sys, time\n"
        "from bayes_lrmf.files import locked\n"
        "with locked(sys.argv[1], fix='wait'):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n",
        tmp_path / "p",
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {holder.pid} is writing it"):
        locked(tmp_path / "p", fix="wait").__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with locked(tmp_path / "p", fix="wait"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_in_no_folder(tmp_path):
    with pytest.raises(InputError, match="cannot write there"):
        locked(tmp_path / "no" / "p", fix="wait").__enter__()


def test_a_link_stays_one_and_permissions_stay(tmp_path):
    place = tmp_path / "there.csv"
    place.write_text("old")
    place.chmod(0o600)
    (tmp_path / "link.csv").symlink_to(place)
    with written_whole(tmp_path / "link.csv") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.csv").is_symlink()
    assert place.read_text() == "new"
    assert place.stat().st_mode & 0o777 == 0o600


def test_the_longest_names_are_written_and_their_leftovers_found(tmp_path):
    long = tmp_path / ("a" * 250 + ".csv")
    with written_whole(long) as temporary:
        temporary.write_text("x")
    assert long.read_text() == "x"
    with written_whole(tmp_path / ("a" * 249 + ".csv")) as other:
        remove_leftovers(long)
        assert other.exists()
        other.touch()
