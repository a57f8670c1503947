"""Threads beside the forward passes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch


def helper_thread(name: str) -> ThreadPoolExecutor:
    """One thread whose torch operations run in it alone.

    OpenMP gives every thread that runs a large operation a team as large as the machine. With more
    threads in teams than cores, all teams stop waiting actively and sleep at every barrier, also
    those of the forward passes (measured with MiniLM on two cores: 24,000 sleeps in 15 seconds
    instead of 1,000).
    """
    # Setting the number in a new thread also sets it for threads made later: put that back.
    usual = torch.get_num_threads()
    pool = ThreadPoolExecutor(1, name, initializer=torch.set_num_threads, initargs=(1,))
    pool.submit(torch.get_num_threads).result()
    torch.set_num_threads(usual)
    return pool
