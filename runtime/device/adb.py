"""adb, as far as it is needed here. Its words and exit codes are those of adb 1.0.41 (platform tools 29 to 36)."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

_INSTALL = "install Android's platform tools (https://developer.android.com/tools/releases/platform-tools)"
# What `adb devices` says instead of `device`, and what to do then.
_STATES = {
    "unauthorized": "unlock it and allow USB debugging from this computer",
    "authorizing": "wait a moment, or unlock it and allow USB debugging from this computer",
    "offline": "reconnect it, or restart adb with `adb kill-server`",
    "no permissions": "this user may not open the USB device; see Android's udev rules",
    "recovery": "start it into Android",
    "sideload": "start it into Android",
    "bootloader": "start it into Android",
}


class LostDeviceError(Exception):
    """The phone is no longer there."""


@dataclass(frozen=True)
class Device:
    """One phone, by its serial number."""

    adb: Path
    serial: str

    def shell(self, command: Sequence[str]) -> str:
        """Standard output of a command on the phone.

        Raises:
            UserError: it failed; the message is the command's own.
            LostDeviceError: the phone is gone.
        """
        done = self._run("shell", shlex.join(command))
        if done.returncode:
            self._check_here()
            raise UserError(f"{self.serial}: {shlex.join(command)} failed: {_line(done.stderr or done.stdout)}")
        return done.stdout

    def succeeds(self, command: Sequence[str]) -> bool:
        """Whether a command on the phone ends with 0."""
        return self._run("shell", shlex.join(command)).returncode == 0

    def push(self, file: Path, place: str) -> None:
        """Copy `file` to `place` on the phone.

        Raises:
            UserError: it could not be written there.
            LostDeviceError: the phone is gone.
        """
        done = self._run("push", str(file), place)
        if done.returncode:
            self._check_here()
            said = done.stderr or done.stdout
            if "No space left on device" in said:
                raise UserError(f"{self.serial}: no space left for {file.name}; remove something on the phone")
            raise UserError(f"{self.serial}: {file.name} cannot be copied to {place}: {_line(said)}")

    def follow(self, command: Sequence[str], on_line: Callable[[str], None]) -> tuple[int, str]:
        """Run a command on the phone, and give its lines of standard output as they come.

        Returns:
            exit code and standard error.

        Raises:
            LostDeviceError: the phone was gone at the end.
        """
        with subprocess.Popen(
            [self.adb, "-s", self.serial, "shell", shlex.join(command)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        ) as process:  # fmt: skip
            log = _Drain(process)
            try:
                for line in process.stdout or ():
                    on_line(line)
            except BaseException:
                process.terminate()
                raise
            code = process.wait()
        if code:
            self._check_here()
        return code, log.text

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _adb(self.adb, "-s", self.serial, *arguments)

    def _check_here(self) -> None:
        if self._run("get-state").stdout.strip() != "device":
            raise LostDeviceError


class _Drain:
    """Reads a process's standard error on a thread, so that neither waits for the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        import threading

        self._lines: list[str] = []
        self._thread = threading.Thread(target=lambda: self._lines.extend(process.stderr or ()), daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        self._thread.join()
        return "".join(self._lines)


def find_device(serial: str | None = None) -> Device:
    """The phone with a serial number (`ANDROID_SERIAL` by default, as for adb), or the only one.

    Raises:
        UserError: there is no adb, no phone, more than one, or it cannot be used; with what to do.
    """
    found = shutil.which("adb")
    if not found:
        raise UserError(f"no adb in PATH; {_INSTALL}")
    done = _adb(Path(found), "devices")
    if done.returncode:
        raise UserError(f"`adb devices` failed: {_line(done.stderr or done.stdout)}")
    states = dict(_device_line(line) for line in done.stdout.splitlines() if "\t" in line)
    serial = serial or os.environ.get("ANDROID_SERIAL")
    if not states:
        raise UserError("no phone: connect one by USB, with USB debugging on in its developer options")
    if serial is None and len(states) > 1:
        raise UserError(f"{len(states)} devices ({', '.join(sorted(states))}); choose one by --serial")
    serial = serial or next(iter(states))
    if serial not in states:
        raise UserError(f"no device {serial}; adb knows {', '.join(sorted(states))}")
    if states[serial] != "device":
        hint = next((hint for state, hint in _STATES.items() if states[serial].startswith(state)), "reconnect it")
        raise UserError(f"{serial} is {states[serial].partition(';')[0]}: {hint}")
    return Device(Path(found), serial)


def _device_line(line: str) -> tuple[str, str]:
    serial, _, state = line.partition("\t")
    return serial.strip(), state.strip()


def _adb(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise UserError(f"{program} cannot be run: {error.strerror}; {_INSTALL}") from error


def _line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("adb: ").removeprefix("error: ") if lines else "it does not say why"
