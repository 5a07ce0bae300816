"""`python -m zoo_datasets.training NAME …`: what accelerate launch and torchrun start in each process."""

from zoo_datasets.command_line import run_command
from zoo_datasets.training.command import train

if __name__ == "__main__":
    run_command(train)
