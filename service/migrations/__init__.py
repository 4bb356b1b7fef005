"""The migrations of the database, which alembic runs, and what a database's revision means to this program."""
