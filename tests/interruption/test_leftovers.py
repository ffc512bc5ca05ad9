"""What a run that was ended left behind is found and removed; what belongs to others stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gemma_mtp.export.staging import remove_unfinished, staged_folder
from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.scratch import OWNER, InUseError, owned_folder, remove_leftovers, uninterrupted

HOLD = """
import sys, time
from pathlib import Path
from gemma_mtp.runtime.scratch import owned_folder
with owned_folder(Path(sys.argv[1])) as folder:
    (folder / "big").write_bytes(bytes(1000))
    print("owned", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A process that owns the folder `.out-unfinished`."""
    folder = tmp_path / ".out-unfinished"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"owned\n"
    yield process, folder
    process.kill()
    process.wait()
    process.stdout.close()


def test_leftover_of_a_killed_owner_is_removed_and_told(holder, tmp_path: Path) -> None:
    process, folder = holder
    assert remove_unfinished(tmp_path) == []
    assert (folder / "big").exists()
    process.kill()
    process.wait()
    (told,) = map(str, remove_unfinished(tmp_path))
    assert told == f"Removed {folder}: 1,000 bytes that an earlier run left when it was ended"
    assert not folder.exists()


def test_leftover_is_taken_over(holder) -> None:
    process, folder = holder
    process.kill()
    process.wait()
    with owned_folder(folder):
        assert [path.name for path in folder.iterdir()] == [OWNER]
    assert not folder.exists()


def test_living_owner_is_left_alone(holder, tmp_path: Path) -> None:
    _, folder = holder
    with pytest.raises(InUseError), owned_folder(folder):
        pass
    with pytest.raises(UserError, match="another export is writing it"), staged_folder(tmp_path / "out"):
        pass
    assert (folder / "big").exists()


def test_folder_of_such_a_name_that_is_somebody_s_own_stays(tmp_path: Path) -> None:
    theirs = tmp_path / ".notes-unfinished"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine")
    (tmp_path / ".link-unfinished").symlink_to(theirs)
    assert remove_unfinished(tmp_path) == []
    with pytest.raises(FileExistsError, match="unknown origin"), owned_folder(theirs):
        pass
    assert (theirs / "notes.txt").read_text() == "mine"


def test_interrupted_removal_is_finished_by_the_next(tmp_path: Path) -> None:
    """The file that tells whose a folder is goes last."""
    folder = tmp_path / ".out-unfinished"
    (folder / "deep").mkdir(parents=True)
    (folder / OWNER).touch()
    (folder / "deep" / "file").write_text("x")
    removed: list[str] = []

    def record(event: str, arguments: tuple) -> None:
        if event in ("os.remove", "os.rmdir") and recording:
            removed.append(Path(os.fsdecode(arguments[0])).name)

    recording = True
    sys.addaudithook(record)
    assert len(remove_leftovers(tmp_path, ".*-unfinished")) == 1
    recording = False
    assert removed[-2:] == [OWNER, folder.name]


def test_interruption_waits_for_the_steps_that_belong_together() -> None:
    reached = []
    # A background job of a shell begins with it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")

    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached == ["the end"]


def test_folder_that_is_filled_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def export() -> None:
        with staged_folder(out) as staging:
            (staging / "made").touch()
            out.mkdir()
            (out / "theirs").touch()

    with pytest.raises(UserError, match="something was put there"):
        export()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]
