"""The ids of the vocabulary, and how the two code streams share them. Imports no torch.

linguistic  16.67 Hz   a  b        a' b'
semantic    25 Hz       c d e       c' d' e'
one group, 0.12 s:     [a b c d e] [a' b' c' d' e']      as the language model reads and writes it
flow decoder, 25 Hz:   (a, c) (b, d) (filler, e)         three frames per group
"""

BOS, END_OF_TURN, BEGIN_OF_TURN = 1, 3, 4
AUDIO_BASE = 65536
"""The id of audio code 0; lower ids are text."""
VOCABULARY = 74752

LINGUISTIC_CODES, SEMANTIC_CODES = 1024, 4096
AUDIO_CODES = LINGUISTIC_CODES + SEMANTIC_CODES
"""Semantic codes follow the linguistic ones among the audio ids."""
GROUP, GROUP_FRAMES = 5, 3
LINGUISTIC_IN_GROUP = 2
SECONDS_PER_GROUP = 0.12
MEL_FRAMES_PER_FRAME = 2
