"""The REPL's process, held by the kernel.

``host`` drives one session and ``running`` one cell of it, over ``link``; ``pool`` starts it, by
way of ``zygote``; in the session ``confine`` locks it in (``seccomp``, ``landlock``, ``syscalls``)
and ``worker`` runs cells.
"""
