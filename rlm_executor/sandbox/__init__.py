"""The REPL's process: ``host`` starts and drives it, ``zygote`` forks it, ``worker`` runs cells."""
