"""The loop of `plain.py` as an app of Flower: `flwr run APP`, to a SuperLink and two SuperNodes.

The loop becomes the function that a client runs in each round; the server averages what the clients send (FedAvg). The
configuration of the app, its `pyproject.toml`, is beside it (`flower_app.toml`).

Other processes: 1 (the SuperLink, which runs the ServerApp too; the SuperNodes are the peers).
"""

from __future__ import annotations

import time

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from sklearn.datasets import load_digits
from torch import nn

client = ClientApp()
server = ServerApp()


def initial_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


@client.train()
def train(message: Message, context: Context) -> Message:
    half = int(context.node_config["half"])
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    mine = (targets % 2 == half).nonzero().flatten()
    model = initial_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(int(context.run_config["steps"]) // int(context.run_config["rounds"])):
        batch = mine[torch.randint(len(mine), (32,))]
        loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(0.005)
    last = nn.functional.cross_entropy(model(inputs), targets).item()
    print(f"last loss {last:.4f}", flush=True)
    metrics = MetricRecord({"loss": last, "num-examples": len(mine)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(fraction_evaluate=0.0)
    initial = ArrayRecord(initial_model().state_dict())
    strategy.start(grid, initial, num_rounds=int(context.run_config["rounds"]))
