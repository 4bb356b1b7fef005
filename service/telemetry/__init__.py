"""What leaves for other systems: errors to Sentry, traces to whatever speaks OTLP. Both are off unless they are set."""
