"""JSON array as JSON lines: elements are found as the file streams by, one at a time."""

import io
import json
from pathlib import Path
from typing import BinaryIO

from megatron_rl.data.rows.scratch import naming_full_disks
from megatron_rl.errors import DataError

_PIECE = 1 << 20
_LONGEST_ELEMENT = 1 << 28  # characters: a file that is not JSON is not read to its end


def write_elements(source: Path, stream: BinaryIO, out: BinaryIO) -> None:
    """Write each element of the array in ``stream`` to ``out``, a line each.

    Raises:
        DataError: names the element that is no JSON, or what is between elements.
    """
    text = _Text(source, stream)
    if text.next_character() != "[":
        raise DataError(f"{source}: expected a JSON array")
    text.skip()
    number = 0
    while text.next_character() != "]":
        number += 1
        # Whatever breaks lines stands between tokens: strings have no line breaks in JSON.
        element = text.take_element(number).replace("\n", " ").replace("\r", " ")
        with naming_full_disks(source):
            out.write(element.encode("utf-8") + b"\n")
        separator = text.next_character()
        if separator == ",":
            text.skip()
            if text.next_character() == "]":
                raise DataError(f"{source}: a comma after the last item ({number})")
        elif separator != "]":
            found = repr(separator) if separator else "the end of the file"
            raise DataError(f"{source}: expected a comma after item {number}, found {found}")


class _Text:
    """Text of a stream, of which a part at a time is in memory."""

    def __init__(self, source: Path, stream: BinaryIO) -> None:
        self._source = source
        self._stream = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        self._text, self._at = "", 0
        self._decoder = json.JSONDecoder()

    def next_character(self) -> str:
        """Return the next character that is not blank, "" at the end; it is not consumed."""
        while True:
            rest = self._text[self._at : self._at + 1]
            if rest and not rest.isspace():
                return rest
            if rest:
                self._at += 1
            elif not self._read(_PIECE):
                return ""

    def skip(self) -> None:
        """Consume one character."""
        self._at += 1

    def take_element(self, number: int) -> str:
        """Consume and return the text of one element."""
        piece = _PIECE
        while True:
            try:
                _, end = self._decoder.raw_decode(self._text, self._at)
                # A number that ends with the text may go on after it.
                if end < len(self._text) or not self._read(piece):
                    break
            except (ValueError, RecursionError) as error:
                is_too_long = len(self._text) - self._at > _LONGEST_ELEMENT
                if is_too_long or not self._read(piece):
                    where = f"{self._source}: item {number}"
                    raise DataError(f"{where}: not JSON that can be read: {error}") from error
            piece *= 2  # or a long element would be parsed again and again
        start, self._at = self._at, end
        return self._text[start:end]

    def _read(self, num_characters: int) -> bool:
        """Read on, dropping what is consumed; return whether there was anything."""
        try:
            piece = self._stream.read(num_characters)
        except UnicodeDecodeError as error:
            raise DataError(f"{self._source}: not UTF-8 text: {error}") from error
        self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)
