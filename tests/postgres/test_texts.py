"""Texts are kept as they are, and found by what they contain, though PostgreSQL has no NUL."""

from __future__ import annotations

import random
from contextlib import closing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from projects_wsgi import ProjectKind, Store, StoreBusy
from projects_wsgi.storage import PageQuery, postgres

from ..support.databases import Database, names

# All that the code is made of, and what LIKE and SQL mean something by.
texts = st.text(st.sampled_from("\0\1\2\3ab%_\\'\"é🚀"), max_size=12) | st.text(max_size=12)


@given(texts, texts)
@example("\1", "\0")
def test_the_code_is_one_to_one_and_keeps_what_contains_what(text: str, part: str) -> None:
    encoded, encoded_part = postgres._encode(text), postgres._encode(part)
    assert "\0" not in encoded
    assert postgres._decode(encoded) == text
    assert (encoded == encoded_part) is (text == part)
    assert (encoded_part in encoded) is (part in text)


def test_the_server_finds_what_python_finds(store: Store) -> None:
    characters = "\0\1\2aA%_\\"
    generator = random.Random(14)
    made = {"".join(generator.choices(characters, k=generator.randint(1, 6))) for _ in range(300)}
    for name in made:
        assert store.create(name, name).name == name
    for _ in range(300):
        part = "".join(generator.choices(characters, k=generator.randint(1, 3)))
        expected = {name for name in made if part.casefold() in name.casefold()}
        assert set(names(store, name_contains=part, limit=1000)) - {"default"} == expected
    for name in made:
        assert store.get(name)[1:3] == (name, name)


@pytest.mark.parametrize("length", [5_000, 1_048_576])
def test_long_texts_that_cannot_be_compressed_are_kept_and_found(store: Store, length: int) -> None:
    generator = random.Random(14)
    name, description = (
        "".join(map(chr, generator.choices(range(0x4E00, 0x9FFF), k=length))) for _ in range(2)
    )
    project = store.create(name, description)
    assert store.get(name) == store.get(project.id) == project
    assert project[1:3] == (name, description)
    for part in (name[:200], name[1000:4000], name):
        assert names(store, name_contains=part) == [name]
    assert names(store, name_contains=name[1000:4000] + "a") == []


def test_a_long_text_is_found_past_any_number_of_names_that_only_begin_like_it(store: Store) -> None:
    text = "x" * 300
    for number in range(25):
        store.create(f"{'x' * 280} {number}")
    store.create(f"a {text.upper()}")
    for number in range(25):
        store.create(f"{'x' * 280}, {number}")
    store.create(f"b {text}")
    assert names(store, name_contains=text, limit=10) == [f"b {text}", f"a {text.upper()}"]
    assert names(store, name_contains=text, limit=1) == [f"b {text}"]
    assert names(store, name_contains=text, limit=10, max_size=1) == [f"b {text}", f"a {text.upper()}"]


def test_a_search_for_a_long_text_ends_with_the_busy_timeout(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(database.open_store(busy_timeout=3)) as store:
        with database.connect() as connection:
            connection.execute(
                "INSERT INTO projects (name, name_hash, folded_name, kind, created_at, updated_at)"
                " SELECT n, sha256(n::bytea), n, 'standard', now(), now()"
                " FROM (SELECT repeat('x', 280) || number FROM generate_series(1, 20000) number) AS made (n)"
            )
            connection.execute("ANALYZE projects")
        assert store.list_rows(name_contains="x" * 281, limit=1) == []
        monkeypatch.setattr(postgres, "_FETCHED", 1)
        with pytest.raises(StoreBusy, match="search for a shorter part"):
            store.list_rows(name_contains="x" * 281, limit=1)


def test_the_server_ends_a_page_that_is_long_enough(database: Database) -> None:
    with closing(database.open_store()) as store:
        for number in range(20):
            store.create(f"project {number}", "é" * 100_000)
        with store._reading() as session:
            query = PageQuery(2**63 - 1, 20, "", {ProjectKind.STANDARD}, 100_000)
            rows = list(store._select_page(session, query))
        assert 2 <= len(rows) <= 6
        assert store.list_rows(limit=20, max_size=100_000) == rows[:2]


def test_a_text_of_a_hosts_that_is_none_of_the_code_is_read_as_it_is(
    database: Database, shared_store: Store
) -> None:
    shared_store.create("agent")
    with database.connect() as connection:
        connection.execute("UPDATE projects SET description = %s", ("\1\2\1\2",))
    assert shared_store.get("agent").description == "\1\2\1\2"
    assert shared_store.list_rows()[0][2] == "\1\2\1\2"
