"""Reading files: what is missing, cut short or wrong is named, with the command that mends it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stepaudiod.editx.checkpoint import protobuf
from stepaudiod.editx.checkpoint.headers import torch_header
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.checkpoint.onnx_weights import OnnxGraph
from stepaudiod.editx.checkpoint.weights import SafetensorsFolder, read_torch_file
from stepaudiod.editx.loading import LoadProgress, load_networks, load_step1
from stepaudiod.errors import ModelFileError
from tests.editx.graphs import field
from tests.editx.trees import write_tree

CPU = torch.device("cpu")


@pytest.fixture
def copy(micro: Checkpoint, tmp_path: Path) -> Checkpoint:
    """A checkpoint that a test may break; files are shared until they are written anew."""
    shutil.copytree(micro.root, tmp_path / "models", copy_function=os.link)
    return Checkpoint(tmp_path / "models")


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(change(content))


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


FILES = (
    "config", "vocabulary", "flow", "vocoder", "speaker_encoder", "centroids", "semantic",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy: Checkpoint, name: str) -> None:
    path: Path = getattr(copy, name)
    path.unlink()
    with pytest.raises(ModelFileError, match=rf"{path.name} is missing.*stepaudioctl models pull"):
        copy.verify()
    with pytest.raises(ModelFileError, match=path.name):
        load_networks(copy, CPU, torch.float32)


@pytest.mark.parametrize("name", [*FILES, "shard", "paraformer"])
def test_a_truncated_file_is_named(copy: Checkpoint, name: str) -> None:
    known = {"shard": copy.model / "model-00001.safetensors", "paraformer": copy.linguistic / "model.pt"}
    path: Path = known.get(name) or getattr(copy, name)
    rewrite(path, half)
    with pytest.raises(ModelFileError, match=rf"{path.name}.*stepaudioctl"):
        load_networks(copy, CPU, torch.float32)


def test_verifying_names_every_problem_at_once(copy: Checkpoint) -> None:
    copy.flow.unlink()
    rewrite(copy.vocoder, half)
    rewrite(copy.model / "model-00001.safetensors", half)
    problems = [str(problem) for problem in copy.problems()]
    assert len(problems) == 3
    assert any("expected 5" in problem and "bytes, found" in problem for problem in problems)


def test_wrong_tensors_are_named_with_both_shapes(copy: Checkpoint) -> None:
    state = read_torch_file(copy.flow)
    state["encoder_proj.weight"] = state["encoder_proj.weight"][:, :-1].clone()
    copy.flow.unlink()
    torch.save(state, copy.flow)
    with pytest.raises(ModelFileError, match=r"encoder_proj.weight: expected \(80, 64\), found \(80, 63\)"):
        load_networks(copy, CPU, torch.float32)
    del state["encoder_proj.weight"]
    torch.save(state, copy.flow)
    with pytest.raises(ModelFileError, match=r"1 tensors are missing: encoder_proj.weight"):
        load_networks(copy, CPU, torch.float32)


def test_a_configuration_of_another_size_is_noticed(copy: Checkpoint) -> None:
    config = json.loads(copy.config.read_text()) | {"intermediate_size": 999}
    rewrite(copy.config, lambda _: json.dumps(config).encode())
    with pytest.raises(ModelFileError, match="have another shape"):
        load_step1(copy, CPU, torch.float32)
    del config["hidden_size"]
    rewrite(copy.config, lambda _: json.dumps(config).encode())
    with pytest.raises(ModelFileError, match="a number for hidden_size"):
        load_step1(copy, CPU, torch.float32)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_nothing_in_a_weights_file_is_executed(tmp_path: Path) -> None:
    torch.save({"weight": Bomb(tmp_path / "went-off")}, tmp_path / "flow.pt")
    for read in (read_torch_file, torch_header):
        with pytest.raises(ModelFileError, match="no readable weights file"):
            read(tmp_path / "flow.pt")
    assert not (tmp_path / "went-off").exists()
    torch.save([torch.zeros(1)], tmp_path / "flow.pt")
    for read in (read_torch_file, torch_header):
        with pytest.raises(ModelFileError, match="expected a dictionary of tensors, found list"):
            read(tmp_path / "flow.pt")


def test_ties_in_a_configuration_are_ignored(copy: Checkpoint) -> None:
    config = json.loads(copy.config.read_text()) | {"tie_word_embeddings": True}
    rewrite(copy.config, lambda _: json.dumps(config).encode())
    model = load_step1(copy, CPU, torch.float32)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_shards_are_found_with_and_without_an_index(copy: Checkpoint) -> None:
    indexed = SafetensorsFolder(copy.model)
    (copy.model / "model.safetensors.index.json").unlink()
    assert set(SafetensorsFolder(copy.model)) == set(indexed)
    (copy.model / "model-00001.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"no \.safetensors"):
        SafetensorsFolder(copy.model)


def test_loading_tells_how_far_it_is(micro: Checkpoint) -> None:
    seen: list[LoadProgress] = []
    load_networks(micro, CPU, torch.float32, progress=seen.append)
    done = [progress.done_bytes for progress in seen]
    assert done == sorted(done)
    assert seen[-1].stage == "language model"
    assert done[-1] > 0.9 * seen[-1].total_bytes


def test_bfloat16_weights_stay_in_the_file(micro: Checkpoint) -> None:
    model = load_step1(micro, CPU, torch.bfloat16)
    address, mapped = model.lm_head.weight.data_ptr(), False
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        mapped |= first <= address < last and "model-00001.safetensors" in line
    assert mapped


def test_the_graph_reader_agrees_with_the_onnx_package(micro: Checkpoint) -> None:
    onnx = pytest.importorskip("onnx")
    numpy_helper = pytest.importorskip("onnx.numpy_helper")
    graph = OnnxGraph(micro.semantic)
    official = onnx.load(str(micro.semantic)).graph
    assert {node.name for node in official.node} == set(graph.nodes)
    for initializer in official.initializer:
        right = torch.from_numpy(numpy_helper.to_array(initializer).copy())
        assert torch.equal(graph.constant(initializer.name), right)
    with pytest.raises(ModelFileError, match="no weight at input 1 of node /nowhere"):
        graph.operand("/nowhere", 1)


def test_messages_cut_anywhere_are_refused() -> None:
    message = field(1, 300) + field(7, b"some bytes") + field(2, 1 << 60)
    assert [number for number, _, _ in protobuf.fields(memoryview(message))] == [1, 7, 2]
    for end in range(1, len(message)):
        try:
            whole = sum(1 for _ in protobuf.fields(memoryview(message[:end])))
        except ValueError:
            continue
        assert whole < 3


def test_small_trees_of_every_preset_load(tmp_path: Path) -> None:
    write_tree(tmp_path, "micro").verify()


def test_a_front_can_look_at_a_checkpoint_without_torch(micro: Checkpoint) -> None:
    program = (
        "import sys; from pathlib import Path; from stepaudiod.editx.checkpoint.layout import Checkpoint;"
        f"c = Checkpoint(Path({str(micro.root)!r})); c.verify(); print(c.encoder_key());"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == micro.encoder_key()


def test_other_encoders_have_another_key(copy: Checkpoint, micro: Checkpoint) -> None:
    assert copy.encoder_key() == micro.encoder_key()
    rewrite(copy.centroids, lambda content: content[:-1] + bytes([content[-1] ^ 1]))
    assert copy.encoder_key() != micro.encoder_key()


def test_a_quantized_language_model_is_read_instead_of_the_published_one(copy: Checkpoint) -> None:
    shards = copy.shards()
    assert set(shards) <= set(copy.files_to_read("int8"))
    copy.quantized.mkdir()
    written = copy.quantized / "quantized-int8.safetensors"
    written.touch()
    assert copy.files_to_read("int8")[0] == written
    assert not set(shards) & set(copy.files_to_read("int8"))
    assert copy.files_to_read("none") == copy.files()
