"""CSV dialects: what is read, what is refused with its line, and what it says."""

from __future__ import annotations

import hashlib

import pytest

from feature_repo.orders.mapping_file import MappingError

HEADER = "order,shop,placed,total"
FIRST = "1,r1,2026-05-04 12:00,21.50"
SECOND = "2,r2,2026-05-04 12:10,18.00"
ROWS = [("1", "r1", 21.5), ("2", "r2", 18.0)]


def lines(*texts, end="\n"):
    return "".join(text + end for text in texts)


PLAIN = lines(HEADER, FIRST, SECOND)
SEMICOLONS = PLAIN.replace(",", ";")


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (PLAIN, {}),
        (PLAIN.rstrip(), {}),
        (PLAIN.replace("\n", "\r\n"), {}),
        (PLAIN.replace("\n", "\r"), {}),
        (lines(HEADER, FIRST, end="\r\n") + lines(SECOND), {}),
        (lines(HEADER) + lines(FIRST, SECOND, end="\r\n"), {}),
        (lines(HEADER) + lines(FIRST, end="\r") + lines(SECOND, end="\r\n"), {}),
        (f"\n\n{HEADER}\n\n{FIRST}\n \t\n{SECOND}\n\n\n", {}),
        (PLAIN + "\x1a", {}),
        ("\ufeff" + PLAIN, {}),
        (SEMICOLONS, {}),
        (PLAIN.replace(",", "\t"), {}),
        (PLAIN.replace(",", "|"), {}),
        (PLAIN.replace(",", "^"), {"delimiter": "^"}),
        (PLAIN.replace(",", "||"), {"delimiter": "||"}),
        (PLAIN.replace(",", "\t"), {"delimiter": "tab"}),
        (PLAIN.replace(",", " , "), {}),
        (lines(' Order ,\u200bSHOP,"placed ",\u00a0total', FIRST, SECOND), {}),
        ("sep=;\n" + SEMICOLONS, {}),
        ('"sep=;"\r\n' + SEMICOLONS.replace("\n", "\r\n"), {}),
        ("sep=^\n" + PLAIN.replace(",", "^"), {}),
        ("SEP=;\n" + SEMICOLONS, {"delimiter": ";"}),
        ("Orders report 01.05.2026\n" + PLAIN, {}),
        ("Orders report\nof the till\n\n" + PLAIN, {}),
        ("Orders report, May\n" + PLAIN, {"skip": 1}),
        ('An "odd title, with a quote\n\n' + PLAIN, {"skip": 2}),
        ("# till 4\n" + PLAIN, {"comment": "#"}),
        ("# till 4\n" + PLAIN, {"skip": 1}),
        (lines(HEADER, FIRST, "#3,r1,2026-05-04 12:00,1", SECOND), {"comment": "#"}),
        (lines("// till", HEADER, FIRST, "// and so on", SECOND), {"comment": "//"}),
        (lines(f"{HEADER},", FIRST, SECOND), {}),
        (lines(f"{HEADER},", f"{FIRST},", f"{SECOND},"), {}),
        (lines(HEADER, f"{FIRST},", f"{SECOND},"), {}),
        (lines(HEADER, f"{FIRST},,", f"{SECOND},,"), {}),
        (lines(HEADER, f"{FIRST},", SECOND), {}),
        (lines(HEADER, FIRST, f"{SECOND},,"), {}),
        (lines(f"{HEADER},", f"{FIRST},a note", f"{SECOND},"), {}),
        (lines(f"{HEADER},,", f"{FIRST},,a note", f"{SECOND},,"), {}),
        (PLAIN.replace("r1", '"r1"').replace("1,", '"1",', 1), {}),
        (PLAIN.replace("r1", "'r1'"), {"quote": "'"}),
        (lines("order,shop,placed,total,Total,note,note,,", f"{FIRST},,a,b,,", f"{SECOND},,c,d,,"), {"quote": '"'}),
    ],
)  # fmt: skip
def test_what_is_unambiguous_is_read(intake, content, options):
    columns = {"order_value": "total (field 4)"} if "Total" in content else {}
    intake.bring(intake.write(content), options, columns)
    assert (intake.rows(), intake.report.refused, intake.report.rows_read) == (ROWS, {}, 2)


