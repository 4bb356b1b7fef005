"""The state machine of an e-mail's sync; the only writer of its columns once the job has ended, which begins it.

`carrying` takes what is due, and ends attempts; `again` begins anew what a person wants, and lets go of what has no
target any more. `pending` until it is `synced`, or `failed` with a reason. Who carries it holds it until `sync_due_at`,
and then somebody else does. The fence is twofold: `sync_attempt_number` refuses who was too slow, and the version, which is
the job's `attempt_number`, refuses who carried a state that is not the newest any more. All times are the database's.
"""
