"""Where the time of a run goes: the lines of `timing.jsonl`, and a trace."""

import gzip
import json
import time

import jax
import numpy as np
import pytest
from flax import nnx

from ring_rl.agents import AgenticTransformer
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.train.clock import Clock
from ring_rl.train.loop import LoopConfig, train
from ring_rl.train.optimiser import OptimiserConfig
from ring_rl.types import Batch, Discrete, Scaling, Spaces, Tokens

RULES = ShardingRules(make_mesh(MeshConfig(sequence=1), jax.devices()[:1]))


class Line(AgenticTransformer):
    """Four numbers, which are compiled in no time."""

    def build(self, spaces, scaling, rules, *, seed):
        return nnx.Linear(3, 1, rngs=nnx.Rngs(seed))

    def loss(self, model, batch, key):
        loss = (model(batch.tokens.observation) ** 2).mean()
        return loss, {"loss": loss}


def run(directory, *, steps, profile=False, wait=0.0):
    zeros = np.zeros((2, 8), np.float32)
    tokens = Tokens(*[zeros] * 9)._replace(observation=np.ones((2, 8, 3), np.float32))
    batch = jax.device_put(Batch(tokens, zeros, zeros), RULES.sharding(RULES.tokens))

    def stream(start, stop):
        for _ in range(start, stop):
            time.sleep(wait)
            yield batch

    agent = Line()
    spaces, scaling = Spaces(3, Discrete(2)), Scaling((0.0,) * 3, (1.0,) * 3, 1.0, 1.0)
    train(
        agent,
        agent.build(spaces, scaling, RULES, seed=0),
        stream,
        optimiser=OptimiserConfig(),
        loop=LoopConfig(steps=steps, log_every=2, checkpoint_every=steps),
        directory=directory,
        rules=RULES,
        seed=0,
        profile=profile,
    )
    return [
        json.loads(x) for x in (directory / "timing.jsonl").read_text().splitlines()
    ]


def test_a_line_says_where_the_time_went(tmp_path):
    lines = run(tmp_path, steps=6, wait=0.1)
    for line in lines:
        shares = [line[name] for name in Clock.SHARES]
        assert all(share >= 0 for share in shares) and sum(shares) <= 1
        # Of all that a line takes, the shares leave out next to nothing.
        assert sum(shares) > 0.9
        assert line["tokens_per_second"] * line["seconds"] == pytest.approx(2 * 16)
        flops = line["model_flops_per_second"] / line["tokens_per_second"]
        assert flops == pytest.approx(6 * 4)
    assert lines[0]["dispatching"] > lines[1]["dispatching"], "it compiles there"
    assert lines[1]["waiting_for_data"] > 0.5
    assert lines[1]["seconds"] >= 0.2


@pytest.mark.parametrize(
    ("steps", "traced"), [(12, [6, 7, 8]), (7, [5, 6, 7]), (2, [1, 2])]
)
def test_a_trace_of_a_few_updates_is_written(tmp_path, steps, traced):
    lines = run(tmp_path, steps=steps, profile=True)
    assert lines[-1]["step"] == steps
    folder = tmp_path / "profile"
    # What TensorBoard reads, and what Perfetto does.
    (xplane,) = folder.glob("plugins/profile/*/*.xplane.pb")
    assert xplane.stat().st_size > 0
    (trace,) = folder.glob("plugins/profile/*/perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    found = {
        int(event["args"]["step_num"])
        for event in events
        if event.get("name") == "train" and "step_num" in event.get("args", {})
    }
    assert sorted(found) == traced


def test_no_trace_is_written_unless_asked_for(tmp_path):
    run(tmp_path, steps=2)
    assert not (tmp_path / "profile").exists()
