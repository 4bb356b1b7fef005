"""The migrations of the database, run by Alembic, and the meaning of a database's revision to this program."""
