"""What `device` prints: every answer, the phone against what was predicted, and what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..tables.common import foreign, pairs, size

if TYPE_CHECKING:
    from ....runtime.device.advice import Advice, Prediction
    from ....runtime.device.bench import DeviceRun
    from ....runtime.device.phone import Phone


def print_run(
    phone: Phone,
    run: DeviceRun,
    draft_tokens: int,
    prediction: Prediction | None,
    advice: Advice | None,
    console: Console,
) -> None:
    """Everything, and the advice last."""
    table = Table(
        "prompt", "off, tokens/s", "on, tokens/s", "on / off", "first token, off", "on", "text",
        title=foreign(f"{phone.model}, Android {phone.android}, {phone.abi}", "bold"), title_justify="left",
    )  # fmt: skip
    for answer in run.answers:
        off, on = answer.off, answer.on
        table.add_row(
            str(answer.prompt), f"{off.tokens_per_second:.1f}", f"{on.tokens_per_second:.1f}", f"{answer.ratio:.2f}x",
            f"{off.time_to_first_token:.2f} s", f"{on.time_to_first_token:.2f} s",
            "equal" if answer.equal else "differs",
        )  # fmt: skip
    console.print(table)
    lowest, highest = run.ratios
    rows = [("on this phone", f"{run.ratio:.2f}x ({lowest:.2f} to {highest:.2f}) with {draft_tokens} drafts a round")]
    if prediction:
        said = f"{prediction.expected:.2f}x expected, {prediction.measured:.2f}x measured"
        rows.append(("on this machine, by benchmark", said))
    if run.acceptance is not None:
        rows.append(("accepted on the phone", f"{run.acceptance:.0%} of drafted tokens"))
    rows += [("memory at most", size(run.peak_memory)), ("loaded in", f"{run.load_seconds:.1f} s")]
    console.print(pairs("MTP against plain decoding", rows))
    for line in conclusions(run, draft_tokens, advice):
        console.print(Text(line), highlight=False)


def conclusions(run: DeviceRun, draft_tokens: int, advice: Advice | None) -> list[str]:
    """What follows: whether texts are equal, whether MTP pays, and which draft length to export."""
    lines = []
    if run.different:
        numbers = ", ".join(map(str, run.different))
        lines.append(
            f"MTP changed the text of prompt {numbers}: not as it should be on a CPU; on a GPU, near ties can."
        )
    lowest, highest = run.ratios
    if lowest > 1:
        lines.append("MTP pays on this phone.")
    elif highest <= 1:
        lines.append("MTP does not pay on this phone: leave it off here, or draft better.")
    else:
        lines.append("MTP pays on this phone for some prompts only; more of them, or --repetitions, would tell more.")
    if advice is None:
        return lines
    guess = "estimated from this phone's speed and the acceptance measured here"
    if advice.draft_tokens == 0:
        lines.append(f"No draft length is better than none for it ({guess}).")
    elif advice.draft_tokens == draft_tokens:
        lines.append(f"Its draft length, {draft_tokens}, is the best of those in the bundle for it ({guess}).")
    else:
        best = advice.estimates[advice.draft_tokens]
        lines.append(f"For it, export with --num-draft-tokens {advice.draft_tokens}: {best:.2f}x, {guess}.")
    return lines
