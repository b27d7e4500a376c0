"""The six response formats of OpenAI's speech API. Imports no codec: the worker encodes."""

from __future__ import annotations

MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg; codecs=opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
"""Format name to media type. `pcm` is 24 kHz, 16 bit, little-endian, mono, without a header."""

UNKNOWN_WAV_SIZE = 0xFFFF_FFFF
"""The length in a WAV header that is not known yet; players then read to the end."""
