"""The live page in a real browser: it follows a run, and fits a phone and 10,000 steps."""

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, Page, browser_page, eventually
from tiny_model import build_tiny_tokenizer
from tiny_run import REPOSITORY

from megatron_rl.config import load_config
from megatron_rl.programs.builders.run_report import write_run_report
from megatron_rl.programs.processes.run_folder import write_config
from megatron_rl.registry import (
    PolicyState,
    ServerInfo,
    publish_policy_state,
    register_server,
)
from megatron_rl.run_dir import RunDir, append_jsonl
from megatron_rl.telemetry import truncate_metrics
from tests.unit.report.live.recorded import CUT, RIGHT, WRONG, sample_of, write_batch

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium"),
]

KEY = "key-of-the-browser-test"
SERVER_KEY = "key-of-a-server"
HOSTILE = "<script>window.owned = 1</script><img src=x onerror='window.owned = 2'>"
MAX_CPU_S = 10.0
"""A guard that holds on a busy machine as well; what is measured goes into the test's report."""
METRICS = (
    "reward/total", "reward/correctness", "reward/format", "reward/length", "rollout/length_mean",
    "rollout/length_max", "policy/entropy", "policy/clip_fraction", "policy/grad_norm",
    "rollout/staleness_mean", "rollout/staleness_max", "generation/tokens_per_s",
    "learner/tokens_per_s", "generation/busy_fraction", "rollout/spanning_fraction",
    "rollout/truncated", "packing/waste", "time/update_s", "time/publish_s", "time/wait_s",
    "time/step_s", "rollout/correct", "rollout/completions", "rollout/tokens", "judge/queue",
)  # fmt: skip


SERVER = ServerInfo(
    name="server_0", incarnation="one", url="http://127.0.0.1:1", api_key=SERVER_KEY, pid=1, tp=1,
    starts_without_weights=True,
    takes_shards=False,
)  # fmt: skip


def append_step(run_dir: RunDir, step: int, reward: float | None = None) -> None:
    """Append what the learner writes of a step."""
    append_jsonl(run_dir.metrics, record_of(step, reward=reward))


def record_of(step: int, *, reward: float | None) -> dict[str, float]:
    """Return the metrics of a step, random but for its reward."""
    draw = random.Random(step)
    metrics = {name: draw.random() for name in METRICS}
    if reward is not None:
        metrics["reward/total"] = reward
    return {"step": step, "time": 1e9 + step, **metrics}


def start_run(folder: Path, *, num_steps: int) -> RunDir:
    """Write the configuration and the model's tokenizer, as a launcher leaves them."""
    tokenizer = build_tiny_tokenizer()
    tokenizer.save_pretrained(folder / "model")
    path = folder / "run.toml"
    path.write_text(
        f'run_dir = "{folder / "run"}"\nnum_steps = {num_steps}\n'
        f'[model]\npath = "{folder / "model"}"\n[data]\ntrain = "{folder / "train.jsonl"}"\n'
    )
    config = load_config(path)
    write_config(config)
    return RunDir(config.run_dir)


def tokens_of(text: str) -> str:
    """Return characters whose numbers are the tokens of a text, for ``sample_of``."""
    return "".join(chr(i) for i in build_tiny_tokenizer().encode(text))


@contextlib.contextmanager
def watching(folder: Path, *, port: int = 0) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Start the program; yield the address it prints, and its process."""
    key_file = folder.parent / "key"
    key_file.write_text(KEY)
    command = [sys.executable, "-m", "megatron_rl", "watch", folder, "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--key-file", key_file],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        address = process.stdout.readline().strip()
        assert address.endswith(f"/?key={KEY}"), process.stderr.read()
        yield address, process
    finally:
        process.terminate()
        _, said = process.communicate(timeout=30)
        assert "ERROR" not in said and KEY not in said, said


def contains(element: str, text: str) -> str:
    """Return the JavaScript condition that an element shows a text."""
    return f"document.getElementById('{element}').textContent.includes({text!r})"


async def last_step_drawn(page: Page) -> Any:
    """Return the last step of the reward's curve, as plotly has it."""
    return await page.evaluate("document.getElementById('plot-reward')?.data?.[0].x.at(-1) ?? null")


