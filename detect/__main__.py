"""``python -m detect`` is ``detect``."""

from detect.cli.app import main

main()
