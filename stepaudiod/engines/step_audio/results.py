"""What Step-Audio-EditX returns for a request, one result at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from itertools import chain
from typing import Any

from stepaudiod.audio.tempo import TempoStream
from stepaudiod.audio.types import Waveform
from stepaudiod.editx.pipeline import SAMPLE_RATE, Synthesis
from stepaudiod.engines.base import NO_SOUND
from stepaudiod.engines.step_audio.recogniser import renaming_params
from stepaudiod.requests import Facts


class Results:
    """The facts of a request, then its sound, then the counts.

    Args:
        facts: of the request; the synthesis adds to them.
        on_end: called when all sound has been passed on.
        speed: of the speech, 1 is the model's.
        names: arguments of `renaming_params`.
    """

    def __init__(
        self,
        synthesis: Synthesis,
        facts: dict[str, Any],
        on_end: Callable[[], None],
        speed: float = 1.0,
        names: tuple[str, ...] = (),
    ) -> None:
        self._synthesis = synthesis
        self._facts = facts
        self._on_end = on_end
        self._tempo = TempoStream(speed, SAMPLE_RATE)
        self._names = names
        self._results = self._run()
        self._has_sound = False
        """Whether it holds the first sound, which came with the facts."""

    @property
    def is_ready(self) -> bool:
        """Whether `next` returns at once."""
        return self._has_sound or self._synthesis.is_ready

    def __iter__(self) -> Iterator[Waveform | Facts]:
        return self

    def __next__(self) -> Waveform | Facts:
        with renaming_params(*self._names):
            return next(self._results)

    def close(self) -> None:
        self._results.close()
        self._synthesis.close()

    def _run(self) -> Generator[Waveform | Facts, None, None]:
        """The model has no control over its speed: the sound is stretched at the same pitch."""
        synthesis, stats = self._synthesis, self._synthesis.stats
        first = next(synthesis, NO_SOUND)
        self._facts |= {"seed": stats.seed, "pieces": stats.pieces}
        if (used := stats.reference_range) is not None:
            self._facts["reference_stretch"] = f"{used.start:.2f}-{used.end:.2f}"
        self._has_sound = True
        yield Facts(self._facts)
        self._has_sound = False
        for chunk in chain([first], synthesis):
            yield self._tempo.push(chunk)
        yield self._tempo.finish()
        self._on_end()
        yield Facts(
            {
                "input_tokens": stats.input_tokens,
                "output_tokens": stats.output_tokens,
                "retries": stats.retries,
            }
        )
