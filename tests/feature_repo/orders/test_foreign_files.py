"""Encodings, packings and files of other kinds: read, or refused by the name of what they are."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sqlite3
import tarfile
import zipfile

import polars as pl
import pyarrow as pa
import pytest

from feature_repo.orders.mapping_file import MappingError

TEXT = "order,shop,placed,total\n1,Café,2026-05-04 12:00,21.50\n2,r2,2026-05-04 12:10,18.00\n"
ROWS = [("1", "Café", 21.5), ("2", "r2", 18.0)]
BAD_BYTE = TEXT.encode().replace("é".encode(), b"\xe9")


def zstd(content):
    return pa.compress(content, codec="zstd", asbytes=True)


def archive(*names, content=TEXT):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        for name in names:
            file.writestr(name, content)
    return sink.getvalue()


def tar():
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as file:
        member = tarfile.TarInfo("orders.csv")
        member.size = len(TEXT.encode())
        file.addfile(member, io.BytesIO(TEXT.encode()))
    return sink.getvalue()


def parquet():
    sink = io.BytesIO()
    pl.DataFrame({"order": ["1"]}).write_parquet(sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (TEXT.encode(), "UTF8"),
        (TEXT.encode("utf-8-sig"), "utf-8"),
        (TEXT.encode("utf-8-sig"), "cp1252"),
        (TEXT.encode("utf-16"), "utf-8"),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "utf-8"),
        (TEXT.encode("utf-16-le"), "utf-16-le"),
        (TEXT.encode("utf-16-be"), "UTF-16BE"),
        (TEXT.encode("utf-32"), "utf-8"),
        (TEXT.encode("cp1252"), "cp1252"),
        (TEXT.encode("latin-1"), "iso-8859-1"),
        (TEXT.encode("mac-roman"), "mac_roman"),
        (TEXT.encode("cp500"), "cp500"),
        (gzip.compress(TEXT.encode()), "utf-8"),
        (gzip.compress(TEXT.encode()[:40]) + gzip.compress(TEXT.encode()[40:]), "utf-8"),
        (gzip.compress(TEXT.encode("utf-16")), "utf-8"),
        (bz2.compress(TEXT.encode()), "utf-8"),
        (lzma.compress(TEXT.encode("cp1252")), "cp1252"),
        (zstd(TEXT.encode()), "utf-8"),
    ],
)
def test_text_in_any_encoding_and_packing_is_read(intake, content, encoding):
    intake.read(content, encoding=encoding)
    assert (intake.rows(), intake.report.refused) == (ROWS, {})


@pytest.mark.parametrize("content", [TEXT.encode(), gzip.compress(TEXT.encode()), bz2.compress(TEXT.encode())])
def test_a_name_does_not_say_how_a_file_is_packed(intake, content):
    intake.bring(intake.write(content, "orders.csv.gz"))
    assert intake.rows() == ROWS


@pytest.mark.parametrize(
    ("content", "encoding", "fault"),
    [
        (BAD_BYTE, "utf-8", r"sign 6 (bytes e9) is no text in this encoding: say which one it is (`encoding:`"),
        (TEXT.encode(), "ascii", "sign 6 is no text in this encoding"),
        (TEXT.encode().replace("é".encode(), b"\x81"), "cp1252", "sign 6 is no text in this encoding"),
        (TEXT.encode("shift_jis", "ignore").replace(b"Caf", b"Caf\x81\xff"), "shift_jis", "sign 6 is no text"),
        (BAD_BYTE.replace(b"\n2,r2", b'\n2,"r2"'), "utf-8", "sign 6 (bytes e9)"),
        (TEXT.encode().replace("é".encode(), b"\xed\xa0\x80"), "utf-8", "sign 6 (bytes ed a0 80)"),
    ],
)
def test_bytes_that_are_no_text_refuse_their_line_and_no_other(intake, content, encoding, fault):
    intake.read(content, encoding=encoding)
    assert intake.rows() == ROWS[1:]
    assert f"line 2 of orders.csv is no row of this CSV file: {fault}" in intake.reasons[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive("xl/workbook.xml", "[Content_Types].xml"), r"is an Excel workbook \(.xlsx\): open it .* as CSV"),
        (archive("word/document.xml", "[Content_Types].xml"), r"is an Office document"),
        (archive("orders.csv", "b.csv"), r"is a ZIP archive of orders.csv, b.csv: unpack it first"),
        (archive("orders.csv")[:60], r"is a ZIP archive, and damaged: unpack it first"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, r"is an old Microsoft Office file \(.xls\)"),
        (parquet(), r"is a Parquet file: say `format: parquet`"),
        (b'{"order": 1}\n{"order": 2}\n', r"is a JSON file: make a CSV or Parquet file of it, as in DuckDB: COPY"),
        (b'\xef\xbb\xbf\n [\n {"order": 1}]', r"is a JSON file"),
        (b"[]", r"is a JSON file"),
        (b"<!DOCTYPE html>\n<html><body>Please log in", r"is an HTML page: it may be a login"),
        (b"<?xml version='1.0'?><orders/>", r"is an XML file"),
        (b"<orders><order/></orders>", r"is an XML file"),
        (b"-- dump\nCREATE TABLE orders (id INT);", r"is an SQL dump: load it into a database"),
        (b"Obj\x01\x04\x14avro.codec", r"is an Avro file"),
        (b"ORC\x0a\x0b\0\0\0", r"is an ORC file"),
        (b"ARROW1\0\0", r"is an Arrow \(Feather\) file"),
        (b"%PDF-1.7\n", r"is a PDF document"),
        (b"\x04\x22\x4d\x18abc", r"is compressed with LZ4: unpack it first"),
        (b"7z\xbc\xaf\x27\x1cabc", r"is a 7-Zip archive"),
        (tar(), r"is a tar archive"),
        (gzip.compress(tar()), r"is a tar archive"),
        (gzip.compress(b'{"order": 1}'), r"is a JSON file"),
        (gzip.compress(gzip.compress(TEXT.encode())), r"is packed by gzip and then by gzip: unpack it once"),
        (gzip.compress(TEXT.encode() * 50)[:-12], r"is packed by gzip, and damaged or cut off"),
        (gzip.compress(b""), r"is packed by gzip, and empty"),
        (TEXT.encode("utf-16-le"), r"is text in UTF-16 without its mark: say `encoding: utf-16-le`"),
        (TEXT.encode("utf-16-be"), r"is text in UTF-16 without its mark: say `encoding: utf-16-be`"),
        (bytes(range(32)) * 40, r"is no text \(it begins with the bytes 00 01 02"),
    ],
)
def test_a_file_of_another_kind_is_named(intake, content, message):
    with pytest.raises(MappingError, match=rf"orders.csv {message}"):
        intake.read(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode(), r"it is text: if it is CSV, say `format: csv`"),
        (gzip.compress(parquet()), r"it is packed by gzip: unpack it first"),
        (parquet()[:-20], r"it is cut off: write it again"),
        (parquet()[:30], r"it is cut off"),
        (b"PAR1" + b"\0" * 30 + b"PAR1", r"cannot be read as parquet: "),
        (archive("xl/workbook.xml"), r"it is an Excel workbook"),
        (b'{"order": 1}', r"it is a JSON file"),
        (b"x", r"it is text"),
    ],
)
def test_a_file_that_is_no_parquet_file_is_named(intake, content, message):
    with pytest.raises(MappingError, match=rf"orders.parquet cannot be read as parquet: {message}|{message}"):
        intake.bring(intake.write(content, "orders.parquet"), {"format": "parquet"})


def test_databases_given_as_files_are_named(intake):
    intake.folder.mkdir(parents=True)
    with sqlite3.connect(intake.folder / "shop.db") as database:
        database.execute("CREATE TABLE orders (id INTEGER)")
    with pytest.raises(
        MappingError, match=r"is an SQLite database: say `format: sql` and give ORDERS as sqlite:///PATH"
    ):
        intake.bring(intake.folder / "shop.db")


def test_a_header_that_begins_with_a_bracket_or_a_file_type_s_name_is_text(intake):
    columns = {"order_id": "ORC", "restaurant_id": "[shop]", "placed_at": "placed", "order_value": None}
    intake.bring(intake.write("ORC,[shop],placed\n1,r1,2026-05-04 12:00\n"), columns=columns)
    intake.bring(
        intake.write("copy of the till, May\nORC,[shop],placed\n1,r1,2026-05-04 12:00\n", "c.csv"), {"skip": 1}, columns
    )
    intake.bring(intake.write("<x>,ORC,[shop],placed\n,1,r1,2026-05-04 12:00\n", "d.csv"), columns=columns)
    intake.bring(intake.write("[shop],ORC,placed\nr1,1,2026-05-04 12:00\n", "b.csv"), columns=columns)
    assert intake.rows("order_id", "restaurant_id") == [("1", "r1")]


@pytest.mark.parametrize("name", ["orders[1].csv", "what?.csv", "all*.csv", "it's.csv", "50%.csv"])
def test_a_file_s_name_is_no_pattern_and_no_sql(intake, name):
    intake.write(TEXT.replace("1,", "9,", 1), "orders1.csv")
    intake.bring(intake.write(TEXT, name))
    assert intake.rows() == ROWS


def test_a_folder_is_told_from_a_file(intake):
    intake.write(TEXT)
    with pytest.raises(MappingError, match=r"files is a folder: write a pattern for the files in it, such as"):
        intake.bring(intake.folder)
