"""Images at half and at twice their size."""

from __future__ import annotations

from jaxtyping import Array, Float


def halved(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    """The mean of every 2x2 pixels; an odd last row or column is left out.

    (`nn.avg_pool` divides by an integer, which strict promotion refuses.)
    """
    batch, height, width, channels = x.shape
    even = x[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def doubled(x: Float[Array, "b h w c"], rows: int, columns: int) -> Float[Array, "b {rows} {columns} c"]:
    """Every pixel as 2x2 of its kind, cropped to so many rows and columns."""
    return x.repeat(2, axis=1).repeat(2, axis=2)[:, :rows, :columns]
