"""A Vulkan device for tests: the machine's own GPU, or else SwiftShader, Chromium's software device.

Debian packs SwiftShader in chromium-common. It is downloaded with apt and unpacked into a folder; that takes no root.
Debian's lavapipe is too old for LiteRT-LM's WebGPU.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

_PACKAGES = ("chromium-common", "libvulkan1")
_ICD = "usr/lib/chromium/vk_swiftshader_icd.json"
_MINUTES = 5


class NoDeviceError(RuntimeError):
    """No Vulkan device can be had here; the message says why."""


def vulkan_environment(folder: Path) -> tuple[str, dict[str, str]]:
    """What the device is called, and the environment variables under which LiteRT-LM finds it.

    Args:
        folder: holds SwiftShader, which is fetched on the first call.

    Raises:
        NoDeviceError: there is no GPU, and SwiftShader cannot be fetched.
    """
    if any(Path("/dev").glob("nvidia[0-9]")) or any(Path("/dev/dri").glob("renderD*")):
        return "the machine's own GPU", {}
    unpacked = folder / "swiftshader"
    folder.mkdir(parents=True, exist_ok=True)
    # Test workers ask at the same moment.
    with FileLock(folder / "swiftshader.lock"):
        if not (unpacked / _ICD).exists():
            _fetch(unpacked)
    runtime = folder / "xdg-runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    libraries = [str(path.parent) for path in unpacked.glob("usr/lib/*-linux-*/libvulkan.so.1")]
    found = os.environ.get("LD_LIBRARY_PATH")
    return "SwiftShader (software)", {
        "VK_ICD_FILENAMES": str(unpacked / _ICD),
        "VK_DRIVER_FILES": str(unpacked / _ICD),
        "XDG_RUNTIME_DIR": str(runtime),
        "LD_LIBRARY_PATH": ":".join([*libraries, *([found] if found else [])]),
    }


def _fetch(unpacked: Path) -> None:
    if platform.system() != "Linux" or not all(map(shutil.which, ("apt-get", "dpkg"))):
        raise NoDeviceError("SwiftShader comes from a Debian package here, and there is no apt-get or dpkg")
    with tempfile.TemporaryDirectory(dir=unpacked.parent) as name:
        work = Path(name)
        for private in ("", "private lists"):
            if _downloaded(work, private=bool(private)):
                break
        else:
            raise NoDeviceError(f"apt-get could not download {' and '.join(_PACKAGES)}")
        for package in work.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(work / "root")], check=True)
        if not (work / "root" / _ICD).exists():
            raise NoDeviceError(f"chromium-common holds no {_ICD}")
        os.replace(work / "root", unpacked)


def _downloaded(work: Path, *, private: bool) -> bool:
    """Download the packages into `work`, by the system's package lists or by private ones, which need no root."""
    options: list[str] = []
    try:
        if private:
            (work / "lists" / "partial").mkdir(parents=True)
            options = [f"-oDir::State::Lists={work / 'lists'}", f"-oDir::Cache={work}"]
            _run(["apt-get", *options, "update"], work)
        _run(["apt-get", *options, "download", *_PACKAGES], work)
    except (subprocess.SubprocessError, OSError):
        return False
    return len(list(work.glob("*.deb"))) == len(_PACKAGES)


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_MINUTES * 60)