@pytest.mark.parametrize(
    ("first", "options", "expected"),
    [
        ("#1,r1 #2,2026-05-04 12:00,1", {}, ("#1", "r1 #2")),
        ('1,5" pizza,2026-05-04 12:00,1', {}, ("1", '5" pizza')),
        ('1,"a ""b"" c",2026-05-04 12:00,1', {}, ("1", 'a "b" c')),
        ('1,"a, b",2026-05-04 12:00,1', {}, ("1", "a, b")),
        ('1,"a\nb",2026-05-04 12:00,1', {}, ("1", "a\nb")),
        ('1,"a\r\n\r\nb",2026-05-04 12:00,1', {}, ("1", "a\r\n\r\nb")),
        ('1, "r1" ,2026-05-04 12:00,1', {}, ("1", "r1")),
        ('1,"a \\" b",2026-05-04 12:00,1', {"escape": "\\"}, ("1", 'a " b')),
        ('1,"a \\\\",2026-05-04 12:00,1', {"escape": "\\"}, ("1", "a \\")),
        ('"1","a",2026-05-04 12:00,1', {"quote": "none"}, ('"1"', '"a"')),
        ('1,"big" pizza,2026-05-04 12:00,1', {"strict": False}, ("1", '"big" pizza')),
        ('1,"big pizza,2026-05-04 12:00,1', {"strict": False}, ("1", '"big pizza')),
        ("1,a\u2028b\x85c,2026-05-04 12:00,1", {}, ("1", "a\u2028b\x85c")),
        (f"1,{'x' * 70_000},2026-05-04 12:00,1", {}, ("1", "x" * 70_000)),
        (f'1,"{"x" * 3_000_000}",2026-05-04 12:00,1', {}, ("1", "x" * 3_000_000)),
    ],
)
@pytest.mark.parametrize("spoilt", [False, True])
def test_a_value_is_the_same_whether_the_file_keeps_the_rules_or_one_of_its_lines_breaks_them(
    intake, first, options, expected, spoilt
):
    path = intake.write(lines(HEADER, first, SECOND, *["too few"] * spoilt))
    intake.bring(path, options, {"restaurant_id": "md5(shop)"})
    shops = [(order, hashlib.md5(shop.encode()).hexdigest()) for order, shop in (expected, ("2", "r2"))]
    assert intake.rows("order_id", "restaurant_id") == shops
    assert intake.report.refused == ({"unparsable": 1} if spoilt else {})


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ('3,"big" pizza,2026-05-04 12:00,1', "field 2 goes on after its closing quote, with ' pizza,"),
        ('3,"big pizza,2026-05-04 12:00,1', "the quote that opens field 2 is never closed; double the quotes"),
        ("3,r1,2026-05-04 12:00", "it has 3 fields, and the header 4"),
        (
            "3,r1,2026-05-04 12:00,21,50",
            "it has 5 fields, and the header 4; '21,50' looks like a number with a decimal",
        ),
        ("3,r1,2026-05-04 12:00,21,50,", "it has 6 fields, and the header 4"),
        ("3,r1,2026-05-04 12:00,1,x", "it has 5 fields, and the header 4"),
        ("3,a, b,2026-05-04 12:00,1", "it has 5 fields, and the header 4: a value with ',' in it needs quotes"),
        ("3,r\x001,2026-05-04 12:00,1", "sign 4 is a NUL byte"),
        ("4 orders", "it has 1 fields, and the header 4"),
        ("3,r\r1,2026-05-04 12:00,1", "it has 2 fields, and the header 4"),
    ],
)
def test_a_line_that_breaks_the_rules_is_refused_by_its_number_and_takes_no_other_with_it(intake, broken, fault):
    path = intake.write(
        lines(HEADER, FIRST, "", '5,"a\nb",2026-05-04 12:00,1', broken, SECOND, '6,"",2026-05-04 12:00,1')
    )
    intake.bring(path, columns={"restaurant_id": "md5(shop)"})
    assert f"line 6 of orders.csv is no row of this CSV file: {fault}" in intake.reasons[0]
    assert {"1", "2", "5", "6"} == {row[0] for row in intake.rows()}
    assert intake.report.rows_read == 4 + len(intake.reasons)


