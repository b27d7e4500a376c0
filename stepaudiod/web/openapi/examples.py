"""Examples of answers that several entries of the document share."""

from __future__ import annotations

import json
from typing import Any

MADE: dict[str, Any] = {
    "id": "aunt-mei",
    "object": "audio.voice",
    "name": "Aunt Mei",
    "created_at": 1764000000,
    "type": "audio_sample",
    "transcript": "The birch canoe slid on the smooth planks.",
    "consent": "Mei agreed on 2 May",
    "description": "",
    "language": "en",
    "gender": "female",
}
BUILT_IN: dict[str, Any] = {
    "id": "heart",
    "object": "audio.voice",
    "name": "heart",
    "created_at": 0,
    "type": "built_in",
    "model": "hibari",
    "description": "warm American English",
    "language": "en-US",
}
MODEL: dict[str, Any] = {
    "id": "hibari",
    "object": "model",
    "created": 1763856000,
    "owned_by": "stepaudiod",
    "default": "the best that is installed",
    "title": "hibari, a small English voice that starts at once",
    "languages": ["en"],
    "capabilities": {"speak": True, "clone": False, "transcribe": False, "edits": []},
}
ALIAS: dict[str, Any] = {name: value for name, value in MODEL.items() if name != "default"} | {
    "id": "tts-1",
    "stands_for": "hibari",
}
MODEL_STATUS = {
    "loaded": True,
    "auto_unload": True,
    "idle_timeout": 300.0,
    "idle_time": 12.5,
    "time_until_unload": 287.5,
    "gpu_memory_allocated_gb": 0.0,
    "gpu_memory_reserved_gb": 0.0,
}
DAEMON_STATUS = {
    "version": "0.1.0",
    "status": "idle; hibari is loaded; 1 served",
    "engine": "hibari",
    "reason": "the best that is installed",
    "active": 0,
    "queued": 0,
    "worker_pid": 4242,
    "loading": None,
    "load": None,
    "requests": {"served": 1, "failed": 0, "cancelled": 0, "refused": 0},
}
SPEAKER = {
    "id": "heart",
    "description": "warm American English",
    "locale": "en-US",
    "gender": "female",
    "languages": ["en"],
    "model": "hibari",
    "name": "heart",
    "prompt_text": "",
    "prompt_audio": "",
    "openai_names": ["alloy"],
}
SAID = "The birch canoe slid on the smooth planks."
DURATION = {"type": "duration", "seconds": 2.9}
SEGMENT = {
    "id": 0,
    "seek": 0,
    "start": 0.0,
    "end": 2.9,
    "text": SAID,
    "tokens": [],
    "temperature": 0.0,
    "avg_logprob": -0.21,
    "compression_ratio": 0.84,
    "no_speech_prob": 0.01,
}


def events(*tables: dict[str, Any]) -> str:
    """A stream of events."""
    return "".join(f"data: {json.dumps(table, separators=(',', ':'))}\n\n" for table in tables)
