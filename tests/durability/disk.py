"""A disk that a test controls, for a process that runs with ``disk.c`` between itself and the C library."""

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "disk.c"

LOG_SYNC, DATABASE_SYNC, OTHER_SYNC = 1, 2, 4
LOG_WRITE, DATABASE_WRITE, OTHER_WRITE = 8, 16, 32
FOLDER_SYNC, RENAME = 64, 128
SYNCS = LOG_SYNC | DATABASE_SYNC | OTHER_SYNC

_NUMBERS = (
    *("hold", "held", "kill", "kill_after", "fail", "fail_errno", "fail_count", "failed", "limited", "room"),
    *("syncs", "log_syncs", "database_syncs"),
)


def build(folder: Path) -> Path:
    """Compile the library into a folder and return its path."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "the durability tests need a C compiler: install gcc, or put cc on the PATH"
    library = folder / "disk.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, f"disk.c cannot be compiled: {made.stderr}"
    return library


class Disk:
    """The disk below one folder. Set ``hold`` and ``fail`` to the kinds of calls that are meant, 0 for none.

    While ``hold`` names a kind of sync, those wait and are counted in ``held``. ``fail`` makes ``fail_count`` calls
    (-1: all) fail with ``fail_errno``; a sync that fails so loses what it was for, as it does on Linux. While
    ``limited``, files may grow by ``room`` bytes in all. The counters only grow.
    """

    def __init__(self, library: Path, root: Path, folder: Path) -> None:
        self.root, self._library, self._kept = root, library, folder / "kept"
        self._control = folder / "control"
        self._control.write_bytes(bytes(4 * len(_NUMBERS)))
        with self._control.open("r+b") as file:
            self._numbers = mmap.mmap(file.fileno(), 4 * len(_NUMBERS))

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process that is to use the disk."""
        return {
            "LD_PRELOAD": str(self._library),
            "DISK_ROOT": str(self.root),
            "DISK_KEPT": str(self._kept),
            "DISK_CONTROL": str(self._control),
        }

    def __getattr__(self, name: str) -> int:
        if name not in _NUMBERS:
            raise AttributeError(name)
        return struct.unpack_from("i", self._numbers, 4 * _NUMBERS.index(name))[0]

    def __setattr__(self, name: str, value: object) -> None:
        if name in _NUMBERS:
            struct.pack_into("i", self._numbers, 4 * _NUMBERS.index(name), value)
        else:
            super().__setattr__(name, value)

    def kill_in(self, kinds: int, after: int = 0) -> None:
        """Kill the process in the call of these kinds that comes after so many others; a write is done by half."""
        self.kill_after = after
        self.kill = kinds

    def fail_in(self, kinds: int, errno: int, count: int = -1) -> None:
        """Let calls of these kinds fail."""
        self.fail_errno, self.fail_count = errno, count
        self.fail = kinds

    def settle(self) -> None:
        """Count all that is there as safe, and control nothing: called before a process starts."""
        self._numbers[:] = bytes(4 * len(_NUMBERS))
        shutil.rmtree(self._kept, ignore_errors=True)
        (self._kept / "inodes").mkdir(parents=True)
        shutil.copytree(self.root, self._kept / "names", ignore=shutil.ignore_patterns("*-shm"))
        for name in list((self._kept / "names").rglob("*")):
            inode = (self.root / name.relative_to(self._kept / "names")).stat().st_ino
            if name.is_file():
                os.link(name, self._kept / "inodes" / str(inode))
            else:
                (name / f".inode-{inode}").touch()

    def control_nothing(self) -> None:
        """Let everything go its way again."""
        for name in ("hold", "kill", "fail", "limited"):
            setattr(self, name, 0)

    def lose_power(self) -> None:
        """Put what had reached the disk in place of what the process, which has ended, had written."""
        for each in self.root.iterdir():
            if each.is_dir():
                shutil.rmtree(each)
            else:
                each.unlink()
        marks = shutil.ignore_patterns(".inode-*")
        shutil.copytree(self._kept / "names", self.root, dirs_exist_ok=True, ignore=marks)