async def has_drawn(page: Page, step: int) -> None:
    async def look() -> bool:
        return await last_step_drawn(page) == step

    await eventually(look, f"step {step} is drawn")


async def follow_a_run(folder: Path) -> None:
    run_dir = RunDir(folder / "run")
    run_dir.logs.mkdir(parents=True)
    log = run_dir.logs / "learn_0.log"
    log.write_text(f"first {SERVER_KEY} {HOSTILE}\n")
    with watching(run_dir.root) as (address, process):
        async with browser_page() as page:
            await page.open(address)
            await page.until(contains("state", "not started yet"))
            await page.evaluate("document.querySelector('.log > summary').click()")
            start_run(folder, num_steps=50)
            register_server(run_dir, SERVER)
            write_samples(run_dir)
            for step in (1, 2, 3):
                append_step(run_dir, step)
            await page.until(contains("state", "step 3 of 50"))
            await page.until(contains("servers", "waits for weights"))
            await page.until(contains("logs", f"first <api key> {HOSTILE[:20]}"))
            with log.open("a") as file:
                file.write("and another line\n")
            publish_policy_state(run_dir, PolicyState(version=3, servers={"server_0": "one"}))
            await show_samples(page)
            await show_curves(page, run_dir)
            await page.until(contains("servers", "version 3"))
            await page.until(contains("queues", "batches the learner has not trained on"))
            await page.until(contains("logs", "and another line"))
            assert await page.evaluate("window.owned ?? null") is None
            assert page.complaints == []
            await survive_a_restart(page, run_dir, address, process)


async def show_curves(page: Page, run_dir: RunDir) -> None:
    await has_drawn(page, 3)
    append_step(run_dir, 4, reward=0.875)
    await has_drawn(page, 4)
    assert await page.evaluate("figures.reward.data[0].y.at(-1)") == 0.875
    await page.until(contains("state", "step 4 of 50"))
    # A resumed run trains steps again.
    truncate_metrics(run_dir.metrics, from_step=2)
    await has_drawn(page, 2)
    # Hiding a line is kept while it grows.
    await page.evaluate("document.querySelector('.key[data-plot=reward]').click()")
    append_step(run_dir, 3)
    await has_drawn(page, 3)
    assert await page.evaluate("document.getElementById('plot-reward').data[0].visible") is False


def write_samples(run_dir: RunDir) -> None:
    """Write the batches of two steps, with a problem that tries to be more than text."""
    quick = sample_of(tokens_of("the quick brown fox"), RIGHT)
    lazy = sample_of(tokens_of("lazy dog"), WRONG)
    write_batch(run_dir, 2, quick, lazy, problem=HOSTILE)
    write_batch(run_dir, 3, sample_of(tokens_of("over the"), CUT), problem="1+1?")


async def show_samples(page: Page) -> None:
    await page.until("document.getElementById('filter-step').options.length === 3")
    shown = "document.querySelectorAll('#completions .completion').length"
    await page.evaluate("document.getElementById('refresh').click()")
    await page.until(f"{shown} === 3")
    await choose(page, "verdict", "truncated")
    await page.until(f"{shown} === 1")
    await choose(page, "verdict", "")
    await choose(page, "step", "2")
    await page.until(f"{shown} === 2")
    await choose(page, "text", "BROWN")
    await page.until(f"{shown} === 1")
    await page.evaluate("document.querySelector('.completion > summary').click()")
    await page.until(contains("completions", "quick brown fox"))
    assert await page.evaluate(contains("completions", HOSTILE))
    assert (
        await page.evaluate(
            "document.querySelectorAll('#completions img, #completions script').length"
        )
        == 0
    )


