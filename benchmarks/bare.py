"""The floor: a FastAPI handler that returns prepared bytes, one worker, as Caisson's own process."""

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Response

app = FastAPI()
CONTENT = Path(sys.argv[2]).read_bytes() if len(sys.argv) > 2 else b""


@app.get("/")
async def answer() -> Response:
    """The prepared bytes."""
    return Response(CONTENT, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
