"""The commands as a person types them."""

from __future__ import annotations

import io
import itertools
import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console

from gemma_mtp.export.cli.main import cli
from gemma_mtp.export.cli.tables.export import next_commands, print_export_summary
from gemma_mtp.export.progress import Expected, Reporter
from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from tests.conftest import CONTEXT, DRAFTER, PREFILL, TARGET, Exports


def shared_options(exports: Exports) -> list[str]:
    lengths = ",".join(map(str, PREFILL))
    return [
        *("--context-length", str(CONTEXT), "--prefill-lengths", lengths),
        *("--skeleton-cache", str(exports.skeletons)),
    ]


def test_export_says_what_it_does_and_prints_the_bundle(
    run, small_fp32: Path, exports: Exports, tmp_path: Path
) -> None:
    arguments = ["export", str(TARGET), str(DRAFTER), "-o", str(tmp_path / "out"), "--weights", "fp32"]
    code, output, error = run(*arguments, *shared_options(exports))
    assert code == 0
    assert output.strip() == str(tmp_path / "out" / "model.litertlm")
    assert "warning" not in error
    for said in ("16 of 128 clusters", f"{CONTEXT} tokens", "8, 32", "Tracing graphs", "Writing mtp_drafter: done"):
        assert said in error
    summary = error[error.index("Hashing the bundle: done") :]
    for row in (
        r"Writing embedder +│ \d+\.\d s",
        r"in all +│ \d+\.\d s",
        r"peak memory +│ \d+\.\d+ [MG]B, the largest",
    ):
        assert re.search(row, summary), row
    for said in ("prefill_decode", "float32", "tokenizer", "whole bundle", "MB", '1 "<eos>"', '5 "<turn|>"'):
        assert said in summary
    for verb in ("inspect", "generate", "benchmark"):
        assert f"\n  gemma-mtp-export {verb} {tmp_path / 'out'}" in summary
    assert f"\n  gemma-mtp-export verify {tmp_path / 'out'} {TARGET} {DRAFTER}\n" in summary


