"""The decoder's memory: a voice is shared, unused voices stay while there is room, and streams wait."""

from __future__ import annotations

import pytest

from stepaudiod.editx.decoder.config import FlowCosts
from stepaudiod.editx.decoder.reference_prefix import prefill
from stepaudiod.editx.loading import Networks
from stepaudiod.editx.voice_memory import Voice, VoiceMemory
from stepaudiod.errors import InvalidRequest
from tests.editx.test_decoder import reference

FRAMES = 60


@pytest.fixture
def costs(networks: Networks) -> FlowCosts:
    return FlowCosts.of(networks.flow.config, 4)


def sizes(costs: FlowCosts, groups: int = 8) -> tuple[int, int]:
    """Bytes of a voice and of a stream."""
    return costs.prefix_bytes(reference(groups).columns.shape[0]), costs.stream_bytes(FRAMES)


def reserve(memory: VoiceMemory, groups: int, networks: Networks) -> Voice:
    voice = memory.reserve(reference(groups), FRAMES)
    assert voice is not None
    voice.prefix = voice.prefix or prefill(networks.flow, voice.acoustics)
    return voice


def test_streams_share_their_voice_and_others_wait(networks: Networks, costs: FlowCosts) -> None:
    voice_bytes, stream_bytes = sizes(costs)
    memory = VoiceMemory(costs, voice_bytes + 2 * stream_bytes)
    first, second = (reserve(memory, 8, networks) for _ in range(2))
    assert first is second
    assert memory.used_bytes == voice_bytes + 2 * stream_bytes
    assert memory.reserve(reference(8), FRAMES) is None
    assert memory.reserve(reference(2), FRAMES) is None
    memory.release(second, FRAMES)
    assert memory.reserve(reference(8), FRAMES) is first


def test_the_least_recently_used_voice_leaves_first(networks: Networks, costs: FlowCosts) -> None:
    room = sum(sizes(costs, groups)[0] for groups in (8, 9)) + sizes(costs)[1]
    memory = VoiceMemory(costs, room)
    voices = {groups: reserve(memory, groups, networks) for groups in (8,)}
    memory.release(voices[8], FRAMES)
    voices[9] = reserve(memory, 9, networks)
    memory.release(voices[9], FRAMES)
    memory.release(reserve(memory, 8, networks), FRAMES)
    third = reserve(memory, 7, networks)  # 9 has to go
    memory.release(third, FRAMES)
    assert reserve(memory, 8, networks) is voices[8]


def test_a_voice_that_was_never_computed_is_not_kept(costs: FlowCosts) -> None:
    memory = VoiceMemory(costs, None)
    voice = memory.reserve(reference(8), FRAMES)
    assert voice is not None
    memory.release(voice, FRAMES)
    assert memory.used_bytes == 0


def test_unused_voices_take_no_more_than_they_may_except_the_latest(
    networks: Networks, costs: FlowCosts
) -> None:
    memory = VoiceMemory(costs, None, kept_bytes=0)
    for groups in (8, 9):
        memory.release(reserve(memory, groups, networks), FRAMES)
        assert memory.used_bytes == sizes(costs, groups)[0]


def test_what_can_never_fit_is_refused_at_once(costs: FlowCosts) -> None:
    voice_bytes, stream_bytes = sizes(costs)
    memory = VoiceMemory(costs, voice_bytes + stream_bytes - 1)
    with pytest.raises(InvalidRequest, match=r"step_audio\.gpu_memory"):
        memory.check(reference(8), FRAMES)
