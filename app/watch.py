"""
The watcher of an embedded PostgreSQL: stops the server when nobody uses it any more (see embedded.py).

    python -m app.watch USERS WATCHER FOLDER PROGRAMS [UID GID]

USERS and WATCHER are inherited descriptors: of the lock that every user shares, and of the one that says that a
watcher is there, which is held already. The process goes into the background at once.
"""

import fcntl
import os
import sys
from pathlib import Path

from app.cluster import Account, Cluster


def watch(users: int, watcher: int, cluster: Cluster) -> None:
    """Wait until the last user has gone, however it went, and stop the server it may have left behind."""
    fcntl.flock(users, fcntl.LOCK_EX)
    cluster.stop()
    os.close(watcher)  # before the users' lock: whoever starts next must see that there is no watcher
    os.close(users)


if __name__ == "__main__":
    if os.fork() == 0:
        users, watcher, folder, programs, *ids = sys.argv[1:]
        owner = Account(*map(int, ids)) if ids else None
        watch(int(users), int(watcher), Cluster(Path(folder), Path(programs), owner))
