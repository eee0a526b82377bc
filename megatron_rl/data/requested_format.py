r"""Form of the final answer that a problem asks for: ``\boxed{}``, "Answer: ...", "#### ..."."""

import re

_ANSWER_LINE = re.compile(r"\banswer[*_ ]*:", re.IGNORECASE)
_HASHES = re.compile(r"(?<!#)####(?!#)")


def requested_formats(text: str) -> list[str]:
    """Return the forms that ``text`` mentions, none if it says nothing of the kind."""
    found = ["boxed"] if r"\boxed" in text else []
    # Few texts have the word, and looking for it alone is many times as fast.
    if "answer" in text.lower() and _ANSWER_LINE.search(text):
        found.append("answer_line")
    if "####" in text and _HASHES.search(text):
        found.append("hashes")
    return found
