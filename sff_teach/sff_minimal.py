"""Scalable Forward-Forward in one file: copy it, read it, change it. Needs only torch.

Three blocks of convolutions. Each has a head with one channel per class; the mean of that channel's
squares is the class goodness; each block learns from its own goodness by cross-entropy, and its
output is detached and normalised. After Krutsylo, "Scalable Forward-Forward Algorithm" (2025).
The package's core.py and rules.py do the same step; a test compares them for 20 steps.

    python -m sff_teach.sff_minimal      trains on scikit-learn's digits in a few seconds
"""

import torch
from torch import nn
from torch.nn import functional as F


def layer(channels, width, pool):
    """A 3×3 convolution, BatchNorm, ReLU and, if ``pool``, a 2×2 max-pool."""
    parts = [
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    return nn.Sequential(*parts, nn.MaxPool2d(2)) if pool else nn.Sequential(*parts)


class Block(nn.Module):
    """Features h from a body, and from its own 1×1 head one goodness per class."""

    def __init__(self, body, width, num_classes):
        super().__init__()
        self.body = body
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x):
        h = self.body(x)  # (B, C, H, W)
        z = self.head(h)  # (B, K, H, W)
        g = z.square().mean((2, 3))  # (B, K): class goodness
        return h, g


def make_network(channels, num_classes, widths=(16, 32, 64), pool_after=(1, 2)):
    """A list of blocks, one layer each."""
    blocks = nn.ModuleList()
    for number, width in enumerate(widths, 1):
        blocks.append(Block(layer(channels, width, number in pool_after), width, num_classes))
        channels = width
    return blocks


def hand_over(h):
    """The next block's input: detached from the gradient, normalised per image."""
    h = h.detach()
    if h.is_contiguous():
        return F.layer_norm(h, h.shape[1:])
    h = h.movedim(1, -1)  # channels-last memory: layer_norm alone would return NCHW
    return F.layer_norm(h, h.shape[1:]).movedim(-1, 1)


def train_step(blocks, optimizers, x, y):
    """The whole algorithm: one forward pass, and each block learns as soon as it has its h."""
    losses = []
    for block, optimizer in zip(blocks, optimizers, strict=True):
        h, g = block(x)
        loss = F.cross_entropy(g, y)  # -(g_y - log Σ exp g): true class up, all others down
        optimizer.zero_grad()
        loss.backward()  # stays inside this block and frees its graph
        optimizer.step()
        x = hand_over(h)
        losses.append(loss.item())
    return losses


@torch.no_grad()
def predict(blocks, x):
    """The class with the highest mean goodness over all blocks."""
    votes = []
    for block in blocks:
        h, g = block(x)
        votes.append(g)
        x = hand_over(h)
    return torch.stack(votes).mean(0).argmax(1)  # (B,)


def main(epochs=15, batch_size=64, lr=5e-3, seed=0):
    """Train on digits and print the accuracy on held-out images."""
    from sklearn.datasets import load_digits

    torch.manual_seed(seed)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    order = torch.randperm(len(y))
    train, test = order[:1400], order[1400:]
    x = (x - x[train].mean()) / x[train].std()

    blocks = make_network(channels=1, num_classes=10)
    optimizers = [torch.optim.AdamW(block.parameters(), lr=lr) for block in blocks]
    for epoch in range(1, epochs + 1):
        blocks.train()
        for batch in train[torch.randperm(len(train))].split(batch_size):
            losses = train_step(blocks, optimizers, x[batch], y[batch])
        blocks.eval()
        accuracy = (predict(blocks, x[test]) == y[test]).float().mean().item()
        shown = " ".join(f"{loss:.3f}" for loss in losses)
        print(f"epoch {epoch:2d}   loss per block {shown}   test accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
