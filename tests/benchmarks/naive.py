"""The naive service: FastAPI and PyTorch as tutorials have them, one float32 forward pass a request, no batching.

python -m tests.benchmarks.naive CHECKPOINT PORT serves the first classify head of a checkpoint.
"""

import sys
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from models.checkpoint import read_checkpoint
from models.classification import Classify, ScoredLabel
from models.errors import CheckpointError


class Body(BaseModel):
    inputs: str


def create_app(directory: Path) -> FastAPI:
    checkpoint = read_checkpoint(directory)
    heads = [head for head in checkpoint.heads.values() if head.spec.task == "classify"]
    if not heads:
        raise CheckpointError(f"{directory} has no classify head; pass the one that the bundle was made from")
    task = Classify(checkpoint.tokenizer, heads[0].spec, checkpoint.config.max_position_embeddings)
    parameters = task.parse_parameters({})
    encoder, head = checkpoint.encoder.eval(), heads[0].module.eval()
    app = FastAPI()

    @app.post("/classify", response_model=None)
    def classify(body: Body) -> list[list[ScoredLabel]]:
        encoded = task.encode(body.inputs, parameters)
        row = encoded.rows[0]
        with torch.inference_mode():
            logits = head(encoder(torch.tensor([row.input_ids]), torch.tensor([row.token_type_ids]))[:, 0])
        return [task.decode(encoded, logits.numpy(), parameters)]

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(Path(sys.argv[1])), port=int(sys.argv[2]), access_log=False)
