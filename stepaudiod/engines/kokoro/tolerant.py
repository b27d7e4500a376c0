"""Text to phonemes, for any text: a sentence that fails never ends a request. Independent of the language.

    as it is ──► letters, digits and common marks only ──► word by word ──► a word letter by letter

Text that fails even in its last form is omitted.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Collection

from stepaudiod.errors import StepaudiodError
from stepaudiod.text.plain import plain_text

log = logging.getLogger(__name__)

Convert = Callable[[str], str]
"""Text to phonemes; may raise anything."""


class TolerantG2P:
    """Phonemes of any text, in the symbols of a voice; all others are omitted."""

    def __init__(self, engine: str, symbols: Collection[str]) -> None:
        self._engine = engine
        self._symbols = symbols
        self._logged: set[str] = set()

    def __call__(self, convert: Convert, text: str) -> str:
        """Phonemes of as much of the text as possible; "" if there are none."""
        phonemes = self._try(convert, text)
        if not phonemes:
            plain = plain_text(text)
            failed = phonemes is None
            phonemes = self._try(convert, plain) if plain != text else phonemes
            if phonemes is None:
                words = (self._word(convert, word) for word in plain.split())
                phonemes = " ".join(filter(None, words))
            if not phonemes and not failed:
                self._log_once("it has no symbol that the voice knows")
        return phonemes

    def _word(self, convert: Convert, word: str) -> str:
        """Phonemes of a word, letter by letter if the converter fails."""
        phonemes = self._try(convert, word)
        if phonemes is None:
            return " ".join(filter(None, (self._try(convert, letter) for letter in word)))
        return phonemes

    def _try(self, convert: Convert, text: str) -> str | None:
        """Phonemes, "" if they are only marks, or None if the converter raises."""
        try:
            phonemes = convert(text)
        except (ImportError, OSError, MemoryError, StepaudiodError):
            raise  # another text wouldn't help
        except Exception as error:  # the library may raise anything
            at = traceback.extract_tb(error.__traceback__)[-1]
            self._log_once(
                f"{type(error).__name__} in {at.name}, {at.filename.rpartition('/')[2]}:{at.lineno}"
            )
            return None
        known = "".join(symbol for symbol in phonemes if symbol in self._symbols).strip()
        return known if any(symbol.isalnum() for symbol in known) else ""

    def _log_once(self, kind: str) -> None:
        """Log a kind of failure once; never the text."""
        if kind not in self._logged:
            self._logged.add(kind)
            log.warning(
                "%s could not convert a sentence as it stands (%s); it says as much of it as it can",
                self._engine,
                kind,
            )
