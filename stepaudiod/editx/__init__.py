"""Step-Audio-EditX in plain PyTorch, independent of the daemon. `pipeline` is the only public module.

    text ── prompts ── tokenizer ──┐
                                   ├── step1 + sampling ── codes ── flow ── vocoder ── audio at 24 kHz
    audio ── features ┬ linguistic ┤                                │
                      ├ semantic ──┘                                │
                      ├ campplus ───── speaker embedding ───────────┤
                      └ prompt mel ─────────────────────────────────┘

Each stage can be read, tested and replaced alone.
"""
