"""Ring attention of global arrays: the `jax.shard_map` round `attention`."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from ring_rl.attention.api import attention
from ring_rl.attention.dropout import row_keys
from ring_rl.attention.mask import Mask


def ring_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Mask,
    *,
    mesh: Mesh,
    axis_name: str = "sequence",
    batch_axes: tuple[str, ...] = (),
    head_axis: str | None = None,
    implementation: str = "ring",
    dropout_rate: float = 0.0,
    dropout_key: Any = None,
    **options: Any,
) -> Float[Array, "B T N H"]:
    """Ring attention of global arrays, already in layout order, over `mesh`.

    The sequence axes T and S are sharded over `axis_name`, the batch over `batch_axes`
    and both kinds of heads over `head_axis`, if there is one; lengths that the devices
    do not divide are padded, on their end.
    `options` are those of `attention`: `scale`, `block_q`, `block_k`, `hops`, `kernel`.
    Another `implementation` of `attention` does the same where the sequence is on one
    device.

    Raises:
      ValueError: `axis_name`, `head_axis` or one of `batch_axes` is not an axis of the
        mesh, heads cannot be shared out, an implementation other than `ring` is to
        work over several devices, or an argument that `attention` refuses.
    """
    heads_over = () if head_axis is None else (head_axis,)
    for name, axes in (
        ("axis_name", (axis_name,)),
        ("batch_axes", batch_axes),
        ("head_axis", heads_over),
    ):
        if missing := [axis for axis in axes if axis not in mesh.axis_names]:
            raise ValueError(
                f"ring_attention: {name} must be one of the mesh's axes "
                f"{mesh.axis_names}, found {missing[0]!r}"
            )
    size, T = mesh.shape[axis_name], q.shape[1]
    if implementation != "ring" and size > 1:
        raise ValueError(
            "ring_attention: implementation must be ring where the sequence is on "
            f"several devices, found {implementation!r} and {size} devices"
        )
    if head_axis is not None:
        parts = mesh.shape[head_axis]
        if q.shape[2] % parts or k.shape[2] % parts:
            raise ValueError(
                f"ring_attention: heads must be multiples of {parts}, the devices of "
                f"head_axis={head_axis!r}, found {q.shape[2]} and {k.shape[2]}"
            )
    along = {"axis_name": axis_name} if implementation == "ring" else {}
    q, k, v = (_pad_to_multiple(x, size) for x in (q, k, v))
    # Its arrays may be NumPy's.
    mask = _pad_mask(jax.tree.map(jnp.asarray, mask), size)
    rows = PartitionSpec(batch_axes or None, head_axis)
    tokens = PartitionSpec(batch_axes or None, axis_name)
    heads = PartitionSpec(batch_axes or None, axis_name, head_axis)
    # Keys of all rows of the batch, of which each device gets its own.
    keys = dropout_key if dropout_rate else None
    if keys is not None and not getattr(keys, "shape", True):
        keys = row_keys(keys, q.shape[0], q.shape[2])

    def attend(q, k, v, mask, keys):
        return attention(
            q, k, v, mask, implementation=implementation, dropout_rate=dropout_rate,
            dropout_key=keys, **along, **options,
        )  # fmt: skip

    sharded = jax.shard_map(
        attend,
        mesh=mesh,
        in_specs=(heads, heads, heads, tokens, rows),
        out_specs=heads,
    )
    return sharded(q, k, v, mask, keys)[:, :T]


def _pad_to_multiple(x: Array, size: int, value: int = 0) -> Array:
    widths = ((0, 0), (0, -x.shape[1] % size)) + ((0, 0),) * (x.ndim - 2)
    return jnp.pad(x, widths, constant_values=value)


def _pad_mask(mask: Mask, size: int) -> Mask:
    children, static = mask.tree_flatten()
    padding = (0, 0, -1, -1, 0, 0)
    padded = (
        None if child is None else _pad_to_multiple(child, size, value)
        for child, value in zip(children, padding, strict=True)
    )
    return Mask.tree_unflatten(static, tuple(padded))
