"""Programs for ``fresh_python`` whose parts run in several connected processes, as torchrun would start them."""

from __future__ import annotations

IN_PROCESSES = '''
import os, signal, sys, time
from datetime import timedelta
from torch import distributed

def in_processes(count, body, *, timeout_s=30, never_ends=0, store_ends=False):
    """Call body(rank) in each process, and print the error that it raises; those that never end are killed."""
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(count)}
    os.environ.update(address, TORCHELASTIC_USE_AGENT_STORE="True")
    children = []
    for rank in range(count):
        child = os.fork()
        if child:
            children.append(child)
            continue
        signal.alarm(60)  # nothing hangs for longer
        os.environ["RANK"] = str(rank)
        distributed.init_process_group("gloo", timeout=timedelta(seconds=timeout_s))
        try:
            body(rank)
        except BaseException as error:
            print(f"{rank} {type(error).__name__}: {error}", flush=True)
        os._exit(0)
    if store_ends:
        time.sleep(1)
        del store
    for _ in range(count - never_ends):
        children.remove(os.wait()[0])
    for child in children:
        os.kill(child, signal.SIGKILL)
'''
