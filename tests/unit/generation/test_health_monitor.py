"""Health monitor: a server counts as hung once it was silent for long."""

from megatron_rl.generation.health_monitor import HealthMonitor


class Server:
    """Answers or not, and lets time pass while it is asked."""

    def __init__(self) -> None:
        self.now, self.num_asked = 0.0, 0
        self.is_well, self.answer_s = True, 0.0
        self.monitor = HealthMonitor(self.answers, patience_s=80.0, clock=lambda: self.now)

    def answers(self) -> bool:
        self.num_asked += 1
        self.now += self.answer_s
        return self.is_well

    def is_hung_at(self, now: float) -> bool:
        self.now = now
        return self.monitor.is_hung()


def test_a_server_that_answers_is_asked_now_and_then():
    server = Server()
    assert not any(server.is_hung_at(tenths / 10) for tenths in range(4000))
    assert server.num_asked == 39  # every 10 of 399.9 s


def test_a_server_is_hung_once_it_was_silent_for_longer_than_the_patience():
    server = Server()
    assert not server.is_hung_at(10.0)  # it answers
    server.is_well, server.answer_s = False, 5.0
    assert not server.is_hung_at(50.0)
    assert not server.is_hung_at(84.0)  # asked until 89: silent for 79 s
    assert server.is_hung_at(90.5)


def test_one_answer_in_time_starts_the_clock_anew():
    server = Server()
    server.is_well = False
    assert not server.is_hung_at(70.0)
    server.is_well = True
    assert not server.is_hung_at(80.0)
    server.is_well = False
    assert not server.is_hung_at(155.0)
    assert server.is_hung_at(161.0)
