"""The wire's spellings, held to their definitions over wild input."""

from __future__ import annotations

import base64
import gc
import json
import re
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from projects_wsgi import ProjectKind, wire
from projects_wsgi.model import parse_identifier, render_global_id
from projects_wsgi.wsgi import TEXT, HTTPError, Response

# All that a store can hold: any text but lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]))
rows = st.tuples(st.integers(1, 2**63 - 1), texts, st.none() | texts)


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def refused(parse: Callable[..., Any], *arguments: Any) -> Response:
    """Return the answer that a parser raises."""
    with pytest.raises(HTTPError) as caught:
        parse(*arguments)
    return caught.value.response


def as_dict(row: tuple[int, str, str | None]) -> dict[str, Any]:
    project_id, name, description = row
    return {
        "name": name,
        "description": description,
        "id": base64.b64encode(f"Project:{project_id}".encode()).decode(),
    }


@given(rows)
@example((1, '\x00\x1f\x7f\u2028\u2029\ufeff\\"/</script>🚀', "\ud7ff\ue000\U0010ffff"))
def test_a_project_is_what_json_dumps_makes_of_it(row: tuple[int, str, str | None]) -> None:
    assert wire.render_project(row) == compact({"data": as_dict(row)})


@given(st.lists(rows, max_size=6), st.integers(1, 6))
def test_a_page_is_what_json_dumps_makes_of_it(page: list[tuple[int, str, str | None]], limit: int) -> None:
    page = page[: limit + 1]
    expected = {
        "data": [as_dict(row) for row in page[:limit]],
        "next_cursor": as_dict(page[limit])["id"] if len(page) > limit else None,
    }
    assert wire.render_page(page, limit, 10**9) == compact(expected)


A_ROW = (1, "a", None)


@given(st.lists(rows, max_size=6), st.integers(1, 6), st.integers(1, 200))
@example([A_ROW] * 3, 3, 2 * len(compact(as_dict(A_ROW))))  # the comma between the two is too much
@example([A_ROW] * 3, 3, len(compact(as_dict(A_ROW))) + 1)  # with its comma, the first fits
def test_a_page_ends_with_the_project_that_makes_it_longer_than_it_may_be(
    page: list[tuple[int, str, str | None]], limit: int, max_size: int
) -> None:
    whole = json.loads(wire.render_page(page, limit, 10**9))["data"]
    answer = json.loads(wire.render_page(page, limit, max_size))
    listed = answer["data"]
    assert listed == whole[: len(listed)]
    sizes = [len(compact(project)) for project in listed]
    # Without the last one, and the comma after each of the others, it was not too long.
    assert sum(sizes[:-1]) + len(sizes[:-1]) <= max_size
    if len(listed) < len(whole):
        assert sum(sizes) + len(sizes) > max_size
    following = page[len(listed)] if len(listed) < len(page) else None
    assert answer["next_cursor"] == (following and as_dict(following)["id"])


# Ids and cursors


def global_id(number: str, type_name: str = "Project") -> str:
    return base64.b64encode(f"{type_name}:{number}".encode()).decode()


@given(st.integers())
def test_an_id_is_the_base64_of_project_and_integer_and_reads_back(number: int) -> None:
    rendered = render_global_id(number)
    assert base64.b64decode(rendered, validate=True) == f"Project:{number}".encode()
    assert parse_identifier(rendered) == number
    assert wire.parse_cursor(rendered) == number


def test_every_id_that_is_rendered_matches_the_pattern() -> None:
    # Base64 spells three digits at a time, after the first: four show every spelling.
    for number in range(1, 10_000):
        assert re.fullmatch(wire.ID_PATTERN, render_global_id(number))


@pytest.mark.parametrize("text", ["", "default", "UHJvamVjdDo", "UHJvamVjdDox\n", global_id("1", "Other")])
def test_what_does_not_begin_as_an_id_does_not_match_the_pattern(text: str) -> None:
    assert re.fullmatch(wire.ID_PATTERN, text) is None


def test_the_first_id_is_the_one_that_everybody_knows() -> None:
    assert render_global_id(1) == "UHJvamVjdDox"


@given(texts.filter(lambda text: text != "Project" and ":" not in text), st.integers())
def test_a_cursor_may_be_of_any_type_an_id_only_of_project(type_name: str, number: int) -> None:
    encoded = global_id(str(number), type_name)
    assert wire.parse_cursor(encoded) == number
    assert parse_identifier(encoded) == encoded


