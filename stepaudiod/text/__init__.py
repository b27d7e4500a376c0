"""Text processing before synthesis: sentences, languages, written forms."""
