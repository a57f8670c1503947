"""The public face of unipt for Python users."""
