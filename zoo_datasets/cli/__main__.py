"""`python -m zoo_datasets.cli`: the `zoo` command."""

from zoo_datasets.cli.app import main

if __name__ == "__main__":
    main()
