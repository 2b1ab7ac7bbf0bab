"""python -m projects_wsgi"""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
