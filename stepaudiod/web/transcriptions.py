"""`POST /v1/audio/transcriptions`: recordings to text, in OpenAI's form."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from stepaudiod.errors import InvalidRequest
from stepaudiod.requests import Recording, Result, Segment, TranscriptionRequest
from stepaudiod.web.body import read_multipart
from stepaudiod.web.endpoint import EVENTS, JSON, TEXT, TRANSCRIPTIONS, WORKS, Answer, endpoint
from stepaudiod.web.errors import name_params
from stepaudiod.web.ignored_fields import IGNORED, ignored
from stepaudiod.web.resolve import MODEL, engine_for
from stepaudiod.web.schemas import TranscriptionForm
from stepaudiod.web.stream import CollectedResponse, EventResponse, event

UNSPACED = ("zh", "ja", "th", "yue", "my", "lo", "km")
"""Languages without spaces between segments."""
VTT = "text/vtt; charset=utf-8"


@endpoint(
    "POST /v1/audio/transcriptions",
    "createTranscription",
    TRANSCRIPTIONS,
    {
        200: Answer(
            "The text in the form of `response_format`; events where `stream` is true.",
            {
                JSON: ("VerboseTranscription", "Transcription"),
                TEXT: (),
                VTT: (),
                EVENTS: ("TranscriptTextDelta", "TranscriptTextDone", "Error"),
            },
            (MODEL, "X-StepAudio-Language", "X-StepAudio-Duration-S", IGNORED),
        )
    },
    errors=WORKS,
    body=(TranscriptionForm,),
)
async def transcriptions(request: Request) -> Response:
    """Transcribe a recording, in OpenAI's form."""
    form, uploads = await read_multipart(request, TranscriptionForm)
    from_list = {} if form.language else {"language": "languages[]"}
    name_params(request, {"recording": "file", **from_list})
    engine = engine_for(request.app.state.service, form.model, "transcribe")
    if form.stream and form.response_format not in ("json", "text"):
        raise InvalidRequest("Only json and text can be streamed.", "response_format")
    has_words = form.response_format == "verbose_json" and "word" in form.timestamp_granularities
    recording = Recording(str(uploads["file"]))
    wanted = TranscriptionRequest(recording, form.spoken(), form.hint(), form.temperature, has_words)
    headers = ignored(form.unused())
    if form.stream:
        return TranscriptEvents(request, engine, wanted, headers)
    render, media_type = RENDERERS[form.response_format]

    def body(segments: list[Segment], facts: dict[str, str | int | float]) -> bytes:
        return render(Transcript(segments, facts, form))

    return CollectedResponse(request, engine, wanted, headers, media_type, body)


class Transcript(NamedTuple):
    segments: list[Segment]
    facts: dict[str, str | int | float]
    form: TranscriptionForm

    @property
    def language(self) -> str:
        """As the engine detected it, or as the request has it."""
        return str(self.facts.get("language", self.form.spoken() or ""))

    @property
    def duration_s(self) -> float:
        last_s = max((segment.end_s for segment in self.segments), default=0.0)
        return round(float(self.facts.get("duration_s", last_s)), 3)

    @property
    def text(self) -> str:
        return joint(self.language).join(segment.text for segment in self.segments)


def joint(language: str) -> str:
    return "" if language in UNSPACED else " "


def as_text(transcript: Transcript) -> bytes:
    """The text and a line feed, as OpenAI sends it."""
    return f"{transcript.text}\n".encode()


def as_json(transcript: Transcript) -> bytes:
    return _dump({"text": transcript.text, "usage": _usage(transcript)})


def as_verbose_json(transcript: Transcript) -> bytes:
    """The text with the requested timestamps."""
    table: dict[str, Any] = {
        "task": "transcribe",
        "language": transcript.language,
        "duration": transcript.duration_s,
        "text": transcript.text,
    }
    granularities = transcript.form.timestamp_granularities
    if "word" in granularities:
        table["words"] = [
            {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
            for segment in transcript.segments
            for word in segment.words
        ]
    if "segment" in granularities:
        table["segments"] = [
            _verbose_segment(index, segment, transcript.form.temperature)
            for index, segment in enumerate(transcript.segments)
        ]
    return _dump({**table, "usage": _usage(transcript)})


def _verbose_segment(index: int, segment: Segment, temperature: float) -> dict[str, Any]:
    text = segment.text.encode()
    return {
        "id": index,
        "seek": round(segment.start_s * 100),
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": temperature,
        "avg_logprob": round(segment.average_logprob, 4),
        "compression_ratio": round(len(text) / max(1, len(zlib.compress(text))), 4),
        "no_speech_prob": round(segment.no_speech_probability, 4),
    }


def as_srt(transcript: Transcript) -> bytes:
    blocks = [
        f"{index}\n{_clock(s.start_s, ',')} --> {_clock(s.end_s, ',')}\n{s.text}\n"
        for index, s in enumerate(transcript.segments, start=1)
    ]
    return "\n".join(blocks).encode()


def as_vtt(transcript: Transcript) -> bytes:
    """WebVTT subtitles (W3C)."""
    blocks = [
        f"{_clock(s.start_s, '.')} --> {_clock(s.end_s, '.')}\n{s.text.replace('-->', '->')}\n"
        for s in transcript.segments
    ]
    return "\n".join(["WEBVTT\n", *blocks]).encode()


def _clock(seconds: float, mark: str) -> str:
    """A time as 01:02:03,456."""
    whole_s, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole_s // 3600:02d}:{whole_s // 60 % 60:02d}:{whole_s % 60:02d}{mark}{thousandths:03d}"


def _usage(transcript: Transcript) -> dict[str, object]:
    return {"type": "duration", "seconds": transcript.duration_s}


def _dump(table: dict[str, Any]) -> bytes:
    return json.dumps(table, ensure_ascii=False).encode()


RENDERERS: dict[str, tuple[Callable[[Transcript], bytes], str]] = {
    "json": (as_json, JSON),
    "text": (as_text, TEXT),
    "srt": (as_srt, TEXT),
    "verbose_json": (as_verbose_json, JSON),
    "vtt": (as_vtt, VTT),
}


class TranscriptEvents(EventResponse):
    """OpenAI's `transcript.text.delta` for each segment, then `transcript.text.done` with all of it."""

    _text = ""

    def body_of(self, piece: Result) -> bytes:
        if not isinstance(piece, Segment):
            return b""
        added = (joint(str(self._facts.get("language", ""))) if self._text else "") + piece.text
        self._text += added
        return event({"type": "transcript.text.delta", "delta": added})

    def last(self) -> bytes:
        read, output = (int(self._facts.get(name, 0)) for name in ("input_tokens", "output_tokens"))
        usage = {
            "type": "tokens",
            "input_tokens": read,
            "output_tokens": output,
            "total_tokens": read + output,
        }
        return event({"type": "transcript.text.done", "text": self._text, "usage": usage})
