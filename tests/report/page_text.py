"""What a page says, read as text: its tables, its sentences, its attributes."""

import html.parser
import re

NOTHING = "\N{EN DASH}"
VOID = {"meta", "img", "link", "br", "hr", "input"}
SILENT = {"style", "script"}


class Page(html.parser.HTMLParser):
    """Tags in balance, tables as lists of lists of text, attributes of all tags."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tables, self.attributes, self.tags, self.text = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in SILENT:
            return
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def table(self, *head):
        """The rows of the table whose header begins so."""
        return next(rows for rows in self.cells() if rows and tuple(rows[0][: len(head)]) == head)[1:]

    def cells(self):
        """Every table, white space brought to single blanks."""
        return [[[" ".join(cell.split()) for cell in row] for row in table] for table in self.tables]

    def said(self) -> str:
        return " ".join("".join(self.text).split())


def without_intervals(row):
    """The cells of a row less what stands in brackets."""
    return [re.sub(r" \[.*\]", "", cell) for cell in row]
