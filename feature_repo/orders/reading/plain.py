"""A file's text as plain UTF-8: unpacked and transcoded into the scratch folder where it is not so already."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import pyarrow as pa

from feature_repo.orders.mapping_file import MappingError
from feature_repo.orders.reading.kinds import HEAD_BYTES, recognise
from feature_repo.orders.reading.lines import UNDECODED

_BLOCK_BYTES = 1 << 20
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return UNDECODED, error.end


codecs.register_error("orders_undecoded", _mark)


@contextmanager
def plain_text(path: Path, encoding: str, scratch: Path) -> Iterator[Path]:
    """The path of a file with the same text in UTF-8: the file itself, or a scratch file that is removed at the end.

    Parameters
    ----------
    path : Path
        Plain, or packed by gzip, bzip2, xz or zstd, whatever its name says.
    encoding : str
        What to take it for where it does not begin with a mark of UTF-8, UTF-16 or UTF-32.

    scratch : Path
        The folder for the scratch file.

    Raises
    ------
    MappingError
        The file is of another kind than text, which the message names, or is packed and damaged.
    """
    with TemporaryDirectory(prefix="read-", dir=scratch) as folder:
        unpacked = _unpacked(path, Path(folder))
        head = _head(unpacked)
        found = next((name for mark, name in _MARKS if head.startswith(mark)), None)
        of_text = found in ("utf-16", "utf-32") or encoding.startswith(("utf-16", "utf-32"))
        kind = None if of_text else recognise(unpacked, head)
        if kind is not None:
            raise MappingError(f"{path} {kind}")
        yield _transcoded(unpacked, found or encoding, Path(folder))


def packing(head: bytes) -> str | None:
    """The name of the packing that content begins with."""
    return next((name for signature, name in _PACKED.items() if head.startswith(signature)), None)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _unpacked(path: Path, folder: Path) -> Path:
    name = packing(_head(path))
    if name is None:
        return path
    target = folder / "unpacked"
    try:
        with _opened(path, name) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, _BLOCK_BYTES)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise MappingError(f"{path} is packed by {name}, and damaged or cut off ({error}): write it again") from error
    if target.stat().st_size == 0:
        raise MappingError(f"{path} is packed by {name}, and empty: take it out, or write it again")
    return _unpacked_once(path, name, target)


def _unpacked_once(path: Path, name: str, target: Path) -> Path:
    again = packing(_head(target))
    if again is not None:
        raise MappingError(f"{path} is packed by {again} and then by {name}: unpack it once")
    return target


def _opened(path: Path, name: str) -> IO[bytes]:
    if name == "zstd":
        stream: IO[bytes] = pa.input_stream(str(path), compression="zstd")
        return stream
    readers = {"gzip": gzip.GzipFile, "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile}
    opened: IO[bytes] = readers[name](path)
    return opened


def _transcoded(path: Path, encoding: str, folder: Path) -> Path:
    if encoding in ("utf-8", "utf-8-sig"):
        return path
    target = folder / "utf-8"
    decoder = codecs.getincrementaldecoder(encoding)("orders_undecoded")
    with path.open("rb") as source, target.open("wb") as file:
        while block := source.read(_BLOCK_BYTES):
            file.write(decoder.decode(block).encode("utf-8", "surrogatepass"))
        file.write(decoder.decode(b"", final=True).encode("utf-8", "surrogatepass"))
    return target