def test_quotes_that_come_late_in_a_long_file_are_no_part_of_the_values(intake):
    early = [f"{number},r1,2026-05-04 12:00,1" for number in range(20_600)]
    late = [f'"{number}","r1",2026-05-04 12:00,1' for number in range(20_600, 20_640)]
    intake.read(lines(HEADER, *early, *late))
    assert {row[0] for row in intake.rows()} == {str(number) for number in range(20_640)}


def test_days_with_and_without_a_stray_quote_have_the_same_ids(intake):
    monday = intake.write(lines(HEADER, '"1","r1",2026-05-04 12:00,1'), "monday.csv")
    intake.write(lines(HEADER, '"2","r1",2026-05-04 12:00,1', '3,"big" pizza,2026-05-04 12:00,1'), "tuesday.csv")
    intake.bring(monday.parent / "*day.csv")
    assert intake.rows("order_id", "restaurant_id") == [("1", "r1"), ("2", "r1")]
    assert "line 3 of tuesday.csv" in intake.reasons[0]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("# till 4\n" + PLAIN, {}, r"""line 1 \('# till 4'\) looks like a comment: .*`skip: 1` .*`comment: "#"`"""),
        ("# till 4, May\n" + PLAIN, {}, r"""line 1 has 2 fields .*say `skip: 1`, or `comment: "#"`"""),
        ("Orders report, May\n" + PLAIN, {}, r"line 1 has 2 fields .*3 of 4 fields.*say `skip: 1`"),
        ('Report of "May"\n"Orders\n' + PLAIN, {}, r"3 of 4 fields.* what is above line 3 is a title, say `skip: 2`"),
        ('"Orders\n' + PLAIN, {}, r"line 1 is no header: .* never closed.*say `skip:`"),
        (lines(HEADER, "1,r1,2026-05-04 12:00,21,50", "2,r1,2026-05-04 12:00,18,00"), {},
         r"""line 1 has 4 fields .*Fields 4 and 5: '21,50' looks like .* decimal comma .*`decimal: ","`"""),
        (lines("order,shop,placed,total,km", "1,r1,2026-05-04 12:00,21,50,", "2,r1,2026-05-04 12:00,18,00,"), {},
         r"Fields 4 and 5: '21,50' looks like a number with a decimal comma"),
        (lines("order;shop;placed;total, EUR", "1;r1;2026-05-04 12:00;21,50"), {},
         r"line 1 can be split at ',' \(2 columns\) and ';' \(4 columns\): say which .*`delimiter:`"),
        ("sep=;\n" + SEMICOLONS, {"delimiter": ","}, r"line 1 says that ';' is between the columns, the mapping says"),
        (PLAIN, {"skip": 7}, r"orders.csv has no header: its 3 lines, 7 of them left out have nothing in them"),
        ("# a\n\n# b\n", {"comment": "#"}, r"its 3 lines have nothing in them but comments \('#'\)"),
        (FIRST, {}, r"has no rows: nothing is below the header \(1, r1,.*write a header above it"),
        (lines("order,shop,placed,total,Total", f"{FIRST},1"), {}, r"no column 'total'. It has .*'total \(field 4\)'"),
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_refused_and_the_option_is_named(intake, content, options, message):
    with pytest.raises(MappingError, match=rf"(?s)orders.csv.*{message}|{message}"):
        intake.read(content, **options)


def test_a_file_of_broken_lines_only_is_not_called_empty(intake):
    with pytest.raises(
        MappingError, match=r"(?s)2 of 2 order versions do not convert \(2 unparsable\).*line 2 of orders"
    ):
        intake.read(lines(HEADER, '1,"r1" x,2026-05-04 12:00,1', '2,"r1" x,2026-05-04 12:00,1'))


def test_what_was_left_out_or_decided_is_told(intake):
    intake.read(f"old line\n# a\nReport\n{HEADER}\n# b\n{FIRST}\n", comment="#", skip=1)
    assert intake.report.told == [
        "orders.csv: 1 lines skipped, as the mapping says",
        "orders.csv: line 3 stands alone above the header, and is left out: 'Report'",
        "orders.csv: 2 comment lines left out",
    ]
    assert "  note: orders.csv: 2 comment lines left out" in intake.report.summary()


def test_a_column_without_a_name_that_was_empty_so_far_has_to_stay_so(intake):
    intake.read(lines(f"{HEADER},", *[f"{FIRST},"] * 250, f"{SECOND},x"))
    assert intake.rows() == ROWS[:1]
    assert "line 252 of orders.csv is no row of this CSV file: it has 5 fields, and the header 4" in intake.reasons[0]


