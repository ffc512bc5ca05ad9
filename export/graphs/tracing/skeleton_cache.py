"""A folder of traced graphs for later exports. Each entry says its own hash; one that is damaged is traced again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import secrets
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from ....runtime.errors import UserError
from ....runtime.scratch import owned_folder, remove_leftovers
from ...staging import check_writable_folder
from ..signatures import Signature

_TRACING_PACKAGES = ("torch", "litert-torch", "litert-converter")
_ROOT = Path(__file__).parents[3]
# The files of this package that a trace runs through; a test compares them with what a worker imports.
TRACED_SOURCES = (
    "export/checkpoint/config.py",
    "export/checkpoint/weights.py",
    "export/graphs/tracing/capture.py",
    "export/graphs/tracing/converter.py",
    "export/graphs/tracing/direct.py",
    "export/graphs/joining/join.py",
    "export/graphs/joining/kit.py",
    "export/graphs/joining/recording.py",
    "export/graphs/signatures.py",
    "export/graphs/tracing/trace.py",
    "export/models/cache_ops.py",
    "export/models/clustered_head.py",
    "export/models/drafter.py",
    "export/models/embedders.py",
    "export/models/kv_cache.py",
    "export/models/layers.py",
    "export/models/lowerings.py",
    "export/models/norm.py",
    "export/models/pieces.py",
    "export/models/target.py",
    "export/models/windowed.py",
    "runtime/bundle/flatbuffer.py",
    "runtime/bundle/names.py",
    "runtime/bundle/context/placeholder.py",
)
_DIGEST = 64  # Hexadecimal digits of a SHA-256; they and a line feed stand before the flatbuffer.
_PART = ".part-"


class SkeletonCache:
    """Entries of the folder `folder`, which need not exist; several processes may use it at a time.

    Nothing here ends an export: an entry that cannot be read is traced again, one that cannot be kept is not kept, and
    `on_note` is told in a line.
    """

    def __init__(self, folder: Path, on_note: Callable[[str], None] = lambda line: None) -> None:
        self.folder = folder
        self._say = on_note

    def check(self) -> None:
        """Raises:
        UserError: no entry could be kept there.
        """
        folder = self.folder.absolute()
        try:
            if folder.is_symlink() and not folder.exists():
                raise FileNotFoundError(None, "a symbolic link to nothing")
            check_writable_folder(next(place for place in (folder, *folder.parents) if place.exists()))
        except OSError as error:
            raise UserError(
                f"--skeleton-cache: {self.folder} cannot be written ({error.strerror}); choose another folder"
            ) from error

    def get(self, signature: Signature) -> bytes | None:
        """The flatbuffer of `signature`; None if there is none, or none that is whole."""
        path = self.path(signature)
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._say(f"{path}: cannot be read ({error.strerror}); tracing {signature.name} again")
            return None
        digest, content = stored[:_DIGEST], stored[_DIGEST + 1 :]
        if digest != hashlib.sha256(content).hexdigest().encode():
            self._say(f"{path}: is damaged (another SHA-256 than its own); tracing {signature.name} again")
            return None
        if not holds(content, signature.name):
            self._say(f"{path}: holds no graph of {signature.name}; tracing it again")
            return None
        return content

    def put(self, traced: dict[str, bytes], signatures: list[Signature]) -> None:
        """Keep the flatbuffers `traced`, by signature's name."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder, f"{_PART}*")
            with owned_folder(self.folder.absolute() / f"{_PART}{secrets.token_hex(6)}") as folder:
                for signature in signatures:
                    content, path = traced[signature.name], self.path(signature)
                    part = folder / path.name
                    part.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
                    os.replace(part, path)
        except OSError as error:
            self._say(f"--skeleton-cache: {self.folder} cannot be written ({error.strerror}); graphs are not kept")

    def path(self, signature: Signature) -> Path:
        """File of the entry of `signature`; its name hashes everything that a trace depends on, our code included."""
        digest = hashlib.sha256(pickle.dumps(signature, protocol=5))
        for package in _TRACING_PACKAGES:
            digest.update(f"{package}=={version(package)}".encode())
        for source in TRACED_SOURCES:
            digest.update((_ROOT / source).read_bytes())
        return self.folder / f"{signature.name}-{digest.hexdigest()[:24]}.skeleton"


def holds(content: bytes, name: str) -> bool:
    """Is `content` a flatbuffer of a model with the one signature `name`?"""
    with contextlib.suppress(Exception):  # Reading a table where none is raises whatever its bytes lead to.
        if schema.Model.ModelBufferHasIdentifier(content, 0):
            model = schema.Model.GetRootAs(content)
            entry = model.SignatureDefs(0)
            return model.SignatureDefsLength() == 1 and entry is not None and entry.SignatureKey() == name.encode()
    return False
