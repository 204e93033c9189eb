"""PyTorch: readable source of an `nn.Module`, and the module itself."""

from mercer.backends.torch.generate import class_name, source
from mercer.backends.torch.load import module

__all__ = ["class_name", "module", "source"]
