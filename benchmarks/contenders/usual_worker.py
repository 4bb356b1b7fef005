"""Dramatiq, `requests` and synchronous SQLAlchemy: one job in a thread."""

import os
import threading

import dramatiq
import requests
from dramatiq.brokers.redis import RedisBroker
from sqlalchemy import create_engine, func
from sqlalchemy.orm import sessionmaker

from benchmarks.contenders.record import Email, database_url, path_of

THREADS = 40  # FastAPI's threads, with one connection each
dramatiq.set_broker(RedisBroker(url=os.environ["REDIS_URL"]))
engine = create_engine(database_url("psycopg"), pool_size=THREADS)
sessions = sessionmaker(engine)
_http = threading.local()


@dramatiq.actor
def process(email_id: int) -> None:
    """Download the files of an e-mail."""
    with sessions() as session:
        email = session.get_one(Email, email_id)
        email.processing_status, email.started_at = "processing", func.clock_timestamp()
        session.commit()
        for file in email.files:
            answer = _client().get(file.source_url, timeout=30)
            answer.raise_for_status()
            path = path_of(file)
            path.write_bytes(answer.content)
            file.status, file.path, file.size = "stored", str(path), len(answer.content)
            session.commit()
        email.processing_status, email.completed_at = "completed", func.clock_timestamp()
        session.commit()


def _client() -> requests.Session:
    if not hasattr(_http, "session"):
        _http.session = requests.Session()
    session: requests.Session = _http.session
    return session
