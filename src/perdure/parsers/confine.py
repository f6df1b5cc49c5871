"""What a process that reads foreign content may not do any more, as far as the system allows without root."""

from __future__ import annotations

import ctypes
import errno
import platform
import resource
import signal
import struct
import sys
from contextlib import suppress
from typing import Final

_PDEATHSIG, _SECCOMP, _NO_NEW_PRIVS = 1, 22, 38  # of prctl(2)
_FILTER: Final = 2  # SECCOMP_MODE_FILTER
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # instructions of a BPF program
_ALLOW: Final = 0x7FFF0000
_FORBID: Final = 0x00050000 | errno.EPERM
_FOREIGN: Final = 0x40000000  # calls of x86-64's other ABI begin here

# socket, kill, ptrace, execve, execveat, tkill, tgkill, process_vm_readv, process_vm_writev, pidfd_send_signal,
# io_uring_setup: the ways to the network, to other programs and into other processes.
_CALLS: Final = {
    "x86_64": (0xC000003E, (41, 62, 101, 59, 322, 200, 234, 310, 311, 424, 425)),
    "aarch64": (0xC00000B7, (198, 129, 117, 221, 281, 130, 131, 270, 271, 424, 425)),
}


def confine(memory: int, cpu: int) -> None:
    """Limit this process for good: memory, processor time, no new files' content, no network, no other programs.

    Args:
        memory: bytes of address space (Linux; macOS does not count it).
        cpu: seconds of processor time, after which it is killed.
    """
    limits = {
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_CPU: (cpu, cpu + 5),  # at the hard limit the signal would not say why
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
    }
    for what, (soft, hard) in limits.items():
        most = resource.getrlimit(what)[1]
        most = hard if most == resource.RLIM_INFINITY else min(hard, most)
        with suppress(ValueError, OSError):  # a limit that this system does not know
            resource.setrlimit(what, (min(soft, most), most))
    if sys.platform == "linux":
        _prctl(_PDEATHSIG, signal.SIGKILL)
        _prctl(_NO_NEW_PRIVS, 1)
        _forbid_calls()


def _forbid_calls() -> None:
    """Let the kernel answer "not permitted" to the calls in `_CALLS` (seccomp; inherited, never lifted)."""
    if platform.machine() not in _CALLS:
        return
    architecture, calls = _CALLS[platform.machine()]
    end = len(calls) + 4  # the index of "allow"; "forbid" stands behind it
    program = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 0, end - 1, architecture),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_AT_LEAST, end - 3, 0, _FOREIGN),
        *((_EQUAL, end - 4 - place, 0, call) for place, call in enumerate(calls)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FORBID),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    head = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    _prctl(_SECCOMP, _FILTER, ctypes.addressof(head))


def _prctl(option: int, *values: int) -> None:
    """Ask the kernel. Where it lacks the ability, the other limits must do."""
    arguments = (ctypes.c_ulong(value) for value in (*values, *(0,) * (4 - len(values))))
    ctypes.CDLL(None).prctl(option, *arguments)
