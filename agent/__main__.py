"""`python -m agent` is `labctl`."""

from agent.cli.main import main

main()
