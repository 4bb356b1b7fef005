"""The state machines of an e-mail's job and of its sync; the only writers of their columns.

Jobs: `arrival` records an e-mail, `waiting` covers received and queued, `attempts` the attempt and its end, `retries` the
way back that an operator opens. Syncs: `syncs` claims and settles, `sync_retries` begins one again. Each function is ONE
statement that names the states it may leave, for any number of rows. No row back means that another process was first,
which is an answer and not an error. `attempt_number` and `sync_attempt_number` are fencing tokens: a process that lost its
lease can write nothing. All times are the database's.
"""
