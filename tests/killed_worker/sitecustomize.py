"""Kills every Python process that starts with this folder on its path, as if memory ran out."""

import os
import signal

os.kill(os.getpid(), signal.SIGKILL)
