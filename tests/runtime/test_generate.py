"""`generate` and `benchmark` as a person types them, and what they say of bundles and prompts that cannot be run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gemma_mtp.runtime.bundle.container import BundleFile
from gemma_mtp.runtime.decoding.generation import GenerationOptions
from gemma_mtp.runtime.decoding.sampling import SamplingOptions
from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.model import Model, load
from tests.conftest import CONTEXT, TARGET
from tests.support.foreign import pack

MODELS = ("prefill_decode", "embedder", "per_layer_embedder", "mtp_drafter")
TOKENIZER = TARGET / "tokenizer.json"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run() -> Command:
    """Runs the command in a process of its own; exit code, standard output and standard error."""

    def call(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
        command = [sys.executable, "-m", "gemma_mtp.export.cli", *map(str, arguments)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=300)
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture(scope="module")
def model(small_int8: Path) -> Model:
    return load(small_int8, threads=2)


def test_answer_is_printed_with_its_numbers(run: Command, small_int8: Path, model: Model) -> None:
    bundle = small_int8 / "model.litertlm"
    code, output, error = run("generate", bundle, "--prompt", "def area(self):", "--max-tokens", 30)
    expected = model.generate("def area(self):", GenerationOptions(max_tokens=30))
    assert (code, output) == (0, expected.text + "\n")
    assert f"{expected.statistics.accepted} of {expected.statistics.drafted} drafted" in error
    assert "LiteRT" not in error
    assert "INFO" not in error
    code, plain, error = run("generate", bundle, "--prompt", "-", "--max-tokens", 30, "--no-mtp", "-q",
                             stdin="def area(self):")  # fmt: skip
    assert (code, plain, error) == (0, output, "")


def test_turns_and_json(run: Command, small_int8: Path, model: Model) -> None:
    code, output, _ = run(
        "generate", small_int8, "--prompt", "def area(self):", "--prompt", "class A:", "--max-tokens", 12, "--json"
    )
    assert code == 0
    first, second, total = map(json.loads, output.splitlines())
    assert second["statistics"]["reused_tokens"] >= first["statistics"]["prompt_tokens"]
    assert [first["prompt"], second["prompt"]] == ["def area(self):", "class A:"]
    assert total["answers"] == 2
    assert total["statistics"]["generated_tokens"] == len(first["tokens"]) + len(second["tokens"])
    assert model.bundle.tokenizer.decode(first["tokens"]) == first["text"]
    assert first["finish_reason"] == "max_tokens"
    assert sum(len(entry["drafted"]) for entry in first["rounds"]) == first["statistics"]["drafted"]


def test_prompts_file_and_sampling(run: Command, small_int8: Path, model: Model, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "import os\\n"}\n{"prompt": "def area(self):"}\n')
    arguments = ["--temperature", 0.8, "--top-k", 40, "--top-p", 0.9, "--seed", 5, "--max-tokens", 10]
    code, output, _ = run("generate", small_int8, "--prompts", prompts, *arguments, "-q")
    options = GenerationOptions(max_tokens=10, sampling=SamplingOptions(0.8, 40, 0.9, 5))
    answers = [model.stream_text("import os\n", options).finish(), model.generate("def area(self):", options)]
    assert (code, output) == (0, "".join(answer.text + "\n" for answer in answers))


def test_several_prompts_stand_before_their_answers(run: Command, small_int8: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "class A:"}]
    asked = [{"text": "import os\n"}, {"messages": chat}, {"prompt": "return " * 60}]
    prompts.write_text("".join(json.dumps(prompt) + "\n" for prompt in asked))
    code, answers, error = run("generate", small_int8, "--prompts", prompts, "--max-tokens", 3)
    assert code == 0
    stopped = "(stopped after 3 tokens; --max-tokens N for more)"
    shown = [line for line in error.splitlines() if line.startswith((">", "("))]
    long = f"> {('return ' * 60)[:400]}... (420 characters)"
    assert shown == ["> import os", stopped, "> class A:", stopped, long, stopped]
    assert run("generate", small_int8, "--prompts", prompts, "--max-tokens", 3, "-q") == (0, answers, "")


def test_a_single_answer_that_ended_by_itself_stands_alone(run: Command, small_int8: Path) -> None:
    code, _, error = run("generate", small_int8, "--prompt", "def area(self):", "--stop", "self")
    assert code == 0
    assert not [line for line in error.splitlines() if line.startswith((">", "("))]


def test_answers_have_a_limit_by_default(run: Command) -> None:
    _, output, _ = run("generate", "--help")
    assert "[default: 512]" in output


def test_benchmark_says_what_to_export(run: Command, small_int8: Path) -> None:
    arguments = ["benchmark", small_int8, "--prompt", "def area(self):", "--max-tokens", 12]
    code, output, error = run(*arguments)
    assert code == 0
    assert "verify of 5 tokens" in output
    said = ("MTP pays here: export with --num-draft-tokens", "MTP does not pay here", "Noise decides whether MTP pays")
    assert any(verdict in output for verdict in said)
    steps = ["costs of single steps", *(f"repetition {number} of 3, prompt 1 of 1" for number in (1, 2, 3))]
    assert error.splitlines() == [f"measuring: {step}" for step in steps]
    code, output, _ = run(*arguments, "--json", "--repetitions", 2)
    about = json.loads(output)
    assert [row["draft_tokens"] for row in about["draft_lengths"]] == [1, 2, 3, 4]
    assert [len(row["measured_speedup"]["values"]) for row in about["draft_lengths"]] == [2, 2, 2, 2]


def test_benchmark_refuses_raw_without_a_prompt(run: Command, small_int8: Path) -> None:
    code, output, error = run("benchmark", small_int8, "--raw")
    assert (code, output) == (2, "")
    assert error == "Error: --raw: there is no --prompt to take so; add one, or leave it out\n"


def test_running_a_bundle_imports_no_torch(small_int8: Path) -> None:
    code = (
        "import sys; sys.argv = ['x', 'generate', sys.argv[1], '--prompt', 'a', '--max-tokens', '1', '-q']\n"
        "from gemma_mtp.export.cli import main as cli\n"
        "try: cli.main()\n"
        "except SystemExit as done: assert done.code == 0\n"
        "heavy = {'torch', 'transformers', 'tensorflow', 'litert_torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, str(small_int8)], check=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "expected either --prompt TEXT or --prompts FILE.jsonl"),
        (("--prompt", "a", "--prompts", "b"), "not both"),
        (("--prompts", "nowhere.jsonl"), "nowhere.jsonl: cannot be read"),
        (("--prompt", "a", "--system", "b", "--raw"), "--system goes with the chat"),
        (("--prompt", "a", "--temperature", "-1"), "--temperature: -1.0, expected 0"),
        (("--prompt", "a", "--temperature", "1", "--top-p", "0"), "--top-p: 0.0"),
        (("--prompt", "a", "--max-tokens", "0"), "--max-tokens: 0"),
        (("--prompt", "a", "--stop", ""), "--stop: the text is empty"),
        (("--prompt", "a", "--confidence", "2"), "--confidence: 2.0"),
        (("--prompt", "a", "--num-draft-tokens", "5"), "--num-draft-tokens: 5, but the bundle holds 1 to 4"),
        (("--prompt", "a", "--schedule", "lucky"), "'lucky' is not one of"),
        (("--prompt", "a", "--no-mtp", "--confidence", "0"), "--confidence: --no-mtp drafts nothing"),
        (
            ("--prompt", "a", "--no-mtp", "--schedule", "constant", "--num-draft-tokens", "2"),
            "--num-draft-tokens and --schedule: --no-mtp drafts nothing",
        ),
        (("--prompt", "a", "--seed", "0"), "--seed: nothing is sampled at --temperature 0"),
        (("--prompt", "a", "--top-k", "4", "--top-p", "0.5"), "--top-k and --top-p: nothing is sampled"),
        (("--prompt", "a", "-q", "-v"), "--quiet and --verbose: one says less"),
        (("--promt", "a"), "No such option '--promt'"),
        (("--prompt", "word " * CONTEXT), f"but the context holds {CONTEXT} with the answer"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else "",
)
def test_options_that_make_no_sense(
    arguments: tuple[str, ...], reason: str, small_int8: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from gemma_mtp.export.cli import main as cli

    monkeypatch.setattr(sys, "argv", ["gemma-mtp-export", "generate", str(small_int8), *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    lines = [line for line in error.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert reason in lines[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no prompt"),
        ("{", "line 1: is not readable as JSON"),
        ('{"prompt": "a"}\n[1]', "line 2: expected an object with one of prompt, messages, text"),
        ('{"prompt": "a", "text": "b"}', "line 1: expected an object with one of"),
        ('{"prompt": 3}', "line 1: prompt must be a text"),
        ('{"messages": ["a"]}', "line 1: messages, number 1: is"),
    ],
)
def test_prompt_files_that_are_none(content: str, reason: str, run: Command, small_int8: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    code, output, error = run("generate", small_int8, "--prompts", path)
    assert (code, output) == (2, "")
    assert error.startswith(f"Error: {path}")
    assert reason in error
    assert error.count("\n") == 1


@pytest.fixture
def models(small_int8: Path) -> dict[str, Path]:
    return {name: small_int8 / f"{name}.tflite" for name in MODELS}


def refused(bundle: Path, reason: str, run: Command) -> None:
    code, output, error = run("generate", bundle, "--prompt", "a")
    assert (code, output) == (2, "")
    assert error.startswith(f"Error: {bundle}")
    assert reason in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("size", [0, 100, 40_000, 2_000_000])
def test_truncated_bundle(size: int, small_int8: Path, tmp_path: Path, run: Command) -> None:
    bundle = tmp_path / "cut.litertlm"
    bundle.write_bytes((small_int8 / "model.litertlm").read_bytes()[:size])
    refused(bundle, "truncated" if size else "does not begin with LITERTLM", run)


def test_missing_bundle_and_folder_without_one(tmp_path: Path, run: Command) -> None:
    refused(tmp_path / "none.litertlm", "no such file", run)
    refused(tmp_path, "no .litertlm file", run)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("prefill_decode", "no prefill_decode model"),
        ("embedder", "no embedder model"),
        ("per_layer_embedder", "decode takes per_layer_embeddings, but there is no per_layer_embedder model"),
    ],
)
def test_missing_model(missing: str, reason: str, models: dict[str, Path], tmp_path: Path, run: Command) -> None:
    del models[missing]
    refused(pack(models, TOKENIZER, tmp_path / "a.litertlm"), reason, run)


def test_missing_tokenizer_and_metadata(models: dict[str, Path], tmp_path: Path, run: Command) -> None:
    refused(pack(models, None, tmp_path / "a.litertlm"), "no tokenizer section", run)
    refused(pack(models, TOKENIZER, tmp_path / "b.litertlm", metadata=False), "no LLM metadata section", run)


def test_model_in_the_wrong_place(models: dict[str, Path], tmp_path: Path, run: Command) -> None:
    models["prefill_decode"] = models["mtp_drafter"]
    refused(pack(models, TOKENIZER, tmp_path / "a.litertlm"), "has no signature decode (found mtp_drafter)", run)


def test_corrupt_model(models: dict[str, Path], tmp_path: Path, run: Command) -> None:
    broken = tmp_path / "mtp_drafter.tflite"
    broken.write_bytes(b"\x08\0\0\0TFL3" + bytes(5000))
    models["mtp_drafter"] = broken
    refused(pack(models, TOKENIZER, tmp_path / "a.litertlm"), "(mtp_drafter): ", run)


def test_drafter_of_other_caches(models: dict[str, Path], e4b: Path, tmp_path: Path, run: Command) -> None:
    models["mtp_drafter"] = e4b / "mtp_drafter.tflite"
    bundle = pack(models, TOKENIZER, tmp_path / "a.litertlm")
    code, _, error = run("generate", bundle, "--prompt", "a")
    assert code == 2
    assert "mtp_drafter takes activations of" in error or "mtp_drafter reads kv_cache_" in error


def test_drafter_that_reads_what_nobody_writes(models: dict[str, Path], tmp_path: Path, run: Command) -> None:
    renamed = tmp_path / "mtp_drafter.tflite"
    renamed.write_bytes(models["mtp_drafter"].read_bytes().replace(b"kv_cache_k_3", b"kv_cache_k_9"))
    models["mtp_drafter"] = renamed
    reason = "mtp_drafter reads kv_cache_k_9 as float32 [1, 1, 257, 32], but the target does not write it"
    refused(pack(models, TOKENIZER, tmp_path / "a.litertlm"), reason, run)


def test_bundle_without_a_drafter_decodes_plainly(models: dict[str, Path], model: Model, tmp_path: Path) -> None:
    del models["mtp_drafter"]
    plain = load(pack(models, TOKENIZER, tmp_path / "a.litertlm", CONTEXT), threads=2)
    tokens = plain.encode("def area(self):\n")
    expected = model.stream_tokens(tokens, GenerationOptions(max_tokens=20)).finish()
    assert plain.stream_tokens(tokens, GenerationOptions(max_tokens=20)).finish().tokens == expected.tokens
    with pytest.raises(UserError, match="the bundle has no drafter"):
        plain.stream_tokens(tokens, GenerationOptions(draft_tokens=2))


@pytest.mark.parametrize(
    ("tokens", "reason"), [([], "no tokens"), ([5, 2048], "token 2048, expected 0 to 2047"), ([-1], "token -1")]
)
def test_tokens_that_cannot_be_run(tokens: list[int], reason: str, model: Model) -> None:
    with pytest.raises(UserError, match=reason):
        model.stream_tokens(tokens)


def test_bundle_stays_as_it_was(small_int8: Path, model: Model) -> None:
    """Running a bundle writes nothing beside it."""
    model.generate("a", GenerationOptions(max_tokens=2))
    assert {path.name for path in small_int8.iterdir()} == {
        "model.litertlm", "manifest.json", *(f"{name}.tflite" for name in MODELS)
    }  # fmt: skip
    assert BundleFile(small_int8 / "model.litertlm").sections
