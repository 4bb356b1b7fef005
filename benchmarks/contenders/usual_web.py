"""FastAPI, uvicorn, synchronous SQLAlchemy, and Dramatiq's `send`."""

import os
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Request
from sqlalchemy.exc import IntegrityError

from benchmarks.contenders.reading import read
from benchmarks.contenders.record import make_email
from benchmarks.contenders.usual_worker import process, sessions

app = FastAPI()


async def _body(request: Request) -> bytes:
    return await request.body()


@app.post("/webhooks/zendesk")
def receive(request: Request, body: Annotated[bytes, Depends(_body)]) -> dict[str, object]:
    email = make_email(read(request.headers, body), body)
    with sessions() as session:
        session.add(email)
        try:
            session.commit()
        except IntegrityError:
            return {"status": "duplicate"}
        process.send(email.id)
        return {"status": "accepted", "email_id": email.id}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=False, log_level="warning")
