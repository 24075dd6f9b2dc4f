"""`python -m bench.experiments`."""

from bench.experiments.command import main

if __name__ == "__main__":
    main()
