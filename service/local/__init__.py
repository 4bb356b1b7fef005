"""A local Holdfast to try it out: Postgres and Valkey from wheels, a stand-in Zendesk, a supervisor. Not for production."""
