"""`python -m service` is the command `holdfast`."""

from service.cli.main import main

main(prog_name="holdfast")
