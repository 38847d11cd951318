"""Becomes another program: inside a root directory, as another user, and never outliving the supervisor.

Run as a script: `python -I -S enter.py OWNER_PID ROOT UID:GID PROGRAM …`, with `-` for "leave as it is". It replaces
itself, so nothing of it stays. A script rather than `preexec_fn`, which is unsafe in a process that has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(owner: str, root: str, user: str, *command: str) -> None:
    """Take on root and user, tie this process's life to its owner's, and exec the command."""
    libc = ctypes.CDLL(None)  # before chroot: the library lives outside
    if root != "-":
        os.chroot(root)
        os.chdir("/")
    if user != "-":
        uid, gid = (int(part) for part in user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After setuid, which clears it. The owner may have died before this line: then nobody would send the signal.
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(owner):
        sys.exit("the supervisor is gone")
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(*sys.argv[1:])
