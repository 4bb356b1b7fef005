"""The state machine of an e-mail's job; the only writer of `processing_status`.

`arriving` puts an e-mail on record, `waiting` is the side before an attempt (received, queued), `running`
the attempt and its end (processing, completed, failed), `again` the way back that an operator opens. Each function is ONE statement that names the states
it may leave, for any number of jobs; only who finds that it was not first looks up with a second one who was.
No row back means that somebody was first, which is an answer and not an error. The fence is
`attempt_number`: who lost its lease can change nothing any more. All times are the database's.
"""
