"""The naive service: FastAPI around a pipeline of transformers, as its tutorials have it, in float32.

python -m tests.benchmarks.naive CHECKPOINT PORT serves a classifier in the layout of transformers.
"""

import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline


class Body(BaseModel):
    inputs: str


def create_app(directory: Path) -> FastAPI:
    classifier = pipeline("text-classification", model=str(directory), top_k=None, device="cpu", dtype="float32")
    app = FastAPI()

    @app.post("/classify")
    def classify(body: Body) -> Any:
        return classifier(body.inputs, truncation=True)

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(Path(sys.argv[1])), port=int(sys.argv[2]), access_log=False)