async def choose(page: Page, name: str, value: str) -> None:
    """Set a filter as a person does."""
    await page.evaluate(
        f"(() => {{ const filter = document.getElementById('filter-{name}'); "
        f"filter.value = {value!r}; filter.dispatchEvent(new Event('input')); }})()"
    )


async def survive_a_restart(
    page: Page, run_dir: RunDir, address: str, process: "subprocess.Popen[str]"
) -> None:
    """The program ends and starts again; the page, untouched, goes on."""
    port = int(address.split(":")[2].split("/")[0])
    process.terminate()
    process.wait(timeout=30)
    await page.until(contains("connection", "connecting again"))
    append_step(run_dir, 4)
    with watching(run_dir.root, port=port):
        await page.until(contains("connection", "live"))
        await has_drawn(page, 4)


def test_a_page_follows_a_run_from_before_its_start(tmp_path: Path):
    asyncio.run(follow_a_run(tmp_path))


OVERFLOW = """[document.scrollingElement.scrollWidth, innerWidth,
  ...[...document.querySelectorAll("*")]
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
    .filter((e) => !e.closest(".wide, pre, .figure"))
    .map((e) => e.outerHTML.slice(0, 80))]"""
"""How wide the page and the screen are, and what sticks out and is not scrolled by itself."""


async def look_at_a_long_run(run_dir: RunDir, record_property) -> None:
    with watching(run_dir.root) as (address, _):
        async with browser_page() as page:
            before_s = page.cpu_s()
            seconds = await page.open(address)
            cpu_s = page.cpu_s() - before_s
            record_property("seconds_until_10000_steps_are_drawn", round(seconds, 2))
            record_property("cpu_seconds_until_10000_steps_are_drawn", round(cpu_s, 2))
            print(f"10,000 steps: drawn after {seconds:.2f} s, {cpu_s:.2f} s of CPU time")
            assert cpu_s < MAX_CPU_S
            assert await last_step_drawn(page) == 10_000
            assert await page.evaluate("figures.reward.data[0].x.length") <= 1000
            # Every extreme is there.
            assert await page.evaluate("Math.max(...figures.reward.data[0].y)") == 7.5
            await page.resize(390, 844, is_phone=True)
            await page.open(address)
            await page.until("document.querySelectorAll('.completion').length === 2")
            await page.evaluate(
                "document.querySelectorAll('.completion > summary, .log > summary').forEach("
                "(line) => line.click())"
            )
            await page.until(contains("logs", "xxx"))
            await page.until("document.querySelectorAll('.completion .text').length === 2")
            width, inner, *wide = await page.evaluate(OVERFLOW)
            assert (inner, wide) == (390, []) and width <= inner
            assert page.complaints == []
            await look_at_the_offline_twin(page, run_dir)


async def look_at_the_offline_twin(page: Page, run_dir: RunDir) -> None:
    await page.open(run_dir.report.as_uri())
    await page.evaluate("document.getElementById('plots').scrollIntoView()")
    await has_drawn(page, 10_000)
    await choose(page, "verdict", "truncated")
    shown = "document.querySelectorAll('.completion:not([hidden])').length"
    assert await page.evaluate(shown) == 1
    width, inner, *wide = await page.evaluate(OVERFLOW)
    assert (inner, wide) == (390, []) and width <= inner
    assert page.complaints == []


def test_ten_thousand_steps_are_there_at_once_and_fit_a_phone(tmp_path: Path, record_property):
    run_dir = start_run(tmp_path, num_steps=20_000)
    records = [record_of(step, reward=7.5 if step == 4_321 else None) for step in range(1, 10_001)]
    run_dir.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    run_dir.logs.mkdir()
    (run_dir.logs / f"{'long' * 30}.log").write_text("x" * 500 + "\n")
    texts = (tokens_of("lazy dog " * 200), tokens_of("fox" * 100))
    samples = [sample_of(texts[0], WRONG), sample_of(texts[1], CUT)]
    write_batch(run_dir, 9_999, *samples, problem="y" * 300)
    write_run_report(load_config(run_dir.config))
    asyncio.run(look_at_a_long_run(run_dir, record_property))
