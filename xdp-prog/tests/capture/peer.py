"""A server that says its name, and opens connections of its own when it is asked to.

A line "GET ..." gets the name by HTTP; "open HOST PORT" what the server there says to "name";
"child open ..." the same from a child, "orphan open ..." from a child whose parent has ended.
"""

import contextlib
import os
import socket
import sys
import threading


def ask(host, port):
    try:
        with socket.create_connection((host, int(port)), timeout=10) as there:
            there.sendall(b"name\n")
            return there.makefile().readline().strip()
    except OSError as error:
        return f"error {error.errno}"


def through_pipe(job, orphan):
    out, into = os.pipe()
    if os.fork() == 0:
        os.close(out)
        if orphan:
            parent = os.getpid()
            if os.fork() != 0:
                os._exit(0)
            while os.getppid() == parent:
                pass
        os.write(into, job().encode())
        os._exit(0)
    os.close(into)
    os.wait()
    with os.fdopen(out) as pipe:
        return pipe.read()


def answer(words, name):
    match words:
        case ["open", host, port]:
            return ask(host, port)
        case [kind, "open", host, port]:
            return through_pipe(lambda: ask(host, port), kind == "orphan")
        case _:
            return name


def serve(client, name):
    # A client that goes away is no matter.
    with client, contextlib.suppress(OSError):
        words = client.makefile().readline().split()
        if words and words[0] == "GET":
            head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(name)}\r\n\r\n"
            client.sendall((head + name).encode())
        elif words:
            client.sendall((answer(words, name) + "\n").encode())


def main():
    name, host, port = sys.argv[1:]
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
    server.bind((host, int(port)))
    server.listen(128)
    print(os.getpid(), flush=True)
    while True:
        client, _ = server.accept()
        threading.Thread(target=serve, args=(client, name), daemon=True).start()


main()
