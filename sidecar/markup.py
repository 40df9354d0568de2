"""HTML to plain text, in time linear in the length of the string, whatever it holds. Pure; never raises.

The standard library's ``html.parser`` needs time that grows with the square of a hostile string (seconds for 50,000
characters of ``<a <a <a``), so the tags are found by one regular expression that never backtracks.
"""

import html
import re

_ATTRIBUTES = r"""[^>=]*+(?:=\s*+(?:"[^"]*+"|'[^']*+')?+[^>=]*+)*+"""
_BLOCKS = (
    "address|article|aside|blockquote|body|br|caption|center|dd|details|dialog|dir|div|dl|dt|fieldset|figcaption|figure|"
    "footer|form|h[1-6r]|head|header|html|legend|li|main|menu|nav|ol|optgroup|option|p|pre|section|select|summary|"
    "table|tbody|td|textarea|tfoot|th|thead|title|tr|ul"
)
_MARKUP = re.compile(
    rf"""<(?=[a-z!?/])(?:
        !--(?:-?>|(?:[^-]++|-(?!->))*+(?:-->|\Z))                                # a comment
      | (script|style)(?=[\s/>]){_ATTRIBUTES}>(?:[^<]++|<(?!/\1))*+              # what is between is no text
      | /?(?:({_BLOCKS})(?=[\s/>])|[a-z]){_ATTRIBUTES}(?:>|\Z)                   # any other tag
      | [!?/][^>]*+(?:>|\Z)                                                      # a declaration
    )""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_STRIDE = _MARKUP.groups + 1
_LONG_NUMBER = re.compile(r"&#(?:[0-9]{8,}|[xX][0-9a-fA-F]{8,});?")
_BREAK = "\x1e"


def text_of(markup: str) -> str:
    """Return the text that a reader of the page would see, one line per block, with single spaces between words.

    Scripts, styles and comments are left out, entities are decoded. As in browsers, what is not closed ends with the
    string, and a ``<`` that no letter follows is text.

    >>> text_of("<h1>Pies &amp; tarts</h1><p>An <b>app</b>le<br>pie<script>if (a < b) run()</script>")
    'Pies & tarts\\nAn apple\\npie'
    """
    parts = _MARKUP.split(markup)
    breaks = [_BREAK if block else "" for block in parts[2::_STRIDE]]
    parts[1::_STRIDE] = breaks
    parts[2::_STRIDE] = [""] * len(breaks)
    text = "".join(parts)
    text = html.unescape(_LONG_NUMBER.sub("\ufffd", text))
    lines = (" ".join(line.split()) for line in text.split(_BREAK))
    return "\n".join(line for line in lines if line)
