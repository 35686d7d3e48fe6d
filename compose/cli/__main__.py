"""`python -m compose.cli`: the command line where `imagegen` is not on the path."""

from compose.cli.app import main

main()
