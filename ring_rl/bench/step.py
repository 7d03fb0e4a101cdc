"""`ring-rl bench step`: one whole training step of an Agentic Transformer.

The batch is one chain of synthetic trajectories, made by the loader's own code. Four
tokens a step when interleaved: target return, observation, action, reward, as in the
paper; the completion is left out.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, cast

import jax
import numpy as np
from flax import nnx

from ring_rl.agents import AgenticTransformer
from ring_rl.attention import Mask, choose_layout, permutation
from ring_rl.attention.layout import LAYOUTS, balance
from ring_rl.bench.config import check_choice, check_counts
from ring_rl.bench.machine import peak_device_bytes, peak_resident_bytes
from ring_rl.bench.masks import MaskKind
from ring_rl.bench.matmul import best_rates, products
from ring_rl.bench.program import temp_bytes
from ring_rl.bench.records import Record, Say, make_record, rates
from ring_rl.bench.step_parts import PARTS, part_programs
from ring_rl.bench.synthetic import make_store
from ring_rl.bench.timing import Times, race
from ring_rl.data.chains import ChainConfig, make_chain
from ring_rl.data.tokens import TokenConfig, pack
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.plan.context import Context
from ring_rl.plan.hardware import hardware_of
from ring_rl.plan.memory import predict
from ring_rl.plan.models import Model
from ring_rl.plan.sizes import Sizes
from ring_rl.train.optimiser import OptimiserConfig, make_optimiser
from ring_rl.train.step import initial_state, make_step
from ring_rl.types import Batch, Scaling

_FIELDS = ("target_return", "observation", "action", "reward")


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """A model, a context, and the devices that share it out.

    Attributes:
      layers: L.
      heads: N.
      kv_heads: K, a divisor of N; 0 means N.
      head_dim: H; the model's width is N H.
      dtype: of the computation.
      kernel: of attention; `auto` chooses by device kind.
      trajectories: episodes of the chain.
      steps: environment steps of each.
      observation: O.
      action: A, components in [-1, 1].
      devices: R.
      layout: of the ring; `auto` chooses by counting tiles.
      token_layout: `interleaved`, four tokens a step, or `fused`, one.
      runs: updates that are timed.
      check_devices: devices on which the first update's loss is computed again, the
        forward pass alone; 0 does not.
      compile_only: the compiler's report of memory, nothing run.
      parts: what attention and the feed-forward take of an update, measured alone, and
        the model's operations as a share of what the fastest product reaches.
    """

    layers: int = 2
    heads: int = 2
    kv_heads: int = 0
    head_dim: int = 32
    dtype: str = "float32"
    kernel: Literal["auto", "blockwise", "triton", "hopper"] = "auto"
    trajectories: int = 4
    steps: int = 1000
    observation: int = 24
    action: int = 6
    devices: int = 1
    layout: str = "auto"
    token_layout: str = "interleaved"
    runs: int = 1
    check_devices: int = 0
    compile_only: bool = False
    parts: bool = False

    def __post_init__(self):
        """Checks the values; the model's are checked where they are used."""
        counts = "heads head_dim trajectories steps observation action devices runs"
        check_counts(self, tuple(counts.split()), least=1)
        check_counts(self, ("kv_heads", "check_devices"), least=0)
        check_choice(self, "layout", ("auto", *LAYOUTS))
        check_choice(self, "dtype", ("float32", "bfloat16"))
        check_choice(self, "token_layout", ("interleaved", "fused"))
        if self.parts and self.compile_only:
            raise ValueError("bench: parts are timed, found compile_only too")
        self.agent()

    @property
    def chain_tokens(self) -> int:
        """Tokens of the chain."""
        return self.trajectories * self.steps * self.agent().tokens.tokens_per_step

    @property
    def tokens(self) -> int:
        """Tokens of the row: the chain's, and padding that all devices can share."""
        together = 2 * math.lcm(self.devices, self.check_devices or 1)
        return -(-self.chain_tokens // together) * together

    @property
    def attention_flops(self) -> int:
        """Of the attention matmuls of one update over pairs that are not masked."""
        return 14 * self._pair_flops

    def model_flops(self, parameters: int) -> int:
        """Of one update, as the field counts them: nothing that is computed again.

        Six for each parameter and token, and four forward and eight backward for each
        component of a pair's attention. Source: Chowdhery et al. 2022 (arXiv
        2204.02311), appendix B, but for pairs that are masked.
        """
        return 6 * parameters * self.chain_tokens + 12 * self._pair_flops

    @property
    def _pair_flops(self) -> int:
        pairs = MaskKind("causal").pairs(self.chain_tokens)
        return self.layers * pairs * self.heads * self.head_dim

    def agent(self) -> AgenticTransformer:
        """The agent."""
        return AgenticTransformer(
            trunk=TrunkConfig(
                layers=self.layers,
                width=self.heads * self.head_dim,
                heads=self.heads,
                kv_heads=self.kv_heads,
                dtype=self.dtype,
                kernel=self.kernel,
            ),
            chains=ChainConfig(trajectories=self.trajectories),
            tokens=TokenConfig(layout=cast(Any, self.token_layout), fields=_FIELDS),
        )

    def predicted_bytes(self) -> int:
        """Of a device, as `ring-rl plan` has them."""
        agent = self.agent()
        model = Model("", agent.trunk, self.observation, self.action, agent.bins)
        context = Context(
            self.trajectories,
            self.steps,
            agent.tokens.tokens_per_step,
            devices=self.devices,
            layout=self.layout,
        )
        platform = "cpu" if jax.default_backend() == "cpu" else "gpu"
        return predict(Sizes.of(model, context, platform)).total

    def values(self) -> dict[str, Any]:
        """What a record says of the problem."""
        found = dataclasses.asdict(self)
        for name in ("layout", "runs", "check_devices", "compile_only", "parts"):
            del found[name]
        return found | {"fields": list(_FIELDS), "batch": 1, "tokens": self.tokens}


class _Problem(NamedTuple):
    """A new model and the batch, on a number of devices."""

    agent: AgenticTransformer
    model: Any
    batch: Batch
    layout: str
    balance: float


def measure(config: StepConfig, say: Say) -> Iterator[Record]:
    """The record of the step.

    `resident_bytes` is the most memory that the process held up to the last update:
    the data, the compilation, and all devices that are the CPU's.

    Raises:
      ValueError: there are not so many devices, or the model cannot be.
    """
    rules = {
        devices: ShardingRules(make_mesh(MeshConfig(sequence=devices)))
        for devices in (config.devices, config.check_devices)
        if devices
    }
    problem = _make(config, rules[config.devices])
    optimiser = make_optimiser(OptimiserConfig(warmup=0), config.runs)
    state = initial_state(problem.model, optimiser, rules[config.devices], seed=0)
    say(f"compile {config.tokens} tokens on {config.devices} devices")
    began = time.perf_counter()
    # The step is a jitted function, which its type does not say.
    step = cast(
        Any, make_step(problem.agent, problem.model, optimiser, rules[config.devices])
    )
    step = step.lower(state, problem.batch).compile()
    record = make_record(
        "step",
        **config.values(),
        implementation="ring",
        layout=problem.layout,
        balance=round(problem.balance, 4),
        temp_bytes_per_device=temp_bytes(step),
        compile_seconds=round(time.perf_counter() - began, 2),
        predicted_bytes_per_device=config.predicted_bytes(),
        parameters=sum(x.size for x in jax.tree.leaves(state.parameters)),
        attention_flops=config.attention_flops,
        reference_scores_bytes=config.heads * config.tokens**2 * 4,
    )
    if config.compile_only:
        yield record
        return
    times, losses = Times([], []), []
    for run in range(config.runs):
        say(f"update {run + 1} of {config.runs}")
        cpu, wall = time.process_time(), time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, problem.batch))
        times.wall.append(time.perf_counter() - wall)
        times.cpu.append(time.process_time() - cpu)
        losses.append(float(metrics["loss"]))
    record |= times.summary() | {
        "runs": config.runs,
        "loss": losses[0],
        "last_loss": losses[-1],
        "resident_bytes": peak_resident_bytes(),
        "device_bytes": peak_device_bytes(),
    }
    record["model_flops"] = config.model_flops(record["parameters"])
    # A device that the planner knows, at its maker's figure.
    if (hardware := hardware_of(jax.devices()[0].device_kind)) is not None:
        rate = hardware.flops(config.dtype) * config.devices
        seconds = record["wall_seconds"]
        record["data_sheet_utilisation"] = record["model_flops"] / seconds / rate
    record |= rates(record)
    if config.parts:
        record |= _parts(config, problem, times, record["parameters"], say)
    if config.check_devices:
        # Before the next ones are made.
        del state, step, problem
        say(f"the loss again on {config.check_devices} devices")
        again = _forward_loss(config, rules[config.check_devices])
        record |= {
            "check_devices": config.check_devices,
            "check_loss": again,
            "loss_difference": abs(losses[0] - again) / abs(again),
        }
    yield record


