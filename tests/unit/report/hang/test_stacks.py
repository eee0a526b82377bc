from megatron_rl.report.hang.stacks import Frame, explain, parse_stack


def thread(number: int, name: str, *functions: str) -> dict:
    return {
        "pid": 7, "thread_id": 1, "thread_name": name, "os_thread_id": number, "active": False,
        "frames": [
            {"name": function, "filename": "/x/a.py", "short_filename": "a.py", "line": 3}
            for function in functions
        ],
    }  # fmt: skip


def test_the_main_thread_comes_first_whatever_the_order():
    threads = [thread(9, "writer", "write"), thread(7, "MainThread", "all_reduce", "main")]
    stack = parse_stack(7, threads)
    assert stack.frames == [
        Frame(function="all_reduce", file="a.py", line=3),
        Frame(function="main", file="a.py", line=3),
    ]
    assert stack.others == [("writer", [Frame(function="write", file="a.py", line=3)])]


def test_a_process_without_threads_has_no_calls():
    assert parse_stack(7, []).frames == []


def test_what_a_missing_permission_means_is_said():
    text = explain("Error: Failed to open process\nPermission Denied: Try running again with sudo")
    assert "SYS_PTRACE" in text and text.startswith("Permission Denied")
    assert explain("Error: No such process") == "Error: No such process"
    assert explain("") == "py-spy failed without a word"
