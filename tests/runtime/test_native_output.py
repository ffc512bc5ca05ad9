"""What the library writes to standard error: nothing, except what is news."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gemma_mtp.export.demo import SMALL_PAIR
from gemma_mtp.runtime.bundle.flatbuffer import pack, parse
from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.model import load
from gemma_mtp.runtime.native_output import quiet_litert, show_litert
from tests.support.sections import replace_model, section_content

_PROGRESS = b"INFO: [environment.cc:36] Creating LiteRT environment with options\n"


def python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=True
    )


def test_generating_writes_nothing_to_standard_error(small_int8: Path) -> None:
    script = (
        "import sys; from gemma_mtp.runtime.model import load; from gemma_mtp.runtime.decoding.generation import *;"
        "print(load(sys.argv[1]).generate('def f(x):', GenerationOptions(max_tokens=4)).text)"
    )
    done = python(script, small_int8)
    assert done.stderr == ""
    assert done.stdout.strip()


def test_verifying_writes_nothing_to_standard_error(small_fp32: Path) -> None:
    script = """
import sys
from gemma_mtp.export.parity import verify_bundle
from gemma_mtp.runtime.parity.options import VerifyOptions
from gemma_mtp.runtime.text.prompts import user_prompt
from tests.support.sections import replace_model, section_content
options = VerifyOptions((user_prompt("def f(x):"),), max_tokens=4, probe_tokens=40, stock=False)
print(verify_bundle(*sys.argv[1:], options).summary())
"""
    done = python(script, small_fp32, SMALL_PAIR / "target", SMALL_PAIR / "drafter")
    assert done.stderr == ""
    assert done.stdout.startswith("PASS")


def test_standard_error_is_python_s_again_after_loading(small_int8: Path) -> None:
    script = (
        "import os, sys; from gemma_mtp.runtime.model import load; model = load(sys.argv[1]);"
        "os.write(2, b'native\\n'); print('python', file=sys.stderr);"
        "import atexit; atexit.register(print, 'at exit', file=sys.stderr)"
    )
    assert python(script, small_int8).stderr.splitlines() == ["native", "python", "at exit"]


def test_a_model_that_litert_refuses_gives_its_reason(small_int8: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_int8, tmp_path / "bad")
    bundle = folder / "model.litertlm"
    content = bytearray(section_content(bundle, "embedder"))
    model = parse(bytes(content))
    model.operatorCodes[0].version = 99
    broken = pack(model)
    content[: len(broken)] = broken
    replace_model(bundle, "embedder", bytes(content))
    with pytest.raises(UserError, match=r"\(embedder\): LiteRT cannot load the model") as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_lines_of_others_appear_when_the_block_ends(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_litert():
        os.write(2, _PROGRESS + b"someone else\n")
        os.write(2, b"WARNING: [npu_registry.cc:34] NPU accelerator could not be loaded\n\xe2\x94\x94 no library\n")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "someone else\n"


def test_errors_without_an_exception_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_litert():
        os.write(2, b"ERROR: [compiled_model.cc:1] out of luck\n")
    assert capfd.readouterr().err == "ERROR: [compiled_model.cc:1] out of luck\n"
    with quiet_litert() as output:
        os.write(2, b"ERROR: [compiled_model.cc:1] out of luck\n")
        assert output.reason() == "out of luck"
    assert capfd.readouterr().err == ""


def test_blocks_within_blocks_and_in_other_threads_restore_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    def nested() -> None:
        for _ in range(20):
            with quiet_litert():
                os.write(2, _PROGRESS)
                with quiet_litert():
                    os.write(2, _PROGRESS)
                os.write(2, _PROGRESS)

    threads = [threading.Thread(target=nested) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_verbose_shows_what_litert_writes(capfd: pytest.CaptureFixture[str]) -> None:
    with show_litert(), quiet_litert():
        os.write(2, _PROGRESS)
    assert capfd.readouterr().err.encode() == _PROGRESS
