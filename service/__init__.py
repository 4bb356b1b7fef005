"""Holdfast: a Zendesk webhook inbox that keeps every e-mail and every attachment.

The flow, and the module of each step::

            web process                                   worker process
    Zendesk ──► web.webhook ─► zendesk ─► intake ─► dispatch ─► Redis ─► worker ─► process
                (bytes)        (pure)     commit    (rings)                        │ claim
                2xx after the commit ◄────┘                                        ├► download ─► storage
                                                                                   └► complete | release | fail
                recovery.sweep (clock) and recovery.retry (hand) ─► dispatch

    complete | fail ─► dispatch ─► Redis ─► worker ─► sync ─► documents ─► targets

Postgres is the truth, Redis is a doorbell. ARCHITECTURE.md is the map.
"""
