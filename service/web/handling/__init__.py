"""The handling of requests that all handlers share: parameters, answers, errors, HTML."""
