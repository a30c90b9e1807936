"""Programs for ``fresh_python`` whose parts run in several connected processes, as torchrun would start them."""

from __future__ import annotations

IN_PROCESSES = '''
import os, signal, sys, time
from datetime import timedelta
from torch import distributed

def say(text):
    os.write(1, f"{text}\\n".encode())  # at once: lines of several processes do not mix

def in_processes(count, body, *, timeout_s=30, never_ends=0, store_ends=False):
    """Call body(rank) in each process, and print the error that it raises; those that never end are killed."""
    os.environ.update(MASTER_ADDR="127.0.0.1", WORLD_SIZE=str(count), TORCHELASTIC_USE_AGENT_STORE="True")
    children, (reading, writing) = [], os.pipe()
    for rank in range(count):
        child = os.fork()
        if child:
            children.append(child)
            continue
        signal.alarm(60)  # nothing hangs for longer
        host = str(rank // 2)  # two processes each; torchrun counts restarts on each by itself
        os.environ.update({"RANK": str(rank), "GROUP_RANK": host, "TORCHELASTIC_RESTART_COUNT": host})
        os.environ["MASTER_PORT"] = os.read(reading, 5).decode()
        distributed.init_process_group("gloo", timeout=timedelta(seconds=timeout_s))
        try:
            body(rank)
        except BaseException as error:
            say(f"{rank} {type(error).__name__}: {error}")
        os._exit(0)
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # threads, so after the forks
    os.write(writing, f"{store.port:05}".encode() * count)
    if store_ends:
        time.sleep(1)
        del store
    for _ in range(count - never_ends):
        children.remove(os.wait()[0])
    for child in children:
        os.kill(child, signal.SIGKILL)
'''
