"""Logs, metrics, liveness, and exports to other systems: errors to Sentry, traces over OTLP."""
