"""The meaning of every error code, with advice: `python -m service.error_guide` prints docs/errors.md."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advice:
    """One code; `meaning` and `action` are one or two sentences each.

    `can_be_retried`: e-mails fail with this code, and a retry helps when the cause is fixed.
    """

    code: str
    meaning: str
    action: str
    can_be_retried: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """The codes that are seen at one place."""

    title: str
    about: str
    advices: tuple[Advice, ...]


GROUPS = (
    Group(
        "E-mails and their files",
        "An e-mail, a file or an attempt shows these codes. A failed e-mail stays failed until somebody retries it. What nobody can repair is dismissed with a reason.",
        (
            Advice(
                "attachment_gone",
                "Zendesk answered 410: the file was deleted.",
                "Look at the ticket in Zendesk. If the file is gone there, dismiss the e-mail: `holdfast emails dismiss ID`.",
            ),
            Advice(
                "not_found",
                "Zendesk answered 404: the file or comment is not there, or its address expired. As an answer of "
                "Holdfast: there is nothing at this address.",
                "Check that the user of the OAuth client can see the ticket.",
                can_be_retried=True,
            ),
            Advice(
                "forbidden",
                "Zendesk answered 403: the credentials do not reach the file or comment, or Zendesk flagged the file as malware.",
                "Give the user of the OAuth client access to all tickets. Look in Zendesk whether the file is flagged.",
                can_be_retried=True,
            ),
            Advice(
                "unauthorized",
                "Zendesk answered 401: it does not accept the credentials. As an answer of Holdfast: the token is missing or wrong.",
                "Run `holdfast check`, and correct the credentials. For Holdfast, send `Authorization: Bearer TOKEN`.",
            ),
            Advice(
                "sign_in_page",
                "Zendesk sent its sign-in page instead of the file.",
                "Run `holdfast check`, and correct the credentials.",
                can_be_retried=True,
            ),
            Advice(
                "redacted",
                "The file was redacted or deleted in Zendesk before it was stored.",
                "Nothing can be fetched. Dismiss the e-mail: `holdfast emails dismiss ID`. A copy that was stored before stays.",
            ),
            Advice(
                "malware_found",
                "Zendesk found malware in the file, and gives it out only if an administrator allows that.",
                "If the file is wanted nevertheless, allow the download in Zendesk. Holdfast looks again every day for a"
                " month, or at once after a retry. If it is not wanted, dismiss the e-mail.",
                can_be_retried=True,
            ),
            Advice(
                "erased",
                "A person had this file erased: it is not stored again. The e-mail completes without it.",
                "Nothing: `holdfast erasures list` shows the erasures.",
            ),
            Advice(
                "not_scanned",
                "Zendesk has not scanned the file for malware yet.",
                "Wait: Holdfast looks again after 1, 6 and 36 minutes, and then fetches the file as it is.",
            ),
            Advice(
                "not_ready",
                "Zendesk answered 202, 409 or 423: the file is not ready yet, for example during a malware scan.",
                "Holdfast makes several attempts. After the last one, retry by hand.",
                can_be_retried=True,
            ),
            Advice(
                "too_large",
                "A file is larger than MAX_ATTACHMENT_BYTES, or the body of a request is larger than allowed.",
                "Raise MAX_ATTACHMENT_BYTES, and retry. For a webhook, use the short payload or raise MAX_WEBHOOK_BYTES.",
            ),
            Advice(
                "decoded_too_large",
                "The file was sent compressed, and is larger than MAX_ATTACHMENT_BYTES when decompressed.",
                "Look at the file in Zendesk before you raise MAX_ATTACHMENT_BYTES: it may be malicious.",
            ),
            Advice(
                "size_mismatch",
                "The file has another size than announced.",
                "Look at the file in Zendesk.",
                can_be_retried=True,
            ),
            Advice(
                "empty_answer",
                "The server answered without any bytes.",
                "Holdfast makes several attempts. After the last one, retry by hand.",
                can_be_retried=True,
            ),
            Advice(
                "unexpected_status",
                "The server answered with a status that Holdfast does not know.",
                "Read the reason. If a proxy stands in between, look at its log.",
                can_be_retried=True,
            ),
            Advice(
                "unexpected_encoding",
                "The server sent the file in an encoding that nobody asked for and that cannot be undone.",
                "Look whether a proxy changes answers on the way.",
                can_be_retried=True,
            ),
            Advice(
                "bad_encoding",
                "The server says that the file is compressed, but it cannot be decompressed.",
                "Holdfast makes several attempts. After the last one, retry by hand.",
                can_be_retried=True,
            ),
            Advice(
                "bad_response",
                "The answer is not what HTTP or Zendesk's API prescribe.",
                "Holdfast makes several attempts. If all fail, look whether a proxy answers instead of Zendesk.",
            ),
            Advice(
                "bad_url",
                "The address of the file is not a valid URL.",
                "Look at the payload: `holdfast emails show ID --raw`. Correct the trigger, and announce the e-mail again.",
            ),
            Advice(
                "address_refused",
                "The file's host is not allowed, or leads to a private address. Nothing was sent to it.",
                "If the host is yours, add it to ZENDESK_HOSTS; if it serves files, to DOWNLOAD_HOSTS.",
                can_be_retried=True,
            ),
            Advice(
                "too_many_redirects",
                "The server redirected too often.",
                "Open the file's address in a browser, and look where it leads.",
                can_be_retried=True,
            ),
            Advice(
                "dns_failed",
                "The host's name does not resolve.",
                "Check DNS on the worker's host. Holdfast makes several attempts. After the last one, retry by hand.",
                can_be_retried=True,
            ),
            Advice(
                "connection_failed",
                "No connection to the server.",
                "Check the network and the firewall of the worker's host. Holdfast makes several attempts. After the last one, retry by hand.",
                can_be_retried=True,
            ),
            Advice(
                "connection_lost",
                "The connection broke before the file was complete.",
                "Holdfast makes several attempts. After the last one, retry by hand.",
                can_be_retried=True,
            ),
            Advice(
                "tls_failed",
                "No secure connection: the certificate of the server, of a sync target or of the mail server is not accepted.",
                "Check its certificate, the clock of this host, and a proxy in between.",
            ),
            Advice(
                "download_stalled",
                "No data arrived for DOWNLOAD_STALL_SECONDS.",
                "Holdfast makes several attempts. If all fail, check the network.",
            ),
            Advice(
                "download_timeout",
                "The file was not complete within DOWNLOAD_SECONDS.",
                "Holdfast makes several attempts. After the last one, retry by hand. For large files on a slow network, raise DOWNLOAD_SECONDS.",
            ),
            Advice(
                "server_error",
                "Zendesk answered with a server error (5xx) or a timeout.",
                "Holdfast makes several attempts. After the last one, retry by hand. Look at Zendesk's status page.",
                can_be_retried=True,
            ),
            Advice(
                "rate_limited",
                "Zendesk accepts no more requests for now, or Holdfast has used up its share of the account's rate limit.",
                "Wait: Holdfast continues by itself. If it happens often, raise ZENDESK_CALLS_PERCENT, or look which other "
                "programs use the API.",
            ),
            Advice(
                "original_not_available",
                "Zendesk does not give the original of this e-mail to programs.",
                "Nothing is to be done: text, HTML and files are kept without it. Agents can see it in the ticket.",
            ),
            Advice(
                "original_unfit",
                "Zendesk's answer for the original of this e-mail is another e-mail, or none.",
                "Nothing is to be done: text, HTML and files are kept without it.",
            ),
            Advice(
                "comment_not_found",
                "The ticket has no comment with this id yet, or the credentials cannot see it.",
                "Give the user of the OAuth client access to all tickets and private comments.",
                can_be_retried=True,
            ),
            Advice(
                "files_left",
                "Zendesk listed another file of the e-mail while an attempt ran.",
                "Wait: another attempt follows at once.",
            ),
            Advice(
                "files_not_listed",
                "The webhook announced files that Zendesk does not list.",
                "Holdfast makes several attempts. After the last one, retry by hand. Look at the ticket in Zendesk.",
                can_be_retried=True,
            ),
            Advice(
                "files_unknown",
                "The webhook does not say which files there are, and there are no credentials to ask Zendesk.",
                "Set ZENDESK_SUBDOMAIN, ZENDESK_OAUTH_CLIENT_ID and ZENDESK_OAUTH_CLIENT_SECRET.",
                can_be_retried=True,
            ),
            Advice(
                "not_captured",
                "The e-mail was taken over from another system, and its files were not fetched yet.",
                "Run `holdfast emails retry --all --error-code not_captured`.",
            ),
            Advice(
                "attempt_timeout",
                "The attempt took longer than ATTEMPT_SECONDS.",
                "Holdfast makes several attempts at what is missing. After the last one, retry by hand. For many large files, raise ATTEMPT_SECONDS.",
            ),
            Advice(
                "abandoned",
                "Five attempts in a row ended because their worker died, hung or lost Postgres.",
                "Look at the workers' memory and log at that time. Retry the e-mail alone: `holdfast emails retry ID`.",
            ),
            Advice(
                "internal_error",
                "An unexpected error: the log has its traceback.",
                "Look for the event in the log, and report it.",
                can_be_retried=True,
            ),
        ),
    ),
    Group(
        "Credentials for Zendesk",
        "E-mails and `holdfast check` show these codes.",
        (
            Advice(
                "credentials_missing",
                "A comment or file needs credentials, and none are set.",
                "Set ZENDESK_SUBDOMAIN, ZENDESK_OAUTH_CLIENT_ID and ZENDESK_OAUTH_CLIENT_SECRET.",
                can_be_retried=True,
            ),
            Advice(
                "credentials_refused",
                "Zendesk does not accept the OAuth client.",
                "The message says what to change. Compare ZENDESK_OAUTH_CLIENT_ID and ZENDESK_OAUTH_CLIENT_SECRET with the client in Admin Center.",
                can_be_retried=True,
            ),
            Advice(
                "token_refused",
                "Zendesk refuses an access token that it has just given.",
                "Wait: another attempt follows. If it stays, check whether the client's user is active.",
            ),
            Advice(
                "token_unavailable",
                "Zendesk gives no access token at the moment.",
                "Wait: another attempt follows, and no retry is used. If it stays, check ZENDESK_SUBDOMAIN, and look at Zendesk's status page.",
            ),
        ),
    ),
    Group(
        "The storage",
        "E-mails, the API and the `storage` commands show these codes.",
        (
            Advice(
                "storage_unavailable",
                "The storage does not answer, or refuses the request.",
                "Run `holdfast check`, and check STORAGE_URL, that a directory's volume is mounted, and the vendor's credentials.",
                can_be_retried=True,
            ),
            Advice(
                "storage_full",
                "The disk of the storage, or of temporary files, is full.",
                "Free space, or move to another storage.",
                can_be_retried=True,
            ),
            Advice(
                "object_removed",
                "An equal file was removed from the storage while this one was stored.",
                "Nothing: another attempt stores it, and no retry is used.",
            ),
            Advice(
                "object_locked",
                "The storage refuses to remove an object: a lock, a retention policy, or a missing right.",
                "Nothing, if the lock is wanted: Holdfast asks again every day. Otherwise give the credentials the right to delete.",
            ),
            Advice(
                "object_missing",
                "A stored file has no object in the storage.",
                "Copy it back from a backup, or run `holdfast reconcile --fix` to refetch it.",
            ),
            Advice(
                "object_damaged",
                "An object has other bytes or another size than what was stored.",
                "Copy it back from a backup, or run `holdfast storage verify --fix` to refetch it.",
            ),
            Advice(
                "object_unreadable",
                "An object exists, but cannot be read.",
                "Check the rights, the archive tier of the bucket, and the disk.",
            ),
        ),
    ),
    Group(
        "The sync",
        "An e-mail's `sync_error_code` has one of these, or one of `abandoned`, `tls_failed`, `storage_unavailable` "
        "and `internal_error`. Alerts by webhook and Slack use the `receiver_` codes, too.",
        (
            Advice(
                "receiver_away",
                "The target or receiver cannot be reached.",
                "Start it, or correct the address. Syncs continue by themselves.",
            ),
            Advice(
                "receiver_slow",
                "The target or receiver did not answer in time.",
                "Look at its load, or raise SYNC_SECONDS. Syncs continue by themselves.",
            ),
            Advice(
                "receiver_busy",
                "The target or receiver says that it cannot handle the request now.",
                "Holdfast makes several attempts. If all fail, look at its log.",
            ),
            Advice(
                "receiver_refused",
                "The target or receiver refuses credentials, signature, time or address.",
                "Check SYNC_URL and SYNC_WEBHOOK_SECRET, or the settings of the alert channel, and the receiver's clock.",
            ),
            Advice(
                "receiver_ahead",
                "The target has a later version of the e-mail than Postgres, as after a restore.",
                "Look at `holdfast reconcile`, then run `holdfast reconcile --fix`.",
            ),
            Advice(
                "document_too_large",
                "The e-mail as a document is larger than the target accepts.",
                "Raise the receiver's limit (MongoDB's is 16 MiB), then run `holdfast emails sync ID`.",
            ),
            Advice(
                "document_refused",
                "The target refuses this document, and accepts others.",
                "Look at the collection's rules or the receiver's log, then run `holdfast emails sync ID`.",
            ),
        ),
    ),
    Group(
        "Webhooks that are refused",
        "The webhook's activity in Zendesk shows these answers. Nothing is kept of them.",
        (
            Advice(
                "signature_missing",
                "The request has no signature.",
                "If it comes from Zendesk, let the proxy pass the headers `X-Zendesk-Webhook-…`.",
            ),
            Advice(
                "signature_mismatch",
                "The signature does not match the body.",
                "Run `holdfast connect`, or copy the signing secret into ZENDESK_WEBHOOK_SECRETS again. Let the proxy pass the body unchanged.",
            ),
            Advice(
                "signing_secrets_late",
                "The signature is unknown, and Zendesk or Postgres has not told the signing secrets yet. Zendesk is asked once a "
                "minute, so most webhooks of a stranger end like this, too.",
                "Wait: Zendesk repeats the webhook. If it stays, run `holdfast check`.",
            ),
            Advice(
                "timestamp_missing",
                "The request has no time of its signature.",
                "If it comes from Zendesk, let the proxy pass the headers `X-Zendesk-Webhook-…`.",
            ),
            Advice(
                "timestamp_malformed",
                "The time of the signature is not a time.",
                "The request does not come from Zendesk, or something on the way changes its headers.",
            ),
            Advice(
                "body_slow",
                "The body did not arrive in time.",
                "Check the network and the proxy. Zendesk retries the webhook.",
            ),
            Advice(
                "body_incomplete",
                "The body broke off.",
                "Check the network and the proxy. Zendesk retries the webhook.",
            ),
            Advice(
                "overloaded",
                "Too many requests wait.",
                "Zendesk retries. If it happens often, see what limits you: docs/scaling.md.",
            ),
            Advice(
                "shutting_down",
                "The process is stopping.",
                "Nothing: Zendesk retries, and another process answers.",
            ),
        ),
    ),
    Group(
        "Webhooks in quarantine",
        "The webhook is kept byte for byte. When it can be parsed: `holdfast quarantine replay ID`. If never: `holdfast quarantine dismiss ID`.",
        (
            Advice(
                "not_json",
                "The body is not JSON, often because a customer's text was inserted unescaped.",
                "Use the short payload in the trigger, and announce the e-mail again.",
            ),
            Advice(
                "wrong_shape",
                "The body is JSON, but not an object that Holdfast can use.",
                "Compare the trigger's body with the payload in docs/zendesk.md.",
            ),
            Advice(
                "no_ticket",
                "The body names no ticket, or one that is no number.",
                'Add `"ticket_id": "{{ticket.id}}"` to the trigger\'s body.',
            ),
            Advice(
                "duplicate_key",
                "A key occurs twice with different values. A sender may have written one of them.",
                "Look at the body before you replay anything. Use the short payload in the trigger.",
            ),
            Advice(
                "compressed",
                "The body is encoded in a way that Holdfast does not undo.",
                "Let the proxy pass the body unchanged.",
            ),
            Advice(
                "key_reused",
                "The body has the `webhook_id` of another e-mail, with other content.",
                "Remove a fixed `webhook_id` from the trigger's body, and replay this webhook.",
            ),
            Advice(
                "event_not_used",
                "It is an event of a type that Holdfast does not use.",
                "Nothing. Unsubscribe from the type in Zendesk if you like.",
            ),
            Advice(
                "row_refused",
                "Postgres refuses the row because of a constraint, an index or a trigger of another system.",
                "Run `holdfast takeover`. If the reason names an index or a trigger, change or drop it. Then `holdfast"
                " quarantine replay --all`.",
            ),
            Advice(
                "value_too_long",
                "A value is longer than a column of another system's table allows.",
                "Run `holdfast takeover`, then `holdfast quarantine replay --all`.",
            ),
            Advice(
                "unstorable",
                "Postgres cannot store a value of the request.",
                "Look at the body: `holdfast quarantine show ID`. Report it if it is an honest one.",
            ),
        ),
    ),
    Group(
        "The API and the pages",
        "Answers are `application/problem+json`; `holdfast` commands print the same codes.",
        (
            Advice(
                "bad_parameter",
                "A parameter of the query is wrong.",
                "The answer names it. `/docs` describes all parameters.",
            ),
            Advice(
                "bad_body",
                "The body of the request is wrong.",
                "The answer names the field. `/docs` describes all bodies.",
            ),
            Advice(
                "bad_cursor",
                "The cursor is not one that a list returned.",
                "Begin again with the first page.",
            ),
            Advice(
                "method_not_allowed",
                "The address does not support this method.",
                "The header `Allow` names the methods.",
            ),
            Advice(
                "unsupported_media_type",
                "The body has another type than expected.",
                "Send `Content-Type: application/json`.",
            ),
            Advice(
                "unsupported_encoding",
                "The body is compressed.",
                "Send it uncompressed.",
            ),
            Advice(
                "api_closed",
                "No API_TOKEN is set, so API and pages are closed.",
                "Set API_TOKEN for the web process, and restart it.",
            ),
            Advice(
                "read_only",
                "The token may look, and change nothing.",
                "Use API_TOKEN for this request.",
            ),
            Advice(
                "not_signed_in",
                "A command asked a server that does not know its login: it was revoked, has ended, or API_TOKEN is new.",
                "Run `holdfast login` with the address of the server.",
            ),
            Advice(
                "server_away",
                "A command could not reach the server, or a proxy before it answered that it is not ready.",
                "Check the address and the network of this machine, and that the server runs.",
            ),
            Advice(
                "server_untrusted",
                "The certificate of the server is not trusted by this machine.",
                "Check the address, and whether this machine trusts the authority that issued the certificate.",
            ),
            Advice(
                "server_unknown",
                "Something else than Holdfast answered a command: a proxy, a page to sign in, a redirect.",
                "Check the address, and what stands before the server.",
            ),
            Advice(
                "server_too_old",
                "The server does not know what a command asks for.",
                "Update the server, or use a command of its version.",
            ),
            Advice(
                "server_differs",
                "The server's answer lacks something that a command needs.",
                "Use a command of the same version as the server.",
            ),
            Advice(
                "answer_too_large",
                "An answer to a command is too large to be Holdfast's.",
                "Check the address, and what stands before the server.",
            ),
            Advice(
                "archive_damaged",
                "The ZIP of an e-mail from a server is not what its manifest says. Nothing of it was kept.",
                "Run the command again. If it repeats, look for a proxy that changes answers.",
            ),
            Advice(
                "login_refused",
                "A person refused the login of this command.",
                "Run `holdfast login` again, and confirm it on the page.",
            ),
            Advice(
                "login_expired",
                "Nobody confirmed the code within ten minutes, or the login is over.",
                "Run `holdfast login` again.",
            ),
            Advice(
                "slow_down",
                "A command that waits for its login asks too often.",
                "Wait for the `interval` of the login between two requests.",
            ),
            Advice(
                "person_needed",
                "A token tried to confirm the login of a command.",
                "Confirm it in a browser, signed in as a person.",
            ),
            Advice(
                "login_not_found",
                "There is no login of a command with this number.",
                "The page `/logins` lists them.",
            ),
            Advice(
                "login_over",
                "The login of the command was revoked, or has ended.",
                "Nothing: it gives no access any more.",
            ),
            Advice(
                "no_login",
                "A request to sign out came with API_TOKEN or API_READ_TOKEN, which are not a login's.",
                "To end all use of such a token, change it.",
            ),
            Advice(
                "foreign_origin",
                "The form was sent from another site.",
                "Reload the page and try again. Behind a proxy, pass `Host` or set PUBLIC_URL.",
            ),
            Advice(
                "too_many_guesses",
                "Too many wrong tokens arrive.",
                "Wait some seconds, and sign in again.",
            ),
            Advice(
                "too_many_watchers",
                "Too many open pages of this process update themselves.",
                "Close some pages, or add a web process.",
            ),
            Advice("email_not_found", "There is no e-mail with this id.", "Look at `holdfast emails list`."),
            Advice(
                "attachment_not_found",
                "The e-mail has no attachment at this position.",
                "Look at `holdfast emails show ID`.",
            ),
            Advice(
                "message_not_found",
                "The e-mail has no such part: it was not fetched from Zendesk's API, or has no HTML or no original.",
                "Look at `holdfast emails show ID`. A retry of the e-mail asks Zendesk again.",
            ),
            Advice(
                "message_too_large",
                "The message is too large, or its HTML too complex, to be read here.",
                "Download `record.json`, which is Zendesk's own JSON of the comment.",
            ),
            Advice("content_not_found", "No file has this SHA-256.", "Check the hash."),
            Advice(
                "request_not_found",
                "The e-mail has no stored webhook: another system or an early version recorded it.",
                "Nothing.",
            ),
            Advice(
                "webhook_not_found",
                "There is no such webhook in quarantine.",
                "Look at `holdfast quarantine list`.",
            ),
            Advice(
                "bulk_retry_not_found", "There is no such bulk retry.", "Look at `holdfast retries list`."
            ),
            Advice("receipt_not_found", "There is no such receipt.", "Look at `holdfast receipts list`."),
            Advice(
                "reconciliation_not_found",
                "There is no such reconciliation.",
                "Look at `holdfast reconcile list`.",
            ),
            Advice(
                "not_finished",
                "The e-mail's job is not finished.",
                "Wait until it is `completed` or `failed`.",
            ),
            Advice("not_running", "The run is over already.", "Nothing."),
            Advice(
                "not_failed",
                "Nothing of the e-mail failed, or it is retried at this moment: it cannot be dismissed.",
                "Nothing: it needs no attention.",
            ),
            Advice("already_dismissed", "Somebody dismissed it before.", "Read the reason there."),
            Advice("not_dismissed", "It is not dismissed, or it failed again since.", "Nothing."),
            Advice(
                "already_replayed",
                "The webhook was replayed: it can be neither corrected nor dismissed.",
                "Look at its e-mail.",
            ),
            Advice(
                "already_corrected",
                "Somebody else corrected the webhook at the same time, with another body.",
                "Look at it again: replay it with that correction, or correct it once that is refused.",
            ),
            Advice(
                "not_repairable",
                "No button repairs this difference alone: a document or an object has to be removed first.",
                "Run `holdfast reconcile --fix`, or `holdfast storage verify --fix` for a damaged object.",
            ),
            Advice("name_missing", "A filter is saved without a name.", "Give it a name."),
            Advice("filter_empty", "A filter without any field is saved.", "Filter the list first."),
            Advice(
                "filter_exists",
                "Another saved filter has this name.",
                "Choose another name, or remove that one.",
            ),
            Advice("too_many_filters", "There are as many saved filters as can be.", "Remove some."),
            Advice(
                "filter_not_found", "There is no such saved filter.", "Somebody removed it: look at the list."
            ),
            Advice("not_acknowledged", "Nobody has acknowledged the group of failures.", "Nothing."),
            Advice("not_open", "The finding is no open difference.", "Nothing: it needs no attention."),
            Advice(
                "nothing_to_erase",
                "Nothing on record is in the scope of the erasure.",
                "Check the address, ticket, id or SHA-256.",
            ),
            Advice(
                "erasure_scope",
                "An erasure has exactly one scope: a sender, a ticket, an e-mail or a file.",
                "Give one of them, in the form that the message names.",
            ),
            Advice(
                "tombstones_wrong",
                "The file is no whole copy of tombstones.",
                "Give a file that `holdfast erasures copy` wrote to its end.",
            ),
            Advice(
                "tombstones_foreign",
                "The copy of tombstones has another salt: it is of another installation.",
                "Give the copy that was made of this database.",
            ),
            Advice("erasure_not_found", "There is no such erasure.", "Look at `holdfast erasures list`."),
            Advice(
                "held",
                "A hold covers an e-mail of the erasure: nothing of it was erased.",
                "Release the hold, or erase less.",
            ),
            Advice(
                "reason_missing",
                "A dismissal, a hold, and the release of a hold need a reason.",
                "Say why; others will read it.",
            ),
            Advice("reason_too_long", "The reason is too long.", "Write at most 500 characters."),
            Advice("hold_not_found", "There is no such hold.", "Look at `holdfast holds list`."),
            Advice(
                "hold_exists",
                "A hold has this name, or had it before it was released.",
                "Choose another name, so that records of both can be told apart.",
            ),
            Advice(
                "hold_name",
                "The name of the hold has a wrong form.",
                "Use 1 to 64 lower-case letters, digits, dots, hyphens and underscores.",
            ),
            Advice(
                "hold_empty",
                "The hold would cover nothing.",
                "Give a filter, or list e-mails. To hold everything, give an empty filter: `--everything`.",
            ),
            Advice(
                "hold_released", "The hold is released already.", "Nothing; set a new hold if one is needed."
            ),
            Advice(
                "rule_not_found", "There is no such retention rule.", "Look at `holdfast retention list`."
            ),
            Advice(
                "rule_wrong",
                "A retention rule has a wrong or doubled name, or keeps e-mails for less than RETENTION_FLOOR_DAYS.",
                "Correct the rule that the message names, as it says.",
            ),
            Advice(
                "rules_changed",
                "Somebody changed the retention rules while you looked at them.",
                "Look at the rules again, and repeat the change if it is still right.",
            ),
            Advice(
                "rule_unreadable",
                "A newer version of Holdfast wrote a retention rule, or an earlier one accepted a rule that can match no e-mail."
                " This version deletes nothing by rules.",
                "Finish the upgrade, or remove the rule with the newer version. If the message names the rule, correct its"
                " filter, or remove it.",
            ),
            Advice(
                "finding_not_found",
                "There is no such finding.",
                "Look at `holdfast reconcile show ID --json`.",
            ),
            Advice(
                "not_stored",
                "The file is not stored, or not yet.",
                "Look at the e-mail: its file has a status and a reason.",
            ),
            Advice(
                "not_shown",
                "There is no preview for files of this type.",
                "Download the file.",
            ),
            Advice(
                "not_searched",
                "Zendesk was not searched for its e-mails yet, or there are no credentials to ask it.",
                "Set ZENDESK_OAUTH_CLIENT_ID, ZENDESK_OAUTH_CLIENT_SECRET and BACKFILL_MINUTES, run a worker, and wait for the first search: `holdfast complete`.",
            ),
            Advice(
                "sync_off",
                "There is no target to sync to.",
                "Set SYNC_URL for web and workers.",
            ),
        ),
    ),
    Group(
        "Postgres",
        "Answers, `/readyz`, `holdfast check` and logs show these codes. Zendesk retries webhooks meanwhile.",
        (
            Advice(
                "database_unavailable",
                "Postgres does not answer, or its tables are not those of this version.",
                "Run `holdfast check`.",
            ),
            Advice(
                "database_disconnected",
                "The connection to Postgres broke.",
                "Wait: Holdfast connects again. If it stays, run `holdfast check`.",
            ),
            Advice(
                "database_deadlock",
                "Postgres ended the statement because of a deadlock.",
                "Nothing: Holdfast repeats it. Report it if it happens often.",
            ),
            Advice(
                "identity_busy",
                "Other processes changed the e-mails of a comment at the same moment.",
                "Nothing: Holdfast repeats it. Report it if it happens often.",
            ),
            Advice(
                "database_slow",
                "Postgres did not answer within DATABASE_SECONDS.",
                "Look at Postgres's load and at long transactions.",
            ),
            Advice(
                "database_read_only",
                "Postgres accepts no writes: a failover is under way, or it is a standby.",
                "Wait for the failover. Otherwise let DATABASE_URL lead to the primary.",
            ),
            Advice(
                "database_too_many_connections",
                "Postgres refuses connections because too many are open.",
                "Lower DATABASE_POOL_SIZE or WEB_CONCURRENCY. `holdfast check` names who uses them.",
            ),
        ),
    ),
    Group(
        "Reconciliations",
        "`holdfast reconcile show ID` shows these codes.",
        (
            Advice(
                "evidence_not_begun",
                "The evidence log has no state: no worker of this version has run yet, or somebody deleted it.",
                "Start a worker; if one has run before, the newest heads in the storage show what is missing.",
            ),
            Advice(
                "timestamp_refused",
                "The time stamp authority gave no time stamp for a head of the evidence log.",
                "Nothing at first: it is asked again. If it lasts, check `TIMESTAMP_URL`.",
            ),
            Advice(
                "head_differs",
                "The storage has other bytes in each place where a head of the evidence log may be.",
                "Somebody wrote there: look at the object that the log names, and move it away from the prefix `heads/`.",
            ),
            Advice(
                "timestamp_wrong",
                "The time stamp authority gave something else than a time stamp of this head.",
                "Check `TIMESTAMP_URL`: it must be an authority of RFC 3161.",
            ),
            Advice(
                "since_in_future",
                "A comparison, a verification or a search would begin at a time that is still to come.",
                "Give an earlier time, with its zone.",
            ),
            Advice(
                "already_running",
                "Another run of this kind is active.",
                "Wait for it, or stop it: `holdfast reconcile cancel ID`.",
            ),
            Advice(
                "storage_is_another",
                "More than half of the expected files are gone: STORAGE_URL is probably wrong.",
                "Correct STORAGE_URL, or restore the bucket. `--force` repairs all the same.",
            ),
            Advice(
                "target_is_another",
                "More than half of the documents belong to no e-mail: database or collection is probably wrong.",
                "Correct DATABASE_URL or SYNC_URL. `--force` repairs all the same.",
            ),
            Advice(
                "not_heard_of",
                "The run made no progress for 5 minutes, so it was ended.",
                "Start it again, and look whether its process was killed.",
            ),
        ),
    ),
    Group(
        "Back-fill",
        "`holdfast backfill`, the log and the alert `backfill` show these codes, and those of calls to Zendesk above.",
        (
            Advice(
                "exports_closed",
                "Zendesk closed the export of events for these credentials: they need an administrator, or the account has none.",
                "Nothing is to be done: Holdfast reads the list of changed tickets instead, and tries the export again daily.",
            ),
            Advice(
                "stuck_second",
                "More events share one second than Zendesk's export ever shows.",
                "Nothing is to be done: Holdfast reads this time by the list of changed tickets.",
            ),
            Advice(
                "cursor_died",
                "Zendesk ended the list of changed tickets before its end, again and again.",
                "Wait for the next search. If it stays, look at Zendesk's status page.",
            ),
            Advice(
                "lease_lost",
                "Another process went on with the search.",
                "Nothing is to be done. What the first process found late was not saved twice.",
            ),
        ),
    ),
    Group(
        "Commands",
        "`holdfast connect`, `holdfast storage move`, `holdfast takeover`, `holdfast emails export` and `holdfast evidence export` show these codes.",
        (
            Advice(
                "export_outdated",
                "An e-mail was erased, purged or merged while `holdfast evidence export` wrote it. No file was written.",
                "Run the command again.",
            ),
            Advice(
                "invalid_record",
                "Zendesk refuses the values of a webhook or trigger.",
                "Read Zendesk's words in the message; correct what they name, or make it by hand: docs/zendesk.md.",
            ),
            Advice(
                "webhook_test_failed",
                "Zendesk's test of the webhook did not reach this Holdfast.",
                "Check that the address is public and leads to `holdfast web`, and run `holdfast connect` again.",
            ),
            Advice(
                "trigger_in_use",
                "A trigger notifies the webhook, and does other things too.",
                "Remove its action for the webhook in Zendesk, then run `holdfast connect --remove` again.",
            ),
            Advice(
                "nothing_there",
                "FROM has no objects.",
                "Check the address. If nothing was ever stored, switch to TO.",
            ),
            Advice(
                "same_storage",
                "FROM and TO are the same storage with two names.",
                "Correct one of them. Nothing was moved.",
            ),
            Advice(
                "takeover_running",
                "Another process takes over this database.",
                "Wait for it.",
            ),
            Advice(
                "takeover_refused",
                "Postgres refuses a change of the table.",
                "Read the reason: often a view uses the column. Drop it, and create it again afterwards.",
            ),
            Advice(
                "lock_not_available",
                "Another session locks the table.",
                "End that session, and run the command again.",
            ),
            Advice(
                "state_unknown",
                "The table has a state that Holdfast does not know.",
                "Add `--map OLD=NEW`.",
            ),
            Advice(
                "not_written",
                "A file could not be written, because something else has its name.",
                "Remove it, and run the command again.",
            ),
        ),
    ),
    Group(
        "Alerts by mail",
        "`holdfast check --alerts` and the deliveries of an alert show these codes.",
        (
            Advice(
                "mail_server_away",
                "The mail server cannot be reached.",
                "Check SMTP_URL and the network.",
            ),
            Advice(
                "mail_server_slow",
                "The mail server did not answer in time.",
                "Holdfast makes several attempts. If all fail, check SMTP_URL and the network.",
            ),
            Advice(
                "mail_refused",
                "The mail server refuses the mail or the password.",
                "Check SMTP_URL and ALERT_EMAIL_FROM.",
            ),
            Advice(
                "recipients_refused",
                "The mail server refuses all recipients.",
                "Check ALERT_EMAIL_TO.",
            ),
        ),
    ),
    Group(
        "Causes of alerts",
        "docs/alerts.md says when each opens and resolves.",
        (
            Advice(
                "failures",
                "E-mails failed.",
                "Look at `holdfast failures`, and at the code of the group.",
            ),
            Advice(
                "quarantine",
                "Webhooks could not be parsed.",
                "Look at `holdfast quarantine list`, and at the code.",
            ),
            Advice(
                "waiting",
                "E-mails wait too long for their first attempt.",
                "Run `holdfast check`; start or add workers.",
            ),
            Advice(
                "silence",
                "No webhooks arrive, for longer than usual.",
                "Look at the webhook and the trigger in Zendesk.",
            ),
            Advice(
                "signatures",
                "Webhooks have wrong signatures.",
                "Run `holdfast connect`, or compare ZENDESK_WEBHOOK_SECRETS with the signing secret in Zendesk.",
            ),
            Advice(
                "drift",
                "The webhook or the trigger at Zendesk was changed, or does not do its work.",
                "Run `holdfast check`; `holdfast connect --repair` shows the changes, and puts them back.",
            ),
            Advice(
                "credentials",
                "The credentials for Zendesk will end.",
                "Create an OAuth client: docs/zendesk.md.",
            ),
            Advice(
                "zendesk",
                "E-mails wait because Zendesk gives no access token, or accepts no more calls.",
                "Run `holdfast check`; look at Zendesk's status page and at other programs that use the API.",
            ),
            Advice(
                "workers",
                "A worker died.",
                "Look at its log and memory, and start it again.",
            ),
            Advice("no_worker", "There is no worker.", "Start one: `holdfast worker`."),
            Advice(
                "connections",
                "Postgres has too few connections.",
                "Lower DATABASE_POOL_SIZE or WEB_CONCURRENCY.",
            ),
            Advice(
                "sync",
                "Finished e-mails do not reach the target.",
                "Run `holdfast check`, then look at `holdfast emails list --sync-status failed`.",
            ),
            Advice(
                "lost",
                "Zendesk has e-mails that no webhook announced. They were found and kept.",
                "Look at the trigger's conditions and at the webhook's activity in Zendesk.",
            ),
            Advice(
                "backfill",
                "Zendesk could not be searched for lost e-mails for too long.",
                "Run `holdfast backfill`, and look at the code that it shows.",
            ),
            Advice(
                "suspended",
                "Zendesk holds back new e-mails as suspended; or those that it holds back cannot be kept.",
                "Look at the suspended tickets in Zendesk, and recover those that are no spam. If they cannot be kept,"
                " look at the error that the alert names.",
            ),
            Advice(
                "reconciliation",
                "Target or storage differ from Postgres, no run finished, or Postgres is older than it was.",
                "Look at `holdfast reconcile list`, and at the line `history` of `holdfast check`.",
            ),
            Advice(
                "evidence",
                "A verification found that something on record was changed, or none ended for too long.",
                "Run `holdfast evidence verify --no-objects`, and look at its findings.",
            ),
        ),
    ),
)

_GUIDE = {advice.code: advice for group in GROUPS for advice in group.advices}


def advice_on(code: str | None) -> Advice | None:
    """Return the advice on a code; None if there is none."""
    return _GUIDE.get(code or "")


def action_on(code: str | None) -> str | None:
    """Return what to do about a code, with the command that retries; None if there is no advice."""
    advice = advice_on(code)
    if advice is None:
        return None
    return (
        f"{advice.action} To retry: `holdfast failures retry {advice.code}`."
        if advice.can_be_retried
        else advice.action
    )


def markdown() -> str:
    """Return the guide as docs/errors.md."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "<!-- Written by `make docs/errors.md` from service/error_guide.py. -->"
    yield "# Error codes"
    yield ""
    yield "Every code that Holdfast shows, its meaning, and what to do. Codes never change, so scripts may rely on them. The"
    yield "message beside a code has the details of the case. A running Holdfast shows this list at `/docs/errors`."
    yield ""
    yield from (f"* [{group.title}](#{_anchor(group.title)})" for group in GROUPS)
    for group in GROUPS:
        yield from (
            "",
            f"## {group.title}",
            "",
            group.about,
            "",
            "| code | meaning | what to do |",
            "|---|---|---|",
        )
        for advice in group.advices:
            action = action_on(advice.code)
            yield f'| <a id="{advice.code}"></a>`{advice.code}` | {advice.meaning} | {action} |'
    yield ""


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201 it is written into a file
