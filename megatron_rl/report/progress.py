"""Live progress in the terminal, or plain lines when the output is not one."""

from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from megatron_rl.report.scores import Record, set_of, sets_in
from megatron_rl.report.summary import is_number

TRAINING = "training"
PHASES = ("cold start", "choosing its model", "starting servers", TRAINING, "evaluation")

PLAIN_EVERY_S = 30.0
PLAIN_EVERY_STEPS = 10

_TRAINING_NUMBERS = (
    ("reward", "reward/total", "{:.3f}"),
    ("correct", "rollout/correct", "{:.1%}"),
    ("length", "rollout/length_mean", "{:,.0f}"),
    ("staleness", "rollout/staleness_mean", "{:.2f}"),
    ("generation tok/s", "generation/tokens_per_s", "{:,.0f}"),
    ("learner tok/s", "learner/tokens_per_s", "{:,.0f}"),
)
_SFT_NUMBERS = (
    ("loss", "sft/loss", "{:.4f}"),
    ("learner tok/s", "sft/tokens_per_s", "{:,.0f}"),
)


class StepTimer:
    """Estimate of the time left, from the pace of the last steps and their checkpoints."""

    def __init__(self, *, window: int) -> None:
        self._marks: deque[tuple[int, float]] = deque(maxlen=window)

    def mark(self, step: int, at_s: float) -> None:
        """Note that ``step`` was done at ``at_s``; a step back (a resumed run) starts over."""
        if self._marks and step <= self._marks[-1][0]:
            self._marks.clear()
        self._marks.append((step, at_s))

    def remaining_s(self, num_steps: int, now_s: float) -> float | None:
        """Seconds until ``num_steps`` are done; None before two steps are known."""
        if len(self._marks) < 2:
            return None
        (first, first_s), (last, last_s) = self._marks[0], self._marks[-1]
        pace_s = (last_s - first_s) / (last - first)
        return max(0.0, (num_steps - last) * pace_s - (now_s - last_s))


