"""Holdfast: an inbox for Zendesk's webhooks that keeps every e-mail and every attachment.

The flow, and the module of each step::

            web process                                    worker process
    Zendesk ──► web.webhook ─► zendesk ─► intake ─► queue ─► Redis ─► worker ─► capture ─► jobs (claim)
                (bytes)        (pure)     commit    ids, then                      ├► outbound ─► storage
                2xx after the commit ◄────┘         `queued`                       └► jobs (complete | release | fail)

    capture.sweep (periodic) and operate (started by a person) ─► queue
    a job ends ─► queue ─► Redis ─► worker ─► sync ─► targets

Postgres is the truth; Redis only wakes workers. ARCHITECTURE.md is the map.
"""
