"""What is run: worlds, scenarios, the round loop, reports, the command line.

Nothing is imported here, so that `superalign --help` answers at once.
"""
