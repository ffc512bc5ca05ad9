"""The bench program, built once a session; what could not be run is said at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.android.tools import Bench, MissingToolError, arm64_bench, native_bench, tool
from tests.conftest import WINDOW, HeldOutPrompt

MAX_TOKENS = 20
_MISSING = pytest.StashKey[set[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.android)


def _skip(config: pytest.Config, why: str) -> None:
    config.stash.setdefault(_MISSING, set()).add(why)
    pytest.skip(why)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for why in sorted(config.stash.get(_MISSING, ())):
        terminalreporter.write_line(f"NOT RUN: {why}", red=True, bold=True)


@pytest.fixture(scope="session")
def need(pytestconfig: pytest.Config) -> Callable[..., Path]:
    """A fetched tool's path; a test without it is skipped loudly."""

    def path(part: str, *parts: str) -> Path:
        try:
            return tool(part, *parts)
        except MissingToolError as error:
            _skip(pytestconfig, str(error))
            raise

    return path


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Bench:
    if not shutil.which("cmake") or not shutil.which("cc"):
        _skip(pytestconfig, "no cmake and C compiler: install them to build android_demo/bench")
    return native_bench(tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="session")
def arm64(native: Bench, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Bench:
    try:
        return arm64_bench(tmp_path_factory.mktemp("arm64"))
    except MissingToolError as error:
        _skip(pytestconfig, str(error))
        raise


@pytest.fixture(scope="session")
def chosen(prompts: list[HeldOutPrompt]) -> list[HeldOutPrompt]:
    """A short prompt, and one whose answer leaves the sliding window."""
    short = next(prompt for prompt in prompts if len(prompt.tokens) < WINDOW // 2)
    crossing = next(prompt for prompt in prompts if WINDOW - MAX_TOKENS < len(prompt.tokens) < WINDOW)
    return [short, crossing]


@pytest.fixture(scope="session")
def prompt_file(chosen: list[HeldOutPrompt], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"text": prompt.text}) + "\n" for prompt in chosen), "utf-8")
    return path
