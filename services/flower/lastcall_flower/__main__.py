"""python -m lastcall_flower"""

import sys

from lastcall_flower.command import main

sys.exit(main(sys.argv[1:]))
