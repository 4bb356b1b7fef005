"""Evidence: a Merkle tree over what was recorded, signed heads of it, their verification and their export."""
