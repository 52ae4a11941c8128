"""The front door: ``python run_recbole_eimf.py --model=EIMF --dataset=ml-100k [--key=value ...]``."""

import sys

from recbole_eimf.__main__ import run_command

if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:]))
