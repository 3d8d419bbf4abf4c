"""Which file system a path lies on, as Linux knows it."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOUNTS = Path("/proc/mounts")
#: Shared between machines, which SQLite's write-ahead log is not for (sqlite.org/wal.html).
SHARED = r"(fuse\.)?(9p|afs|beegfs|ceph|cifs|davfs|gluster|gpfs|lustre|nfs|orangefs|panfs|pvfs2|smb|sshfs|weka).*"


def kind(path: str | Path) -> str:
    """The type of the file system, such as ext4, that the path lies on or would lie on."""
    real, found, longest = os.path.join(os.path.realpath(path), ""), "unknown", 0
    for row in MOUNTS.read_text(errors="replace").splitlines() if MOUNTS.exists() else []:
        point, type_ = row.split()[1:3]
        point = os.path.join(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), point), "")
        if real.startswith(point) and len(point) >= longest:  # of two mounted on one folder the later counts
            found, longest = type_, len(point)
    return found


def shared(path: str | Path) -> str:
    """The type of the file system if other machines may write there too, else nothing."""
    return found if re.fullmatch(SHARED, found := kind(path)) else ""
