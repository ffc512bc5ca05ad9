"""What a recipe was measured to cost, as it stands in the recipe's own file:

    [price]
    pair = "the small trained pair"
    kl = 0.0744
    acceptance_loss = 0.08

`kl` is the KL divergence of next-token distributions from the float model's, in nats, `acceptance_loss` the share of
float32's accepted drafts that is lost; both as `compare` measures them. Another pair pays another price, so this is a
reason to measure, not a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.errors import UserError
from ..runtime.fields import Fields, shown
from .formats import nearest

# What is bearable: a model whose text is hardly another's, and a drafter that is worth as much as before.
MAX_KL, MAX_ACCEPTANCE_LOSS = 0.02, 0.05
_KEYS = ("pair", "kl", "acceptance_loss")


@dataclass(frozen=True)
class KnownPrice:
    """KL divergence in nats and the share of accepted drafts lost, against float32, on `pair`."""

    pair: str
    kl: float
    acceptance_loss: float

    def __str__(self) -> str:
        return f"{self.kl:.2g} nats KL and {max(0.0, self.acceptance_loss):.0%} of the accepted drafts"

    def warning(self, recipe: str) -> str | None:
        """What to tell somebody who exports with `recipe`, in one line; None where the price is bearable."""
        if self.kl <= MAX_KL and self.acceptance_loss <= MAX_ACCEPTANCE_LOSS:
            return None
        return (
            f"warning: {recipe} cost {self.pair} {self} against float32, and more than {MAX_KL} nats or"
            f" {MAX_ACCEPTANCE_LOSS:.0%} is felt; see what it costs yours with `compare` before you ship it"
        )


def read_price(entry: object, where: str) -> KnownPrice:
    """The table `[price]` of a recipe's file; `where` begins errors.

    Raises:
        UserError: it is none.
    """
    if not isinstance(entry, dict):
        raise UserError(f"{where}: price is {shown(entry)}, expected a table [price]")
    for key in entry:
        if key not in _KEYS:
            raise UserError(f"{where}, price: {shown(key)} is no key of a price{nearest(key, _KEYS)}")
    fields = Fields(entry, f"{where}, price")
    return KnownPrice(fields.text("pair"), fields.number("kl", least=0), fields.number("acceptance_loss", least=-1))
