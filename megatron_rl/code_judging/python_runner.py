"""Python runner of a solution inside the sandbox, as the text of a program."""

from collections.abc import Sequence

# exit() and quit() come from the site module, which -S leaves out; solutions use them.
_LOAD = """
def _load():
    import builtins, sys
    builtins.exit = builtins.quit = sys.exit
    del sys.argv[0]
    with open(sys.argv[0], "rb") as file:
        return compile(file.read(), "main.py", "exec", dont_inherit=True)
"""

_RUN = (
    _LOAD
    + """
_load = _load()
exec(_load)
"""
)

# Output of the function is discarded: stdout is for its result.
_CALL = (
    _LOAD
    + """
def _call():
    import json, os, sys
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code, name = _load(), sys.argv[1]
    arguments = json.loads(sys.stdin.read())
    scope = {"__name__": "solution"}
    exec("from typing import *", scope)
    exec(code, scope)
    function = scope[name] if name in scope else getattr(scope["Solution"](), name)
    result = json.dumps(function(*arguments), default=list).encode()
    while result:
        result = result[os.write(out, result):]

_call()
"""
)


def python_command(interpreter: str, source_path: str, function: str | None) -> Sequence[str]:
    """Return the command that runs a solution, or calls a function of it.

    A function gets its arguments as a JSON list from stdin and answers with JSON on stdout; it may
    also be a method of a class ``Solution``.
    """
    isolated = (interpreter, "-I", "-S", "-B", "-c")
    if function is None:
        return (*isolated, _RUN, source_path)
    return (*isolated, _CALL, source_path, function)
