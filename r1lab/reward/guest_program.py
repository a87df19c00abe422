"""Runs inside the sandbox: the policy's program, by itself or as one that answers calls. Imports nothing of r1lab.

    script FD        run the source in FD as a program
    serve FD SOCKET  load the source in FD, then answer each request that comes by SOCKET

Whoever asks takes replies for what they are, values that the program chose: no verdict is made here.
`guest_channel` comes before this source, and says how values cross.
"""

import os
import site
import socket
import sys
import types


class Program(Peer):  # noqa: F821
    def find_class(self, receiver, module, name):
        return receiver.find_class(module, name)


def load(fd: int, name: str) -> types.ModuleType:
    with os.fdopen(fd, encoding="utf-8") as file:
        source = file.read()
    module = types.ModuleType(name)
    sys.modules[name] = module
    sys.argv = ["program.py"]
    # What an interpreter offers that was not started with -S: exit(), quit(), help() and the like.
    site.setquit()
    site.setcopyright()
    site.sethelper()
    sys.setrecursionlimit(sys.getrecursionlimit() + 20)  # for the calls around the program
    try:
        exec(compile(source, "program.py", "exec", dont_inherit=True), module.__dict__)
    except SystemExit as end:
        # As a script it ends here; to be called it has defined all that it is going to.
        if name == "__main__" or end.code not in (None, 0):
            raise
    return module


if __name__ == "__main__":
    mode, *fds = sys.argv[1:]
    if mode == "script":
        load(int(fds[0]), "__main__")
    else:
        with socket.socket(fileno=int(fds[1])) as connection:
            program = Program(connection.makefile("rwb"), Remote, [load(int(fds[0]), "program")])  # noqa: F821
            while True:
                program.respond(*program.receive()[1:])