def _parts(
    config: StepConfig, problem: _Problem, step: Times, parameters: int, say: Say
) -> Record:
    """Shares of an update, of which the parts are timed alone."""
    say("parts")
    calls = part_programs(problem.model, problem.batch)
    tiles = products(config.head_dim, config.dtype)
    calls |= {name: product.call for name, product in tiles.items()}
    times = race(calls, config.runs, say)
    clock = "cpu" if jax.default_backend() == "cpu" else "wall"
    whole = statistics.median(getattr(step, clock))
    found: Record = {
        f"{name}_share": config.layers
        * statistics.median(getattr(times[name], clock))
        / whole
        for name in PARTS
    }
    _, rates = best_rates(tiles, times, clock)
    # Of a device; CPU-seconds are those of all of them together.
    rate = statistics.median(rates) * (config.devices if clock == "wall" else 1)
    flops = config.model_flops(parameters)
    return found | {
        "rest_share": 1 - sum(found.values()),
        "model_flops_utilisation": flops / whole / rate,
    }


def _forward_loss(config: StepConfig, rules: ShardingRules) -> float:
    """The first batch's loss under the first parameters, on other devices."""
    problem = _make(dataclasses.replace(config, layout="auto"), rules)
    graph, parameters = nnx.split(problem.model)

    def loss(parameters, batch):
        model = nnx.merge(graph, parameters)
        return problem.agent.loss(model, batch, jax.random.key(0))[0]

    return float(jax.jit(loss)(parameters, problem.batch))


def _make(config: StepConfig, rules: ShardingRules) -> _Problem:
    agent, devices = config.agent(), rules.ring
    store = make_store(
        config.trajectories,
        config.steps,
        observation=config.observation,
        action=config.action,
    )
    # All of them: the loader would draw how many.
    chain = make_chain(store, np.arange(config.trajectories), agent.chains.loss_on)
    batch = pack([(0, chain)], 1, config.tokens, agent.tokens, store.spaces)
    mask = Mask.self_attention(batch.tokens.positions, batch.tokens.segments)
    layout = config.layout
    if layout == "auto":
        layout = choose_layout(mask, devices) if devices > 1 else "contiguous"
    order = permutation(layout, config.tokens, devices)
    sharding = rules.sharding(rules.tokens)
    placed = jax.tree.map(lambda x: jax.device_put(x[:, order], sharding), batch)
    scaling = Scaling(
        observation_mean=(0.0,) * config.observation,
        observation_std=(1.0,) * config.observation,
        return_scale=float(config.steps),
        reward_scale=1.0,
    )
    model = agent.build(store.spaces, scaling, rules, seed=0)
    share = balance(mask, layout, devices)[1]
    return _Problem(agent, model, placed, layout, share)
