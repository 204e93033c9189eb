"""PyTorch: readable source of an `nn.Module`, and the module itself."""

from mercer.backends.torch.fake import Rounding
from mercer.backends.torch.generate import class_name, source
from mercer.backends.torch.load import module, trainable

__all__ = ["Rounding", "class_name", "module", "source", "trainable"]
