"""`python -m zoo_datasets.training NAME …`: what accelerate launch and torchrun start in each process."""

from zoo_datasets.cli.shell import run_command
from zoo_datasets.cli.train import train

if __name__ == "__main__":
    run_command(train)