@given(texts.filter(bool) | st.binary(min_size=1).map(lambda raw: base64.b64encode(raw).decode()))
def test_what_does_not_decode_is_a_name_and_no_cursor(text: str) -> None:
    try:
        type_name, number = base64.b64decode(text.encode()).decode().split(":", 1)
        expected = int(number)
    except ValueError:
        assert parse_identifier(text) == text
        answer = Response(422, TEXT, f"Invalid cursor format: {text}".encode())
        assert refused(wire.parse_cursor, text) == answer
    else:
        assert wire.parse_cursor(text) == expected
        assert parse_identifier(text) == (expected if type_name == "Project" else text)


# Read off a running Phoenix 20.26.1: it decodes leniently.
@pytest.mark.parametrize(
    "text",
    [
        "UHJvamVjdDox!",
        "UHJv amVjdDox",
        "UHJvamVjdDox====",
        "=UHJvamVjdDox",
        "项UHJvamVjdDox",
        "UHJvamVjdDorMQ==",
    ],
)
def test_other_characters_in_an_id_are_skipped(text: str) -> None:
    assert parse_identifier(text) == 1


def test_an_empty_cursor_is_none() -> None:
    assert wire.parse_cursor("") is None


# Integers and booleans


def errors_of(query: str) -> list[dict[str, Any]]:
    response = refused(wire.parse_page_parameters, query, 1_000)
    assert (response.status, response.content_type) == (422, "application/json")
    detail: list[dict[str, Any]] = json.loads(response.body)["detail"]
    return detail


