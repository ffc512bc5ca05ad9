"""The real command: exit code, one line on standard error, nothing left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from litert_lm_builder import litertlm_core

from gemma_mtp.export.cli import main as cli
from gemma_mtp.runtime.bundle.container import BundleFile
from gemma_mtp.runtime.errors import UserError
from tests.conftest import DRAFTER, TARGET

HUGE = "1" + "0" * 30
# None of them comes as far as to look for the bundle.
BAD_USE: tuple[tuple[str, ...], ...] = (
    ("generate", "nowhere"),
    ("generate", "nowhere", "--prompt", "a"),
    ("generate", "nowhere", "--prompt", "a", "--max-tokens", "0"),
    ("generate", "nowhere", "--prompt", "a", "--max-tokens", "-1"),
    ("generate", "nowhere", "--prompt", "a", "--max-tokens", HUGE),
    ("generate", "nowhere", "--prompt", "a", "--max-tokens", "9" * 5000),
    ("generate", "nowhere", "--prompt", "a", "--temperature", "nan"),
    ("generate", "nowhere", "--prompt", "a", "--temperature", "inf"),
    ("generate", "nowhere", "--prompt", "a", "--temperature", "1e-320"),
    ("generate", "nowhere", "--prompt", "a", "--temperature", "0.5", "--top-p", "nan"),
    ("generate", "nowhere", "--prompt", "a", "--temperature", "0.5", "--top-k", "-1"),
    ("generate", "nowhere", "--prompt", "a", "--temperature", "0.5", "--seed", "-1"),
    ("generate", "nowhere", "--prompt", "a", "--confidence", "nan"),
    ("generate", "nowhere", "--prompt", "a", "--stop", ""),
    ("generate", "nowhere", "--prompt", "a", "--threads", "0"),
    ("generate", "nowhere", "--prompt", "a", "--template-variable", "x=" + "[" * 50_000),
    ("generate", "nowhere", "--prompt", "a", "--template-variable", "x y=1"),
    ("generate", "nowhere", "--prompt", "a", "--tools", "/dev/null"),
    ("generate", "nowhere", "--prompts", "/"),
    ("benchmark", "nowhere", "--max-tokens", "0"),
    ("benchmark", "nowhere", "--repetitions", "0"),
    ("inspect", "/"),
    ("inspect", "/dev/null"),
    ("inspect", "a\x01b"),
)


def command(*arguments: str | bytes, given: bytes = b"") -> tuple[int, str]:
    """Exit code and standard error of the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "gemma_mtp.export.cli", *arguments], input=given, capture_output=True, check=False
    )
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("arguments", BAD_USE, ids=lambda each: ascii(" ".join(each))[:60])
def test_bad_use(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, error = command(*arguments)
    assert code == 2
    assert error.startswith("Error: ")
    assert len(error.splitlines()) == 1
    assert error.strip().isprintable()
    assert list(tmp_path.iterdir()) == []


def test_prompts_that_are_not_utf8() -> None:
    for arguments, given in ((("--prompt", b"\xff"), b""), (("--prompt", "-"), b"\xff\xfe")):
        code, error = command("generate", "nowhere", *arguments, given=given)
        assert (code, len(error.splitlines())) == (2, 1)
        assert "not UTF-8" in error


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Runs `inspect` where it fails with an error; exit code and standard error."""

    def run(error: BaseException, *options: str) -> tuple[int, str]:
        def fail(**choices: object) -> None:
            raise error

        monkeypatch.setattr(cli.cli.commands["inspect"], "callback", fail)
        monkeypatch.setattr(sys, "argv", ["gemma-mtp-export", "inspect", "some bundle", *options])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), capfd.readouterr().err

    return run


class PanicError(BaseException):
    """Libraries in Rust raise what is no Exception."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("first\nsecond"), RecursionError("deep"), ValueError(), KeyError("key"), PanicError("panic"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), AssertionError(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_internal_error(error: BaseException, failing) -> None:
    code, printed = failing(error)
    assert code == 3
    assert len(printed.splitlines()) == 1
    assert printed.startswith(f"Internal error: {type(error).__name__}: ")
    assert "(export/cli/main.py:" in printed
    assert "inspect 'some bundle'" in printed
    assert "issue tracker" in printed
    assert "gemma-mtp-export 0." in printed


def test_verbose_shows_the_traceback(failing) -> None:
    code, printed = failing(RuntimeError("wrong"), "-v")
    assert code == 3
    assert "Traceback (most recent call last)" in printed
    assert printed.splitlines()[-1].startswith("Internal error: RuntimeError: wrong")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("file:\n\x1b[31mwrong"), r"Error: file: \x1b[31mwrong"),
        (MemoryError(), "Error: out of memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "Error: out of memory"),
        (KeyboardInterrupt(), "Error: interrupted; nothing was written"),
        (click.Abort(), "Error: interrupted; nothing was written"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/x"), "Error: out/x: No space left on device"),
        (click.UsageError("no"), "Error: no"),
    ],
)
def test_what_a_person_can_mend(error: BaseException, line: str, failing) -> None:
    code, printed = failing(error)
    assert (code, len(printed.splitlines())) == (2, 1)
    assert printed.startswith(line)


def test_reader_that_closes_early() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from gemma_mtp.export.cli import main as m\n"
         "m.cli.commands['inspect'].callback = lambda **_: [print('x' * 9999, flush=True) for _ in range(99)]\n"
         "sys.argv = ['x', 'inspect', 'y']; m.main()"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    error = process.stderr.read().decode()
    assert (process.wait(), len(error.splitlines())) == (2, 1)
    assert "closed" in error


@pytest.mark.parametrize(
    ("kind", "stage", "runs"),
    [
        ("header", "contract", False),
        ("LlmMetadataProto", "contract", False),
        ("HF_Tokenizer_Zlib", "contract", False),
        ("TFLiteModel", "contract", False),
        ("ExecutorMetadataProto", "metadata", True),  # What decodes here does not read it.
    ],
)
def test_verify_reports_what_it_cannot_read(
    kind: str, stage: str, runs: bool, small_int8: Path, tmp_path: Path, run
) -> None:
    path, sound = tmp_path / "model.litertlm", small_int8 / "model.litertlm"
    content = bytearray(sound.read_bytes())
    begins = {"header": litertlm_core.HEADER_BEGIN_BYTE_OFFSET}
    begins |= {each.kind: each.begin for each in reversed(BundleFile(sound).sections)}
    content[begins[kind] : begins[kind] + 64] = b"\xff" * 64
    path.write_bytes(content)
    code, output, error = run("verify", str(path), str(TARGET), str(DRAFTER), "--no-stock", "--fail-fast")
    assert code == 1, output + error
    verdict = output.strip().splitlines()[-1]
    assert verdict.startswith(f"FAIL, first in {stage}: ")
    assert any(word in verdict for word in ("read", "corrupt", "header"))
    if not runs:
        code, _, error = run("generate", str(path), "--prompt", "a")
        assert code == 2
        assert str(path) in error
