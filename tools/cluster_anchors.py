"""``detect anchors fit`` from a checkout: python tools/cluster_anchors.py instances.json -k 9 --resize letterbox:640."""

from __future__ import annotations

import sys

from detect.cli.app import main

if __name__ == "__main__":
    sys.argv[1:1] = ["anchors", "fit"]
    main()
