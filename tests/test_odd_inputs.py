"""Odd inputs as files, one test for each in odd_inputs/: the rows it gives, or the words in which it is refused.

To try another one, put the file there and a line below. All texts are invented.
"""

from pathlib import Path

import pyarrow as pa
import pytest

from helpers.sources import COMPANY, NARRATIVE, PRODUCT, SourceError, read

FOLDER = Path(__file__).with_name("odd_inputs")
COLUMNS = {"company": COMPANY, "product": PRODUCT, "text": NARRATIVE}
MORTGAGE = (
    "Mortgage",
    '"They" raised my escrow;\nno, and\tthe fee of 5 euros (café) stayed.',
)  # all that divides fields
CREDIT = ("Credit card", "My card was charged twice, on one day; nobody answers.")
PREPAID = ("Prepaid card", "Two prepaid cards never came.")
SAME = [MORTGAGE, CREDIT, PREPAID]
GIVES = {  # file: its rows as (product, text), or a pattern of what it is refused with
    # CSV, in the forms in which it circulates
    "comma.csv": SAME,
    "semicolon.csv": SAME,
    "tab.tsv": SAME,
    "tab.txt": SAME,
    "no_ending": SAME,
    "csv_called.parquet": SAME,
    "every_field_quoted_lines_of_windows.csv": SAME,
    "lines_of_an_old_mac.csv": SAME,
    "no_line_end_at_the_end.csv": SAME,
    "blank_lines.csv": SAME,
    "byte_order_mark.csv": SAME,
    "utf16.csv": SAME,
    "utf16_other_order_semicolon.csv": SAME,
    "names_of_the_api.csv": SAME,
    "names_in_upper_case.csv": SAME,
    "names_in_upper_snake_case.csv": SAME,
    "names_with_spaces_around.csv": SAME,
    "line_break_in_the_header.csv": SAME,
    "columns_in_another_order.csv": SAME,
    "more_semicolons_than_commas.csv": SAME,
    "no_complaint_id.csv": SAME,
    "a_missing_id.csv": SAME,
    "ids_of_text.csv": SAME,
    "backslashes_of_spark.csv": SAME,
    "a_backslash_before_a_quote.csv": [("Mortgage", "It is in C:\\"), CREDIT, PREPAID],
    "two_columns_of_one_name.csv": [("2024-03-14", text) for _, text in SAME],  # the first counts
    "words_that_others_take_for_missing.csv": [("Mortgage", "N/A"), ("Credit card", "null"), ("Prepaid card", None)],
    "formulas_and_markup.csv": [("Mortgage", "=1+1"), ("Credit card", "<b>bold</b>"), ("Prepaid card", "🏦 مرحبا é")],
    "header_only.csv": [],
    # CSV that is none, or not whole
    "empty.csv": r"is empty \(0 bytes\)",
    "blank.csv": r"lacks the column\(s\) \['Company', 'Product', 'Consumer complaint narrative'\]",
    "a_column_lacks.csv": r"lacks the column\(s\) \['Product'\]\.\nFound: 4 column\(s\): Date received, Consumer complaint",
    "pipes.csv": r"lacks the column\(s\).*\nFound: 1 column\(s\): Date received\|Product",
    "line_that_names_the_divider.csv": r"lacks the column\(s\).*\nFound: .*sep=",
    "sql_dump.txt": r"lacks the column\(s\).*\nFound: .*INSERT INTO",
    "row_with_a_field_too_many.csv": "has a row of 6 fields, where its header has 5, before line 7",
    "cut_between_fields.csv": r"has a row of 2 fields, where its header has 5.*\nFound: \['2024-01-01', 'Mortgage'\]",
    "cut_in_a_text.csv": r"cannot be read to its end\.\nFound: Error: unexpected end of data",
    "text_after_a_closing_quote.csv": r"cannot be read to its end\.\nFound: Error: ',' expected after",
    "code_page.csv": r"is not UTF-8 text\.\nFound: invalid continuation byte at .*caf\\xe9.*\nFix: .*-p ENCODING cp1252",
    "nul_bytes.csv": "is of no kind that is read here",
    "web_page.csv": r"is of no kind that is read here\. What is read: CSV .*\nFound: it starts with b'<!DOCTYPE",
    # JSON, in the forms in which it circulates
    "list.json": SAME,
    "mark_and_indent.json": SAME,
    "utf16.json": SAME,
    "escapes.json": SAME,
    "lines.jsonl": SAME,
    "lines.json": SAME,
    "lines_called.csv": SAME,
    "lines_of_windows.jsonl": SAME,
    "blank_lines.jsonl": SAME,
    "objects_in_one_line.json": SAME,
    "one_object.json": [MORTGAGE],
    "answer_of_the_search_api.json": SAME,
    "hits_a_line_each.json": SAME,
    "lines_without_nulls_names_of_the_api.jsonl": [(None, None), *SAME],
    "nulls.json": [("Mortgage", None), CREDIT, PREPAID],
    "numbers_for_texts.json": [("Mortgage", "5"), ("Credit card", "2"), ("Prepaid card", "2.5")],
    "empty_list.json": [],
    "answer_without_hits.json": [],
    # JSON that is none, or not whole, or of another form
    "a_key_lacks.json": r"lacks the column\(s\) \['Product'\]\.\nFound: 4 column\(s\): Date received",
    "rows_under_a_name.json": r"lacks the column\(s\).*\nFound: 1 column\(s\): rows",
    "columns.json": "holds lists or objects where texts belong",
    "list_of_numbers.json": r"holds something else than objects\.\nFound: 1\n",
    "list_of_lists.json": r'holds something else than objects\.\nFound: \["2024-03-14"',
    "cut_off.json": r"cannot be read to its end\.\nFound: IncompleteJSONError: parse error: premature EOF",
    "lines_cut_off.jsonl": r"cannot be read to its end\.\nFound: IncompleteJSONError",
    "answer_cut_off.json": r"cannot be read to its end\.\nFound: IncompleteJSONError",
    "comma_after_the_last.json": r"cannot be read to its end\.\nFound: .*unallowed token",
    "not_a_number.json": r"cannot be read to its end\.\nFound: .*NaN",
    "text_after_the_end.json": r"cannot be read to its end\.\nFound: .*the end",
    "code_page.json": r"is not UTF-8 text\.\nFound: .*caf\\xe9.*\nFix: .*-p ENCODING cp1252",
    "comment.json": r"lacks the column\(s\).*\nFound: 1 column\(s\): // letters",
    "null.json": r"lacks the column\(s\).*\nFound: 1 column\(s\): null",
}
FILES = sorted(path.name for path in FOLDER.iterdir() if not path.name.startswith("."))


def test_each_odd_input_has_its_entry_and_each_entry_its_small_file():
    assert FILES and set(FILES) == set(GIVES)
    assert not [name for name in FILES if (FOLDER / name).stat().st_size >= 2000]


@pytest.mark.parametrize("name", FILES)
def test_an_odd_input_gives_its_rows_in_order_or_is_refused_with_cause_and_fix(name):
    gives, path = GIVES[name], FOLDER / name
    if isinstance(gives, list):
        rows = pa.concat_tables(read(path, COLUMNS)).to_pylist()
        assert [(row["product"], row["text"]) for row in rows] == gives
        assert [row["id"] for row in rows] == list(range(len(gives)))
        assert {row["company"] for row in rows} <= {"EXAMPLE SAVINGS BANK"}
        return
    with pytest.raises(SourceError, match=gives) as refused:
        list(read(path, COLUMNS, parameter="EXTRA_TEST"))
    lines = str(refused.value).splitlines()
    assert lines[0].startswith(f"EXTRA_TEST {path} ") and lines[-1].startswith("Fix: ")
    assert 2 <= len(lines) <= 3 and max(map(len, lines[1:])) <= 207 and "DATASET" not in str(refused.value)
