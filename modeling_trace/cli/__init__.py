"""The command line `modeling-trace`. Each command is a module with `run(argv)`."""
