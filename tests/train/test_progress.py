"""Progress where there is no terminal."""

from ring_rl.train.progress import Progress


def test_time_left_is_said_once_there_is_a_rate(capsys, monkeypatch):
    clock = iter([0.0, 11.0, 20.0, 25.0, 50.0])
    monkeypatch.setattr("ring_rl.train.progress.time.monotonic", lambda: next(clock))
    progress = Progress("evaluate seed 0", 10, every=10.0)
    progress.update(0, "256 environment steps")
    progress.update(2)  # Nine seconds after the last line: nothing is said.
    progress.update(5, "512 environment steps")
    progress.update(10, "1024 environment steps")
    assert capsys.readouterr().err.splitlines() == [
        "evaluate seed 0: 0/10  256 environment steps",
        "evaluate seed 0: 5/10  512 environment steps  25 s left",
        "evaluate seed 0: 10/10  1024 environment steps  0 s left",
    ]
