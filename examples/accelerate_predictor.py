"""Predict the test accuracy of networks from their weights, in as many processes as there are.

`accelerate launch --num_processes 2 examples/accelerate_predictor.py model-zoos digits_cnn_s` on GPUs, and on CPUs
`torchrun --nproc_per_node 2 …`. There are as many steps, and each row of the test split counts once, however many
processes share the rows.
"""

import sys

import torch
from accelerate import Accelerator

import zoo_datasets as zd

EPOCHS, ROWS = 10, 32  # in a batch of all processes together


def main(repo: str, name: str) -> None:
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), gradient_accumulation_steps=4)
    with accelerator.main_process_first():  # the others find the splits prepared
        train, test = (zd.load_zoo(repo, name, split, columns=["weights", "test_acc"]) for split in ("train", "test"))
    size = ROWS // accelerator.num_processes
    training = zd.property_prediction(train, ["test_acc"], batch_size=size, shuffle=True, drop_last=True)
    testing = zd.property_prediction(test, ["test_acc"], batch_size=size)
    torch.manual_seed(0)
    width = train.features["weights"].length
    model = torch.nn.Sequential(torch.nn.Linear(width, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model, optimizer, training, testing = accelerator.prepare(model, optimizer, training, testing)
    steps = 0
    for _ in range(EPOCHS):
        for batch in training:
            with accelerator.accumulate(model):
                accelerator.backward(torch.nn.functional.mse_loss(model(batch["weights"]), batch["target"]))
                optimizer.step()
                optimizer.zero_grad()
                steps += accelerator.sync_gradients  # every fourth batch, and the last of an epoch
    with torch.no_grad():
        errors = [accelerator.gather_for_metrics((model(b["weights"]) - b["target"]).abs()) for b in testing]
    error, processes = torch.cat(errors), accelerator.num_processes
    accelerator.print(f"{processes} processes, {steps} steps, {len(error)} rows, error {error.mean():.6f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
