"""Rewriting of statements: loop controls, which LiteRT-LM's MiniJinja lacks, and `{% generation %}` blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...runtime.text.template_source import Tag, Text

_ENDS = {"endfor": "for", "endif": "if", "endmacro": "macro", "endcall": "call", "endfilter": "filter",
         "endset": "set", "endwith": "with", "endgeneration": "generation", "endblock": "block"}  # fmt: skip
_BRANCHES = ("elif", "else")
_CONTROLS = {"break": "stop", "continue": "skip"}


@dataclass
class _Block:
    """An open block. `open_guards` counts the conditions inserted into its present branch."""

    name: str
    loop: str = ""
    controls: bool = False
    open_guards: int = 0


@dataclass
class _State:
    blocks: list[_Block] = field(default_factory=list)
    out: list[Text | Tag] = field(default_factory=list)
    changed: list[tuple[Tag, str]] = field(default_factory=list)


def statement(body: str, like: Tag) -> Tag:
    """A tag to stand beside `like`, which strips the same white space."""
    return Tag("%", like.left, f" {body} ", like.right, like.line)


def without_generation(parts: list[Text | Tag]) -> tuple[list[Text | Tag], list[tuple[Tag, str]]]:
    """`{% generation %}` marks trained text in transformers and prints it; `{% with %}` has the same scope."""
    names = {"generation": "with", "endgeneration": "endwith"}
    changed: list[tuple[Tag, str]] = []
    out: list[Text | Tag] = []
    for part in parts:
        if isinstance(part, Tag) and part.name in names:
            new = replace(part, body=f" {names[part.name]} ")
            changed.append((part, new.source))
            part = new
        out.append(part)
    return out, changed


def without_loop_controls(parts: list[Text | Tag]) -> tuple[list[Text | Tag], list[tuple[Tag, str]]]:
    """`{% break %}` and `{% continue %}` as flags in a namespace, with a condition around all that they skip.

    A control within another block of the loop than a condition (a macro, a call, a filter) is left as it is.
    """
    loops = _loops_with_controls(parts)
    if not loops:
        return parts, []
    state = _State()
    for number, part in enumerate(parts):
        if isinstance(part, Text) or part.kind != "%":
            state.out.append(part)
        else:
            _rewrite(state, part, loops.get(number, ""))
    return state.out, state.changed


def _loops_with_controls(parts: list[Text | Tag]) -> dict[int, str]:
    """Names of the flags by the position of the `for` that has controls of its own."""
    open_blocks: list[tuple[str, int]] = []
    found: set[int] = set()
    for number, part in enumerate(parts):
        if not isinstance(part, Tag):
            continue
        if _opens(part):
            open_blocks.append((part.name, number))
        elif part.name in _ENDS and open_blocks:
            open_blocks.pop()
        elif part.name in _CONTROLS:
            outside = [position for name, position in open_blocks if name != "if"]
            names = [name for name, _ in open_blocks if name != "if"]
            if names and names[-1] == "for":
                found.add(outside[-1])
    return {number: f"loop_control_{count}" for count, number in enumerate(sorted(found), 1)}


def _opens(tag: Tag) -> bool:
    if tag.name == "set":
        return "=" not in tag.body
    return tag.name in _ENDS.values()


def _rewrite(state: _State, tag: Tag, loop: str) -> None:
    blocks, out = state.blocks, state.out
    if tag.name in _CONTROLS and (innermost := _loop_of(blocks)):
        new = statement(f"set {innermost.loop}.{_CONTROLS[tag.name]} = true", tag)
        state.changed.append((tag, new.source))
        out += [new, statement("if false", tag)]
        blocks[-1].open_guards += 1
        for block in blocks[blocks.index(innermost) :]:
            block.controls = True
        return
    if tag.name in _ENDS or (tag.name in _BRANCHES and blocks):
        out += [statement("endif", replace(tag, right=""))] * blocks[-1].open_guards
        blocks[-1].open_guards = 0
    if loop:
        out.append(statement(f"set {loop} = namespace(stop=false, skip=false)", replace(tag, right="")))
    if _opens(tag):
        blocks.append(_Block(tag.name, loop))
    out.append(tag)
    if loop:
        out.append(statement(f"set {loop}.skip = false", tag))
        out.append(statement(f"if not {loop}.stop", tag))
        blocks[-1].open_guards = 1
    if tag.name in _ENDS and blocks:
        closed = blocks.pop()
        innermost = _loop_of(blocks)
        if closed.name == "if" and closed.controls and innermost:
            out.append(statement(f"if not ({innermost.loop}.stop or {innermost.loop}.skip)", tag))
            blocks[-1].open_guards += 1


def _loop_of(blocks: list[_Block]) -> _Block | None:
    """The loop that a control here belongs to, if only conditions lie between."""
    for block in reversed(blocks):
        if block.name != "if":
            return block if block.name == "for" and block.loop else None
    return None
