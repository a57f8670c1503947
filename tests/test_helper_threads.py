"""Threads beside the forward passes."""

from __future__ import annotations

import threading

import torch

from extractor.helper_threads import helper_thread


def test_a_helper_computes_alone_and_changes_no_other_thread() -> None:
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with helper_thread("test") as helper:
            inside = helper.submit(torch.get_num_threads).result()
            seen: list[int] = []
            other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            other.start()
            other.join()

            assert inside == 1
            assert torch.get_num_threads() == 2
            assert seen == [2]
    finally:
        torch.set_num_threads(usual)
