"""`python -m memsparse` is `memsparse`."""

from memsparse.cli import main

if __name__ == "__main__":
    main()
