"""Write our dump for a golden: `python -m tests.parity GOLDEN.npz --models DIR --out MINE.npz`.

Inputs and noises are read from the golden, and each stage starts from what the reference's stage before it
gave. What is written has the golden's keys, and `compare.py` judges them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tests.parity import audio, decoder, language
from tests.parity.golden import Arrays, Golden, Networks


@torch.inference_mode()
def run(golden: Golden, networks: Networks) -> Arrays:
    """Run every stage that the golden has keys of; gives those keys."""
    made: Arrays = {}
    if "wav_in" in golden:
        made |= audio.codes(golden, networks)
        made |= audio.acoustics(golden, networks)
        made |= audio.prompts(
            golden, networks, golden.start("vq0206", torch.from_numpy(made["vq0206"])).tolist()
        )
    made |= audio.edges(golden, networks)
    if "rep_seqs" in golden:
        made |= language.repetition(golden)
    if "lm_prompt_key" in golden:
        made |= language.keys(golden, networks)
    acoustics = decoder.reference_acoustics(golden, made)
    if "mel" in golden:
        made |= decoder.whole(golden, networks, acoustics)
    if "stream_wav" in golden:
        made |= decoder.streamed(golden, networks, acoustics)
    if "e2e_ids" in golden:
        made |= decoder.end_to_end(golden, networks, acoustics)
    return {key: value for key, value in made.items() if key in golden}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("golden", type=Path)
    parser.add_argument(
        "--models", type=Path, required=True, help="the folder that holds both published folders"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device(options.device)
    golden = Golden(options.golden, device)
    made = run(golden, Networks(options.models, device, golden))
    np.savez(options.out, **made)  # type: ignore[arg-type]
    print(f"{len(made)} keys written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
