"""The command `holdfast`, also as `python -m service`."""

import sys


def main() -> None:
    """Run the command; a platform's probe loads no other command."""
    if sys.argv[1:2] == ["alive"]:
        from service.telemetry import alive  # noqa: PLC0415 fast

        alive.main(sys.argv[2:])
    from service.cli.main import main  # noqa: PLC0415 not for a probe

    main(prog_name="holdfast")


if __name__ == "__main__":
    main()
