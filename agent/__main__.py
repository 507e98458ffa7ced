"""`python -m agent` is `labctl`."""

from agent.cli.entry import main

main()
