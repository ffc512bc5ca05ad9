"""What was found by damage of all kinds, and every limit: each is refused in one line, in this process."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from ai_edge_litert import schema_py_generated as schema

from gemma_mtp.export.demo import SMALL_PAIR
from gemma_mtp.export.templates.conversations import CONVERSATIONS
from gemma_mtp.export.templates.engines import RefusedError, RuntimeEngine, TransformersEngine
from gemma_mtp.runtime.bundle import container
from gemma_mtp.runtime.bundle.container import BundleFile
from gemma_mtp.runtime.bundle.flatbuffer import pack
from gemma_mtp.runtime.bundle.model_file import read_model
from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.printable import one_line, printable
from gemma_mtp.runtime.text.prompts import read_prompts
from gemma_mtp.runtime.text.tokenizer import read_tokenizer
from gemma_mtp.runtime.threads import MOST_THREADS, thread_count

TOKENIZER = SMALL_PAIR / "target" / "tokenizer.json"
TEMPLATES = {
    "a loop without end": "{% for a in range(90000) %}{% for b in range(90000) %}x{% endfor %}{% endfor %}",
    "a product": "{{ 'x' * 10000000000 }}",
    "doubling": "{% set n = namespace(a='x') %}{% for i in range(40) %}{% set n.a = n.a ~ n.a %}{% endfor %}{{ n.a }}",
    "a macro in itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "parentheses": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "a wide number": "{{ '%1000000000d'|format(1) }}",
    "a long text": "{{ 'x' * 5000000 }}",
    "a long template": "x" * 300_000,
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("engine", [TransformersEngine(seconds=2), RuntimeEngine()], ids=["transformers", "runtime"])
def test_templates_out_of_bounds_are_refused(engine: TransformersEngine | RuntimeEngine, name: str) -> None:
    with pytest.raises(RefusedError):
        engine.render(TEMPLATES[name], CONVERSATIONS[0])
    assert engine.render("{{ messages|length }}", CONVERSATIONS[0]) == "1"


def test_a_template_that_was_ended_is_not_tried_again() -> None:
    template = TEMPLATES["a product"]
    with pytest.raises(RefusedError, match="more than 1024 MiB of memory"):
        RuntimeEngine().render(template, CONVERSATIONS[0])
    with pytest.raises(RefusedError, match="more than 1024 MiB of memory"):
        RuntimeEngine().render(template, CONVERSATIONS[1])


def test_a_pattern_that_backtracks_without_end_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    about = json.loads(TOKENIZER.read_bytes())
    about["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer = read_tokenizer("json", json.dumps(about).encode(), "a bundle")
    with pytest.raises(UserError, match="a bundle: the tokenizer cannot encode"):
        tokenizer.encode("a" * 60 + "b")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("kind", "content"), [("model", b""), ("model", b"none"), ("json", b"\xff"), ("json", b"{}")])
def test_what_is_no_tokenizer_is_refused(kind: str, content: bytes) -> None:
    with pytest.raises(UserError, match="a bundle: the tokenizer cannot be read"):
        read_tokenizer(kind, content, "a bundle")


@pytest.mark.parametrize("count", [0, -1, MOST_THREADS + 1, 100_000])
def test_thread_counts_are_bounded(count: int) -> None:
    with pytest.raises(UserError, match="threads: expected 1 to"):
        thread_count(count)
    assert thread_count(MOST_THREADS) == MOST_THREADS


def test_generate_refuses_too_many_threads(run: Callable[..., tuple[int, str, str]]) -> None:
    code, _, error = run("generate", "out", "--prompt", "a", "--threads", "100000")
    assert code == 2
    assert error.count("\n") == 1
    assert "--threads" in error


def test_control_characters_are_written_as_codes(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    assert printable("a\x1b[31m\r\x9b\u202eb\ud800é日\n", keep="\n") == "a\\x1b[31m\\r\\x9b\\u202eb\\ud800é日\n"
    assert one_line("a\n b\x07" + "c" * 10_000).startswith("a b\\x07ccc")
    assert len(one_line("c" * 10_000)) < 2100
    code, _, error = run("inspect", str(tmp_path / "\x1b]0;title\x07"))
    assert code == 2
    assert "\x1b" not in error
    assert "\\x1b]0;title\\x07" in error


def _bundle(tmp_path: Path, *, size: int, stream: bytes) -> BundleFile:
    """A file that holds nothing but a tokenizer."""
    file = tmp_path / "model.litertlm"
    file.write_bytes(size.to_bytes(8, "little") + stream)
    return _Bare(file, [container.Section("HF_Tokenizer_Zlib", {}, 0, file.stat().st_size)])


class _Bare(BundleFile):
    """Sections without a header."""

    def __init__(self, path: Path, sections: list[container.Section]) -> None:
        self.path, self.sections, self._map = path, sections, path.read_bytes()  # pyright: ignore[reportAttributeAccessIssue]

    def check(self, header_end: int) -> None:
        self._check_sections(header_end)


def test_a_tokenizer_is_decompressed_to_the_size_that_it_states(tmp_path: Path) -> None:
    stream = zlib.compress(bytes(10_000_000))
    assert _bundle(tmp_path, size=10_000_000, stream=stream).tokenizer() == ("json", bytes(10_000_000))
    for size, expected in (
        (1 << 40, "states 1,099"),
        (1000, "does not decompress"),
        (10_000_001, "does not decompress"),
    ):
        with pytest.raises(UserError, match=expected):
            _bundle(tmp_path, size=size, stream=stream).tokenizer()
    with pytest.raises(UserError, match="cannot be decompressed"):
        _bundle(tmp_path, size=1000, stream=b"none").tokenizer()
    with pytest.raises(UserError, match="does not decompress"):
        _bundle(tmp_path, size=10_000_000, stream=stream[:-1]).tokenizer()


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(100, 200), (199, 300)], "overlap at byte 199"),
        ([(100, 2000)], "ends at byte 2,000"),
        ([(99, 200)], "within the header"),
        ([(300, 200)], "ends at byte 200"),
    ],
)
def test_sections_lie_where_they_can(tmp_path: Path, places: list[tuple[int, int]], expected: str) -> None:
    file = tmp_path / "model.litertlm"
    file.write_bytes(bytes(1000))
    names = ("tf_lite_embedder", "tf_lite_mtp_drafter")
    sections = [
        container.Section("TFLiteModel", {"model_type": name}, *place)
        for name, place in zip(names, places, strict=False)
    ]
    with pytest.raises(UserError, match=expected):
        _Bare(file, sections).check(100)


@pytest.mark.parametrize(
    ("embedder", "target", "refused"),
    [
        ((100, 300), (200, 400), False),
        ((100, 400), (200, 400), False),
        ((100, 401), (200, 400), True),
        ((100, 300), (100, 400), True),
        ((200, 400), (100, 300), True),
    ],
)
def test_the_targets_section_may_hold_the_embedders_end(
    tmp_path: Path, embedder: tuple[int, int], target: tuple[int, int], refused: bool
) -> None:
    file = tmp_path / "model.litertlm"
    file.write_bytes(bytes(1000))
    places = {"tf_lite_prefill_decode": target, "tf_lite_embedder": embedder}
    sections = [container.Section("TFLiteModel", {"model_type": name}, *place) for name, place in places.items()]
    with pytest.raises(UserError, match="overlap at byte") if refused else contextlib.nullcontext():
        _Bare(file, sections).check(100)


def test_a_section_stands_once(tmp_path: Path) -> None:
    file = tmp_path / "model.litertlm"
    file.write_bytes(bytes(1000))
    sections = [container.Section("LlmMetadataProto", {}, at, at + 10) for at in (200, 300)]
    with pytest.raises(UserError, match="2 sections LlmMetadataProto"):
        _Bare(file, sections).check(100)


def _model() -> schema.ModelT:
    """One addition of a constant, and a composite that holds it."""

    def tensor(name: str, buffer: int) -> schema.TensorT:
        found = schema.TensorT()
        found.name, found.shape, found.type, found.buffer = name, [2, 3], schema.TensorType.FLOAT32, buffer
        return found

    def graph(code: int) -> schema.SubGraphT:
        found, operator = schema.SubGraphT(), schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = code, [0, 1], [2]
        found.tensors = [tensor("x", 0), tensor("c", 1), tensor("y", 0)]
        found.inputs, found.outputs, found.operators = [0], [2], [operator]
        if code:
            options = schema.StableHLOCompositeOptionsT()
            options.name, options.decompositionSubgraphIndex = "odml.test", 1
            operator.builtinOptions2Type = schema.BuiltinOptions2.StableHLOCompositeOptions
            operator.builtinOptions2 = options
        return found

    def named(name: str, index: int) -> schema.TensorMapT:
        found = schema.TensorMapT()
        found.name, found.tensorIndex = name, index
        return found

    model, signature = schema.ModelT(), schema.SignatureDefT()
    model.version, model.subgraphs = 3, [graph(1), graph(0)]
    model.operatorCodes = [schema.OperatorCodeT(), schema.OperatorCodeT()]
    model.operatorCodes[1].builtinCode = schema.BuiltinOperator.STABLEHLO_COMPOSITE
    model.buffers = [schema.BufferT(), schema.BufferT()]
    model.buffers[1].data = bytes(24)
    signature.signatureKey, signature.subgraphIndex = "decode", 0
    signature.inputs, signature.outputs = [named("x", 0)], [named("y", 2)]
    model.signatureDefs = [signature]
    return model


def test_a_sound_model_is_read() -> None:
    assert [signature.name for signature in read_model(pack(_model()), "model").signatures] == ["decode"]


def _set(*path: str | int) -> Callable[[schema.ModelT], None]:
    *way, last, value = path

    def change(model: schema.ModelT) -> None:
        holder = model
        for step in way:
            holder = holder[step] if isinstance(step, int) else getattr(holder, step)
        if isinstance(last, int):
            holder[last] = value
        else:
            setattr(holder, last, value)

    return change


OPERATOR = ("subgraphs", 0, "operators", 0)
MODEL_FAULTS: dict[str, tuple[Callable[[schema.ModelT], None], str]] = {
    "signature's subgraph": (_set("signatureDefs", 0, "subgraphIndex", 9), "names subgraph 9 of 2"),
    "signature's tensor": (_set("signatureDefs", 0, "inputs", 0, "tensorIndex", 7), "names tensor 7 of 3"),
    "signature's name": (_set("signatureDefs", 0, "signatureKey", ""), "no name"),
    "tensor's name": (_set("signatureDefs", 0, "inputs", 0, "name", ""), "has no name"),
    "operator's input": (_set(*OPERATOR, "inputs", [0, 3]), "names tensor 3 of 3"),
    "operator's output": (_set(*OPERATOR, "outputs", [-2]), "names tensor -2 of 3"),
    "operator's code": (_set(*OPERATOR, "opcodeIndex", 5), "names code 5 of 2"),
    "graph's input": (_set("subgraphs", 1, "inputs", [3]), "an input names tensor 3 of 3"),
    "decomposition": (_set(*OPERATOR, "builtinOptions2", "decompositionSubgraphIndex", 5), "names subgraph 5 of 2"),
    "decomposition in itself": (
        _set(*OPERATOR, "builtinOptions2", "decompositionSubgraphIndex", 0), "contain each other",
    ),
    "composite without options": (_set(*OPERATOR, "builtinOptions2Type", 0), "has no options"),
    "negative size": (_set("subgraphs", 0, "tensors", 0, "shape", [2, -3]), r"has the shape \[2, -3\]"),
    "huge size": (_set("subgraphs", 0, "tensors", 0, "shape", [1 << 30, 1 << 30]), "takes 4,611,686,018,427,387,904"),
    "many axes": (_set("subgraphs", 0, "tensors", 0, "shape", [1] * 9), "9 axes"),
    "type": (_set("subgraphs", 0, "tensors", 0, "type", 99), "unknown type 99"),
    "tensor's buffer": (_set("subgraphs", 0, "tensors", 0, "buffer", 4), "names buffer 4 of 2"),
    "small buffer": (_set("buffers", 1, "data", bytes(23)), "takes 24 bytes, but has 23"),
    "buffer's size": (_set("buffers", 1, "size", 1 << 40), "buffer 1 ends at byte"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODEL_FAULTS)
def test_indices_and_sizes_that_cannot_be_true_are_named(name: str) -> None:
    change, expected = MODEL_FAULTS[name]
    model = _model()
    change(model)
    with pytest.raises(UserError, match=expected):
        read_model(pack(model), "model")


def test_a_part_whose_text_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": [{"type": "text", "text": []}]}]}', "utf-8")
    with pytest.raises(UserError, match="line 1: messages, number 1: content has"):
        read_prompts(file)
