"""What a phone is and has, and files on it by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..units import size
from .adb import Device

# Where adb's shell may write and run programs.
FOLDER = "/data/local/tmp/gemma-mtp"
# Android 8: from there on phones have sha256sum (and, from 7 on, adb passes exit codes on).
LEAST_API = 26
ABIS = ("arm64-v8a", "x86_64")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Phone:
    """`memory` and `space` are bytes that are free: of memory, and where files are pushed to."""

    device: Device
    model: str
    android: str
    abi: str
    memory: int
    space: int


def inspect_phone(device: Device) -> Phone:
    """Look at a phone.

    Raises:
        UserError: its Android is too old, or LiteRT-LM has no engine for its processor.
        LostDeviceError: it is gone.
    """

    def property_of(name: str) -> str:
        return device.shell(["getprop", name]).strip()

    model, android = property_of("ro.product.model"), property_of("ro.build.version.release")
    api = property_of("ro.build.version.sdk")
    if not api.isdecimal() or int(api) < LEAST_API:
        raise UserError(
            f"{device.serial}: Android {android} (API {api}); expected Android 8 (API {LEAST_API}) or newer"
        )
    abis = property_of("ro.product.cpu.abilist").split(",")
    abi = next((abi for abi in abis if abi in ABIS), None)
    if abi is None:
        raise UserError(f"{device.serial}: its processor runs {', '.join(abis)}; LiteRT-LM has {' and '.join(ABIS)}")
    device.shell(["mkdir", "-p", FOLDER])
    return Phone(device, model, android, abi, _free_memory(device), _free_space(device))


@dataclass(frozen=True)
class Pushed:
    """A file on the phone: where, and whether it had to be copied."""

    place: str
    copied: bool


def push_all(
    phone: Phone, files: Sequence[Path], on_progress: Callable[[str, str], None] = lambda step, detail: None
) -> list[Pushed]:
    """Bring `files` onto the phone, but for those that are there: each is called by its hash, and has that name only
    when all of it arrived.

    Raises:
        UserError: a file cannot be read, there is no room for what is missing, or it arrived damaged.
        LostDeviceError: the phone is gone.
    """
    places = {}
    for file in files:
        on_progress("looking for what the phone has", file.name)
        places[file] = f"{FOLDER}/{_digest(file)}-{file.name}"
    missing = [file for file, place in places.items() if not phone.device.succeeds(["test", "-f", place])]
    needed = sum(file.stat().st_size for file in missing)
    if needed > phone.space:
        raise UserError(
            f"{phone.device.serial}: {size(needed)} to copy, {size(phone.space)} free in {FOLDER}; remove something on"
            f" the phone, or what earlier runs left: adb shell rm -r {FOLDER}"
        )
    for file in missing:
        on_progress("copying to the phone", f"{file.name}, {size(file.stat().st_size)}")
        _push(phone.device, file, places[file])
    return [Pushed(place, file in missing) for file, place in places.items()]


def _push(device: Device, file: Path, place: str) -> None:
    unfinished = f"{place}.part"
    try:
        device.push(file, unfinished)
        arrived = device.shell(["sha256sum", unfinished]).split()[0]
        if not Path(place).name.startswith(arrived):
            raise UserError(f"{device.serial}: {file.name} arrived damaged; copy it again")
    except UserError:
        device.succeeds(["rm", "-f", unfinished])
        raise
    device.shell(["chmod", "755", unfinished])
    device.shell(["mv", unfinished, place])


def _digest(file: Path) -> str:
    found = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                found.update(chunk)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    return found.hexdigest()


def _free_memory(device: Device) -> int:
    for line in device.shell(["cat", "/proc/meminfo"]).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return 0


def _free_space(device: Device) -> int:
    """The fourth column of `df`'s last line; in KiB."""
    columns = device.shell(["df", "-k", FOLDER]).splitlines()[-1].split()
    return int(columns[3]) * 1024 if len(columns) > 3 and columns[3].isdecimal() else 0
