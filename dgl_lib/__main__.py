"""``python -m dgl_lib``."""

from dgl_lib.app.cli import main

if __name__ == "__main__":
    main()
