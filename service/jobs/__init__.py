"""The state machines of an e-mail's job and of its sync; no other package writes their columns.

Jobs: `arrival` records an e-mail, `waiting` has received and queued jobs, `attempts` claims and settles them. Syncs:
`syncs` claims and settles them. `retries` and `bulk_retries` start either again for an operator. Each transition is ONE
statement that names the states it may leave, for any number of rows. No row back means that another process was first:
that is a result and not an error. `attempt_number` and `sync_attempt_number` are fencing tokens: a process that lost
its lease can write nothing. All times are the database's.
"""
