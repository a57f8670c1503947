"""`python -m cli`: the same as `unipt`."""

from .app import main

main()
