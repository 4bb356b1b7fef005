"""What all handlers share: reading requests, writing answers, errors as answers, HTML."""
