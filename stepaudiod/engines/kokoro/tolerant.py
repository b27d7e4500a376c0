"""Spelling to phonemes, whatever the text: one sentence never ends a request. Knows no language.

    as it is ──► letters, digits and common marks only ──► word by word ──► a word letter by letter

What fails even in its last form is left out.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Collection

from stepaudiod.errors import StepaudiodError
from stepaudiod.text.plain import plain_text

log = logging.getLogger(__name__)

Convert = Callable[[str], str]
"""Spelling to phonemes; may raise anything."""


class TolerantG2P:
    """Phonemes of any text, of the signs that a voice knows.

    Args:
        engine: its name, for the journal.
        signs: those that the voice can say; all others are left out.
    """

    def __init__(self, engine: str, signs: Collection[str]) -> None:
        self._engine = engine
        self._signs = signs
        self._told: set[str] = set()

    def __call__(self, convert: Convert, text: str) -> str:
        """Phonemes of the text, as much of it as can be said; "" if that is nothing."""
        phonemes = self._try(convert, text)
        if not phonemes:
            plain = plain_text(text)
            failed = phonemes is None
            phonemes = self._try(convert, plain) if plain != text else phonemes
            if phonemes is None:
                words = (self._word(convert, word) for word in plain.split())
                phonemes = " ".join(filter(None, words))
            if not phonemes and not failed:
                self._tell("it has no sign that the voice knows")
        return phonemes

    def _word(self, convert: Convert, word: str) -> str:
        """Phonemes of one word, letter by letter where the converter refuses it."""
        phonemes = self._try(convert, word)
        if phonemes is None:
            return " ".join(filter(None, (self._try(convert, letter) for letter in word)))
        return phonemes

    def _try(self, convert: Convert, text: str) -> str | None:
        """Phonemes, "" where nothing but marks is left of them, or None where the converter raises."""
        try:
            phonemes = convert(text)
        except (ImportError, OSError, MemoryError, StepaudiodError):
            raise  # nothing that another text would mend
        except Exception as error:  # a library that reads what people write may raise anything
            at = traceback.extract_tb(error.__traceback__)[-1]
            self._tell(f"{type(error).__name__} in {at.name}, {at.filename.rpartition('/')[2]}:{at.lineno}")
            return None
        known = "".join(sign for sign in phonemes if sign in self._signs).strip()
        return known if any(sign.isalnum() for sign in known) else ""

    def _tell(self, kind: str) -> None:
        """Log a kind of failure once; never the text."""
        if kind not in self._told:
            self._told.add(kind)
            log.warning(
                "%s could not convert a sentence as it stands (%s); it says as much of it as it can",
                self._engine,
                kind,
            )
