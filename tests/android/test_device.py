"""`gemma-mtp-export device` against a fake adb that runs the real bench program on the real engine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gemma_mtp.runtime.device.advice import advise
from gemma_mtp.runtime.device.engine import android_engine
from tests.android.tools import Bench
from tests.conftest import CONTEXT, Exports

PIXEL = {
    "ro.product.model": "Pixel 99",
    "ro.build.version.release": "16",
    "ro.build.version.sdk": "36",
    # An emulator's, since the program that runs is this machine's.
    "ro.product.cpu.abilist": "x86_64,arm64-v8a",
}
Call = Callable[..., tuple[int, str, str]]


@dataclass
class FakePhone:
    """The fake's folder, and the command on the shipped pair's bundle."""

    folder: Path
    arguments: tuple[str, ...]
    run: Call

    def __call__(self, *options: str, **scenario: Any) -> tuple[int, str, str]:
        told = {"devices": {"serial-1": "device"}, "properties": PIXEL, "free_kib": 10_000_000} | scenario
        (self.folder / "scenario.json").write_text(json.dumps(told), "utf-8")
        return self.run("device", *self.arguments, *options)

    def refused(self, *options: str, **scenario: Any) -> str:
        """The one line of an error."""
        code, output, error = self(*options, **scenario)
        assert code == 2, error
        assert output == ""
        return [line for line in error.splitlines() if line.strip()][-1]

    @property
    def calls(self) -> list[str]:
        calls = self.folder / "calls.txt"
        return calls.read_text("utf-8").splitlines() if calls.exists() else []

    @property
    def files(self) -> list[str]:
        return sorted(path.name.partition("-")[2] for path in (self.folder / "phone").rglob("*-*") if path.is_file())


@pytest.fixture
def phone(exports: Exports, native: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Call) -> FakePhone:
    fake = tmp_path / "adb" / "adb"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).parent / "fake_adb.py"} "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_ADB", str(tmp_path))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "def add(a, b):\\n"}\n{"prompt": "import os"}\n{"text": "class A:\\n"}\n', "utf-8")
    bundle = exports("small-int8", weights="int8")
    arguments = (str(bundle), "--prompts", str(prompts), "--max-tokens", "12", "--threads", "2")
    arguments += ("--program", str(native.program), "--engine", str(native.engine))
    return FakePhone(tmp_path, arguments, run)


def test_a_run_is_measured_and_judged(phone: FakePhone) -> None:
    code, output, error = phone("--repetitions", "2")
    assert code == 0, error
    assert "Pixel 99, Android 16, x86_64" in output
    assert output.count("equal") == 6
    assert "by benchmark" in output
    assert "accepted on the phone" in output
    assert phone.files == ["liblitert-lm.so", "model.litertlm", "mtp-bench", "prompts.jsonl"]


def test_only_what_is_not_there_is_pushed(phone: FakePhone) -> None:
    assert phone("--no-prediction")[0] == 0
    pushed = [call for call in phone.calls if " push " in call]
    assert len(pushed) == 4
    assert phone("--no-prediction")[0] == 0
    assert [call for call in phone.calls if " push " in call] == pushed


def test_json_holds_texts_ratio_and_advice(phone: FakePhone) -> None:
    code, output, _ = phone("--json", on_factor=1.6)
    assert code == 0
    found = json.loads(output)
    assert found["run"]["ratio"] == pytest.approx(1.6)
    assert found["run"]["answers"][0]["on"]["text"]
    assert found["run"]["different"] == []
    assert found["phone"]["abi"] == "x86_64"
    assert found["advice"]["draft_tokens"] > 0
    assert found["prediction"]["expected"] > 0


def test_a_slower_mtp_is_not_recommended(phone: FakePhone) -> None:
    code, output, _ = phone(on_factor=0.34)
    assert code == 0
    assert "0.34x" in output
    assert "MTP does not pay on this phone" in output
    assert "MTP pays" not in output
    assert "pays on this phone." in phone("--no-prediction", on_factor=2.0)[1]


def test_a_changed_text_is_named(phone: FakePhone) -> None:
    output = phone("--no-prediction", on_text="other")[1]
    assert "MTP changed the text of prompt 1, 2, 3" in output
    assert "differs" in output


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ({"devices": {}}, "no phone: connect one"),
        ({"devices": {"a": "device", "b": "device"}}, "2 devices (a, b); choose one by --serial"),
        ({"devices": {"a": "unauthorized"}}, "a is unauthorized: unlock it and allow USB debugging"),
        ({"devices": {"a": "offline"}}, "a is offline: reconnect it"),
        ({"devices": {"a": "no permissions (user in plugdev group); see [http://x]"}}, "this user may not open"),
        ({"free_kib": 1000}, "remove something on the phone"),
        ({"full": True}, "no space left for mtp-bench"),
        ({"damage": True}, "arrived damaged"),
        ({"properties": PIXEL | {"ro.build.version.sdk": "25"}}, "expected Android 8 (API 26) or newer"),
        ({"properties": PIXEL | {"ro.product.cpu.abilist": "armeabi-v7a,armeabi"}}, "runs armeabi-v7a, armeabi"),
        ({"pull_at_push": True}, "serial-1 was disconnected; reconnect it and run this again"),
        ({"kill_after": 1}, "Android ended the program when 1 of 3 answers were there, most likely for memory"),
        ({"disconnect_after": 2}, "was disconnected when 2 of 3 answers were there; reconnect it"),
    ],
)  # fmt: skip
def test_failures_end_in_one_line_with_what_to_do(phone: FakePhone, scenario: dict[str, Any], words: str) -> None:
    assert words in phone.refused("--no-prediction", **scenario)


def test_one_of_two_phones_is_chosen(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    two = {"serial-1": "device", "serial-2": "offline"}
    assert phone("--no-prediction", "--serial", "serial-1", devices=two)[0] == 0
    monkeypatch.setenv("ANDROID_SERIAL", "serial-2")
    assert "serial-2 is offline" in phone.refused(devices=two)
    assert "no device other; adb knows serial-1, serial-2" in phone.refused("--serial", "other", devices=two)


def test_the_context_is_the_one_that_was_chosen(phone: FakePhone) -> None:
    assert json.loads(phone("--no-prediction", "--json")[1])["context_length"] == CONTEXT
    assert json.loads(phone("--no-prediction", "--json", "--context-length", "150")[1])["context_length"] == 150
    told = [call.partition(" --context ")[2].split()[0] for call in phone.calls if " --context " in call]
    assert told == [str(CONTEXT), "150"]


def test_nothing_half_copied_is_taken_for_whole(phone: FakePhone) -> None:
    phone.refused("--no-prediction", damage=True)
    assert phone.files == []


def test_a_bundle_that_the_engine_refuses_is_named(phone: FakePhone, tmp_path: Path) -> None:
    wrong = tmp_path / "liblitert-lm.so"
    wrong.write_bytes(b"no library")
    assert "cannot load the engine" in phone.refused("--no-prediction", "--engine", str(wrong))


def test_without_adb_or_program_one_line_says_what_to_do(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "build-android.sh x86_64" in phone.refused("--program", "/nowhere/mtp-bench")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "no adb in PATH; install Android's platform tools" in phone.refused()


def test_the_engine_for_android_is_fetched_once(
    need: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = need("engine-android", "engines", "arm64-v8a", "liblitert-lm.so").read_bytes()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = android_engine("arm64-v8a")
    assert first.read_bytes() == expected
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert android_engine("arm64-v8a") == first


def test_advice_follows_tiles_and_acceptance() -> None:
    certain, doubtful = [0.95, 0.9, 0.85, 0.8], [0.7, 0.2, 0.05, 0.01]
    # Four rows are a tile: a fourth draft costs a second one.
    assert advise(certain, 0.1, 3, 2.5).draft_tokens == 3
    # A bundle with four was exported for another machine.
    assert advise(certain, 0.1, 4, 1.3).draft_tokens == 3
    # Drafts that are rarely right are not worth their steps.
    assert advise(doubtful, 0.3, 3, 0.9).draft_tokens == 1
    assert advise(doubtful, 0.3, 3, 0.34).draft_tokens == 0
    # The length that ran gets the ratio that was measured.
    assert advise(certain, 0.1, 3, 1.7).estimates[3] == pytest.approx(1.7)
