"""`python -m followyourpose` is the console command `followyourpose`."""

import sys

from followyourpose.cli import main

sys.exit(main())
