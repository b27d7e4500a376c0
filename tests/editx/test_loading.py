"""Loading: what is needed first comes first, and the prepared file gives what the published ones give."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from stepaudiod.editx.checkpoint import file_copies, prepared
from stepaudiod.editx.checkpoint.file_copies import PIECE_BYTES, FileCopies, Part
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.checkpoint.prepared import PreparedFile
from stepaudiod.editx.checkpoint.weights import install_copied, stored_tensors
from stepaudiod.editx.lazy import Lazy
from stepaudiod.editx.lm.config import Quantization
from stepaudiod.editx.lm.text_tokenizer import Segment
from stepaudiod.editx.loading import begin_step1, keep_quantized, kept_quantized, load_networks, load_step1
from stepaudiod.editx.network_files import NetworkFiles
from stepaudiod.editx.pipeline import Pipeline, PipelineOptions
from stepaudiod.errors import ModelFileError

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WORDS = "The quick brown fox."


@pytest.fixture
def copy(micro: Checkpoint, tmp_path: Path) -> Checkpoint:
    shutil.copytree(micro.root, tmp_path / "models", copy_function=os.link)
    return Checkpoint(tmp_path / "models")


@pytest.fixture
def cache(micro: Checkpoint, tmp_path: Path) -> Path:
    """A folder with the prepared file of the smallest checkpoint."""
    NetworkFiles(micro, CPU, tmp_path).prepare()
    return tmp_path


def the_file(cache: Path) -> Path:
    (path,) = cache.glob("prepared-*")
    return path


def test_parts_of_files_arrive_whatever_their_size(tmp_path: Path) -> None:
    sizes = [1, 0, PIECE_BYTES + 3, 5, 70_000, 2 * PIECE_BYTES, 40]
    content = np.random.default_rng(0).integers(0, 256, sum(sizes), dtype=np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(content.tobytes())
    parts: list[Part] = []
    right = []
    for path in (tmp_path / "b", tmp_path / "a"):
        offset = 0
        for size in sizes:
            parts.append(Part(path, offset, torch.empty(size, dtype=torch.uint8, device=DEVICE)))
            right.append(content[offset : offset + size])
            offset += size
    seen: list[int] = []
    FileCopies(parts[::-1], DEVICE, seen.append).wait()
    for part, wanted in zip(parts, right, strict=True):
        assert np.array_equal(part.target.cpu().numpy(), wanted)
    assert sum(seen) == 2 * sum(sizes)


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(bytes(PIECE_BYTES))
    target = torch.empty(PIECE_BYTES // 4 + 1, device=DEVICE)
    with pytest.raises(ModelFileError, match="short ends before byte"):
        FileCopies([Part(tmp_path / "short", 0, target)], DEVICE).wait()
    with pytest.raises(ModelFileError, match="missing"):
        FileCopies([Part(tmp_path / "missing", 0, target)], DEVICE).wait()


def test_matrices_of_one_input_lie_beside_each_other(tmp_path: Path) -> None:
    with torch.device("meta"):
        layer = nn.ModuleDict({name: nn.Linear(8, rows, bias=False) for name, rows in (("q", 6), ("k", 2))})
    state = {f"{name}.weight": torch.randn(rows, 8) for name, rows in (("k", 2), ("q", 6))}
    path = tmp_path / "layer.safetensors"
    save_file(state, path)

    def neighbours(name: str) -> tuple[str, ...]:
        return ("q.weight", "k.weight", "v.weight") if name == "v.weight" else ("q.weight", "k.weight")

    install_copied(layer, state, stored_tensors(path), path, DEVICE, neighbours=neighbours).wait()
    q, k = (layer.get_parameter(f"{name}.weight") for name in "qk")
    assert torch.equal(q.cpu(), state["q.weight"])
    assert torch.equal(k.cpu(), state["k.weight"])
    assert k.data_ptr() == q.data_ptr() + q.nbytes


def test_what_is_converted_or_stays_on_the_host_is_not_copied(tmp_path: Path) -> None:
    with torch.device("meta"):
        module = nn.ModuleDict({"a": nn.Linear(8, 4, bias=False), "b": nn.Linear(8, 4, bias=False)})
    state = {f"{name}.weight": torch.randn(4, 8) for name in "ab"}
    path = tmp_path / "module.safetensors"
    save_file(state, path)
    stored = stored_tensors(path)
    seen: list[int] = []
    install_copied(
        module, state, stored, path, DEVICE, torch.float16, seen.append, on_host=["b.weight"]
    ).wait()
    assert torch.equal(module.get_parameter("a.weight").cpu(), state["a.weight"].half())
    assert module.get_parameter("b.weight").data_ptr() == state["b.weight"].data_ptr()
    assert sum(seen) == 2 * 4 * 8 * 4


def test_the_prepared_networks_are_the_published_ones(micro: Checkpoint, cache: Path) -> None:
    published, ready = NetworkFiles(micro, CPU, None), NetworkFiles(micro, CPU, cache)
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (published.flow(), ready.flow()),
        (published.vocoder(), ready.vocoder()),
        *zip(published.encoders(), ready.encoders(), strict=True),
    ]
    for old, new in pairs:
        right, made = old.state_dict(), new.state_dict()
        assert right.keys() == made.keys()
        assert all(torch.equal(made[name], tensor) for name, tensor in right.items())
        assert all(made[name].dtype == tensor.dtype for name, tensor in right.items())
    for old_step, new_step in zip(published.flow().schedule(), ready.flow().schedule(), strict=True):
        assert old_step[0] == new_step[0]
        assert torch.equal(old_step[1], new_step[1])
        assert torch.equal(old_step[2].blocks, new_step[2].blocks)
        assert torch.equal(old_step[2].output, new_step[2].output)
    text: list[Segment] = ["the quick brown fox, 你好 <unk>é<|EOT|>", [7]]
    assert ready.tokenizer().encode(text) == published.tokenizer().encode(text)


def test_a_prepared_file_is_written_once(micro: Checkpoint, cache: Path) -> None:
    before = the_file(cache).stat()
    NetworkFiles(micro, CPU, cache).prepare()
    after = the_file(cache).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert [*cache.iterdir()] == [the_file(cache)]


def cut(content: bytes) -> bytes:
    return content[:-1]


def rename_a_tensor(content: bytes) -> bytes:
    return content.replace(b"vocoder.conv_pre.bias", b"vocoder.conv_pre.bia5", 1)


@pytest.mark.parametrize("damage", [cut, rename_a_tensor, lambda content: b"", lambda content: bytes(64)])
def test_a_damaged_prepared_file_is_removed_and_made_again(
    micro: Checkpoint, cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = the_file(cache)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    files = NetworkFiles(micro, CPU, cache)
    assert not path.exists()
    assert files.vocoder().conv_pre.bias is not None
    files.prepare()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("share", [3, 2])
def test_a_prepared_file_that_cannot_be_read_is_no_obstacle(
    micro: Checkpoint, cache: Path, share: int
) -> None:
    files = NetworkFiles(micro, CPU, cache)
    path = the_file(cache)
    os.truncate(path, path.stat().st_size // share)
    assert files.tokenizer().encode(["fox"])
    vocoder, right = files.vocoder(), NetworkFiles(micro, CPU, None).vocoder()
    assert torch.equal(vocoder.conv_post.weight, right.conv_post.weight)
    assert not path.exists()


def test_a_cache_that_cannot_be_looked_into_is_no_obstacle(micro: Checkpoint, tmp_path: Path) -> None:
    files = NetworkFiles(micro, CPU, tmp_path / ("a name that is too long" * 20))
    assert files.tokenizer().encode(["fox"])


def test_a_file_of_other_published_files_is_replaced(copy: Checkpoint, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    NetworkFiles(copy, CPU, cache).prepare()
    old = the_file(cache)
    content = copy.vocoder.read_bytes()
    copy.vocoder.unlink()  # the original is shared with other tests
    copy.vocoder.write_bytes(content)
    files = NetworkFiles(copy, CPU, cache)
    files.prepare()
    assert the_file(cache) != old


def test_a_full_disk_is_left_alone(
    micro: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "RESERVE_BYTES", shutil.disk_usage(tmp_path).total)
    with pytest.raises(OSError, match="are to stay free; the disk has"):
        PreparedFile(tmp_path, micro.files_to_prepare()).write({"a": torch.zeros(1)})
    assert not [*tmp_path.iterdir()]


def test_an_encoded_voice_needs_no_encoder(copy: Checkpoint, voice: NDArray[np.float32]) -> None:
    options = PipelineOptions(is_output_checked=False, rows=1, length=2048)
    with torch.inference_mode():
        reference = Pipeline(load_networks(copy, CPU, torch.float32), options).encode_reference(
            voice, 24000, WORDS
        )
        pipeline = Pipeline(load_networks(copy, CPU, torch.float32), options)
    content = copy.semantic.read_bytes()
    copy.semantic.unlink()
    assert pipeline.clone(reference, WORDS, seed=1).waveform().size
    with pytest.raises(ModelFileError, match=r"speech_tokenizer_v1.onnx is missing"):
        pipeline.encode_reference(voice, 24000, WORDS)
    copy.semantic.write_bytes(content)
    assert torch.equal(pipeline.encode_reference(voice, 24000, WORDS).codes, reference.codes)


def test_the_encoders_are_loaded_behind_the_first_request(
    copy: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    networks = load_networks(copy, CPU, torch.float32)
    networks.finish()
    networks.finish()
    encoders = networks.encoders.get()
    shutil.rmtree(copy.root)
    assert networks.encoders.get() is encoders
    assert not caplog.records


def test_a_model_is_warm_when_the_next_start_is_prepared_too(
    micro: Checkpoint, voice: NDArray[np.float32]
) -> None:
    written, changed = threading.Event(), threading.Event()
    networks = load_networks(micro, CPU, torch.float32)
    options = PipelineOptions(is_output_checked=False, rows=1, length=2048)
    pipeline = Pipeline(replace(networks, finish=lambda: written.wait(30)), options)
    pipeline.clone(pipeline.encode_reference(voice, 24000, WORDS), WORDS, seed=1).waveform()
    pipeline.finish()
    pipeline.finish()
    while not pipeline.scheduler.is_warm:
        pipeline.scheduler.lanes.wait(30)
        pipeline.scheduler.step()
    assert not pipeline.is_warm
    pipeline.scheduler.lanes.on_change = changed.set
    written.set()
    assert changed.wait(30)
    assert pipeline.is_warm
    pipeline.close()


@pytest.mark.parametrize("kind", Quantization)
def test_what_was_quantized_at_a_load_is_kept_for_the_next(
    copy: Checkpoint, tmp_path: Path, kind: Quantization
) -> None:
    kept = kept_quantized(copy, torch.bfloat16, kind, tmp_path)
    assert kept.find() is None
    model = load_step1(copy, DEVICE, torch.bfloat16, kind)
    model.model.norm.weight.data += 1  # to be told from what the published files give
    keep_quantized(model, kept)
    again, copies = begin_step1(copy, DEVICE, torch.bfloat16, kind, None, None, kept)
    copies.wait()
    right = model.state_dict()
    assert all(torch.equal(tensor, right[name]) for name, tensor in again.state_dict().items())
    os.utime(copy.shards()[0])
    assert kept_quantized(copy, torch.bfloat16, kind, tmp_path).find() is None


def test_a_kept_file_that_cannot_be_used_is_removed(copy: Checkpoint, tmp_path: Path) -> None:
    kept = kept_quantized(copy, torch.bfloat16, Quantization.INT8, tmp_path)
    state = load_step1(copy, DEVICE, torch.bfloat16, Quantization.INT8).state_dict()
    kept.write({name: tensor for name, tensor in state.items() if name == "model.norm.weight"})
    with pytest.raises(ModelFileError):
        begin_step1(copy, DEVICE, torch.bfloat16, Quantization.INT8, None, None, kept)
    assert kept.find() is None


@pytest.mark.skipif(DEVICE.type != "cuda", reason="the prepared file is for GPUs")
@pytest.mark.parametrize("kind", [None, *Quantization])
def test_the_second_start_on_a_gpu_reads_the_prepared_file(
    micro: Checkpoint, tmp_path: Path, kind: Quantization | None
) -> None:
    starts = []
    for _ in range(2):
        networks = load_networks(micro, DEVICE, torch.bfloat16, kind, prepared_folder=tmp_path)
        networks.wait()
        networks.finish()
        starts.append([networks.step1, networks.flow, networks.vocoder, *networks.encoders.get()])
        assert the_file(tmp_path)
        assert len(list(tmp_path.glob("quantized-*"))) == (kind is not None)
    for first, second in zip(*starts, strict=True):
        right = first.state_dict()
        assert all(torch.equal(tensor, right[name]) for name, tensor in second.state_dict().items())


def test_a_value_is_made_once_and_an_error_is_raised_each_time() -> None:
    results: list[Tensor | Exception] = [OSError("first"), OSError("second"), torch.zeros(1)]

    def make() -> Tensor:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    lazy = Lazy(make)
    for message in ("first", "second"):
        with pytest.raises(OSError, match=message):
            lazy.get()
    assert lazy.get() is lazy.get()
    assert not results


def test_small_parts_are_read_together(tmp_path: Path) -> None:
    path = tmp_path / "file"
    parts = [Part(path, 100 * i, torch.empty(80, dtype=torch.uint8)) for i in range(1000)]
    assert len([*file_copies._cut(parts)]) == 1
