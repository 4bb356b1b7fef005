"""Compare what is on record with the target and the storage, and put right what differs; verify what is stored."""
