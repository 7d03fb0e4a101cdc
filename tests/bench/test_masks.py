import numpy as np
import pytest

from ring_rl.attention.mask import visible
from ring_rl.bench.masks import MaskKind

TEXTS = ("causal", "full", "segments:5", "segments:100", "window:1", "window:7")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("tokens", [1, 5, 23])
def test_pairs_are_counted_as_attention_sees_them(text, tokens):
    kind = MaskKind.parse(text)
    mask = kind.on_host(1, tokens)
    order = (mask.q_positions, mask.q_segments, mask.k_positions, mask.k_segments)
    seen = np.asarray(visible(*order, causal=mask.causal, window=mask.window)[0])
    assert kind.pairs(tokens) == seen.sum()
    np.testing.assert_array_equal(kind.seen(np.arange(tokens), tokens), seen)


@pytest.mark.parametrize("text", TEXTS)
def test_a_mask_is_written_as_it_is_read(text):
    assert str(MaskKind.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "diagonal", "causal:3", "window", "window:0", "segments:-1", "window:x"],
)
def test_an_unknown_mask_is_named_beside_those_that_there_are(text):
    with pytest.raises(ValueError, match="causal, full, segments:N, window:N, found"):
        MaskKind.parse(text)