class ProgressDisplay:
    """Shows the phases of a run, the bar of the current one and its latest numbers.

    Example::

        with ProgressDisplay(
            title="math", phases=PHASES, console=Console(), clock=time.time
        ) as display:
            display.start_phase("training", num_steps=80)
            display.update(metrics=latest_line, evaluations=new_ones, status="2 servers")
    """

    def __init__(
        self,
        *,
        title: str,
        phases: Sequence[str],
        console: Console,
        clock: Callable[[], float],
    ) -> None:
        self._title = title
        self._phases = phases
        self._console = console
        self._clock = clock
        self._phase: str | None = None
        self._num_steps: int | None = None
        self._phase_start_s = clock()
        self._timer = StepTimer(window=32)
        self._metrics: Record = {}
        self._evaluations: dict[str | None, Record] = {}
        self._status = ""
        self._printed_step, self._printed_s, self._printed_status = 0, 0.0, ""
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=4, transient=False
        )

    def __enter__(self) -> "ProgressDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def start_phase(self, phase: str, *, num_steps: int | None) -> None:
        """Enter one of the phases; ``num_steps`` None means its length is not known in steps."""
        assert phase in self._phases, f"{phase!r} is not one of {self._phases}"
        self._phase, self._num_steps = phase, num_steps
        self._phase_start_s = self._clock()
        self._timer = StepTimer(window=32)
        self._metrics, self._status = {}, ""
        self._printed_step, self._printed_s, self._printed_status = 0, self._clock(), ""
        if not self._console.is_terminal:
            self._print_plain(f"{phase}: started")

    def set_num_steps(self, num_steps: int) -> None:
        """Set the number of steps of the current phase."""
        self._num_steps = num_steps

    def update(self, *, metrics: Record | None, evaluations: Sequence[Record], status: str) -> None:
        """Take the latest metrics (None while there are none), new evaluations, and a status."""
        evaluated = self._evaluations | {set_of(record): record for record in evaluations}
        is_new_evaluation = evaluated != self._evaluations
        if metrics is not None and metrics != self._metrics:
            self._metrics = metrics
            # Lines from before a restart of the run would count the downtime as training.
            if metrics["time"] >= self._phase_start_s:
                self._timer.mark(metrics["step"], metrics["time"])
        self._evaluations = evaluated
        self._status = status
        if not self._console.is_terminal and self._is_line_due(is_new_evaluation):
            self._printed_step, self._printed_s = self._step(), self._clock()
            self._printed_status = self._status
            self._print_plain(self._plain_line())

    def _is_line_due(self, is_new_evaluation: bool) -> bool:
        advanced = self._step() - self._printed_step
        is_news = advanced > 0 or self._status != self._printed_status
        waited_s = self._clock() - self._printed_s
        is_last = advanced > 0 and self._step() == self._num_steps
        return (
            is_new_evaluation
            or is_last
            or not 0 <= advanced < PLAIN_EVERY_STEPS
            or (is_news and waited_s >= PLAIN_EVERY_S)
        )

    def _step(self) -> int:
        return self._metrics["step"] if self._metrics else 0

    def _numbers(self) -> list[tuple[str, str]]:
        """The latest (label, formatted value) pairs of the phase."""
        known = _SFT_NUMBERS if "sft/loss" in self._metrics else _TRAINING_NUMBERS
        numbers = [
            (label, form.format(self._metrics[key]))
            for label, key, form in known
            if is_number(self._metrics, key)
        ]
        scores = []
        for name in sets_in(self._evaluations.values()):
            record, label = self._evaluations[name], "pass@1" if name is None else f"{name} pass@1"
            scores.append((label, f"{record['pass@1']:.1%} (v{record['version']})"))
        return numbers[:1] + scores + numbers[1:]

    def _time_left(self) -> str:
        if self._num_steps is None:
            return ""
        seconds = self._timer.remaining_s(self._num_steps, self._clock())
        return "" if seconds is None else f"{format_clock(seconds)} left"

    def _plain_line(self) -> str:
        where = "" if self._num_steps is None else f" {self._step()}/{self._num_steps}"
        parts = [f"{label} {value}" for label, value in self._numbers()]
        parts += [part for part in (self._time_left(), self._status) if part]
        return f"{self._phase}{where}: " + ", ".join(parts)

    def _print_plain(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> Panel:
        rows: list[RenderableType] = [self._phase_line(), self._bar_line()]
        if numbers := self._numbers():
            rows.append(_number_grid(numbers))
        if self._status:
            rows.append(Text(self._status, style="dim", no_wrap=True, overflow="ellipsis"))
        return Panel(Group(*rows), title=Text(self._title), title_align="left", border_style="dim")

    def _phase_line(self) -> Text:
        line = Text(no_wrap=True)
        current = self._phases.index(self._phase) if self._phase is not None else -1
        for index, phase in enumerate(self._phases):
            style = "green" if index < current else "bold" if index == current else "dim"
            line.append("  >  " if index else "", style="dim").append(phase, style=style)
        return line

    def _bar_line(self) -> Table:
        elapsed = format_clock(self._clock() - self._phase_start_s)
        line = Table.grid(padding=(0, 2), expand=True)
        line.add_column(ratio=1)
        line.add_column(justify="right")
        if self._num_steps is None:
            line.add_row(ProgressBar(pulse=True), elapsed)
        else:
            bar = ProgressBar(total=self._num_steps, completed=self._step())
            text = f"{self._step()}/{self._num_steps}  {self._time_left() or elapsed}"
            line.add_row(bar, text)
        return line


def format_clock(seconds: float) -> str:
    """Render seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _number_grid(numbers: Sequence[tuple[str, str]]) -> Table:
    """Two rows: the labels, and the values under them."""
    grid = Table.grid(padding=(0, 3))
    grid.add_row(*(Text(label, style="dim") for label, _ in numbers))
    grid.add_row(*(Text(value, style="bold") for _, value in numbers))
    return grid
