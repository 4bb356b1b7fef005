"""Objects under the hash of their content: put, open, stat, check; on disk, S3, GCS or Azure."""

from service.storage.objects import Opened, Storage, Stored, check, open, open_storage, put, stat  # noqa: A004 its verb

__all__ = ["Opened", "Storage", "Stored", "check", "open", "open_storage", "put", "stat"]
