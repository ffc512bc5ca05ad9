"""`device`: does MTP pay on the phone that is connected? Imports no torch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ....runtime.errors import UserError
from ....runtime.text.prompts import read_prompts
from ...exit_codes import remember_verbose
from ..run_options import load_for
from ..tables.common import show_progress
from .table import print_run

_PROGRAM = Path(__file__).resolve().parents[3] / "android_demo" / "bench" / "build" / "{abi}" / "mtp-bench"


@click.command("device", short_help="Measure on a phone, through adb, whether MTP pays there.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--prompts", "prompts_file", type=click.Path(path_type=Path), required=True, metavar="FILE.jsonl",
    help='One {"prompt": ...}, {"messages": [...]} or {"text": ...} a line, like your users\'.',
)  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(1), default=128, show_default=True, metavar="N",
              help="End an answer after N tokens.")  # fmt: skip
@click.option("--repetitions", type=click.IntRange(1), default=1, show_default=True, metavar="N",
              help="Answer every prompt N times.")  # fmt: skip
@click.option("--backend", type=click.Choice(("cpu", "gpu")), default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=4, show_default=True, metavar="N",
              help="CPU threads on the phone.")  # fmt: skip
@click.option("--context-length", type=click.IntRange(1), metavar="TOKENS",
              help="Load the bundle with this context, prompt and answer together.  "
              "[default: what the bundle asks for]")  # fmt: skip
@click.option("--serial", metavar="SERIAL", help="Which phone, as `adb devices` calls it.")
@click.option("--program", type=click.Path(path_type=Path), metavar="FILE",
              help="The bench program for the phone.  [default: as android_demo/bench builds it]")  # fmt: skip
@click.option("--engine", type=click.Path(path_type=Path), metavar="FILE",
              help="liblitert-lm.so for the phone.  [default: of the Python package, fetched by pip]")  # fmt: skip
@click.option("--no-prediction", is_flag=True, help="Leave out the benchmark on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-v", "--verbose", is_flag=True, callback=remember_verbose, expose_value=False, help="Show tracebacks.")
def device_command(bundle: Path, prompts_file: Path, as_json: bool, **choices: Any) -> None:
    """Does MTP pay on your phone? Run BUNDLE there with MTP off and on, beside what `benchmark` predicts here.

    The phone is connected by USB, with USB debugging on. Program, engine and bundle are copied to it once, and stay
    under /data/local/tmp/gemma-mtp.

    \b
    gemma-mtp-export device out/model.litertlm --prompts prompts.jsonl
    """
    from ....runtime.bundle.loading import bundle_file_in
    from ....runtime.device.adb import LostDeviceError, find_device
    from ....runtime.device.advice import advise, predict
    from ....runtime.device.bench import run_bench
    from ....runtime.device.engine import android_engine
    from ....runtime.device.phone import inspect_phone, push_all
    from ....runtime.scratch import scratch_folder

    prompts = read_prompts(prompts_file)
    device = find_device(choices["serial"])
    file = bundle_file_in(bundle)
    model = load_for(file, None, choices["context_length"], False)
    if not model.bundle.contract.max_draft_tokens:
        raise UserError(f"{file}: has no drafter, so there is nothing to compare")
    start = model.bundle.tokenizer.decode(model.bundle.rules.start)
    texts = [model.text_of(prompt).removeprefix(start) for prompt in prompts]
    draft_tokens = model.bundle.contract.default_draft_tokens
    context = choices["context_length"] or model.bundle.rules.context_length
    with show_progress(Console(stderr=True), "on the phone") as on_progress, scratch_folder("device") as folder:
        asked = folder / "prompts.jsonl"
        asked.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
        try:
            phone = inspect_phone(device)
            program = _program(choices["program"], phone.abi)
            engine = choices["engine"] or android_engine(phone.abi)
            pushed = push_all(phone, [program, engine, file, asked], on_progress)
        except LostDeviceError:
            raise UserError(f"{device.serial} was disconnected; reconnect it and run this again") from None
        places = tuple(entry.place for entry in pushed)
        run = run_bench(
            phone, (places[0], places[1], places[2], places[3]), _options(choices, context),
            expected=len(texts) * choices["repetitions"], bundle_size=file.stat().st_size, on_progress=on_progress,
        )  # fmt: skip
    prediction = advice = None
    if not choices["no_prediction"]:
        prediction = predict(_benchmark(model, prompts, choices["max_tokens"]), draft_tokens)
        advice = advise(prediction.acceptance_by_position, prediction.draft_step, draft_tokens, run.ratio)
    if as_json:
        parts = {"phone": _plain(phone), "draft_tokens": draft_tokens, "context_length": context}
        parts |= {"run": dataclasses.asdict(run)}
        parts["run"] |= {"ratio": run.ratio, "different": run.different}
        parts |= {"prediction": prediction and dataclasses.asdict(prediction)}
        parts |= {"advice": advice and dataclasses.asdict(advice)}
        click.echo(json.dumps(parts, indent=2))
    else:
        print_run(phone, run, draft_tokens, prediction, advice, Console())


def _program(given: Path | None, abi: str) -> Path:
    path = given or Path(str(_PROGRAM).format(abi=abi))
    if not path.is_file():
        raise UserError(
            f"{path}: no bench program for {abi}; build it with Android's NDK: android_demo/bench/build-android.sh"
            f" {abi}, or name one by --program"
        )
    return path


def _options(choices: dict[str, Any], context: int) -> list[str]:
    options = ["--backend", choices["backend"], "--threads", str(choices["threads"]), "--context", str(context)]
    return [*options, "--max-tokens", str(choices["max_tokens"]), "--repetitions", str(choices["repetitions"])]


def _benchmark(model: Any, prompts: Any, max_tokens: int) -> Any:
    from ....runtime.benchmark import benchmark
    from ....runtime.decoding.generation import GenerationOptions

    with show_progress(Console(stderr=True), "predicting on this machine") as on_progress:
        options = GenerationOptions(max_tokens=max_tokens)
        return benchmark(model, prompts, options, repetitions=1, on_progress=on_progress)


def _plain(phone: Any) -> dict[str, Any]:
    return {name: getattr(phone, name) for name in ("model", "android", "abi", "memory", "space")}
