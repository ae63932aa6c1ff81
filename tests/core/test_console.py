"""What is printed in a notebook is text, as elsewhere."""

import rich.console
from rich.table import Table

from amodal import console
from amodal.progress import Bar


class Shown(console.Printed):
    def table(self):
        table = Table("name")
        table.add_row("a row")
        return table


def test_tables_and_progress_are_text_in_a_notebook(monkeypatch, capsys):
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    assert "a row" in str(Shown())
    console.stdout().print("on stdout")
    with Bar("work", 1) as bar:
        bar.step("note")
    printed = capsys.readouterr()
    assert printed.out == "on stdout\n" and "work 1/1 · note" in printed.err
