"""A .tflite model in object form: parsed, looked into and packed again."""

from __future__ import annotations

import mmap
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

_FILE_IDENTIFIER = b"TFL3"
_OPERATOR_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


def parse(content: bytes | memoryview | mmap.mmap) -> Any:
    """Object form (`schema.ModelT`) of a flatbuffer; data that lie behind it are not read."""
    return schema.ModelT.InitFromPackedBuf(content, 0)


def pack(model: Any) -> bytes:
    """Flatbuffer of an object-form model."""
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), _FILE_IDENTIFIER)
    return bytes(builder.Output())


def operator_code(model: Any, operator: Any) -> int:
    """Builtin code of `operator` (old files keep it in a field of eight bits)."""
    code = model.operatorCodes[operator.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def operator_name(model: Any, operator: Any) -> str:
    """`FULLY_CONNECTED`, ...; a composite's or custom operator's own name."""
    name = _OPERATOR_NAMES.get(operator_code(model, operator), "?")
    if name == "STABLEHLO_COMPOSITE":
        return operator.builtinOptions2.name.decode()
    if name == "CUSTOM":
        return model.operatorCodes[operator.opcodeIndex].customCode.decode()
    return name
