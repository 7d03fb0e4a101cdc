"""Exact attention whose sequence axis can be sharded over devices."""

from ring_rl.attention.api import attention as attention
from ring_rl.attention.checks import IMPLEMENTATIONS as IMPLEMENTATIONS
from ring_rl.attention.decode import decode_attention as decode_attention
from ring_rl.attention.layout import LAYOUTS as LAYOUTS
from ring_rl.attention.layout import balance as balance
from ring_rl.attention.layout import choose_layout as choose_layout
from ring_rl.attention.layout import count_hops as count_hops
from ring_rl.attention.layout import held as held
from ring_rl.attention.layout import permutation as permutation
from ring_rl.attention.mask import Mask as Mask
from ring_rl.attention.sharded import ring_attention as ring_attention
