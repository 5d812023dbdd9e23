"""The paper's networks as ordinary torch.nn modules, one client each; nothing of the package."""

import torch
import torch.nn.functional as F
from torch import nn


class ReferenceCnn(nn.Module):
    """Table 5 of the paper, as one would write it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 5), nn.Conv2d(4, 8, 5)
        self.fc1, self.fc2 = nn.Linear(8 * 4 * 4, 16), nn.Linear(16, 10)

    def forward(self, x):
        h = F.max_pool2d(F.relu(self.conv1(x)), 2)
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        return self.fc2(F.relu(self.fc1(h.flatten(1))))


class ReferenceFastText(nn.Module):
    """The mean of the embeddings of the tokens that are there, in a loop."""

    def __init__(self, vocabulary_size):
        super().__init__()
        self.embedding, self.fc = nn.Embedding(vocabulary_size, 100), nn.Linear(100, 1)

    def forward(self, x):
        means = []
        for text in x.tolist():
            vectors = [self.embedding.weight[token] for token in text if token != -1]
            means.append(sum(vectors) / len(vectors) if vectors else torch.zeros(100))
        return self.fc(torch.stack(means))


class ReferenceLoanNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(91, 46), nn.Linear(46, 23), nn.Linear(23, 9)

    def forward(self, x):
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def torchvision_resnet18():
    """torchvision's network with a 3x3 stem and without the stem's pooling."""
    from torchvision.models import resnet18

    network = resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def load_by_order(network, layout, flat):
    """Lay the flat model over the network, tensor after tensor in the network's own order.

    Returns the network's tensors in that order, parameters and statistics.
    """
    tensors = layout.views(flat.unsqueeze(0))
    own = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    assert [tuple(v.shape) for v in own.values()] == list(layout.shapes.values())
    for target, tensor in zip(own.values(), tensors.values(), strict=True):
        target.copy_(tensor[0])
    return own
