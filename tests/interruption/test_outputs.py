"""Output files replace regular files only, and appear whole; places are checked before the work begins."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gemma_mtp.export import checks
from gemma_mtp.export.staging import check_output_folder, names_failure, write_output_file
from gemma_mtp.runtime.errors import UserError
from tests.conftest import DRAFTER, TARGET


def make(kind: str, path: Path) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        path.with_name("target").write_text("theirs")
        path.symlink_to(path.with_name("target"))
    elif kind == "dangling":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        try:
            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 7))  # /dev/full
        except PermissionError:
            pytest.skip("only root makes devices")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))


KINDS = ["fifo", "symlink", "dangling", "folder", "device", "socket"]


def state(folder: Path) -> list[tuple[str, os.stat_result]]:
    return [(str(path), path.lstat()) for path in sorted(folder.rglob("*"))]


@pytest.mark.parametrize("option", ["--json", "--html"])
@pytest.mark.parametrize("kind", KINDS)
def test_verify_never_replaces_what_is_no_regular_file(
    kind: str, option: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(kind, Path("special"))
    before = state(tmp_path)
    code, output, error = run("verify", "none", str(TARGET), str(DRAFTER), option, "special")
    assert (code, output) == (2, "")
    assert error.count("\n") == 1
    assert error.startswith(f"Error: {option}: special ")
    assert state(tmp_path) == before


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_export_never_replaces_what_is_no_folder(
    kind: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(kind, Path("special"))
    before = state(tmp_path)
    code, output, error = run("export", str(TARGET), str(DRAFTER), "-q", "-o", "special")
    assert (code, output) == (2, "")
    assert error.count("\n") == 1
    assert "special: is a" in error
    assert state(tmp_path) == before


def test_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    write_output_file(file, "first", "--json")
    write_output_file(file, "second", "--json")
    assert file.read_text() == "second"
    with pytest.raises(UserError, match="cannot be written"):
        write_output_file(tmp_path / "none" / "report.json", "third", "--json")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_standard_output_is_written_through(tmp_path: Path, capsys) -> None:
    write_output_file(Path("/dev/stdout"), "{}\n", "--json")
    assert capsys.readouterr().out == "{}\n"


def test_file_too_large_leaves_the_old_one(tmp_path: Path) -> None:
    """A limit on file sizes stands for a full disk: the write fails half way."""
    file = tmp_path / "report.json"
    file.write_text("old")
    script = (
        "import sys; from pathlib import Path; from gemma_mtp.export.staging import write_output_file\n"
        "write_output_file(Path(sys.argv[1]), 'x' * 100_000, '--json')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert done.stderr.splitlines()[-1].endswith(
        f"--json: {file} cannot be written (File too large); nothing was changed"
    )
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("place", [TARGET / "out", DRAFTER / "deep" / "out"])
def test_output_inside_a_checkpoint_is_refused(place: Path, run) -> None:
    code, _, error = run("export", str(TARGET), str(DRAFTER), "-q", "-o", str(place))
    assert code == 2
    assert "lies inside the checkpoint's folder" in error
    assert not place.parent.exists() or place.parent == TARGET


def test_skeleton_cache_that_cannot_be_written_is_refused_before_tracing(run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    for cache in (tmp_path / "file" / "cache", tmp_path / "nowhere"):
        code, _, error = run(
            "export", str(TARGET), str(DRAFTER), "-q", "-o", str(tmp_path / "out"), "--skeleton-cache", str(cache)
        )
        assert code == 2
        assert error.startswith(f"Error: --skeleton-cache: {cache} cannot be written (")
    out = tmp_path / "out"
    code, _, error = run("export", str(TARGET), str(DRAFTER), "-q", "-o", str(out), "--skeleton-cache", f"{out}/cache")
    assert code == 2
    assert "lies inside the output" in error


def test_disk_without_room_is_refused_before_tracing(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = (10**9, 10**9 - 10**6, 10**6)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": usage[2]}))
    code, _, error = run("export", str(TARGET), str(DRAFTER), "-q", "-o", str(tmp_path / "out"))
    assert code == 2
    assert "0.00 GB are free" in error
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_refused_before_tracing(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "available_memory", lambda: 10**9)
    code, _, error = run("export", str(TARGET), str(DRAFTER), "-q", "-o", str(tmp_path / "out"))
    assert code == 2
    assert "takes 1.5 GB of memory, and 1.0 GB are available" in error
    assert list(tmp_path.iterdir()) == []


def test_memory_is_what_the_control_group_still_gives(tmp_path: Path) -> None:
    limit, statistics = tmp_path / "memory.max", tmp_path / "memory.stat"
    statistics.write_text("anon 1000\nfile 7000\n")
    files = str(limit), str(statistics), "anon"
    assert checks._group_memory(files) is None
    limit.write_text("max\n")
    assert checks._group_memory(files) is None
    limit.write_text("10000\n")
    assert checks._group_memory(files) == 9000
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < (checks.available_memory() or 1) <= whole


def test_failure_names_path_and_stage() -> None:
    line = "/a/b: No space left on device while writing embedder; free some space"
    with pytest.raises(UserError, match=line), names_failure("writing embedder", Path("/a/b")):
        raise OSError(28, os.strerror(28))


def test_folder_that_may_become_an_export(tmp_path: Path) -> None:
    check_output_folder(tmp_path)
    check_output_folder(tmp_path / "new" / "deep")
