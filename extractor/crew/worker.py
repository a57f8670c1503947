"""One worker process: `python -m extractor.crew.worker`, with its configuration on stdin.

It ends at once when stdin does: then the process that started it is gone.
"""

from __future__ import annotations

import os
import signal
import sys
from threading import Thread


def main() -> int:
    """Extract what nobody else makes; the exit code is that of the command line."""
    config_json = sys.stdin.readline()
    Thread(target=_end_with_parent, name="unipt-parent", daemon=True).start()

    from cache_schema import StopSignals, UserError

    from ..config import ExtractConfig
    from ..fill import fill_alone
    from .events import SentProgress, send

    config = ExtractConfig.model_validate_json(config_json)
    try:
        fill_alone(config, SentProgress(), StopSignals(signal.SIGTERM))
    except UserError as error:
        send(error=str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _end_with_parent() -> None:
    # Not through `sys.stdin`, whose lock would be held while the interpreter ends.
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