def test_a_name_that_stands_twice_in_the_header_has_to_be_told_apart(intake):
    with pytest.raises(MappingError, match=r"has no column 'total'.*'total \(field 4\)', 'Total \(field 5\)'"):
        intake.read(lines(f"{HEADER},Total", f"{FIRST},1", f"{SECOND},2"))


@pytest.mark.parametrize("headless", [lines(FIRST), lines(SECOND, "3,r3,2026-05-04 12:20,1.00")])
@pytest.mark.parametrize("name", ["a.csv", "z.csv"])
def test_a_file_without_a_header_among_others_does_not_lose_its_first_row_to_it(intake, headless, name):
    intake.write(headless, name)
    for other in ("m.csv", "n.csv"):
        intake.write(PLAIN, other)
    with pytest.raises(MappingError, match=rf"{name}: none of its columns .* is in another file .*write the header"):
        intake.bring(intake.folder / "*.csv")


@pytest.mark.parametrize(
    ("text", "options", "value"),
    [
        ("21,50", {"decimal": ","}, 21.5),
        ("1.234,50", {"decimal": ",", "thousands": "."}, 1234.5),
        ("1.234", {"decimal": ",", "thousands": "."}, 1234.0),
        ("-1,5e2", {"decimal": ","}, -150.0),
        ("1,234.50", {"thousands": ","}, 1234.5),
        ("1\u202f234,5", {"decimal": ",", "thousands": " "}, 1234.5),
        ("1\u2019234.5", {"thousands": "'"}, 1234.5),
        ("21.50", {}, 21.5),
    ],
)
def test_numbers_are_read_with_the_signs_of_the_mapping(intake, text, options, value):
    intake.read(lines(HEADER, f'1,r1,2026-05-04 12:00,"{text}"'), **options)
    assert intake.rows("order_value") == [(value,)]


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("21,50", {}, '"21,50" is no number; if the comma is its decimal sign, say `decimal: ","`'),
        ("21.50", {"decimal": ","}, '"21.50" is no number with the decimal sign ,'),
        ("21.50", {"decimal": ",", "thousands": "."}, "no number with the decimal sign , and the thousands sign ."),
        ("1,23", {"thousands": ","}, '"1,23" is no number'),
        ("12.34.567,8", {"decimal": ",", "thousands": "."}, '"12.34.567,8" is no number'),
    ],
)
def test_a_number_with_other_signs_is_refused_not_guessed(intake, text, options, reason):
    intake.read(lines(HEADER, SECOND.replace("18.00", "18"), f'1,r1,2026-05-04 12:00,"{text}"'), **options)
    assert intake.rows("order_id") == [("2",)]
    assert reason in intake.reasons[0]


def test_decimal_signs_are_for_columns_not_for_what_an_expression_makes(intake):
    content = lines(HEADER.replace(",", ";"), "1;r1;2026-05-04 12:00;21,50")
    intake.bring(intake.write(content), {"decimal": ","}, {"order_value": "replace(total, ',', '.')"})
    assert intake.rows("order_value") == [(21.5,)]


@pytest.mark.parametrize(
    ("read", "message"),
    [
        ({"quote": "ab"}, r"read.quote: 'ab' is not one sign"),
        ({"escape": ""}, r"read.escape: '' is not one sign"),
        ({"delimiter": ""}, r"read.delimiter: '' is no delimiter"),
        ({"delimiter": '"'}, r"`delimiter` '\"' is the sign of quotes or comments"),
        ({"skip": -1}, r"read.skip: Input should be greater than or equal to 0"),
        ({"decimal": "7"}, r"read.decimal: '7' is no decimal or thousands sign"),
        ({"decimal": ",", "thousands": ","}, r"`decimal` and `thousands` are both ','"),
        ({"encoding": "klingon"}, r"read.encoding: 'klingon' is no encoding that Python knows"),
        ({"encoding": "rot13"}, r"read.encoding: 'rot13' is no encoding"),
        ({"format": "parquet", "skip": 1}, r"`skip` belongs to format csv, not parquet"),
    ],
)
def test_a_faulty_option_is_named(intake, read, message):
    with pytest.raises(MappingError, match=message):
        intake.bring("x.csv", read)
