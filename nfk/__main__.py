"""`python -m nfk` is `nfk`."""

from nfk.cli import main

main()
