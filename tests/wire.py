"""A network namespace for a process, and everything that the process sends.

    with Wire.tap(tmp_path) as wire:
        daemon = start_daemon(within=wire.enter)
        ...
        assert wire.packets == []

Two network namespaces and a veth pair. In the outer one every name resolves, every address is local, and
ports 80 and 443 accept: a library that reports gets as far as its first bytes, which `heard` keeps. Sockets
that a test made before stay in the test's own network, so requests to the daemon never appear here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.systemd.network import Network

DEADLINE_S = 30.0
INNER, OUTER = "100.64.7.2", "100.64.7.1"
INNER_V6, OUTER_V6 = "fd64:7::2", "fd64:7::1"
ETH_ALL, ETH_IPV4, ETH_IPV6 = 0x0003, 0x0800, 0x86DD
ICMPV6 = 58
"""Neighbour discovery and multicast reports: the kernel's own."""
A, AAAA = 1, 28


@dataclass
class Wire:
    """The packets from the inner network.

    Attributes:
        enter: a command prefix that runs a program in the inner network.
        packets: protocol number and destination of each IP packet.
        names: the names that were asked for.
        heard: the first bytes of each connection to port 80 or 443.
    """

    enter: tuple[str, ...]
    packets: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)
    _arrived: threading.Condition = field(default_factory=threading.Condition)

    @classmethod
    @contextlib.contextmanager
    def tap(cls, folder: Path) -> Iterator[Wire]:
        """Make the networks, or skip the test where that is impossible."""
        if os.geteuid() != 0:
            pytest.skip("needs root, to make network namespaces")
        if missing := [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]:
            pytest.skip(f"not installed: {', '.join(missing)}")
        resolver = folder / "resolv.conf"
        resolver.write_text(f"nameserver {OUTER}\noptions timeout:1 attempts:1\n")
        with _namespace("--net") as outer, _namespace("--net", "--mount") as inner:
            try:
                _lay_cable(outer, inner, resolver)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"network namespaces can't be connected here: {error}")
            enter = (
                "nsenter",
                f"--net=/proc/{inner}/ns/net",
                f"--mount=/proc/{inner}/ns/mnt",
                f"--wdns={Path.cwd()}",
            )
            wire = cls(enter)
            with contextlib.closing(Network(outer)) as network, contextlib.ExitStack() as opened:
                sockets = wire._listen(network)
                for each in sockets:
                    opened.callback(each.close)
                    opened.callback(_wake, each)
                yield wire

    def run(self, *command: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a program in the inner network to its end."""
        return subprocess.run(
            [*self.enter, *command], env=environ, capture_output=True, text=True, check=False, timeout=600
        )

    def wait(self) -> None:
        """Wait until a packet has arrived."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: bool(self.packets), DEADLINE_S)

    def _listen(self, network: Network) -> list[socket.socket]:
        sniffer = network.make(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ALL))
        sniffer.bind(("cable", ETH_ALL))
        dns = network.make(socket.AF_INET, socket.SOCK_DGRAM)
        dns.bind(("0.0.0.0", 53))
        made = [sniffer, dns]
        threading.Thread(target=self._sniff, args=(sniffer,), daemon=True).start()
        threading.Thread(target=self._resolve, args=(dns,), daemon=True).start()
        for port in (80, 443):
            listener = network.make(socket.AF_INET6, socket.SOCK_STREAM)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(("::", port))
            listener.listen()
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
            made.append(listener)
        return made

    def _sniff(self, sniffer: socket.socket) -> None:
        """Store each IP packet from the inner network."""
        with contextlib.suppress(OSError):
            while True:
                frame, address = sniffer.recvfrom(65535)
                if not frame:
                    return
                if address[2] != socket.PACKET_OUTGOING and (seen := _destination(frame)):
                    with self._arrived:
                        self.packets.append(seen)
                        self._arrived.notify_all()

    def _resolve(self, dns: socket.socket) -> None:
        """Answer each question with an address that exists here."""
        with contextlib.suppress(OSError):
            while True:
                question, client = dns.recvfrom(4096)
                if not question:
                    return
                name, kind, end = _question(question)
                self.names.append(name)
                data = {A: socket.inet_aton(OUTER), AAAA: socket.inet_pton(socket.AF_INET6, OUTER_V6)}.get(
                    kind
                )
                header = question[:2] + struct.pack(">HHHHH", 0x8180, 1, 1 if data else 0, 0, 0)
                record = b"" if data is None else struct.pack(">HHHIH", 0xC00C, kind, 1, 60, len(data)) + data
                dns.sendto(header + question[12:end] + record, client)

    def _accept(self, listener: socket.socket) -> None:
        """Store the first bytes of each client."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    self.heard.append(connection.recv(4096))


def _destination(frame: bytes) -> str | None:
    """Protocol and destination of an IP packet; None for packets that the kernel sends by itself."""
    (kind,) = struct.unpack_from(">H", frame, 12)
    if kind == ETH_IPV4:
        end = 14 + 4 * (frame[14] & 0x0F)
        return f"{frame[23]} {socket.inet_ntoa(frame[30:34])} port {int.from_bytes(frame[end + 2 : end + 4])}"
    if kind == ETH_IPV6 and frame[20] not in (0, ICMPV6):
        address = socket.inet_ntop(socket.AF_INET6, frame[38:54])
        return f"{frame[20]} {address} port {int.from_bytes(frame[56:58])}"
    return None


def _question(message: bytes) -> tuple[str, int, int]:
    """The name, the type and the end of a DNS query's question (RFC 1035, 4.1.2)."""
    labels, at = [], 12
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode("latin-1"))
        at += 1 + length
    return ".".join(labels), int.from_bytes(message[at + 1 : at + 3], "big"), at + 5


@contextlib.contextmanager
def _namespace(*kinds: str) -> Iterator[int]:
    """A process that keeps namespaces alive; its id."""
    command = ["setpriv", "--pdeathsig=KILL", "unshare", *kinds, "sh", "-c", "echo here; exec sleep infinity"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as place:
        try:
            assert place.stdout is not None
            assert place.stderr is not None
            if place.stdout.readline() != "here\n":
                pytest.skip(f"namespaces can't be made here: {place.stderr.read().strip()}")
            yield place.pid
        finally:
            place.kill()


def _lay_cable(outer: int, inner: int, resolver: Path) -> None:
    """Connect the two namespaces; the outer one accepts packets to any address."""
    _in(outer, f"ip link add cable type veth peer name cable netns {inner}")
    for pid, address, address_v6 in ((outer, OUTER, OUTER_V6), (inner, INNER, INNER_V6)):
        _in(pid, "ip link set lo up")
        _in(pid, f"ip address add {address}/24 dev cable")
        _in(pid, f"ip address add {address_v6}/64 dev cable nodad")
        _in(pid, "ip link set cable up")
    _in(outer, "ip route add local 0.0.0.0/0 dev lo")
    _in(outer, "ip -6 route add local ::/0 dev lo table main")
    _in(inner, f"ip route add default via {OUTER}")
    _in(inner, f"ip -6 route add default via {OUTER_V6}")
    target = Path("/etc/resolv.conf").resolve()
    _in(inner, f"mount --bind {resolver} {target}", "--mount")


def _in(pid: int, command: str, *kinds: str) -> None:
    subprocess.run(
        ["nsenter", "--target", str(pid), "--net", *kinds, "--", *command.split()],
        check=True,
        capture_output=True,
    )


def _wake(listener: socket.socket) -> None:
    """End the thread that waits on a socket."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