def quoted(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


blanks = st.text(" \t\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u3000", max_size=3)
underscored = st.lists(st.text("0123456789", min_size=1, max_size=4), min_size=1).map("_".join)


@given(blanks, st.sampled_from(["", "+", "-"]), underscored, st.sampled_from(["", ".0", ".00"]), blanks)
@example("", "", "9" * 5_000, "", "")
@example("", "+", "0_" * 3_000 + "7", ".0", "")
def test_integers_may_have_blanks_a_sign_underscores_and_a_zero_fraction(
    before: str, sign: str, digits: str, fraction: str, after: str
) -> None:
    text = before + sign + digits + fraction + after
    significant = digits.replace("_", "").lstrip("0")
    if significant and sign != "-":
        expected = min(int(significant[:30]), 1_000)
        assert wire.parse_page_parameters(f"limit={quoted(text)}", 1_000).limit == expected
    else:
        (error,) = errors_of(f"limit={quoted(text)}")
        assert error == {
            "type": "greater_than",
            "loc": ["query", "limit"],
            "msg": "Input should be greater than 0",
            "input": text,
            "ctx": {"gt": 0},
        }


@given(st.text("0123_+-. eExX\t٣", max_size=6) | texts)
@example("1.5")
@example("1e2")
@example("0x10")
@example("1__0")
@example("_1")
@example("1_")
@example("1.")
@example(".5")
@example("٣")
@example("1\x1c")
@example("- 1")
def test_nothing_else_is_an_integer(text: str) -> None:
    stripped = text.strip(
        "".join(c for c in map(chr, range(0x3001)) if c.isspace() and c not in "\x1c\x1d\x1e\x1f")
    )
    is_integer = re.fullmatch(r"[+-]?[0-9]+(_[0-9]+)*(\.0+)?", stripped)
    if is_integer is None:
        (error,) = errors_of(f"limit={quoted(text)}")
        assert (error["type"], error["input"]) == ("int_parsing", text)


TRUE, FALSE = {"1", "on", "t", "true", "y", "yes"}, {"0", "off", "f", "false", "n", "no"}


@given(
    st.sampled_from(sorted(TRUE | FALSE)).flatmap(
        lambda word: st.sampled_from([word, word.upper(), word.title()])
    )
)
def test_booleans_are_twelve_words_in_any_case(word: str) -> None:
    kinds = wire.parse_page_parameters(f"include_experiment_projects={word}", 1_000).kinds
    assert (ProjectKind.EXPERIMENT in kinds) == (word.lower() in TRUE)
    assert ProjectKind.STANDARD in kinds
    assert ProjectKind.DATASET_EVALUATOR not in kinds


@given(
    (texts | st.sampled_from([" true", "true ", "01", "1.0", "2", "-1", "null"])).filter(
        lambda text: text.lower() not in TRUE | FALSE
    )
)
def test_nothing_else_is_a_boolean(text: str) -> None:
    (error,) = errors_of(f"include_dataset_evaluator_projects={quoted(text)}")
    assert error == {
        "type": "bool_parsing",
        "loc": ["query", "include_dataset_evaluator_projects"],
        "msg": "Input should be a valid boolean, unable to interpret input",
        "input": text,
    }


def test_a_page_without_a_query_is_the_first_hundred_or_the_largest() -> None:
    standard = frozenset([ProjectKind.STANDARD])
    assert wire.parse_page_parameters("", 1_000) == (None, 100, "", standard)
    assert wire.parse_page_parameters("", 50) == (None, 50, "", standard)
    assert wire.parse_page_parameters("limit=51", 50).limit == 50


# Bodies

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


@given(json_values)
@example("\ud800")
@example({"\udfff": ["\ud83d\ud83d\ude00"]})
def test_what_came_goes_back_as_the_input_of_the_error(value: Any) -> None:
    body = json.dumps({"name": [value]}).encode()
    response = refused(wire.parse_create, body, "application/json")
    (error,) = json.loads(response.body)["detail"]
    assert json.dumps(error["input"]) == json.dumps(json.loads(body)["name"])
    assert (error["type"], error["loc"]) == ("string_type", ["body", "name"])


@given(texts.filter(bool), st.none() | texts)
def test_a_good_body_gives_its_name_and_description(name: str, description: str | None) -> None:
    body = json.dumps({"name": name, "description": description}).encode()
    if isinstance(parse_identifier(name), int):
        return
    assert wire.parse_create(body, "application/json") == (name, description)
    assert wire.parse_create(b"\xef\xbb\xbf" + body, "APPLICATION/vnd.x+JSON; a=b") == (name, description)
    assert wire.parse_update(body, "application/json") == description


def refusal(body: bytes, content_type: str = "application/json") -> tuple[int, Any]:
    response = refused(wire.parse_create, body, content_type)
    is_json = response.content_type == wire.JSON
    return response.status, json.loads(response.body) if is_json else response.body.decode()


UNREADABLE = (400, "There was an error parsing the body")


# Messages and positions are those of Phoenix's Python; newer ones word some differently.
@pytest.mark.parametrize(
    ("body", "position", "message"),
    [
        ("{bad", 1, "Expecting property name enclosed in double quotes"),
        ('{"a":1,}', 7, "Expecting property name enclosed in double quotes"),
        ('{"a":1 , \n}', 10, "Expecting property name enclosed in double quotes"),
        ("[1,]", 3, "Expecting value"),
        ("[1 ,\t ]", 6, "Expecting value"),
        ("[1,", 3, "Expecting value"),
        ("{,}", 1, "Expecting property name enclosed in double quotes"),
        ('"a', 0, "Unterminated string starting at"),
        ('"a\nb"', 2, "Invalid control character at"),
        ('"\\x"', 1, "Invalid \\escape"),
        ('"\\u12"', 2, "Invalid \\uXXXX escape"),
        ('{"a" 1}', 5, "Expecting ':' delimiter"),
        ("[1 2]", 3, "Expecting ',' delimiter"),
        ("{} x", 3, "Extra data"),
        (" ", 1, "Expecting value"),
        ("-", 0, "Expecting value"),
        ("\ufeff\ufeff{}", 0, "Expecting value"),
        ('{"name":"é",}', 12, "Expecting property name enclosed in double quotes"),
        ('{"name":NaN}', 8, "Expecting a finite number"),
        ('{"name":"NaN \\" 1e999","x":[1.5,-Infinity]}', 32, "Expecting a finite number"),
        ('{"x":1e5,"name":1E+999}', 16, "Expecting a finite number"),
        ('{"x":' + "9" * 400 + ',"y":-1.5e999}', 410, "Expecting a finite number"),
        ("\n NaN", 2, "Expecting a finite number"),
        ("[0.0001e309,-1e309,1e309]", 12, "Expecting a finite number"),
        ('["1e309", 0.0001e309, 1e309]', 22, "Expecting a finite number"),
        ("[1e309e, 1e309]", 1, "Expecting a finite number"),
        ("[1.5e30, 1e3, 1.5e3099]", 14, "Expecting a finite number"),
        ("[" + "1" * 400 + ".0e-300, " + "1" * 400 + ".0]", 410, "Expecting a finite number"),
    ],
)
def test_what_is_not_json_says_where_and_why(body: str, position: int, message: str) -> None:
    assert refusal(body.encode()) == (
        422,
        {
            "detail": [
                {
                    "type": "json_invalid",
                    "loc": ["body", position],
                    "msg": "JSON decode error",
                    "input": {},
                    "ctx": {"error": message},
                }
            ]
        },
    )


def test_nothing_is_kept_of_a_number_that_is_refused() -> None:
    refusal(b"[1e999]")
    tracemalloc.start()
    try:
        for digit in b"123":
            refusal(b"[" + bytes([digit]) * 100_000 + b".0]")
        gc.collect()  # what pytest keeps of an error
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()


# What is read again and again would take minutes of these; the pattern is only to be told from a hang.
@pytest.mark.parametrize(
    "token", ["1" * 4_300 + ",", '"' + "\\\\" * 5_000 + '",', "[],", "1.5e5,", " ", '"\\"",']
)
def test_a_mebibyte_of_anything_is_searched_in_linear_time(token: str) -> None:
    body = "[" + token * (1_000_000 // len(token)) + "NaN]"
    began = time.thread_time()
    status, answer = refusal(body.encode())
    assert time.thread_time() - began < 10
    assert (status, answer["detail"][0]["loc"]) == (422, ["body", body.index("NaN")])


@pytest.mark.parametrize(
    "body",
    [
        b'{"name":"\xff"}',
        b'{"name":"\xed\xa0\x80"}',  # a surrogate in what would be UTF-8
        '{"name":"x"}'.encode("utf-16"),
        b'{"name":' + b"[" * 901 + b"]" * 901 + b"}",
        b'{"name":"x","y":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}",
        b"[" * 901 + b"]" * 901,
        b"[" * 100_000,
        b'{"name":' + b"9" * 5_000 + b"}",
    ],
)
def test_what_cannot_be_decoded_is_400(body: bytes) -> None:
    assert refusal(body) == UNREADABLE


def test_deep_but_not_too_deep_is_decoded() -> None:
    deep = "[" * 890 + "]" * 890
    assert wire.parse_create(f'{{"name":"x","y":{deep}}}'.encode(), wire.JSON) == ("x", None)
    status, answer = refusal(f'{{"name":{deep}}}'.encode())
    assert (status, answer["detail"][0]["type"]) == (422, "string_type")


@pytest.mark.parametrize("pair", [("[", "]"), ('{"a":', "}"), ('{"[{":1,"a":[', "]}")])
@pytest.mark.parametrize("siblings", ["", "[],[{}]," * 300])
def test_900_levels_are_decoded_and_one_more_is_400(pair: tuple[str, str], siblings: str) -> None:
    opening, closing = pair
    count, rest = divmod(899, len(closing))  # within the list of all
    deep = "[" * rest + opening * count + "1" + closing * count + "]" * rest
    assert refusal(f"[{siblings}{deep}]".encode())[0] == 422
    assert refusal(f"[{siblings}[{deep}]]".encode())[0] == 400


def test_brackets_in_strings_and_side_by_side_are_not_deep() -> None:
    brackets = '[{\\"' * 2_000
    siblings = ",".join(["[]"] * 2_000)
    body = f'{{"name":"x","description":"{brackets}","z":[{siblings}]}}'
    assert wire.parse_create(body.encode(), wire.JSON) == ("x", '[{"' * 2_000)
    for body, position in (('"' + "[" * 2_000, 0), (f'{{"name":"{"[" * 2_000}",}}', 2_011)):
        status, answer = refusal(body.encode())
        assert (status, answer["detail"][0]["loc"]) == (422, ["body", position])
    status, answer = refusal(b'"' + b"[" * 2_000 + b'"')
    assert (status, answer["detail"][0]["type"]) == (422, "model_attributes_type")


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_no_answer_holds_a_number_that_json_lacks(number: str) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        wire.render_json({"x": [float(number)]})


def test_a_stack_that_is_almost_used_up_is_an_unreadable_body() -> None:
    body = b'{"name":' + b"[" * 890 + b"]" * 890 + b"}"
    seen = set()

    def descend(levels: int) -> None:
        if levels:
            descend(levels - 1)
        else:
            seen.add(refusal(body)[0])

    for levels in range(0, 150, 3):
        descend(levels)
    assert seen <= {400, 422}


@pytest.mark.parametrize(
    "name", ["UHJvamVjdDox", "UHJvamVjdDotMQ==", "UHJvamVjdDox!", render_global_id(2**70)]
)
def test_a_name_that_reads_as_a_project_id_is_refused(name: str) -> None:
    status, answer = refusal(json.dumps({"name": name}).encode())
    (error,) = answer["detail"]
    assert (status, error["type"], error["loc"], error["input"]) == (
        422,
        "value_error",
        ["body", "name"],
        name,
    )


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "text/json", "application/jsonx", "application/a/b+json"]
)
def test_a_body_of_another_type_is_one_string(content_type: str) -> None:
    status, answer = refusal(b'{"name":"x"}', content_type)
    (error,) = answer["detail"]
    assert (status, error["type"], error["input"]) == (422, "model_attributes_type", '{"name":"x"}')
    assert refusal(b"\xff", content_type) == UNREADABLE


def test_surrogates_in_a_field_are_named_and_elsewhere_ignored() -> None:
    assert wire.parse_create(b'{"name":"x","y":"\\ud800","\\udfff":1}', wire.JSON) == ("x", None)
    _, answer = refusal(b'{"name":"\\ud800","description":"a\\udfffb"}')
    assert [(error["type"], error["input"]) for error in answer["detail"]] == [
        ("string_unicode", "\ud800"),
        ("string_unicode", "a\udfffb"),
    ]
