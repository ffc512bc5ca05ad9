"""What an export takes: time by stage, memory, disk: `python -m tests.benchmarks.exporting FOLDER --shape e2b`.

Makes a pair of E2B's or E4B's shape in FOLDER (widen.py), or takes the checkpoints that are given; exports it as a
command of its own with nothing traced before; and beside it reads and writes as many bytes plainly. Before either, the
system is asked to forget the checkpoints' pages. Memory is what the kernel counts as anonymous, of all processes
together: of a control group that is given, else the sum over the command's processes in /proc. The last line is one
JSON object.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from gemma_mtp.export.demo import SMALL_PAIR
from gemma_mtp.runtime.units import size

from .widen import widen
from .widths import E2B, E4B, MODERATE, MODERATE_E4B

SHAPES = {"e2b": E2B, "e4b": E4B, "moderate": MODERATE, "moderate-e4b": MODERATE_E4B}
_PACKAGES = ("torch", "litert-torch", "ai-edge-quantizer", "litert-lm-builder")
_PAUSE, _PART_BYTES = 0.05, 1 << 20
_STAGE = re.compile(r"^(.+): done in ([\d.]+) s$")


@dataclass
class Cost:
    """One export: seconds, bytes. `peak_memory` is anonymous, of all processes together; `counted_by` says by whom."""

    seconds: float
    processor_seconds: float
    stages: dict[str, float]
    peak_memory: int
    counted_by: str
    peak_disk: int
    read: int
    written: int
    plain_read_seconds: float
    plain_write_seconds: float
    machine: str = field(default_factory=lambda: f"{os.cpu_count()} cores, {platform.machine()} {platform.system()}")
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d"))
    versions: dict[str, str] = field(default_factory=lambda: {package: version(package) for package in _PACKAGES})


class Watch:
    """Samples what a command takes until it ends: anonymous memory of its processes, and bytes in a folder."""

    def __init__(self, process: int, folder: Path, group: Path | None) -> None:
        self._process, self._folder, self._group = process, folder, group
        self.memory = self.disk = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_PAUSE):
            self.memory = max(self.memory, _of_group(self._group) if self._group else _of_processes(self._process))
            self.disk = max(self.disk, _used(self._folder))


def _of_group(group: Path) -> int:
    rows = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(rows.get("anon") or rows["total_rss"])


def _of_processes(root: int) -> int:
    """`RssAnon` (proc_pid_status(5)) of a process and all that it has started, in bytes."""
    found = dict(_processes())
    wanted = {root}
    while more := {pid for pid, (parent, _) in found.items() if parent in wanted} - wanted:
        wanted |= more
    return sum(found[pid][1] for pid in wanted if pid in found)


def _processes() -> Iterator[tuple[int, tuple[int, int]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                lines = (entry / "status").read_text().splitlines()
            except OSError:  # It has ended.
                continue
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
            if "RssAnon" in fields:
                yield int(entry.name), (int(fields["PPid"]), int(fields["RssAnon"].split()[0]) << 10)


def _processor_seconds() -> float:
    """Of all processes that this one has started and that have ended, and of theirs, in user and kernel mode."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def _used(folder: Path) -> int:
    """Bytes that the files below a folder take on disk."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512 if path.is_file() else 0
        except OSError:
            continue
    return total


def forget(files: list[Path]) -> None:
    """Ask the system to give up the pages that it keeps of `files`."""
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_plainly(files: list[Path]) -> float:
    """Seconds to read `files` once."""
    begun, part = time.perf_counter(), bytearray(_PART_BYTES)
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(part):
                pass
    return time.perf_counter() - begun


def write_plainly(path: Path, count: int) -> float:
    """Seconds to write a file of `count` bytes; as in an export, the system decides when they reach the disk."""
    begun, part = time.perf_counter(), os.urandom(_PART_BYTES)
    with path.open("wb", buffering=0) as opened:
        for start in range(0, count, _PART_BYTES):
            opened.write(part[: count - start])
    seconds = time.perf_counter() - begun
    path.unlink()
    return seconds


def measure(
    target: Path, drafter: Path, out: Path, options: tuple[str, ...], group: Path | None, cache: Path | None = None
) -> Cost:
    """Export to the new folder `out`, and read and write as much plainly."""
    sources = [*target.glob("*.safetensors"), *drafter.glob("*.safetensors")]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        command = [sys.executable, "-m", "gemma_mtp.export.cli", "export", str(target), str(drafter), "-o", str(out)]
        command += ["--skeleton-cache", str(cache or Path(temporary, "skeletons")), *options]
        forget(sources)
        before, used, begun = _used(out.parent), _processor_seconds(), time.perf_counter()

        def join() -> None:
            if group:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        log = Path(temporary, "log")
        with log.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream, preexec_fn=join) as run:
            watch = Watch(run.pid, out.parent, group)
            code = run.wait()
        seconds = time.perf_counter() - begun
        watch.end()
        told = log.read_text(errors="replace").splitlines()
        if code:
            raise SystemExit("\n".join(told[-10:]))
        written = sum(path.stat().st_size for path in out.iterdir())
        forget(sources)
        return Cost(
            seconds=seconds,
            processor_seconds=_processor_seconds() - used,
            stages={found[1]: float(found[2]) for line in told if (found := _STAGE.match(line))},
            peak_memory=watch.memory,
            counted_by="control group" if group else "RssAnon of all processes, every 50 ms",
            peak_disk=watch.disk - before,
            read=sum(path.stat().st_size for path in sources),
            written=written,
            plain_read_seconds=read_plainly(sources),
            plain_write_seconds=write_plainly(Path(temporary, "plain"), written),
        )


def show(name: str, cost: Cost, console: Console) -> None:
    table = Table("", "", title=f"Export of {name}", show_header=False)
    for title, seconds in cost.stages.items():
        table.add_row(title, f"{seconds:.1f} s")
    table.add_row("in all", f"{cost.seconds:.1f} s")
    table.add_row("processor time of all processes", f"{cost.processor_seconds:.1f} s")
    table.add_row(f"plainly reading {size(cost.read)}", f"{cost.plain_read_seconds:.1f} s")
    table.add_row(f"plainly writing {size(cost.written)}", f"{cost.plain_write_seconds:.1f} s")
    table.add_row(f"peak anonymous memory ({cost.counted_by})", size(cost.peak_memory))
    table.add_row("peak disk", size(cost.peak_disk))
    console.print(table)


@click.command(help=__doc__, context_settings={"ignore_unknown_options": True})
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option("--shape", type=click.Choice(list(SHAPES)), default="e2b", show_default=True)
@click.option("--target", type=click.Path(path_type=Path), help="A checkpoint's folder, instead of one that is made.")
@click.option("--drafter", type=click.Path(path_type=Path), help="Its drafter's folder.")
@click.option("--repeat", is_flag=True, help="Export twice, and compare the bundles byte for byte.")
@click.option("--cgroup", type=click.Path(path_type=Path), help="An empty control group that may be joined.")
@click.option("--skeleton-cache", type=click.Path(path_type=Path), help="Take traced graphs from here.")
def main(
    folder: Path,
    options: tuple[str, ...],
    shape: str,
    target: Path | None,
    drafter: Path | None,
    repeat: bool,
    cgroup: Path | None,
    skeleton_cache: Path | None,
) -> None:
    """OPTIONS go to `gemma-mtp-export export`."""
    console = Console(stderr=True)
    if bool(target) != bool(drafter):
        raise click.UsageError("--target and --drafter go together")
    if target is None or drafter is None:
        pair = folder / shape
        if not pair.exists():
            widen(SMALL_PAIR / "target", SMALL_PAIR / "drafter", SHAPES[shape], pair)
        target, drafter = pair / "target", pair / "drafter"
    costs, hashes = [], []
    for run in range(2 if repeat else 1):
        out = folder / "exports" / str(run)
        shutil.rmtree(out, ignore_errors=True)
        costs.append(measure(target, drafter, out, options, cgroup, skeleton_cache))
        hashes.append(json.loads((out / "manifest.json").read_text())["files"]["model.litertlm"]["sha256"])
        show(f"{target.parent.name} ({run + 1})", costs[-1], console)
        if run:
            shutil.rmtree(out)
    if len(set(hashes)) > 1:
        raise SystemExit(f"the bundles differ: {hashes}")
    click.echo(json.dumps({"sha256": hashes[0], "runs": [asdict(cost) for cost in costs]}))


if __name__ == "__main__":
    main()
