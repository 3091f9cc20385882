"""What a file is, by its content: its name may say something else."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

HEAD_BYTES = 4096

CONVERT = "make a CSV or Parquet file of it"
_SAVE = "open it in its program and save it as CSV (UTF-8)"
_UNPACK = "unpack it first"
_AS_PARQUET = f"{CONVERT}, as in DuckDB: COPY (FROM 'x.json') TO 'x.parquet'"
_AS_SQL = "say `format: sql` and give ORDERS as"

_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PAR1", "a Parquet file", "say `format: parquet`"),
    (0, b"PARE", "an encrypted Parquet file", "decrypt it first"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Microsoft Office file (.xls)", _SAVE),
    (0, b"PK\x05\x06", "an empty ZIP archive", _UNPACK),
    (0, b"\x1f\x9d", "compressed with compress (.Z)", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "compressed with LZ4", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"SQLite format 3\0", "an SQLite database", f"{_AS_SQL} sqlite:///PATH"),
    (8, b"DUCK", "a DuckDB database", f"{_AS_SQL} duckdb:///PATH"),
    (0, b"Obj\x01", "an Avro file", CONVERT),
    (0, b"ORC", "an ORC file", CONVERT),
    (0, b"ARROW1", "an Arrow (Feather) file", CONVERT),
    (0, b"FEA1", "a Feather file", CONVERT),
    (0, b"\x89HDF", "an HDF5 file", CONVERT),
    (0, b"%PDF", "a PDF document", CONVERT),
    (0, b"{\\rtf", "an RTF document", CONVERT),
)
_DUMP = r"(--[^\n]*\s+)*(create table|insert into|drop table|begin transaction;|copy [\w.]+ \([^)]*\) from)"
_TEXTS: tuple[tuple[str, str, str], ...] = (
    (r"<!doctype html|<html|<head|<table|<body", "an HTML page", "it may be a login or an error page: export again"),
    (r"<\?xml|<\w+[^>,;]*>\s*<", "an XML file", CONVERT),
    (r"\[\s*[\[{\"]|\[\s*\]|\{\s*[\"}]", "a JSON file", _AS_PARQUET),
    (_DUMP, "an SQL dump", "load it into a database, and say `format: sql`"),
)
_UTF16 = "text in UTF-16 without its mark: say `encoding: {}`"


def recognise(path: Path, head: bytes) -> str | None:
    """Name what a file is that is not CSV text, and what to do with it; None where it may be CSV text.

    Parameters
    ----------
    path : Path
        Where the content is, for archives whose members tell what they are.
    head : bytes
        Its first `HEAD_BYTES` bytes.
    """
    if head.startswith(b"PK\x03\x04"):
        return _zipped(path)
    for offset, signature, name, advice in _SIGNATURES:
        if head.startswith(signature, offset) and (name != "an ORC file" or b"\0" in head):
            return f"is {name}: {advice}"
    return _text_of_another_kind(head) or _no_text(head)


def _zipped(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        names = []
    if any(name.startswith("xl/") for name in names):
        return f"is an Excel workbook (.xlsx): {_SAVE}"
    if "mimetype" in names or "[Content_Types].xml" in names:
        return f"is an Office document: {_SAVE}"
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"is a ZIP archive{f' of {shown}' if names else ', and damaged'}: {_UNPACK}"


def _text_of_another_kind(head: bytes) -> str | None:
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").lstrip().casefold()
    for pattern, name, advice in _TEXTS:
        if re.match(pattern, text):
            return f"is {name}: {advice}"
    return None


def _no_text(head: bytes) -> str | None:
    """Most control characters do not occur in text, and NUL does in every second byte of UTF-16."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) > len(head) // 5 and min(even, odd) <= len(head) // 50:
        return "is " + _UTF16.format("utf-16-be" if even > odd else "utf-16-le")
    control = sum(byte < 32 and byte not in b"\t\n\r\x0b\x0c\x1a\x1b\x1c\x1d\x1e\x1f\x01" for byte in head)
    return f"is no text (it begins with the bytes {head[:8].hex(' ')}): {CONVERT}" if control * 20 > len(head) else None
