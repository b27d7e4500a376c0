"""Text before it is spoken: sentences, languages, written forms. Knows no audio."""
