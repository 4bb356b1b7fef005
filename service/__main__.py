"""The command `holdfast`, also as `python -m service`."""

import sys


def main() -> None:
    """Run it; a platform's probe takes a shorter way than through all commands."""
    if sys.argv[1:2] == ["alive"]:
        from service.telemetry import alive  # noqa: PLC0415 that is the shorter way

        alive.main(sys.argv[2:])
    from service.cli.main import main  # noqa: PLC0415 likewise

    main(prog_name="holdfast")


if __name__ == "__main__":
    main()
