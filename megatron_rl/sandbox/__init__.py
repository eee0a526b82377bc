"""Sandbox for untrusted programs, by bubblewrap or landlock; refused where neither works.

Example::

    with open_sandbox("auto") as sandbox:
        python = sandbox.python
        job = Job(argv=(python.path, "-c", "print(6 * 7)"), readable=python.readable,
                  writable=None, folder="/", stdin=b"", limits=limits)
        assert sandbox.run(job).stdout == b"42\\n"
"""
