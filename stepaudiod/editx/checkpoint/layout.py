"""Where the published files are, and whether they are complete. Loads no network and imports no torch.

models/
  Step-Audio-EditX/       the language model, its vocabulary, and in CosyVoice-300M-25Hz/ the decoders
  Step-Audio-Tokenizer/   both audio tokenisers
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stepaudiod.editx.checkpoint import protobuf
from stepaudiod.editx.checkpoint.headers import mend, read_config, reading, safetensors_header, unreadable
from stepaudiod.errors import ModelFileError

MODEL_FOLDER, TOKENIZER_FOLDER = "Step-Audio-EditX", "Step-Audio-Tokenizer"
DECODER_FOLDER = "CosyVoice-300M-25Hz"
LINGUISTIC_FOLDER = "dengcunqin/speech_paraformer-large_asr_nat-zh-cantonese-en-16k-vocab8501-online"
QUANTIZED = "quantized-{}.safetensors"
"""The name of a quantized language model, with its number format."""
KEY_BYTES = 1 << 20
"""How much of a file's beginning and end goes into a key."""


class Checkpoint(NamedTuple):
    """The two folders of one published model, in a root folder."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / MODEL_FOLDER

    @property
    def config(self) -> Path:
        return self.model / "config.json"

    @property
    def vocabulary(self) -> Path:
        return self.model / "tokenizer.model"

    @property
    def flow(self) -> Path:
        return self.model / DECODER_FOLDER / "flow.pt"

    @property
    def vocoder(self) -> Path:
        return self.model / DECODER_FOLDER / "hift.pt"

    @property
    def speaker_encoder(self) -> Path:
        return self.model / DECODER_FOLDER / "campplus.onnx"

    @property
    def linguistic(self) -> Path:
        return self.root / TOKENIZER_FOLDER / LINGUISTIC_FOLDER

    @property
    def centroids(self) -> Path:
        return self.root / TOKENIZER_FOLDER / "linguistic_tokenizer.npy"

    @property
    def semantic(self) -> Path:
        return self.root / TOKENIZER_FOLDER / "speech_tokenizer_v1.onnx"

    @property
    def quantized(self) -> Path:
        """The folder of the quantized language model, which is made from the published one."""
        return self.root / f"{MODEL_FOLDER}-quantized"

    def shards(self) -> list[Path]:
        """The language model's weight files.

        Raises:
            ModelFileError: there are none, or their folder may not be read.
        """
        try:
            os.scandir(self.model).close()
        except FileNotFoundError:
            raise ModelFileError(
                f"{self.model} isn't there; run `stepaudioctl models pull step-audio-editx`"
            ) from None
        except OSError as error:
            raise unreadable(self.model, error) from None
        index = self.model / "model.safetensors.index.json"
        if os.path.lexists(index):
            return sorted(self.model / name for name in _shards_of(index))
        found = sorted(self.model.glob("*.safetensors"))
        if not found:
            raise ModelFileError(f"{self.model} holds no .safetensors file; {mend()}")
        return found

    def files(self) -> list[Path]:
        """Every published file that loading may read."""
        return [
            self.config,
            self.vocabulary,
            *self.shards(),
            self.flow,
            self.vocoder,
            self.speaker_encoder,
            self.linguistic / "model.pt",
            self.linguistic / "am.mvn",
            self.centroids,
            self.semantic,
        ]

    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files())

    def files_to_read(self, quantization: str) -> list[Path]:
        """The files that loading reads, in order: a quantized language model instead of the published one."""
        files, quantized = self.files(), self.quantized / QUANTIZED.format(quantization)
        if not quantized.exists():
            return files
        shards = self.shards()
        return [quantized, *(path for path in files if path not in shards)]

    def files_to_prepare(self) -> list[Path]:
        """The files from which loading computes something: all but the language model's weights."""
        others = {self.config, *self.shards()}
        return [path for path in self.files() if path not in others]

    def sizes_key(self) -> str:
        """Name what the networks that speak are sized by: the configuration, and the sizes of files."""
        sizes = self.flow.stat().st_size, self.vocoder.stat().st_size
        return f"{self.config.read_text(encoding='utf-8')} {sizes}"

    def encoder_key(self) -> str:
        """Name what encodes recordings: references encoded under another key have to be encoded again."""
        digest = hashlib.sha256()
        for path in (self.linguistic / "model.pt", self.centroids, self.semantic, self.speaker_encoder):
            try:
                with path.open("rb") as file:
                    size = path.stat().st_size
                    digest.update(f"{path.name}:{size}:".encode() + file.read(KEY_BYTES))
                    file.seek(max(0, size - KEY_BYTES))
                    digest.update(file.read(KEY_BYTES))
            except FileNotFoundError:
                raise ModelFileError(f"{path} is missing; {mend()}") from None
        return digest.hexdigest()[:32]

    def problems(self) -> Iterator[ModelFileError]:
        """Check quickly that every file exists and has the size that its header states."""
        try:
            files = self.files()
        except ModelFileError as error:
            yield error
            return
        except OSError as error:
            yield unreadable(self.model, error)
            return
        for path in files:
            try:
                _check(path)
            except ModelFileError as error:
                yield error
            except OSError as error:
                yield unreadable(path, error)

    def verify(self) -> None:
        """Check every file, and stop at the first incomplete one.

        Raises:
            ModelFileError: names the file, what was expected and found, and the command that repairs it.
        """
        for problem in self.problems():
            raise problem


def _shards_of(index: Path) -> set[str]:
    names = read_config(index).get("weight_map", {})
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ModelFileError(f"{index}: expected a weight_map of file names; {mend()}")
    return set(names.values())


def _check(path: Path) -> None:
    found = path.stat() if os.path.lexists(path) else None  # a folder that may not be searched is an error
    if found is None or not stat.S_ISREG(found.st_mode):
        raise ModelFileError(f"{path} is missing; {mend()}")
    if found.st_size == 0:
        raise ModelFileError(f"{path} is empty; {mend()}")
    if not os.access(path, os.R_OK):
        raise unreadable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    if path.suffix == ".safetensors":
        safetensors_header(path)
    elif path.suffix == ".json":
        read_config(path)
    elif path.suffix == ".pt" and not zipfile.is_zipfile(path):
        # a torch file's directory stands at its end, so a cut one has none
        raise ModelFileError(
            f"{path}: expected a zip archive, found {found.st_size} bytes without its end; {mend()}"
        )
    elif path.suffix == ".onnx":
        _check_onnx(path)
    elif path.suffix == ".npy":
        _check_array(path)


def _check_onnx(path: Path) -> None:
    """Check that the fields of the outermost message end where the file does."""
    with (
        reading(path, "readable ONNX graph", OSError, ValueError),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as content,
    ):
        for _, _, value in protobuf.fields(content):
            if isinstance(value, memoryview):
                value.release()


def _check_array(path: Path) -> None:
    """Check that an array of float32 in NumPy's format is as long as its header says."""
    with reading(path, "NumPy array", OSError), path.open("rb") as file:
        start = file.read(256)
    header = re.match(rb"\x93NUMPY\x01\x00(..).*?'shape': \((\d+), (\d+)\)", start, re.DOTALL)
    if header is None:
        raise ModelFileError(f"{path} is no NumPy array of two dimensions; {mend()}")
    expected = 10 + int.from_bytes(header[1], "little") + 4 * int(header[2]) * int(header[3])
    if (size := path.stat().st_size) != expected:
        raise ModelFileError(f"{path}: expected {expected} bytes, found {size}; {mend()}")
