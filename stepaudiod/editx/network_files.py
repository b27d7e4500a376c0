"""The vocabulary, and all networks but the language model: from published files, or from a prepared one.

The prepared file has what can be computed beforehand: the vocabulary without its parsing, the flow decoder's
modulations instead of the weights that make them, the vocoder's weights without norms, the encoders' tensors
under our names. It is for GPUs, to which it is copied by several threads. On a processor all weights stay
memory-mapped, and there is little to gain.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from stepaudiod.editx.checkpoint.file_copies import FileCopies
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.checkpoint.prepared import PreparedFile, read_bytes
from stepaudiod.editx.checkpoint.weights import Arriving, Stored, read_torch_file
from stepaudiod.editx.decoder.flow import Flow, build_flow, load_flow
from stepaudiod.editx.decoder.vocoder import Vocoder, build_vocoder, read_vocoder
from stepaudiod.editx.host_weights import run_from_host
from stepaudiod.editx.lm.text_tokenizer import Pieces, TextTokenizer, read_pieces
from stepaudiod.editx.reference import Encoders
from stepaudiod.editx.tokenizers.linguistic import build_linguistic, read_linguistic
from stepaudiod.editx.tokenizers.semantic import build_semantic, read_semantic
from stepaudiod.editx.tokenizers.speaker import build_speaker_encoder, read_speaker_encoder
from stepaudiod.errors import ModelFileError

log = logging.getLogger(__name__)

T = TypeVar("T")
Encoder = TypeVar("Encoder", bound=nn.Module)
State = Mapping[str, Tensor]
VOCABULARY = "vocabulary"


@dataclass(frozen=True)
class _Network(Generic[T]):
    """How a network is read from its published file, and built from its tensors on a device."""

    name: str
    path: Path
    read: Callable[[], State]
    build: Callable[[State, Path, torch.device], T]


class NetworkFiles:
    """The files of one checkpoint.

    Args:
        checkpoint: the published files.
        device: where networks go.
        prepared_folder: of the prepared file; None for none.
        keeps_encoders: whether the encoders' weights stay on the device; else see `host_weights`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        prepared_folder: Path | None,
        keeps_encoders: bool = True,
    ) -> None:
        c = self._checkpoint = checkpoint
        self._device, self._keeps_encoders = device, keeps_encoders
        self._flow = _Network("flow", c.flow, lambda: read_torch_file(c.flow), build_flow)
        self._vocoder = _Network("vocoder", c.vocoder, lambda: read_vocoder(c.vocoder), build_vocoder)
        model = c.linguistic / "model.pt"
        self._linguistic = _Network(
            "linguistic", model, lambda: read_linguistic(c.linguistic, c.centroids), build_linguistic
        )
        self._semantic = _Network("semantic", c.semantic, lambda: read_semantic(c.semantic), build_semantic)
        self._speaker = _Network(
            "speaker",
            c.speaker_encoder,
            lambda: read_speaker_encoder(c.speaker_encoder),
            build_speaker_encoder,
        )
        self._prepared: PreparedFile | None = None
        self._stored: dict[str, Stored] | None = None
        if prepared_folder is not None:
            self._prepared = PreparedFile(prepared_folder, c.files_to_prepare())
            self._stored = self._prepared.find()

    def tokenizer(self) -> TextTokenizer:
        return self._from_prepared(self._prepared_tokenizer) or TextTokenizer(
            read_pieces(self._checkpoint.vocabulary)
        )

    def _prepared_tokenizer(self) -> TextTokenizer:
        packed = {name: read_bytes(stored) for name, stored in self._stored_of(VOCABULARY).items()}
        return TextTokenizer(Pieces.unpack(packed))

    def flow(self) -> Flow:
        """The flow decoder, with its modulations."""
        flow = self._load(self._flow)
        flow.schedule()
        return flow

    def vocoder(self) -> Vocoder:
        return self._load(self._vocoder)

    def encoders(self) -> Encoders:
        with torch.inference_mode():
            made = Encoders(
                self._encoder(self._linguistic), self._encoder(self._semantic), self._encoder(self._speaker)
            )
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # they are used by other streams
        return made

    def _encoder(self, network: _Network[Encoder]) -> Encoder:
        if self._keeps_encoders:
            return self._load(network)
        encoder = network.build(network.read(), network.path, torch.device("cpu"))
        run_from_host(encoder, self._device)
        return encoder

    def prepare(self) -> None:
        """Write the prepared file, if one is wanted and doesn't exist.

        Raises:
            OSError: it can't be written, or the disk has too little room.
            ModelFileError: a published file is missing, cut short or wrong.
        """
        if self._prepared is None or self._stored is not None or self._prepared.path.exists():
            return
        with torch.inference_mode():
            states: dict[str, State] = {
                VOCABULARY: {
                    name: torch.frombuffer(bytearray(content), dtype=torch.uint8)
                    for name, content in read_pieces(self._checkpoint.vocabulary).pack().items()
                },
                self._flow.name: load_flow(self._checkpoint.flow, torch.device("cpu")).prepared(),
            }
            others: tuple[_Network[Any], ...] = (
                self._vocoder,
                self._linguistic,
                self._semantic,
                self._speaker,
            )
            states |= {network.name: network.read() for network in others}
            self._prepared.write(
                {f"{of}.{name}": tensor for of, state in states.items() for name, tensor in state.items()}
            )
        log.info("wrote %s: the next start reads it instead of the published files", self._prepared.path)

    def _load(self, network: _Network[T]) -> T:
        prepared = self._from_prepared(lambda: self._load_prepared(network))
        return prepared or network.build(network.read(), network.path, self._device)

    def _load_prepared(self, network: _Network[T]) -> T:
        arriving = Arriving(self._stored_of(network.name), self._device)
        built = network.build(arriving, network.path, self._device)
        FileCopies(arriving.parts, self._device).wait()
        return built

    def _from_prepared(self, load: Callable[[], T]) -> T | None:
        """Load something from the prepared file; None without one. One that fails is not used again."""
        if self._prepared is None or self._stored is None:
            return None
        try:
            return load()
        except (ModelFileError, ValueError) as error:
            self._prepared.remove(error)
            self._stored = None
            return None

    def _stored_of(self, network: str) -> dict[str, Stored]:
        prefix = f"{network}."
        found = self._stored or {}
        return {name.removeprefix(prefix): at for name, at in found.items() if name.startswith(prefix)}
