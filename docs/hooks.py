"""mkdocs: links to files of the repository outside docs/ are shown as names; the site has none."""

import re

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown: str, **_) -> str:
    """Replace such links."""
    return _OUTSIDE.sub(lambda link: f"`{link[2]}`" if "`" in link[1] else f"{link[1]}", markdown)
