"""`python -m followyourpose` is the console command `followyourpose`."""

import sys

from followyourpose.cli.main import main

sys.exit(main())
