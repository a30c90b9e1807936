"""``detect train`` as torchrun starts it: torchrun --nproc-per-node 2 tools/train.py configs/nuclei_retinanet.yaml.

On two hosts: docs/scaling.md.
"""

from __future__ import annotations

import sys

from detect.cli.app import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
