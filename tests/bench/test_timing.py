import time

from ring_rl.bench import matmul
from ring_rl.bench.matmul import Product, best_rates, products
from ring_rl.bench.timing import Call, Times, race, warm_up


def test_programs_run_in_turn():
    order = []
    calls = {name: Call(lambda name=name: order.append(name), 1) for name in "AB"}
    times = race(calls, 3, lambda text: None)
    assert order == list("ABABAB")
    assert {name: len(found.wall) for name, found in times.items()} == {"A": 3, "B": 3}


def test_times_are_of_one_call(monkeypatch):
    wall, cpu = 0.0, 0.0

    def run():
        nonlocal wall, cpu
        wall, cpu = wall + 2 * (wall + 1), cpu + 0.5

    monkeypatch.setattr("ring_rl.bench.timing.time.perf_counter", lambda: wall)
    monkeypatch.setattr("ring_rl.bench.timing.time.process_time", lambda: cpu)
    found = race({"A": Call(run, 2)}, 2, lambda text: None)["A"]
    # The clock goes 0, 2, 8 and then 26, 80.
    assert found == Times([4.0, 36.0], [0.5, 0.5])
    summary = found.summary()
    assert summary["wall_seconds"] == 20
    assert (summary["wall_seconds_min"], summary["wall_seconds_max"]) == (4, 36)


def test_short_calls_are_repeated_and_long_ones_are_not():
    assert warm_up(lambda: None)[1].times > 1
    assert warm_up(lambda: time.sleep(0.06))[1].times == 1


def test_the_ceiling_is_each_runs_fastest_product():
    made = {name: Product(Call(lambda: None, 1), 6.0) for name in ("slow", "fast")}
    times = {
        "slow": Times([9.0, 9.0, 9.0], [3.0, 2.0, 3.0]),
        "fast": Times([1.0, 2.0, 3.0], [1.0, 6.0, 2.0]),
    }
    assert best_rates(made, times, "cpu") == ("fast", [6.0, 3.0, 3.0])
    assert best_rates(made, times, "wall") == ("fast", [6.0, 3.0, 2.0])


def test_shares_are_taken_run_by_run():
    # A machine that is ten times slower for a while is so for both.
    one, other = Times([1.0] * 3, [1.0, 30.0, 2.0]), Times([2.0] * 3, [2.0, 60.0, 8.0])
    assert one.share(other, "cpu") == 0.5
    assert one.share(other, "wall") == 0.5


def test_products_count_two_operations_for_each_term(monkeypatch):
    monkeypatch.setattr(matmul, "TILES", (8,))
    monkeypatch.setattr(matmul, "_CPU_FLOPS", 10_000)
    found = products(4, "float32")
    assert set(found) == {"[8,4]x[4,8]", "[8,8]x[8,4]"}
    # 2 x 8 x 8 x 4 = 512 a product, 19 of them are no more than 10,000.
    assert {product.flops for product in found.values()} == {19 * 512}
