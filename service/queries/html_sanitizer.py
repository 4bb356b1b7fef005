"""The program that makes a stranger's HTML harmless; `message_html` runs it in a process of its own.

A parser of HTML takes quadratic time and memory for some inputs. The process has limits of both, and no settings.
"""

import json
import re
import resource
import sys
from copy import deepcopy
from urllib.parse import quote

import nh3

CPU_SECONDS = 5
# Twice what 2 MB of honest HTML need; 35 kB of hostile HTML may want a gigabyte.
MEMORY_BYTES = 256 * 1024**2

# Neither positions, which could cover other parts, nor any property that takes an address.
_STYLES = {
    *("background-color", "border", "border-bottom", "border-collapse", "border-color", "border-left"),
    *("border-radius", "border-right", "border-spacing", "border-style", "border-top", "border-width"),
    *(
        "caption-side",
        "clear",
        "color",
        "direction",
        "display",
        "empty-cells",
        "float",
        "font",
        "font-family",
    ),
    *("font-size", "font-style", "font-variant", "font-weight", "height", "letter-spacing", "line-height"),
    *(
        "list-style-type",
        "margin",
        "margin-bottom",
        "margin-left",
        "margin-right",
        "margin-top",
        "max-height",
    ),
    *("max-width", "min-height", "min-width", "padding", "padding-bottom", "padding-left", "padding-right"),
    *("padding-top", "table-layout", "text-align", "text-decoration", "text-indent", "text-transform"),
    *("unicode-bidi", "vertical-align", "white-space", "width", "word-break", "word-spacing", "word-wrap"),
}
# An allowed property may still hold an address: of functions, only colours are kept.
_DECLARATION = re.compile(r"[a-z-]+:(?:[^\\@(){}<>]|\b(?:rgb|hsl)a?\([\d\s.,%/]*\))*")
_TAGS = nh3.ALLOWED_TAGS - {"area", "map"} | {"big", "font", "main", "section", "tfoot"}
_EVERYWHERE = {
    "style",
    "title",
    "lang",
    "dir",
    "align",
    "valign",
    "width",
    "height",
    "bgcolor",
    "color",
    "border",
}
_TABLE = {"cellpadding", "cellspacing", "rules", "frame"}
_DROPPED_WHOLE = {
    "script",
    "style",
    "title",
    "template",
    "noscript",
    "iframe",
    "object",
    "svg",
    "math",
    "textarea",
}


def sanitize(html: str, mark: str) -> str:
    """Return harmless HTML.

    Each image's address becomes `https://MARK/` and the address percent-encoded: only the caller knows which images
    are ours.
    """

    def changed(tag: str, attribute: str, value: str) -> str | None:
        if (tag, attribute) == ("img", "src"):
            return f"https://{mark}/{quote(value, safe='')}"
        if attribute == "style":
            return ";".join(filter(_DECLARATION.fullmatch, value.split(";"))) or None
        return value

    attributes = deepcopy(nh3.ALLOWED_ATTRIBUTES)
    attributes["*"] = _EVERYWHERE
    attributes["font"] = {"face", "size"}
    attributes["table"] |= _TABLE
    return nh3.clean(
        html,
        tags=_TAGS,
        clean_content_tags=_DROPPED_WHOLE,
        attributes=attributes,
        attribute_filter=changed,
        filter_style_properties=_STYLES,
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
        url_schemes={"http", "https", "mailto", "tel"},
        url_relative="deny",
    )


def main() -> None:
    """Read `{"html", "mark"}` as JSON, and write the result in UTF-8."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    given = json.load(sys.stdin.buffer)
    sys.stdout.buffer.write(sanitize(given["html"], given["mark"]).encode())


if __name__ == "__main__":
    main()
