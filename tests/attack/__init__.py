"""Attacks on a running daemon, limited in number and time, on loopback and in network namespaces."""
