"""The worker process; it is started with `arq service.worker.WorkerSettings`."""


def __getattr__(name: str) -> type:
    """Read the environment when arq asks for `WorkerSettings`, not when a module of this package is imported."""
    if name != "WorkerSettings":
        raise AttributeError(name)
    from service.worker import settings  # noqa: PLC0415

    return settings.from_environment()
