"""Guards the process against mappings that another process truncates.

Any process that may write to shared memory may also truncate it. Accesses past the new end then raise SIGBUS. The
handler here replaces the mapping with anonymous memory and records that it was cut; the access is repeated and reads
zeros (sigaction(2), SA_SIGINFO; mmap(2), MAP_FIXED). The handler needs the GIL, and has it if the access was made with
it, as a memoryview's are. Only one thread may access guarded mappings, and it must not wait for others meanwhile.
"""

from __future__ import annotations

import ctypes
import mmap
import signal

_SA_SIGINFO = 4
_MAP_FIXED = 0x10
_ADDRESS_OFFSET = 16  # si_addr in siginfo_t, on 64-bit Linux
# PyDLL keeps the GIL: the handler runs in the middle of another operation, which holds it.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _SigAction(ctypes.Structure):
    """struct sigaction of glibc."""

    _fields_ = (
        ("handler", _Handler),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class MappingGuard:
    """The guarded mappings, and which of them were cut short."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._cut: set[int] = set()
        self._action: _SigAction | None = None

    def watch(self, memory: mmap.mmap) -> int:
        """Guard a writable mapping; returns its handle. The first call installs the signal handler."""
        if self._action is None:
            self._action = _SigAction(handler=_Handler(self._handle), flags=_SA_SIGINFO)
            if _libc.sigaction(signal.SIGBUS, ctypes.byref(self._action), None) != 0:
                raise OSError(ctypes.get_errno(), "SIGBUS can't be handled")
        first = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(first)
        del first  # it would keep the mapping alive
        self._sizes[address] = len(memory)
        return address

    def was_cut(self, address: int) -> bool:
        """Whether an access to the mapping ran past its end."""
        return address in self._cut

    def forget(self, address: int) -> None:
        """Stop guarding a mapping, before it is closed."""
        self._sizes.pop(address, None)
        self._cut.discard(address)

    def _handle(self, number: int, info: int, _: int) -> None:
        fault = ctypes.c_void_p.from_address(info + _ADDRESS_OFFSET).value or 0
        for address, size in self._sizes.items():
            if address <= fault < address + size:
                protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
                if _libc.mmap(address, size, protection, flags, -1, 0) == address:
                    self._cut.add(address)
                    return
        signal.signal(number, signal.SIG_DFL)  # not a guarded mapping: the signal comes again and ends the process


GUARD = MappingGuard()
