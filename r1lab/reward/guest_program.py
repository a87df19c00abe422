"""Runs inside the sandbox: the policy's program, by itself or as one that answers calls. Imports nothing of r1lab.

    script FD        run the source in FD as a program
    serve FD SOCKET  load the source in FD, then answer each request that comes by SOCKET

Whoever asks takes replies for what they are, values that the program chose: no verdict is made here. Plain data goes
over as it is, everything else as a number that stands for it.
"""

import os
import pickle
import socket
import sys
import types

PLAIN = {type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset}


def load(fd: int, name: str) -> types.ModuleType:
    with os.fdopen(fd, encoding="utf-8") as file:
        source = file.read()
    module = types.ModuleType(name)
    sys.modules[name] = module
    sys.argv = ["program.py"]
    exec(compile(source, "program.py", "exec"), module.__dict__)
    return module


def serve(module: types.ModuleType, channel) -> None:
    objects: list = []

    class Sender(pickle.Pickler):
        def persistent_id(self, value):
            if type(value) in PLAIN:
                return None
            objects.append(value)
            return len(objects) - 1

    class Receiver(pickle.Unpickler):
        def persistent_load(self, number):
            return objects[number]

    def answer(what: str, target, *arguments):
        if what == "global":
            if target not in module.__dict__:
                raise NameError(target)
            return module.__dict__[target]
        if what == "call":
            return target(*arguments[0], **arguments[1])
        return {"get": getattr, "item": lambda x, key: x[key], "list": list, "length": len}[what](target, *arguments)

    while True:
        request = Receiver(channel).load()
        try:
            reply = ("value", answer(*request))
        except Exception as error:
            reply = ("raised", (type(error).__name__, str(error)))
        Sender(channel, protocol=4).dump(reply)
        channel.flush()


if __name__ == "__main__":
    mode, *fds = sys.argv[1:]
    if mode == "script":
        load(int(fds[0]), "__main__")
    else:
        with socket.socket(fileno=int(fds[1])) as connection:
            serve(load(int(fds[0]), "program"), connection.makefile("rwb"))
