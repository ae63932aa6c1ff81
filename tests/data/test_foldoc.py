"""A dictionary of dictd as records."""

import amodal
from amodal.data.sets import foldoc

BODY = """   <networking, humour> A {thing} that is
   one. It is two.

   It is three. And {four
   (http://somewhere.org/x)} it is.

   {Home (http://somewhere.org/)}.

   ["A book", 1990].

   (1999-03-05)

"""


def packed(entries):
    content, index, place = b"", [], 0
    for term, body in entries:
        entry = f"{term}\n\n{body}".encode()
        content += entry
        index += [
            f"{name}\t{digits(place)}\t{digits(len(entry))}"
            for name in (term.lower(), f"{term} again")
        ]
        place += len(entry)
    return content, "\n".join(index) + "\n"


def digits(number):
    return (digits(number // 64) if number >= 64 else "") + next(
        d for d, n in foldoc.DIGITS.items() if n == number % 64
    )


def test_an_entry_is_prose_with_category_and_year():
    text, category, also, year = foldoc.entry(BODY)
    assert (
        text
        == 'A thing that is one. It is two.\n\nIt is three. And four (http://somewhere.org/x) it is.\n\n["A book", 1990].'
    )
    assert (category, also, year) == ("networking", "humour", 1999)
    assert (
        foldoc.entry(BODY.replace("(1999-03-05)", "")) is None
        and foldoc.entry(BODY.replace("It is two.", "")) is None
    )


def test_every_entry_is_read_once_from_where_the_index_says():
    content, index = packed([("Ring", BODY), ("Düse", "x" * 5000), ("Tree", BODY)])
    parsed = list(foldoc.entries(content, index))
    assert [term for term, _ in parsed] == ["Ring", "Düse", "Tree"] and parsed[0][
        1
    ].strip() == BODY.strip()


def test_the_set_is_records(tmp_path, monkeypatch):
    import gzip

    content, index = packed(
        [("Ring", BODY), ("About", BODY.replace("networking", foldoc.ITSELF)), ("Tree", BODY)]
    )
    files = [
        ("usr/share/dictd/foldoc.dict.dz", gzip.compress(content)),
        ("usr/share/dictd/foldoc.index", index.encode()),
    ]
    monkeypatch.setattr(foldoc, "deb", lambda archive, below: iter(files))
    foldoc.write(tmp_path, [None])
    dataset = amodal.open(tmp_path)
    assert dataset.keys == ["Ring", "Tree"] and dataset.raw(1, "term") == "Tree"
    assert dataset.label("year").tolist() == [1999, 1999] and dataset.label("also")[0] == "humour"
