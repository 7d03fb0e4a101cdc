"""What others offer for the same work, called as its authors mean it to be called."""

import importlib
import types
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from ring_rl.bench.config import ONE_DEVICE, AttentionConfig
from ring_rl.bench.contenders import (
    REPLICATED,
    TOKENS,
    Contender,
    Unable,
    make_own,
)
from ring_rl.mesh import SEQUENCE

# The fastest of its chunk sizes on a CPU.
_RINGATTENTION_CHUNK = 256


def make_contender(name: str, config: AttentionConfig, mesh: Mesh) -> Contender:
    """A peer or an implementation of ring_rl on the problem of a configuration.

    Raises:
      Unable: it is not installed, or cannot do this.
    """
    if name == "ringattention":
        return _ringattention(config, mesh)
    if name == "jax-nn":
        return _jax_nn(config, mesh)
    if name in ONE_DEVICE and config.devices > 1:
        raise Unable("works on one device")
    if name.startswith("cudnn"):
        return _cudnn(name, config)
    return make_own(name, config, mesh)


def _ringattention(config: AttentionConfig, mesh: Mesh) -> Contender:
    """PyPI's `ringattention`, the program in JAX that goes with the paper."""
    if config.key_heads != config.heads:
        raise Unable("cannot do grouped-query heads")
    if config.mask.window is not None:
        raise Unable("cannot do a window")
    if config.dropout:
        raise Unable("cannot do dropout under jit: it raises for traced keys")
    ring_attention = _import_ringattention()
    length = config.tokens // config.devices
    chunk = next(n for n in range(_RINGATTENTION_CHUNK, 0, -1) if length % n == 0)
    options = {
        "causal_block_size": 1 if config.mask.causal else None,
        "query_chunk_size": chunk,
        "key_chunk_size": chunk,
        "deterministic": True,
        "dropout_rng": None,
        "attn_pdrop": 0.0,
        "policy": jax.checkpoint_policies.nothing_saveable,
        "dtype": jnp.float32,
        "precision": None,
        "prevent_cse": True,
    }

    def local(q, k, v, *segments):
        # No bias, no cache; segments of the whole sequence on every device.
        given = segments[0] if segments else None
        return ring_attention(q, k, v, None, given, None, SEQUENCE, True, options)

    segmented = config.mask.name == "segments"
    specs = (REPLICATED,) if segmented else ()
    attend = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(TOKENS,) * 3 + specs,
        out_specs=TOKENS,
        # Its own rules of differentiation know nothing of varying axes.
        check_vma=False,
    )
    extras = (config.host_mask().q_segments,) if segmented else ()
    return Contender("ringattention", attend, extras, specs, notes={"chunk": chunk})


def _import_ringattention() -> Any:
    import jax.lib
    from jax.extend import backend

    # It asks here for the name of the platform, and only when it is imported.
    missing = not hasattr(jax.lib, "xla_bridge")
    if missing:
        bridge = types.SimpleNamespace(get_backend=backend.get_backend)
        setattr(jax.lib, "xla_bridge", bridge)  # noqa: B010
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("ringattention").ringattention_jax
    except ModuleNotFoundError as error:
        raise Unable(
            f"needs {error.name}, which is not installed: pip install 'ring_rl[bench]'"
        ) from None
    except (ImportError, AttributeError) as error:
        raise Unable(f"does not import under jax {jax.__version__}: {error}") from None
    finally:
        if missing:
            delattr(jax.lib, "xla_bridge")


def _cudnn(name: str, config: AttentionConfig) -> Contender:
    """The fused kernel of cuDNN, through `jax.nn.dot_product_attention`.

    `cudnn-causal` is its plain causal attention, whatever the mask: what it takes where
    segments are not looked at.
    """
    same = name == "cudnn"
    if jax.default_backend() != "gpu":
        raise Unable("needs a GPU")
    if config.dropout:
        raise Unable("cannot do dropout through jax.nn")
    if config.dtype != "bfloat16":
        raise Unable("takes bfloat16")
    if same and config.mask.name == "segments":
        raise Unable("cannot do segments but by a mask of all pairs")
    window = config.mask.window if same else None

    def attend(q, k, v):
        return jax.nn.dot_product_attention(
            q, k, v,
            is_causal=config.mask.causal or not same,
            local_window_size=None if window is None else (window - 1, 0),
            implementation="cudnn",
        )  # fmt: skip

    return Contender(name, attend, same=same)


def _jax_nn(config: AttentionConfig, mesh: Mesh) -> Contender:
    """`jax.nn.dot_product_attention`; several devices are left to the compiler."""
    if config.dropout:
        raise Unable("cannot do dropout")
    window = config.mask.window
    whole = NamedSharding(mesh, REPLICATED)

    def attend(q, k, v, *segments):
        k, v = (jax.lax.with_sharding_constraint(x, whole) for x in (k, v))
        mask = None
        if segments:
            mask = (segments[0][:, :, None] == segments[0][:, None, :])[:, None]
        return jax.nn.dot_product_attention(
            q,
            k,
            v,
            mask=mask,
            is_causal=config.mask.causal,
            local_window_size=None if window is None else (window - 1, 0),
        )

    segmented = config.mask.name == "segments"
    extras = (config.host_mask().q_segments,) if segmented else ()
    return Contender("jax-nn", attend, extras, (REPLICATED,) if segmented else ())
