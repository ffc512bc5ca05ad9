"""Text for the small pair: the running Python's own standard library, normalised.

Every module is parsed and unparsed without docstrings or comments, which halves the entropy that a
model of five million parameters has to fight. Whole files are held out by a hash of their name, so
the split is the same on every Python version and no held-out line is ever trained on.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import random
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path

_SKIPPED_FOLDERS = frozenset({"site-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "turtledemo"})
_HELD_OUT_ONE_IN = 16


@dataclass(frozen=True)
class Document:
    """One normalised module: its path inside the standard library and its source."""

    name: str
    text: str

    @property
    def held_out(self) -> bool:
        return hashlib.sha256(self.name.encode()).digest()[0] % _HELD_OUT_ONE_IN == 0


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@functools.cache
def documents() -> tuple[Document, ...]:
    """All normalised modules, sorted by name; files that do not parse are left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(root.rglob("*.py")):
        if _SKIPPED_FOLDERS & set(path.relative_to(root).parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                text = ast.unparse(_without_docstrings(ast.parse(path.read_text("utf-8"))))
        except (SyntaxError, UnicodeDecodeError):
            continue
        found.append(Document(path.relative_to(root).as_posix(), text))
    return tuple(found)


def training_documents() -> list[Document]:
    """Documents that the small pair was trained on."""
    return [document for document in documents() if not document.held_out]


def held_out_documents() -> list[Document]:
    """Documents that no training step has seen."""
    return [document for document in documents() if document.held_out]


def take_lines(lines: list[str], start: int, characters: int, *, stop_at_blank: bool = False) -> int:
    """Index behind the lines from `start` that together hold `characters`.

    With `stop_at_blank` the run goes on to the next blank line (where a definition ends), for at
    most three times as many characters.
    """
    end, size = start, 0
    while end < len(lines):
        if size >= characters and (not stop_at_blank or not lines[end].strip() or size >= 3 * characters):
            break
        size += len(lines[end]) + 1
        end += 1
    return end


def render_chat(turns: list[tuple[str, str]]) -> str:
    """Conversation in Gemma 4's turn format, each turn a (user, model) pair; begins with `<bos>`."""
    rendered = [f"<|turn>user\n{user.strip()}<turn|>\n<|turn>model\n{model}<turn|>\n" for user, model in turns]
    return "<bos>" + "".join(rendered)


def training_text(rng: random.Random, pool: list[Document], characters: int) -> str:
    """One training row of at least `characters`: plain source, or a chat in which the model continues it."""
    if rng.random() < 0.4:
        text = ""
        while len(text) < characters:
            lines = rng.choice(pool).text.split("\n")
            text += "<bos>" + "\n".join(lines[rng.randrange(len(lines)) :])
        return text
    turns: list[tuple[str, str]] = []
    while len(render_chat(turns)) < characters:
        lines = rng.choice(pool).text.split("\n")
        cut = rng.randrange(len(lines))
        while cut < len(lines) and len(render_chat(turns)) < characters:
            middle = take_lines(lines, cut, rng.randrange(40, 400))
            end = take_lines(lines, middle, rng.randrange(100, 500), stop_at_blank=True)
            if end == middle:
                break
            turns.append(("\n".join(lines[cut:middle]), "\n".join(lines[middle:end])))
            cut = end
    return render_chat(turns)


def held_out_prompts(count: int, seed: int = 0) -> list[str]:
    """`count` prompts of 20 to 700 characters from held-out files, every other one a chat turn.

    Each is cut at a line's end and lacks the start token; chats end where the model's answer begins.
    """
    rng = random.Random(seed)
    pool = [document for document in held_out_documents() if len(document.text) > 2000]
    prompts: list[str] = []
    while len(prompts) < count:
        lines = rng.choice(pool).text.split("\n")
        start = rng.randrange(len(lines))
        source = "\n".join(lines[start : take_lines(lines, start, rng.choice((20, 80, 200, 400, 700)))])
        if len(source.strip()) < 20:
            continue
        chat = len(prompts) % 2 == 1
        prompts.append(f"<|turn>user\n{source.strip()}<turn|>\n<|turn>model\n" if chat else f"{source}\n")
    return prompts
