"""The last step of a restore: what was checked and laid ready takes the place of what a data folder holds.

The folder READY comes into being by a rename, as a whole, and is then put in place by whoever comes first: the command
that made it, or the next engine that starts here. Whenever that is cut off, it is gone on with at the next start, so
there is either all of the old data or all of the restored.
"""

import os
import shutil
from pathlib import Path

READY = "restored"
"""In the data folder: holds DATABASE and CONFIGURATION until they are in place."""
DATABASE = "engine.db"
CONFIGURATION = "configuration"
UNFINISHED = ".agentos-"
"""How the names of folders begin in which a backup or a restore works."""
COMPANIONS = ("-wal", "-shm", "-journal")
"""Endings of the files that belong to a database, and to no other."""


def remove_unfinished(data_dir: Path) -> None:
    """Remove what backups and restores that were cut off have left in a data folder."""
    for each in data_dir.glob(f"{UNFINISHED}*"):
        shutil.rmtree(each, ignore_errors=True)


def put_in_place(data_dir: Path) -> bool:
    """Replace the database and the configuration entries by restored ones that lie ready; return whether there were any.

    Only for who has the folder's lock. Raises OSError; then it is to be tried again.
    """
    ready = data_dir / READY
    if not ready.is_dir():
        return False
    if (ready / DATABASE).exists():
        for ending in COMPANIONS:  # before the new database comes: it must never meet the log of the old one
            (data_dir / f"{DATABASE}{ending}").unlink(missing_ok=True)
        sync_folder(data_dir)
        os.replace(ready / DATABASE, data_dir / DATABASE)
    if (ready / CONFIGURATION).exists():
        if (data_dir / CONFIGURATION).exists():
            shutil.rmtree(data_dir / CONFIGURATION)
        os.replace(ready / CONFIGURATION, data_dir / CONFIGURATION)
    sync_folder(data_dir)
    shutil.rmtree(ready)
    sync_folder(data_dir)
    return True


def sync_folder(folder: Path) -> None:
    """See to it that the names in a folder last. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
