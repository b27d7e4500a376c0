"""From audio tokens to a waveform: flow matching and a vocoder."""
