"""`python -m edgeopt` is the `edgeopt` command."""

from edgeopt.cli import main

if __name__ == "__main__":
    main()
