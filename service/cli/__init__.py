"""The command `holdfast`. Commands import heavy libraries when they run, so that `--help` is fast."""
