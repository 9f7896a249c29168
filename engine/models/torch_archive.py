"""What a file that torch.save wrote holds, found without running it or loading a tensor."""

from __future__ import annotations

import collections
import io
import math
import pickle
import pickletools
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from engine.errors import ModelError, UnsafeFile
from engine.models.safetensors_header import MAX_TENSORS, TensorEntry

ArchiveKind = Literal["weights", "module", "torchscript", "program"]
MAX_PICKLE_BYTES = 64_000_000
MAX_OPERATIONS = 8_000_000
MAX_MEMO = 4_000_000
MAX_RATIO = 20
MAX_ENTRIES = 400_000

_ITEM_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8,
    "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
    "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16, "UntypedStorage": 1,
}  # fmt: skip
_DTYPES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip
# What a dict of weights is made of. STACK_GLOBAL, EXT*, BYTEARRAY8, INST and OBJ are not.
_OPERATIONS = {
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING", "BINSTRING", "EMPTY_TUPLE",
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT",
    "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "REDUCE",
    "BUILD", "BINPERSID", "MEMOIZE", "FRAME", "EMPTY_SET", "ADDITEMS", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip


# What zipfile raises for an archive that is not what its directory says.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError)


class _Stored:
    """Stands for a tensor while the pickle is read."""

    def __init__(self, entry: TensorEntry) -> None:
        self.entry = entry

    def __setstate__(self, state: Any) -> None:
        """Attributes of a tensor do not matter for its shape."""


class _Storage:
    def __init__(self, kind: str, items: int) -> None:
        self.kind = kind
        self.items = items


def archive_kind(path: Path) -> ArchiveKind:
    """What kind of file this is; whatever is not plainly weights can run code.

    Raises:
        ModelError: neither an archive of torch.save nor one of torch.export.
        UnsafeFile: a zip bomb, repeated entries, a pickle beyond the caps.
    """
    names = _checked_entries(path)
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "torchscript"
    if "archive_format" in inner or any(name.startswith("models/") for name in inner):
        return "program"
    if "data.pkl" not in inner:
        raise ModelError(f"{path.name} is not a file that torch.save or torch.export wrote.")
    return "module" if unknown_globals(path) else "weights"


def unknown_globals(path: Path) -> list[str]:
    """The names in the pickle that weights do not need, in order: loading them runs code."""
    named = [
        argument.replace(" ", ".")
        for name, argument in _operations(path)
        if name == "GLOBAL" and isinstance(argument, str)
    ]
    return [each for each in dict.fromkeys(named) if _stand_in(each) is None]


def read_torch_header(path: Path) -> dict[str, TensorEntry]:
    """Names to tensors of a dict of weights, none of them loaded.

    A dict under "state_dict", "model", "model_state_dict", "module" or "ema" is taken where the
    outer one holds no tensors.

    Raises:
        UnsafeFile: code, a tensor larger than its stored data, or what archive_kind refuses.
        ModelError: no weights are in it.
    """
    sizes = _checked_entries(path)
    if wanted := unknown_globals(path):
        raise UnsafeFile(
            f"{path.name} wants to run {', '.join(wanted[:3])} when it is loaded: "
            "it is not plain weights.",
            hint="Save model.state_dict() with torch.save, or better with safetensors.",
        )
    for name, _ in _operations(path):
        if name not in _OPERATIONS:
            raise UnsafeFile(
                f"{path.name} uses the pickle operation {name}, which weights never need."
            )
    value = _Reader(io.BytesIO(_pickle(path)), sizes, path.name).read()
    tensors = weights_in(value, path.name, _Stored)
    if len(tensors) > MAX_TENSORS:
        raise UnsafeFile(f"{path.name} holds {len(tensors)} tensors, more than {MAX_TENSORS}.")
    return {name: stored.entry for name, stored in tensors.items()}


def check_intact(path: Path) -> None:
    """Every entry has the checksum that it was saved with, which torch.load does not look at.

    Raises:
        ModelError: a byte has changed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.CRC == 0:  # saved with torch.serialization.set_crc32_options(False)
                    continue
                with archive.open(entry) as stream:
                    while stream.read(1 << 22):
                        pass
    except _DAMAGED as error:
        raise ModelError(
            f"{path.name} is damaged: {error}.", hint="Copy or download it again."
        ) from error


def weights_in(value: Any, owner: str, kind: type) -> dict[str, Any]:
    """The tensors of a loaded dict of weights, by name; one level of nesting is looked through.

    Raises:
        ModelError: it holds none.
    """
    candidates = [value]
    if isinstance(value, Mapping):
        nested = ("state_dict", "model_state_dict", "model", "module", "ema")
        candidates += [value[key] for key in nested if key in value]
    for each in candidates:
        if isinstance(each, Mapping):
            found = {name: item for name, item in each.items() if isinstance(item, kind)}
            if found and all(isinstance(name, str) for name in found):
                return found
    raise ModelError(
        f"{owner} holds no weights.", hint="It must be a dict of names to tensors (a state_dict)."
    )


def _checked_entries(path: Path) -> dict[str, int]:
    """Entry names to their sizes, of a zip archive that is what it says."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _DAMAGED as error:
        raise ModelError(
            f"{path.name} is truncated or was not written by torch.save of PyTorch 1.6 or later.",
            hint="Copy it again, or load it with torch and save it again.",
        ) from error
    names = [each.filename for each in entries]
    if len(entries) > MAX_ENTRIES:
        raise UnsafeFile(f"{path.name} has {len(entries)} entries.")
    if len(set(names)) != len(names) or sum(n.endswith("/data.pkl") for n in names) > 1:
        raise UnsafeFile(f"{path.name} holds an entry twice: two readers would see two files.")
    if any(name.startswith("/") or ".." in name.split("/") for name in names):
        raise UnsafeFile(f"{path.name} has an entry that leaves the archive.")
    total = sum(each.file_size for each in entries)
    if total > MAX_RATIO * size:
        raise UnsafeFile(f"{path.name} would unpack from {size} to {total} bytes: a zip bomb.")
    return {each.filename: each.file_size for each in entries}


def _pickle(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        named = [each for each in archive.namelist() if each.endswith("/data.pkl")]
        if not named:
            raise ModelError(f"{path.name} holds no weights.", hint="torch.save writes data.pkl.")
        name = named[0]
        if archive.getinfo(name).file_size > MAX_PICKLE_BYTES:
            raise UnsafeFile(f"{path.name} has a pickle of more than {MAX_PICKLE_BYTES} bytes.")
        try:
            return archive.read(name)
        except _DAMAGED as error:
            raise ModelError(f"{path.name} is damaged: {error}.") from error


def _operations(path: Path) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    try:
        for operation, argument, _ in pickletools.genops(_pickle(path)):
            if operation.name in {"LONG_BINPUT", "PUT"} and int(argument or 0) > MAX_MEMO:
                raise UnsafeFile(f"{path.name} asks for a pickle memo of {argument} entries.")
            found.append((operation.name, argument))
            if len(found) > MAX_OPERATIONS:
                raise UnsafeFile(f"{path.name} has more than {MAX_OPERATIONS} pickle operations.")
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ModelError(f"The pickle of {path.name} is damaged: {error}.") from error
    return found


class _Reader(pickle.Unpickler):
    """Reads the structure: every global is a stand-in of ours, no tensor is loaded."""

    def __init__(self, stream: io.BytesIO, sizes: dict[str, int], owner: str) -> None:
        super().__init__(stream, encoding="utf-8")
        self.owner = owner
        self.sizes = {name.rpartition("/data/")[2]: size for name, size in sizes.items()}

    def read(self) -> Any:
        try:
            return self.load()
        except (UnsafeFile, ModelError):
            raise
        except Exception as error:  # whatever a malformed pickle makes the reader raise
            raise ModelError(f"The pickle of {self.owner} is damaged: {error}.") from error

    def find_class(self, module: str, name: str) -> Any:
        found = _stand_in(f"{module}.{name}")
        if found is None:
            raise UnsafeFile(f"{self.owner} wants to run {module}.{name}.")
        return found

    def persistent_load(self, told: Any) -> _Storage:
        if not (isinstance(told, tuple) and len(told) == 5 and told[0] == "storage"):
            raise UnsafeFile(f"{self.owner} refers to something that is not tensor data.")
        _, kind, key, _, items = told
        item = _ITEM_BYTES.get(str(kind))
        if item is None or not isinstance(items, int) or self.sizes.get(str(key)) != items * item:
            raise UnsafeFile(f"{self.owner} lies about the size of its data {str(key)!r}.")
        return _Storage(str(kind), items)


def _rebuilt(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> _Stored:
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple):
        raise UnsafeFile("A tensor without data of its own is not weights.")
    numbers = (offset, *shape, *stride)
    if len(shape) != len(stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise UnsafeFile("A tensor's shape and strides do not belong together.")
    items = math.prod(shape)
    reach = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) + 1
    if items > storage.items or (items and reach > storage.items):
        raise UnsafeFile(
            f"A tensor of shape {list(shape)} is larger than its {storage.items} stored items."
        )
    item = _ITEM_BYTES[storage.kind]
    return _Stored(TensorEntry(_DTYPES.get(storage.kind, storage.kind), shape, items * item))


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _stand_in(name: str) -> Any:
    known: dict[str, Any] = {
        "collections.OrderedDict": collections.OrderedDict,
        "torch._utils._rebuild_tensor_v2": _rebuilt,
        "torch._utils._rebuild_tensor": _rebuilt,
        "torch._utils._rebuild_parameter": _parameter,
        "torch.Size": tuple,
        "torch.device": lambda *told: told,
        "torch.serialization._get_layout": lambda *told: told,
    }
    if name in known:
        return known[name]
    module, _, last = name.rpartition(".")
    if module in {"torch", "torch.storage"} and last in _ITEM_BYTES:
        return last
    if module == "torch" and last in {
        "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
        "bool",
    }:  # fmt: skip
        return last
    return None
