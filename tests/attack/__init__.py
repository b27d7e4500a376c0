"""Attacks on a running daemon: bounded in count and time, on loopback and in namespaces of their own."""
