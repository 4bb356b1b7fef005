"""The worker process; `service.worker.WorkerSettings` is the address that the command `arq` is given."""

from service.worker.settings import WorkerSettings

__all__ = ["WorkerSettings"]
