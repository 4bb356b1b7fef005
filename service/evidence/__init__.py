"""Evidence: a Merkle tree over all recorded facts, signed heads of it, their verification and their export."""
