"""Objects named by the hash of their content: put, open, stat, check; on disk, S3, GCS or Azure."""
