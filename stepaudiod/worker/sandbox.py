"""Restricts this process to what decoding needs: seccomp(2) and landlock(7). Independent of recordings.

Both need no privileges. seccomp lets through the system calls named here and answers all others with EPERM:
no file is opened, no socket made, no program started, no memory made executable. The numbers are those of
x86_64 and aarch64. landlock forbids every file and every TCP port on any processor, from kernel 5.13 on.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

SYSTEM_CALLS = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10,
        "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
        "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "sched_yield": 24, "mremap": 25,
        "madvise": 28, "nanosleep": 35, "getpid": 39, "sendto": 44, "recvfrom": 45, "sendmsg": 46,
        "recvmsg": 47, "exit": 60, "fcntl": 72, "gettimeofday": 96, "getrusage": 98, "sigaltstack": 131,
        "gettid": 186, "futex": 202, "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229,
        "clock_nanosleep": 230, "exit_group": 231, "newfstatat": 262, "ppoll": 271,
        "set_robust_list": 273, "prlimit64": 302, "getrandom": 318, "membarrier": 324, "rseq": 334,
    },
    "aarch64": {
        "fcntl": 25, "close": 57, "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66,
        "pread64": 67, "pwrite64": 68, "ppoll": 73, "newfstatat": 79, "fstat": 80, "exit": 93,
        "exit_group": 94, "futex": 98, "set_robust_list": 99, "nanosleep": 101, "clock_gettime": 113,
        "clock_getres": 114, "clock_nanosleep": 115, "sched_yield": 124, "restart_syscall": 128,
        "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135,
        "rt_sigreturn": 139, "getrusage": 165, "gettimeofday": 169, "getpid": 172, "gettid": 178,
        "sendto": 206, "recvfrom": 207, "sendmsg": 211, "recvmsg": 212, "brk": 214, "munmap": 215,
        "mremap": 216, "mmap": 222, "mprotect": 226, "madvise": 233, "prlimit64": 261, "getrandom": 278,
        "membarrier": 283, "rseq": 293,
    },
}  # fmt: skip
"""What Python, NumPy and FFmpeg need once they are loaded, and the numbers: syscalls(2)."""
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000
LOAD, JUMP_IF_EQUAL, JUMP_IF_SET, RETURN = 0x20, 0x15, 0x45, 0x06
"""BPF: load a word of `struct seccomp_data`, compare it, test its bits, return."""
NUMBER, ARCH, ARGUMENTS = 0, 4, 16
"""Offsets in `struct seccomp_data`; each argument has 8 bytes, the low word first on both machines."""
PROT_EXEC = 4

LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_CREATE_RULESET_VERSION = 1
FILE_RIGHTS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 5: 0xFFFF}
"""The rights over files that each version of landlock added to."""
TCP_RIGHTS_VERSION, TCP_RIGHTS = 4, 3


def restrict() -> list[str]:
    """Restrict this process for good. It must have a single thread: others would stay as they are.

    Returns:
        What is in force: `landlock`, `seccomp`, both or none, by what the kernel offers.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return []
    found = ["landlock"] if _restrict_by_landlock(libc) else []
    return [*found, "seccomp"] if _restrict_by_seccomp(libc) else found


def _restrict_by_landlock(libc: ctypes.CDLL) -> bool:
    version = libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1:
        return False
    files = next(rights for since, rights in reversed(FILE_RIGHTS.items()) if since <= version)
    rights = (files, TCP_RIGHTS) if version >= TCP_RIGHTS_VERSION else (files,)
    handled = struct.pack(f"{len(rights)}Q", *rights)
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    return bool(ruleset >= 0 and libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)


def _restrict_by_seccomp(libc: ctypes.CDLL) -> bool:
    """Install the filter; False where the kernel or the processor has none."""
    machine = platform.machine()
    if machine not in SYSTEM_CALLS:
        return False
    code = _filter(machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) == 0)


def _filter(machine: str) -> bytes:
    """The filter as BPF: bpf(4), `struct sock_filter`."""
    calls = dict(SYSTEM_CALLS[machine])
    deny, allow = (RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM), (RETURN, 0, 0, SECCOMP_RET_ALLOW)
    code = [(LOAD, 0, 0, ARCH), (JUMP_IF_EQUAL, 1, 0, AUDIT_ARCH[machine]), deny, (LOAD, 0, 0, NUMBER)]
    # memory may not become executable, and limits are changed for this process only
    no_code = [(LOAD, 0, 0, ARGUMENTS + 8 * 2), (JUMP_IF_SET, 0, 1, PROT_EXEC), deny, allow]
    own_limits = [(LOAD, 0, 0, ARGUMENTS), (JUMP_IF_EQUAL, 1, 0, 0), deny, allow]
    for name, check in (("mmap", no_code), ("mprotect", no_code), ("prlimit64", own_limits)):
        code += [(JUMP_IF_EQUAL, 0, len(check), calls.pop(name)), *check]
    for number in calls.values():
        code += [(JUMP_IF_EQUAL, 0, 1, number), allow]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in [*code, deny])