def test_summary_shows_the_template_s_verdict_and_quotes_what_to_type(small_int8: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    commands = next_commands(Path("my out"), "some/target", "some/drafter", ("--adapter", "a b"))
    with console.capture() as captured:
        print_export_summary(inspect_bundle(small_int8), commands, console, template="renders as in transformers")
    assert "renders as in transformers" in captured.get()
    assert "gemma-mtp-export verify 'my out' some/target some/drafter --adapter 'a b'\n" in captured.get()


def test_quiet_export_prints_only_the_bundle(run, small_fp32: Path, exports: Exports, tmp_path: Path) -> None:
    code, output, error = run(
        "export", str(TARGET), str(DRAFTER), "-o", str(tmp_path / "out"), "-q", *shared_options(exports)
    )
    assert (code, error) == (0, "")
    assert output.strip().endswith("model.litertlm")


def test_export_into_an_empty_folder_with_a_costly_recipe(
    run, small_fp32: Path, exports: Exports, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    arguments = ["export", str(TARGET), str(DRAFTER), "-o", str(tmp_path / "out"), "--weights", "int4"]
    code, _, error = run(*arguments, *shared_options(exports))
    assert code == 0
    (warning,) = [line for line in error.splitlines() if line.startswith("warning: int4 cost ")]
    assert "nats KL" in warning
    assert (tmp_path / "out" / "manifest.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_demo_shows_equal_texts_and_acceptance(run, small_fp32: Path, exports: Exports) -> None:
    code, output, _ = run("demo", "--weights", "fp32", *shared_options(exports))
    assert code == 0
    for said in (
        "speculative decoding off",
        "speculative decoding on",
        "equal",
        "acceptance rate",
        "tokens per target",
    ):
        assert said in output


def test_inspect_shows_what_matters_before_shipping(run, small_int8: Path) -> None:
    code, output, _ = run("inspect", str(small_int8 / "model.litertlm"))
    assert code == 0
    for said in (
        f"{CONTEXT} tokens", "gemma4", "clustered", "4 per round", "int8", "verify", "kv_cache_k_3", "needs for MTP",
    ):  # fmt: skip
        assert said in output


def test_inspect_takes_an_export_s_folder(run, small_int8: Path, tmp_path: Path) -> None:
    assert run("inspect", str(small_int8)) == run("inspect", str(small_int8 / "model.litertlm"))
    code, output, error = run("inspect", str(tmp_path))
    assert (code, output) == (2, "")
    assert error == f"Error: {tmp_path}: no .litertlm file; expected an export's folder, with one in it," + (
        " or name the file itself\n"
    )


def test_inspect_as_json(run, small_int8: Path) -> None:
    code, output, _ = run("inspect", str(small_int8 / "model.litertlm"), "--json")
    about = json.loads(output)
    assert code == 0
    assert about["speculative_decoding"]["draft_tokens"] == 4
    assert about["speculative_decoding"]["problems"] == []
    verify = about["models"]["prefill_decode"]["signatures"]["verify"]
    assert verify["inputs"]["input_pos"] == {"shape": [5], "dtype": "int32"}


def test_version(run) -> None:
    code, output, _ = run("--version")
    assert (code, output.strip()) == (0, f"gemma-mtp-export, version {version('gemma-mtp-export')}")


@pytest.mark.parametrize("command", list(cli.commands))
def test_help_fits_a_terminal_of_80_columns(command: str, run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, output, _ = run(command, "--help")
    assert code == 0
    assert f"Usage: gemma-mtp-export {command}" in output
    assert [line for line in output.splitlines() if len(line) > 80] == []


def test_list_of_commands_is_whole_and_in_the_order_of_use(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, output, _ = run("--help")
    listed = output[output.index("Commands:\n") :].partition("\n\n")[0].splitlines()[1:]
    assert [line.split()[0] for line in listed] == list(cli.commands)
    assert next(iter(cli.commands)) == "export"
    assert not [line for line in listed if line.endswith("...") or len(line) > 80]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("generate", "out", "--promt", "a"),
            "--prompts",
        ),
        (("export",), "Missing argument 'TARGET'; see gemma-mtp-export export --help"),
        (("export", "a", "b"), "Missing option '-o' / '--out'; see gemma-mtp-export export --help"),
        (("verify", "out", "a"), "Missing argument 'DRAFTER'; see gemma-mtp-export verify --help"),
        (("inspect", "out", "--backend", "npu"), "'npu' is not one of 'cpu', 'gpu'; see gemma-mtp-export inspect"),
    ],
)
def test_wrong_use_is_one_line_that_says_what_to_do(arguments: tuple[str, ...], message: str, run) -> None:
    code, output, error = run(*arguments)
    assert (code, output) == (2, "")
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--verify-lengths", "3"), "--verify-lengths: 3 is what --num-draft-tokens asks for anyway"),
        (("--verify-lengths", "2,2", "--num-draft-tokens", "2"), "--verify-lengths: 2 is what"),
        (("-q", "-v"), "--quiet and --verbose: one says less, the other more"),
    ],
)
def test_export_options_that_do_nothing_together(arguments: tuple[str, ...], reason: str, run, tmp_path: Path) -> None:
    code, output, error = run("export", str(TARGET), str(DRAFTER), "-o", str(tmp_path / "out"), *arguments)
    assert (code, output) == (2, "")
    assert error.startswith(f"Error: {reason}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-q", "-v"), "--quiet and --verbose: one says less"),
        (("--json", "page", "--html", "page"), "--json and --html: both would write page"),
    ],
)
def test_verify_options_that_do_nothing_together(arguments: tuple[str, ...], reason: str, run) -> None:
    code, output, error = run("verify", "out", str(TARGET), str(DRAFTER), *arguments)
    assert (code, output) == (2, "")
    assert error.startswith(f"Error: {reason}")


def test_mistyped_command_gets_a_suggestion(run) -> None:
    code, _, error = run("exprt")
    assert code == 2
    assert "Did you mean 'export'?" in error


def test_no_arguments_print_the_help(run) -> None:
    code, _, error = run()
    assert code == 2
    assert "Commands:\n" in error


def test_lines_say_bytes_and_time_left_of_all_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    console, clock = Console(file=io.StringIO(), force_terminal=False), itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: 6.0 * next(clock))
    reporter = Reporter(console)
    reporter.expect([Expected("Writing", 4e9, 1e-9), Expected("Hashing", 2e9, 1e-8)])
    with reporter.stage("Writing", 4e9, in_bytes=True) as advance:
        for _ in range(4):
            advance(1e9, "")
    told = console.file.getvalue().splitlines()
    assert told[0] == "Writing ..."
    # 20 s of hashing are to come, whatever writing turns out to take.
    lefts = [int(found[1]) for line in told if (found := re.search(r" of 4.00 GB, about (\d+) s left", line))]
    assert lefts[-1] == 20
    assert lefts == sorted(lefts, reverse=True)
    assert reporter.seconds.keys() == {"Writing"}
