"""Run `holdfast drill` with processes that are forked, since loading each of them takes two seconds."""

import asyncio
import sys

from service.cli.main import main
from tests.support import forked

if __name__ == "__main__":
    setattr(asyncio, "create_subprocess_exec", forked.create_subprocess_exec)  # noqa: B010 its types are many
    main(["drill", *sys.argv[1:]])
