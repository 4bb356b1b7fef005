"""Our webhook and our trigger at Zendesk: make them, watch them, and learn the signing secret."""
